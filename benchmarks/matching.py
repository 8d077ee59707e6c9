"""Re-ranking one query: every way of counting mutual matches beside a plain transcription of the official one.

    python benchmarks/matching.py --candidates 100 --json benchmarks/results/matching.json

The plain side holds the similarities of all locations of all candidates at once and takes both arg-maxes, as the
official local_matching.py does (5.5 GB for 100 candidates of 61 x 61). Features are random unit vectors; a third of a
candidate's locations resemble a location of the query. Every path runs in a process of its own, paths take turns.
Where a path says how many locations it has, a candidate keeps only these, as `PlaceDatabase.build(keep_locations=...)`
does, and is compared with those of the query that are of their kind. The share of the matrix rate is that of
2 N M C operations per pair of N and M locations, relative to the largest product this machine was seen to make in the
same type.
"""

import argparse
import math
import time
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from measuring import compare_sides, environment, write_report
from torch import Tensor

from selavpr_peft.matching import (
    count_matches_within_phases,
    count_mutual_matches,
    database_form,
    fastest_local_dtype,
    grid_within,
    order_in_two_passes,
    quantize_local_features,
    query_dtype,
    query_form,
    query_grid,
    rerank_in_two_passes,
)
from selavpr_peft.matching.phases import STRIDE
from selavpr_peft.matching.two_pass import NUM_EXACT

GRID, CHANNELS = 61, 128
NEAR = 1e-6
"""Two similarities that differ by less may change places where sums are rounded in another order."""
DTYPES = ("float32", "bfloat16", "int8", "binary")
PHASES = "float32 within phases"
TWO_PASSES = ("int8, then float32 on ten", f"{PHASES}, then on ten")
THINNED = ("float32 at 900 locations", "int8 at 484 locations")
PATHS = ("plain", *DTYPES, PHASES, *TWO_PASSES, *THINNED)
OTHER_COUNTS = {**dict.fromkeys(TWO_PASSES, "exact for the best ten"), **dict.fromkeys(THINNED, "of these locations")}
OTHER_COUNTS[PHASES] = "those within phases"


def plain_counts(query: Tensor, candidates: Tensor) -> Tensor:
    """Count by the whole similarity matrix of all candidates."""
    locations = query.reshape(-1, CHANNELS)
    similarity = candidates.reshape(len(candidates), -1, CHANNELS) @ locations.T  # (K, L, L)
    of_query, of_candidate = similarity.argmax(dim=1), similarity.argmax(dim=2)
    numbers = torch.arange(len(locations), device=query.device)
    return (of_candidate.gather(1, of_query) == numbers).sum(dim=1)


def features(num_candidates: int) -> tuple[Tensor, Tensor]:
    """Make a query (H, W, C) and its candidates (K, H, W, C)."""
    generator = torch.Generator().manual_seed(0)
    query = F.normalize(torch.randn(GRID, GRID, CHANNELS, generator=generator), dim=-1)
    candidates = torch.empty(num_candidates, GRID, GRID, CHANNELS)
    for candidate in candidates:  # one by one: what is made here must not count as memory of the work
        resembles = torch.rand(GRID, GRID, 1, generator=generator) < 1 / 3
        noise = F.normalize(torch.randn(GRID, GRID, CHANNELS, generator=generator), dim=-1)
        candidate.copy_(F.normalize(noise + resembles * query, dim=-1))
    return query, candidates


def prepare(path: str, num_candidates: int) -> Callable[[], Any]:
    """Put features in the form of a path; the function re-ranks once."""
    query, candidates = features(num_candidates)
    if path == "plain":
        return lambda: plain_counts(query, candidates)
    if path == PHASES:
        return lambda: count_matches_within_phases(query, candidates)
    if path.startswith(PHASES):
        return lambda: order_in_two_passes(count_matches_within_phases(query, candidates), query, candidates)
    if path in TWO_PASSES:
        forms = [quantize_local_features(maps, "int8") for maps in (query, candidates)]
        rows = torch.arange(num_candidates)
        return lambda: rerank_in_two_passes(query, forms[0], candidates, forms[1], rows)
    dtype = path.split()[0]
    grid = kept_grid(path)
    asked, kept = query_form(query, dtype, grid), database_form(candidates, dtype, grid)
    return lambda: count_mutual_matches(asked, kept)


def kept_grid(path: str) -> tuple[int, int]:
    """Give the grid of locations that a path keeps of a candidate."""
    return grid_within((GRID, GRID), int(path.split()[-2]) if path in THINNED else GRID**2)


def num_operations(path: str) -> int:
    """Count the operations that the similarities of one pair take in the first or only pass."""
    if path.startswith(PHASES):
        sides = [len(range(first, GRID, STRIDE)) for first in range(STRIDE)]
        return sum(2 * (rows * columns) ** 2 * CHANNELS for rows in sides for columns in sides)
    kept = kept_grid(path)
    return 2 * math.prod(query_grid((GRID, GRID), kept)) * math.prod(kept) * CHANNELS


def seconds_at_matrix_rate(path: str, num_candidates: int, rates: dict[str, float]) -> float:
    """Say how long a candidate would take if there was nothing to do but the similarities."""
    seconds = num_operations(path) / rates["int8" if path.startswith(("int8", "binary")) else "float32"]
    if path in TWO_PASSES:
        seconds += NUM_EXACT / num_candidates * num_operations("float32") / rates["float32"]
    return seconds


def matrix_rate(dtype: str) -> float:
    """Operations per second of the best of some products of large matrices."""
    size = 2048
    matrix = quantize_local_features(F.normalize(torch.randn(size, size), dim=-1), dtype)
    multiply = torch._int_mm if dtype == "int8" else torch.mm
    times = []
    for _ in range(12):
        start = time.perf_counter()
        multiply(matrix, matrix)
        times.append(time.perf_counter() - start)
    return 2 * size**3 / min(times)


def counts_differ(num_candidates: int) -> dict[str, dict[str, Any]]:
    """Compare the counts of every path with the plain ones, some candidates at a time."""
    query, candidates = features(num_candidates)
    plain = torch.cat([plain_counts(query, some) for some in candidates.split(8)]).float()
    found = {}
    for dtype in DTYPES:
        counts = count_mutual_matches(
            quantize_local_features(query, query_dtype(dtype)), quantize_local_features(candidates, dtype)
        )
        differs = (counts - plain).abs()
        found[dtype] = {"counts_equal": not differs.any(), "mean_count_change": float((differs / plain).mean())}
    found["plain"] = {"counts_equal": True, "mean_count_change": 0.0}
    return found


def num_near_ties(num_candidates: int) -> int:
    """Count the locations, of both sides of all pairs, whose two best similarities differ by less than NEAR."""
    query, candidates = features(num_candidates)
    locations = query.flatten(0, 1)
    number = 0
    for candidate in candidates:
        similarity = candidate.flatten(0, 1) @ locations.T
        for axis in (0, 1):
            best, second = similarity.topk(2, dim=axis).values.unbind(axis)
            number += int((best - second < NEAR).sum())
    return number


def main() -> None:
    """Measure all paths, print a table and write it down."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--candidates", type=int, default=100)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--json")
    arguments = parser.parse_args()
    changes = counts_differ(arguments.candidates)
    rates = {dtype: matrix_rate(dtype) for dtype in ("float32", "int8")}
    measured = compare_sides(prepare, PATHS, arguments.repeats, arguments.candidates)
    report: dict[str, Any] = {
        **environment(),
        "candidates": arguments.candidates,
        "repeats": arguments.repeats,
        "map": [GRID, GRID, CHANNELS],
        "matrix_rate_gflops": {dtype: rate / 1e9 for dtype, rate in rates.items()},
        "fastest_local_dtype": fastest_local_dtype(),
        "near_ties": {"below": NEAR, "locations": num_near_ties(arguments.candidates)},
        "paths": {},
    }
    print(f"{'':<28}{'ms/candidate':>14}{'ratio':>8}{'extra MB':>10}{'of rate':>9}  counts")
    for path, row in measured.items():
        per_candidate = row["median_s"] / arguments.candidates
        report["paths"][path] = entry = {
            "milliseconds_per_candidate": 1e3 * per_candidate,
            "quartiles_ms": [1e3 * quartile / arguments.candidates for quartile in row["quartiles_s"]],
            "ratio_to_plain": row["times_faster"],
            "extra_bytes": row["extra_memory_bytes"],
            "memory_share": row["memory_share"],
            "share_of_matrix_rate": seconds_at_matrix_rate(path, arguments.candidates, rates) / per_candidate,
            **changes.get(path, {"counts_equal": False, "counts": OTHER_COUNTS.get(path)}),
        }
        text = f"{100 * entry['mean_count_change']:.2f} % change" if path in changes else entry["counts"]
        print(
            f"{path:<28}{entry['milliseconds_per_candidate']:>14.2f}{entry['ratio_to_plain']:>8.2f}"
            f"{entry['extra_bytes'] / 1e6:>10.1f}{entry['share_of_matrix_rate']:>9.2f}  "
            f"{'equal' if entry['counts_equal'] else text}",
            flush=True,
        )
    write_report(arguments.json, report)


if __name__ == "__main__":
    main()
