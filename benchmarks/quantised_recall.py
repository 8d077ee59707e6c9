"""What smaller forms of local features change: queries that turn from hit to miss at rank 1, or from miss to hit.

    python benchmarks/quantised_recall.py --data DIR --backbone DIR --adapter DIR/seed-1 \
        --query-frames 103-139 --json benchmarks/results/quantised_recall.json

Three pairs of traverses are located, all frames of each: night_right and day_left in day_right, and, with the shared
material at hand, corridor. 20 candidates are re-ranked exactly, by each form alone (one pass), and by each form with
the ten best compared again in float32 (two passes). Forms are those a place database keeps, at all locations or at
some on a grid, compared with the query as `PlaceDatabase.query_form` gives it. Beside it stands a fresh adapter, for
the queries by night that --query-frames names.

    python benchmarks/quantised_recall.py --data DIR --backbone DIR --adapter DIR/seed-1 --compact \
        --query-frames 103-139 --json benchmarks/results/compact_features.json

With --compact, other ways to small features are compared instead, for queries by night in day_right: signs after a
rotation (principal axes, random, ITQ: Gong and Lazebnik, CVPR 2011; all learned from the database), compared with the
query in int8, and some locations of each database image (at the points of a grid, or with the lowest similarity to
others), compared with all locations of the query.
"""

import argparse
import functools
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
    grid_locations,
    grid_within,
    quantize_local_features,
    query_form,
    rerank,
)
from selavpr_peft.matching.two_pass import NUM_EXACT
from selavpr_peft.modeling.preprocessing import Preprocessing
from selavpr_peft.retrieval.encoding import encode_places
from selavpr_peft.retrieval.index import search_exact

PHASES = "float32 within phases"
FORMS = (PHASES, "float16", "int8", "binary", *(f"int8 at {kept} locations" for kept in (900, 484, 225)))
ROTATIONS = ("none", "random", "principal axes", "ITQ")
ITQ_ROUNDS = 30
KEPT = (900, 484, 225)
SAMPLED = 61
"""Rotations are learned from one local feature in so many."""

NEAR_LOCATIONS = 8
"""Patches are 4 locations apart; within two of them locations are alike in any case."""


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


def measure_compact(arguments: argparse.Namespace) -> dict[str, Any]:
    """Compare ways to small features by the queries that change at rank 1."""
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
    return report | {"recall_at_1": float(exact.mean()), "query_frames": arguments.query_frames}


def measure_forms(arguments: argparse.Namespace) -> dict[str, Any]:
    """Count what every form changes with the trained adapter and with a fresh one."""
    trained = load_adapted_model(arguments.backbone, arguments.adapter)
    report = environment() | {"rerank_num": RERANK_NUM} | changes(trained, evaluated_pairs(arguments.data))
    fresh = load_adapted_model(arguments.backbone, None, seed=0)
    untrained = changes(fresh, [night_pair(arguments)]) | {"query_frames": arguments.query_frames}
    return report | {"untrained": untrained}


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
    """Locate all queries in all ways and count what changes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True)
    parser.add_argument("--backbone", required=True)
    parser.add_argument("--adapter", required=True)
    parser.add_argument("--compact", action="store_true")
    parser.add_argument("--query-frames", help="frames of the queries by night, with --compact or a fresh adapter")
    parser.add_argument("--json")
    arguments = parser.parse_args()
    report = measure_compact(arguments) if arguments.compact else measure_forms(arguments)
    write_report(arguments.json, report)


if __name__ == "__main__":
    main()
