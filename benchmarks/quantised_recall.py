"""What smaller forms of local features change: queries that turn from hit to miss at rank 1, or from miss to hit.

    python benchmarks/quantised_recall.py --data DIR --backbone DIR --adapter DIR/seed-1 \
        --query-frames 103-139 --json benchmarks/results/quantised_recall.json

Three pairs of traverses are located, all frames of each: night_right and day_left in day_right, and, with the shared
material at hand, corridor. 20 candidates are re-ranked exactly, by each form alone (one pass), and by each form with
the ten best compared again in float32 (two passes). Forms are those a place database keeps, at all locations or at
some on a grid, compared with the query as `PlaceDatabase.query_form` gives it. Beside it stands a fresh adapter, for
the queries by night that --query-frames names.
"""

import argparse
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import torch
from measuring import environment, write_report
from peft import PeftModel
from real_photos import CORRIDOR_RADIUS_FRAMES, RADIUS_FRAMES, RERANK_NUM, corridor_places
from torch import Tensor
from tqdm.auto import tqdm

from selavpr_peft.data.place_table import parse_frames, read_place_table
from selavpr_peft.data.positives import positives_within
from selavpr_peft.data.schema import positions
from selavpr_peft.hub.loading import load_adapted_model
from selavpr_peft.matching import (
    count_matches_within_phases,
    count_mutual_matches,
    database_form,
    grid_within,
    query_form,
    rerank,
)
from selavpr_peft.matching.two_pass import NUM_EXACT
from selavpr_peft.modeling.preprocessing import Preprocessing
from selavpr_peft.retrieval.encoding import encode_places
from selavpr_peft.retrieval.index import search_exact

PHASES = "float32 within phases"
FORMS = (PHASES, "float16", "int8", "binary", *(f"int8 at {kept} locations" for kept in (900, 484, 225)))


def evaluated_pairs(data: str) -> Iterator[tuple[Any, Any, list[np.ndarray]]]:
    """Give queries, database and the database rows that are right for each query."""
    night, left, right = (read_place_table(f"{data}:{name}") for name in ("night_right", "day_left", "day_right"))
    pairs = [(night, right, RADIUS_FRAMES), (left, right, RADIUS_FRAMES)]
    corridor = corridor_places()
    if corridor is not None:
        pairs.append((*corridor, CORRIDOR_RADIUS_FRAMES))
    for queries, database, radius in pairs:
        yield queries, database, positives_within(positions(queries), positions(database), radius)


def describe(model: PeftModel, places: Any) -> tuple[np.ndarray, Tensor]:
    """Give descriptors and local features of a table."""
    batches = list(encode_places(model, places, Preprocessing.of(model.active_peft_config)))
    descriptors = torch.cat([batch.global_descriptors for batch in batches]).numpy()
    return descriptors, torch.cat([batch.local_features for batch in batches if batch.local_features is not None])


def first_places(query: Tensor, candidates: Tensor, rows: Tensor) -> tuple[dict[tuple[str, str], int], int]:
    """Give the first place by every form and number of passes, and how many counts change within phases."""
    exact, num_changed = count_mutual_matches(query, candidates), 0
    first = {("float32", "one pass"): int(rerank(exact, rows)[0])}
    for form in FORMS:
        if form == PHASES:
            counts = count_matches_within_phases(query, candidates)
            num_changed = int((counts != exact).sum())
        else:
            counts = count_mutual_matches(*compared_forms(query, candidates, form))
        first[form, "one pass"] = int(rerank(counts, rows)[0])
        # what rerank_in_two_passes does, with the exact counts that are known here
        best = rerank(counts, torch.arange(len(rows)))[:NUM_EXACT].sort().values
        first[form, "two passes"] = int(rerank(exact[best], rows[best])[0])
    return first, num_changed


def compared_forms(query: Tensor, candidates: Tensor, form: str) -> tuple[Tensor, Tensor]:
    """Put a query (H, W, C) and database images (K, H, W, C) in one of FORMS."""
    dtype, _, kept = form.removesuffix(" within phases").partition(" at ")
    grid = grid_within((query.shape[0], query.shape[1]), int(kept.split()[0])) if kept else None
    return query_form(query, dtype, grid), database_form(candidates, dtype, grid)


def night_pair(arguments: argparse.Namespace) -> tuple[Any, Any, list[np.ndarray]]:
    """Give some queries by night, all of the walk by day, and the database rows that are right for each query."""
    night = read_place_table(f"{arguments.data}:night_right", frames=parse_frames(arguments.query_frames))
    day = read_place_table(f"{arguments.data}:day_right")
    return night, day, positives_within(positions(night), positions(day), RADIUS_FRAMES)


def changes(model: PeftModel, pairs: Iterable[tuple[Any, Any, list[np.ndarray]]]) -> dict[str, Any]:
    """Count what every form changes, alone and with a second pass."""
    hits: dict[tuple[str, str], list[bool]] = {}
    num_changed = 0
    for queries, database, positives in pairs:
        (query_descriptors, query_features), (descriptors, features) = (
            describe(model, table) for table in (queries, database)
        )
        found = torch.from_numpy(search_exact(query_descriptors, descriptors, RERANK_NUM))
        for number in tqdm(range(len(queries)), desc="re-ranking", unit="query"):
            first, changed = first_places(query_features[number], features[found[number]], found[number])
            num_changed += changed
            for way, row in first.items():
                hits.setdefault(way, []).append(row in positives[number])
    exact = np.array(hits["float32", "one pass"])
    report: dict[str, Any] = {"num_queries": len(exact), "forms": {}}
    for form in FORMS:
        row = report["forms"][form] = {"bytes_per_image": compared_forms(features[0], features[:1], form)[1].nbytes}
        for way in ("one pass", "two passes"):
            hit = np.array(hits[form, way])
            won, lost = int((hit & ~exact).sum()), int((exact & ~hit).sum())
            row[way] = {"won": won, "lost": lost, "recall_at_1": float(hit.mean())}
        print(form, report["forms"][form], flush=True)
    return report | {
        "recall_at_1": float(exact.mean()),
        "bytes_per_image": features[0].nbytes,
        "pairs": len(exact) * RERANK_NUM,
        "pairs_with_another_count_within_phases": num_changed,
    }


def main() -> None:
    """Count what every form changes with the trained adapter and with a fresh one."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True)
    parser.add_argument("--backbone", required=True)
    parser.add_argument("--adapter", required=True)
    parser.add_argument("--query-frames", help="frames of the queries by night that a fresh adapter locates")
    parser.add_argument("--json")
    arguments = parser.parse_args()
    trained = load_adapted_model(arguments.backbone, arguments.adapter)
    report = environment() | {"rerank_num": RERANK_NUM} | changes(trained, evaluated_pairs(arguments.data))
    fresh = load_adapted_model(arguments.backbone, None, seed=0)
    untrained = changes(fresh, [night_pair(arguments)]) | {"query_frames": arguments.query_frames}
    write_report(arguments.json, report | {"untrained": untrained})


if __name__ == "__main__":
    main()
