"""Other ways to small local features than those a place database keeps: what each changes at rank 1.

    python benchmarks/compact_features.py --data DIR --backbone DIR --adapter DIR/seed-1 --query-frames 103-139 \
        --json benchmarks/results/compact_features.json

Queries by night are located in the walk by day. Compared are signs after a rotation (principal axes, random, ITQ: Gong
and Lazebnik, CVPR 2011; all learned from the database), with the query in int8, and some locations of each database
image (at the points of a grid, or with the lowest similarity to others), with all locations of the query.
"""

import argparse
import functools
from typing import Any

import numpy as np
import torch
from measuring import environment, write_report
from quantised_recall import describe, night_pair
from real_photos import RERANK_NUM
from torch import Tensor
from tqdm.auto import tqdm

from selavpr_peft.hub.loading import load_adapted_model
from selavpr_peft.matching import (
    count_mutual_matches,
    grid_locations,
    grid_within,
    quantize_local_features,
    rerank,
)
from selavpr_peft.retrieval.index import search_exact

ROTATIONS = ("none", "random", "principal axes", "ITQ")
ITQ_ROUNDS = 30
KEPT = (900, 484, 225)
SAMPLED = 61
"""Rotations are learned from one local feature in so many."""

NEAR_LOCATIONS = 8
"""Patches are 4 locations apart; within two of them locations are alike in any case."""


class CompactWays:
    """Small forms of the local features of one database.

    Args:
        features: Local features of its images.
    """

    def __init__(self, features: Tensor) -> None:
        """Learn the rotations and choose the locations."""
        sample = features.flatten(0, 2)[::SAMPLED]
        self.features = features
        self.rotations = {name: _rotation(name, sample) for name in ROTATIONS}
        self.signs = {
            name: torch.stack([quantize_local_features(image @ rotation, "binary") for image in features])
            for name, rotation in self.rotations.items()
        }
        self.chosen = {
            name: [choose(image) for image in tqdm(features, desc=name, unit="image")]
            for name, choose in CHOICES.items()
        }

    def first_places(self, query: Tensor, rows: Tensor) -> dict[tuple[str, str], int]:
        """Give the first place by every way."""
        candidates = self.features[rows]
        first = {("float32", "one pass"): int(rerank(count_mutual_matches(query, candidates), rows)[0])}
        for name, rotation in self.rotations.items():
            counts = count_mutual_matches(quantize_local_features(query @ rotation, "int8"), self.signs[name][rows])
            first["signs", name] = int(rerank(counts, rows)[0])
        for name, chosen in self.chosen.items():
            for kept in KEPT:
                some = [self.features[row].flatten(0, 1)[chosen[row][kept]] for row in rows]
                counts = count_mutual_matches(query, torch.stack(some)[:, None])
                first[f"{kept} locations", name] = int(rerank(counts, rows)[0])
        return first


def _rotation(name: str, sample: Tensor) -> Tensor:
    """Learn a rotation of local features, applied from the right."""
    channels = sample.shape[1]
    random = torch.linalg.qr(torch.randn(channels, channels, generator=torch.Generator().manual_seed(0)))[0]
    if name == "ITQ":
        rotation = random
        for _ in range(ITQ_ROUNDS):
            left, _, right = torch.linalg.svd((sample @ rotation).sign().T @ sample)
            rotation = (left @ right).T
        return rotation
    return {
        "none": torch.eye(channels),
        "random": random,
        "principal axes": torch.linalg.eigh(torch.cov(sample.T))[1],
    }[name]


def _on_a_grid(features: Tensor) -> dict[int, Tensor]:
    size = (features.shape[0], features.shape[1])
    return {kept: grid_locations(size, grid_within(size, kept)) for kept in KEPT}


def _on_a_grid_of_all_kinds(features: Tensor) -> dict[int, Tensor]:
    """Spread a grid over all rows and columns, odd and even ones."""
    height, width = features.shape[:2]
    chosen = {}
    for kept in KEPT:
        rows, columns = grid_within((height, width), kept)
        y, x = torch.linspace(0, height - 1, rows).round(), torch.linspace(0, width - 1, columns).round()
        chosen[kept] = (y[:, None] * width + x).flatten().long()
    return chosen


def _at_random(features: Tensor) -> dict[int, Tensor]:
    order = torch.randperm(features.shape[0] * features.shape[1], generator=torch.Generator().manual_seed(0))
    return {kept: order[:kept] for kept in KEPT}


def _unlike_the_mean(features: Tensor) -> dict[int, Tensor]:
    rows = features.flatten(0, 1)
    return _lowest(rows @ rows.mean(dim=0))


def _unlike_surroundings(features: Tensor) -> dict[int, Tensor]:
    is_near = _is_within(NEAR_LOCATIONS // 2, features.shape[0], features.shape[1])
    rows = features.flatten(0, 1)
    return _lowest(((rows @ rows.T).masked_fill_(~is_near, 0)).sum(dim=1) / is_near.sum(dim=1))


def _unlike_all_that_is_far(features: Tensor) -> dict[int, Tensor]:
    is_near = _is_within(NEAR_LOCATIONS, features.shape[0], features.shape[1])
    rows = features.flatten(0, 1)
    return _lowest((rows @ rows.T).masked_fill_(is_near, -1).amax(dim=1))


CHOICES = {
    "grid of one kind": _on_a_grid,
    "grid of all kinds": _on_a_grid_of_all_kinds,
    "random": _at_random,
    "unlike the image's mean": _unlike_the_mean,
    "unlike its surroundings": _unlike_surroundings,
    "unlike all that is far": _unlike_all_that_is_far,
}


def _lowest(scores: Tensor) -> dict[int, Tensor]:
    return {kept: scores.topk(kept, largest=False).indices for kept in KEPT}


@functools.cache
def _is_within(reach: int, height: int, width: int) -> Tensor:
    """Mark the pairs of locations that are at most so many rows and columns apart, every location with itself too."""
    y, x = (side.flatten() for side in torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij"))
    return ((y[:, None] - y).abs() <= reach) & ((x[:, None] - x).abs() <= reach)


def main() -> None:
    """Compare all ways by the queries that change at rank 1."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("--data", "--backbone", "--adapter", "--query-frames"):
        parser.add_argument(name, required=True)
    parser.add_argument("--json")
    arguments = parser.parse_args()
    model = load_adapted_model(arguments.backbone, arguments.adapter)
    hits: dict[tuple[str, str], list[bool]] = {}
    queries, database, positives = night_pair(arguments)
    (query_descriptors, query_features), (descriptors, features) = (
        describe(model, table) for table in (queries, database)
    )
    ways = CompactWays(features)
    found = torch.from_numpy(search_exact(query_descriptors, descriptors, RERANK_NUM))
    for number in tqdm(range(len(queries)), desc="re-ranking", unit="query"):
        hits.setdefault(("retrieval", ""), []).append(int(found[number][0]) in positives[number])
        for way, row in ways.first_places(query_features[number], found[number]).items():
            hits.setdefault(way, []).append(row in positives[number])
    exact = np.array(hits["float32", "one pass"])
    report: dict[str, Any] = {**environment(), "num_queries": len(exact), "rerank_num": RERANK_NUM, "forms": {}}
    for (form, way), values in hits.items():
        changed = int((np.array(values) != exact).sum())
        report["forms"].setdefault(form, {})[way] = {"changed": changed, "recall_at_1": float(np.mean(values))}
        print(f"{form:<16}{way:<26}{changed:>4} changed, R@1 {100 * np.mean(values):.1f}", flush=True)
    report |= {"recall_at_1": float(exact.mean()), "query_frames": arguments.query_frames}
    write_report(arguments.json, report)


if __name__ == "__main__":
    main()
