"""Recall@N in a model card: as a table for people, and as `model-index` in the metadata for programs.

Both are written from evaluation reports, and both say of every figure whether it was measured or is quoted.
"""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult

from selavpr_peft.hub.adapter_facts import quoted_from

Report = Mapping[str, Any]

TASK_TYPE = "visual-place-recognition"
TASK_NAME = "Visual place recognition"
STAGES = {"retrieval": "retrieval", "reranked": "re-ranked"}


def recall_tables(reports: Sequence[Report]) -> str:
    """Give a table for each report, under what it was measured on and how.

    Args:
        reports: Evaluation reports, measured or quoted.
    """
    return "\n\n".join(f"{_heading(report)}\n\n{_table(report)}" for report in reports)


def eval_results(report: Report) -> list[EvalResult]:
    """Give the figures of a report in the Hub's machine-readable form: shares in [0, 1].

    Args:
        report: An evaluation report.
    """
    source = quoted_from(report)
    return [
        EvalResult(
            task_type=TASK_TYPE,
            task_name=TASK_NAME,
            dataset_type=_slug(_data(report)),
            dataset_name=_data(report),
            dataset_config=("quoted: " if source else "") + _protocol(report),
            metric_type=f"recall_at_{n}",
            metric_name=f"Recall@{n}, {words}{_depth(report, stage)}",
            metric_value=share,
            source_name=source["name"] if source else None,
            source_url=source["url"] if source else None,
        )
        for stage, words in STAGES.items()
        for n, share in report.get(stage, {}).items()
    ]


def _heading(report: Report) -> str:
    source = quoted_from(report)
    quoted = f" Quoted from [{source['name']}]({source['url']})." if source else ""
    return f"**{_data(report)}**: {_protocol(report)}.{quoted}"


def _table(report: Report) -> str:
    stages = {words + _depth(report, stage): report[stage] for stage, words in STAGES.items() if stage in report}
    columns = [f"R@{n}" for n in next(iter(stages.values()))]
    lines = [["Recall in %", *columns], ["---"] * (len(columns) + 1)]
    lines += [[words, *(f"{100 * share:.1f}" for share in shares.values())] for words, shares in stages.items()]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _depth(report: Report, stage: str) -> str:
    depth = report["protocol"].get("rerank_num")
    return f" (top {depth})" if stage == "reranked" and depth is not None else ""


def _data(report: Report) -> str:
    """Name queries and database without the folders they lie in on somebody's machine."""
    protocol = report["protocol"]
    queries, database = (" ".join(Path(str(protocol[name])).name.split()) for name in ("queries", "database"))
    return queries if queries == database else f"{queries} in {database}"


def _protocol(report: Report) -> str:
    """Say under which conditions the figures hold, as far as the report does."""
    protocol = report["protocol"]
    size = protocol.get("image_size")
    parts = [
        ("{} queries", report.get("num_queries")),
        ("of frames {}", protocol.get("query_frames")),
        ("{} database images", report.get("num_database")),
        ("of frames {}", protocol.get("database_frames")),
        (f"a place counts as found within {{:g}} {protocol.get('radius_unit', '')}", protocol.get("positive_radius")),
        ("{} queries have no positive and count as missed", report.get("num_queries_without_positive") or None),
        ("{} images could not be read", len(report.get("unreadable_images", ())) or None),
        ("{} pixels", f"{size[0]}x{size[1]}" if size else None),
        ("resizing `{}`", protocol.get("resize")),
        ("{}", protocol.get("dtype")),
    ]
    return ", ".join(text.format(value) for text, value in parts if value is not None)


def _slug(text: str) -> str:
    return re.sub(r"\W+", "-", text.lower()).strip("-")
