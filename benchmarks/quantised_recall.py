"""What smaller forms of local features change: queries that turn from hit to miss at rank 1, or from miss to hit.

    python benchmarks/quantised_recall.py --data DIR --backbone DIR --adapter DIR/seed-1 \
        --json benchmarks/results/quantised_recall.json

Three pairs of traverses are located, all frames of each: night_right and day_left in day_right, and, with the shared
material at hand, corridor. 20 candidates are re-ranked exactly, by each form alone (one pass), and by each form with
the ten best compared again in float32 (two passes).
"""

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from measuring import environment
from real_photos import CORRIDOR_RADIUS_FRAMES, RADIUS_FRAMES, RERANK_NUM, corridor_places
from torch import Tensor
from tqdm.auto import tqdm

from selavpr_peft.data.place_table import read_place_table
from selavpr_peft.data.positives import positives_within
from selavpr_peft.data.schema import positions
from selavpr_peft.hub.loading import load_adapted_model
from selavpr_peft.matching import count_mutual_matches, quantize_local_features, rerank, rerank_in_two_passes
from selavpr_peft.modeling.preprocessing import Preprocessing
from selavpr_peft.retrieval.encoding import encode_places
from selavpr_peft.retrieval.index import search_exact

FORMS = ("float16", "int8", "binary")


def evaluated_pairs(data: str) -> Iterator[tuple[Any, Any, list[np.ndarray]]]:
    """Give queries, database and the database rows that are right for each query."""
    night, left, right = (read_place_table(f"{data}:{name}") for name in ("night_right", "day_left", "day_right"))
    pairs = [(night, right, RADIUS_FRAMES), (left, right, RADIUS_FRAMES)]
    corridor = corridor_places()
    if corridor is not None:
        pairs.append((*corridor, CORRIDOR_RADIUS_FRAMES))
    for queries, database, radius in pairs:
        yield queries, database, positives_within(positions(queries), positions(database), radius)


def describe(model: torch.nn.Module, places: Any) -> tuple[np.ndarray, Tensor]:
    """Give descriptors and local features of a table."""
    batches = list(encode_places(model, places, Preprocessing(image_size=(224, 224))))
    descriptors = torch.cat([batch.global_descriptors for batch in batches]).numpy()
    return descriptors, torch.cat([batch.local_features for batch in batches if batch.local_features is not None])


def first_places(query: Tensor, candidates: Tensor, rows: Tensor) -> dict[tuple[str, str], int]:
    """Give the first place by every form and number of passes."""
    first = {("float32", "one pass"): int(rerank(count_mutual_matches(query, candidates), rows)[0])}
    for form in FORMS:
        forms = [quantize_local_features(features, form) for features in (query, candidates)]
        first[form, "one pass"] = int(rerank(count_mutual_matches(*forms), rows)[0])
        first[form, "two passes"] = int(rerank_in_two_passes(query, forms[0], candidates, forms[1], rows)[0])
    return first


def main() -> None:
    """Locate all queries in all ways and count what changes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True)
    parser.add_argument("--backbone", required=True)
    parser.add_argument("--adapter", required=True)
    parser.add_argument("--json")
    arguments = parser.parse_args()
    model = load_adapted_model(arguments.backbone, arguments.adapter)
    hits: dict[tuple[str, str], list[bool]] = {}
    for queries, database, positives in evaluated_pairs(arguments.data):
        (query_descriptors, query_features), (descriptors, features) = (
            describe(model, table) for table in (queries, database)
        )
        found = torch.from_numpy(search_exact(query_descriptors, descriptors, RERANK_NUM))
        for number in tqdm(range(len(queries)), desc="re-ranking", unit="query"):
            first = first_places(query_features[number], features[found[number]], found[number])
            for way, row in first.items():
                hits.setdefault(way, []).append(row in positives[number])
    exact = np.array(hits["float32", "one pass"])
    report: dict[str, Any] = {**environment(), "num_queries": len(exact), "rerank_num": RERANK_NUM, "forms": {}}
    for form in FORMS:
        sample = quantize_local_features(features[:1], form)
        ways = ("one pass", "two passes")
        report["forms"][form] = {
            "bytes_per_image": sample.numel() * sample.element_size(),
            "changed": {way: int((np.array(hits[form, way]) != exact).sum()) for way in ways},
            "recall_at_1": {way: float(np.mean(hits[form, way])) for way in ways},
        }
        print(form, report["forms"][form], flush=True)
    report["recall_at_1"] = float(exact.mean())
    if arguments.json:
        Path(arguments.json).write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
