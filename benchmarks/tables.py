"""Write the tables of results into the documents, so that no number is typed by hand.

    python benchmarks/tables.py

A document says `<!-- table: NAME -->`, and everything from there to `<!-- end -->` is made from results/NAME.json.
"""

import json
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
RESULTS = Path(__file__).parent / "results"
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
MARKED = re.compile(r"(<!-- table: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)

Report = dict[str, Any]


def real_photos(report: Report) -> str:
    """Recall before and after training, mean of the seeds."""
    rows = [["night_right → day_right, ± 3 frames", "untrained", *_mean_recalls(report, "untrained")]]
    rows += [["", "**trained**", *_mean_recalls(report, "trained")]]
    runs = list(report["seeds"].values())
    radius = {"corridor query->ref": "± 2 frames, a place never trained on"}
    for name in runs[0]["others"]:
        for state in ("untrained", "trained"):
            cells = [
                " / ".join(
                    _percent(sum(run["others"][name][state][stage][n] for run in runs) / len(runs)) for n in "15"
                )
                for stage in ("retrieval", "reranked")
            ]
            label = f"{name.replace('->', ' → ')}, {radius.get(name, '± 3 frames')}" if state == "untrained" else ""
            rows.append([label, "**trained**" if state == "trained" else state, *cells])
    return _table(["", "", "retrieval R@1 / R@5", "re-ranked (top 20) R@1 / R@5"], rows) + _paired(runs)


def real_photos_short(report: Report) -> str:
    """The main rows of the same."""
    rows = [
        ["untrained", *_mean_recalls(report, "untrained")],
        ["**trained on 100 other places of the walk**", *_mean_recalls(report, "trained")],
    ]
    return _table(["Recall in %, mean of three seeds", "retrieval R@1 / R@5", "re-ranked (top 20) R@1 / R@5"], rows)


def training_cost(report: Report) -> str:
    """Times and memory beside the plain side."""
    rows = []
    for work, sides in report["work"].items():
        for side, row in sides.items():
            low, _, high = row["quartiles_s"]
            rows.append(
                [
                    work if side == "plain" else "",
                    side,
                    f"{row['median_s']:.2f} s ({low:.2f}-{high:.2f})",
                    f"{row['times_faster']:.2f} x",
                    f"{row['extra_memory_bytes'] / 1e6:.0f} MB",
                    f"{row['memory_share']:.2f}",
                ]
            )
    bytes_per_image = report["mining_bytes_per_image"]
    ratio = bytes_per_image["plain"] / bytes_per_image["ours"]
    kept = (
        f"Kept per mined image: {bytes_per_image['ours']:,} bytes instead of {bytes_per_image['plain']:,},"
        f" {ratio:.0f} times less."
    )
    header = ["work", "side", "median (quartiles)", "faster", "extra memory", "of plain"]
    return _table(header, rows) + f"\n{kept} {_where(report)}\n"


def matching(report: Report) -> str:
    """Every way of re-ranking beside the plain one."""
    rows = [
        [
            path,
            "{1:.1f} ms ({0:.1f}-{2:.1f})".format(*row["quartiles_ms"]),
            f"{row['ratio_to_plain']:.1f} x",
            f"{row['extra_bytes'] / 1e6:.0f} MB",
            f"{100 * row['share_of_matrix_rate']:.0f} %",
            "equal" if row["counts_equal"] else _change(row),
        ]
        for path, row in report["paths"].items()
    ]
    header = ["path", "per candidate (quartiles)", "faster", "extra memory", "of the matrix rate", "counts"]
    rates = ", ".join(f"{rate:.0f} G/s in {dtype}" for dtype, rate in report["matrix_rate_gflops"].items())
    ties, locations = report["near_ties"], 2 * report["candidates"] * math.prod(report["map"][:2])
    near = (
        f"Of {locations:,} locations, {ties['locations']:,} have two best similarities that differ by less than"
        f" {ties['below']:.0e}, where another order of summation may give another count."
    )
    return _table(header, rows) + f"\n{near} Matrix rate: {rates}. {_where(report)}\n"


def ablation(report: Report) -> str:
    """What each part contributes."""
    rows = []
    for name, row in report["variants"].items():
        cells = [_recalls(row.get(stage, {})) for stage in ("retrieval", "reranked")]
        rows.append([name, *cells, f"{row['trained_parameters'] / 1e6:.2f} M"])
    return _table(["", "retrieval R@1 / R@5", "re-ranked R@1 / R@5", "trained parameters"], rows)


def quantised_recall(report: Report) -> str:
    """What smaller forms change on real photographs."""
    untrained = report["untrained"]
    rows = [
        [
            form,
            f"{row['bytes_per_image'] / 1e6:.3f} MB",
            f"{row['bytes_per_image'] / report['bytes_per_image']:.3f}",
            *(
                cell
                for way in ("one pass", "two passes")
                for cell in (_won_and_lost(row[way]), _percent(row[way]["recall_at_1"]))
            ),
            " / ".join(_won_and_lost(untrained["forms"][form][way]) for way in ("one pass", "two passes")),
        ]
        for form, row in report["forms"].items()
    ]
    header = ["form", "per image", "of float32", "one pass: won and lost", "R@1", "two passes: won and lost", "R@1"]
    header.append("untrained: one pass / two")
    lead = (
        f"\nOf {report['num_queries']} queries; R@1 in % is {_percent(report['recall_at_1'])} in float32. Untrained: a"
        f" fresh adapter and {untrained['num_queries']} queries by night (frames {untrained['query_frames']}), R@1"
        f" {_percent(untrained['recall_at_1'])} in float32.\n\nOf {report['pairs']:,} pairs"
        f" {report['pairs_with_another_count_within_phases']} have another count within phases; untrained, of"
        f" {untrained['pairs']:,} pairs {untrained['pairs_with_another_count_within_phases']}."
    )
    return _table(header, rows) + f"{lead} {_where(report)}\n"


def _won_and_lost(row: Report) -> str:
    return f"+{row['won']} -{row['lost']}"


def compact_features(report: Report) -> str:
    """What other ways to small features change on real photographs."""
    rows = [
        [form, way, str(row["changed"]), _percent(row["recall_at_1"])]
        for form, ways in report["forms"].items()
        if form not in ("float32", "retrieval")
        for way, row in ways.items()
    ]
    lead = (
        f"\nOf {report['num_queries']} queries (night_right {report['query_frames']} in day_right); R@1 in % is"
        f" {_percent(report['recall_at_1'])} with all locations in float32, and"
        f" {_percent(report['forms']['retrieval']['']['recall_at_1'])} without re-ranking. {_where(report)}\n"
    )
    return _table(["what is kept", "rotation, or choice of locations", "queries changed", "R@1"], rows) + lead


def extraction(report: Report) -> str:
    """What describing an image costs."""
    rows = [
        [
            side,
            f"{row['milliseconds_per_image']:.0f} ms",
            f"{row['times_faster']:.2f} x",
            f"{row['extra_memory_bytes'] / 1e6:.0f} MB",
            *("none" if name == 0 else f"{name:.0e}" for name in row["one_minus_cosine"].values()),
        ]
        for side, row in report["sides"].items()
    ]
    header = ["side", "per image", "faster", "extra memory", "1 - cosine, descriptors", "1 - cosine, local features"]
    return _table(header, rows) + f"\n{report['images']} images at a time. {_where(report)}\n"


def search(report: Report) -> str:
    """Every kind of index beside an exact search."""
    rows = [
        [
            f"{row['rows']:,} {row['source']}",
            f"**{row['kind']}**" if row["kind"] == row["chosen"] else row["kind"],
            f"{row['build_seconds']:.0f} s",
            f"{row['build_peak_bytes'] / 1e9:.1f} GB",
            f"{row['index_bytes'] / 1e9:.2f} GB",
            f"{row['recall_at_10_of_exact']:.3f}",
            f"{row['milliseconds']:.2f} ms",
            f"{row['times_faster']:.1f} x",
            f"{row['batched_milliseconds']:.2f} ms",
            f"{row['batched_times_faster']:.1f} x",
        ]
        for row in report["rows"]
    ]
    header = ["descriptors", "index", "built in", "peak", "size", "recall@10"]
    header += ["one query", "faster", "of 200 at once", "faster"]
    return _table(header, rows) + f"\nfaiss {report['faiss']}. {_where(report)}\n"


def adaptive_reranking(report: Report) -> str:
    """What windows save and cost."""
    rows = [
        [
            "none" if row["window"] is None else f"{row['window']:.2f}",
            f"{row['mean_compared']:.1f}",
            f"{100 * row['skipped']:.0f} %",
            _percent(row["recall_at_1"]),
            _won_and_lost(row),
        ]
        for row in report["windows"]
    ]
    header = ["window", "candidates compared", "queries not re-ranked", "R@1", "queries won and lost"]
    return _table(header, rows) + f"\nOf {report['num_queries']} queries, {report['rerank_num']} candidates each.\n"


TABLES: dict[str, Callable[[Report], str]] = {
    "real_photos": real_photos,
    "real_photos_short": real_photos_short,
    "training_cost": training_cost,
    "matching": matching,
    "ablation": ablation,
    "quantised_recall": quantised_recall,
    "extraction": extraction,
    "search": search,
    "adaptive_reranking": adaptive_reranking,
    "compact_features": compact_features,
}
SOURCES = {"real_photos_short": "real_photos"}


def with_tables(text: str) -> str:
    """Put the current tables into a document's text."""

    def make(match: re.Match[str]) -> str:
        name = match[2]
        report = json.loads((RESULTS / f"{SOURCES.get(name, name)}.json").read_text())
        return f"{match[1]}\n{TABLES[name](report)}\n{match[3]}"

    return MARKED.sub(make, text)


def _mean_recalls(report: Report, state: str) -> list[str]:
    return [_recalls(report["mean"][state][stage]) for stage in ("retrieval", "reranked")]


def _recalls(recalls: dict[str, float]) -> str:
    return " / ".join(_percent(recalls[n]) for n in "15") if recalls else "none"


def _percent(share: float) -> str:
    return f"{100 * share:.1f}"


def _paired(runs: list[Report]) -> str:
    """Say how many queries were won and lost at rank 1, seed by seed."""
    lines = []
    for name in runs[0]["paired"]:
        counts = ", ".join(
            f"+{run['paired'][name]['reranked']['won']} -{run['paired'][name]['reranked']['lost']}" for run in runs
        )
        lines.append(f"- {name.replace('->', ' → ')}: {counts}")
    return "\nQueries won and lost at rank 1 after re-ranking, seed by seed:\n\n" + "\n".join(lines) + "\n"


def _change(row: Report) -> str:
    return f"{100 * row['mean_count_change']:.1f} % off on average" if "mean_count_change" in row else row["counts"]


def _where(report: Report) -> str:
    return f"{report['device']}, {report['threads']} threads, PyTorch {report['torch']}."


def _table(header: list[str], rows: list[list[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)


def main() -> None:
    """Rewrite the documents."""
    for document in DOCUMENTS:
        document.write_text(with_tables(document.read_text()))


if __name__ == "__main__":
    main()
