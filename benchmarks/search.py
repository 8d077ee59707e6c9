"""Search by global descriptor: every kind of index beside an exact search, in databases of growing size.

    python benchmarks/search.py --json benchmarks/results/search.json

Descriptors are made as crops.py says; Gaussian ones, which have no near neighbours, are the worst case. Every index is
built and searched in a process of its own. Queries are further crops of places in the database; 200 of them are asked
one at a time, exact and approximate search in turns, and then all at once. Memory is the peak of the process while
building, descriptors included, and what the index itself holds.
"""

import argparse
import json
import multiprocessing
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import faiss
import numpy as np
from crops import gaussian_descriptors, make_descriptors
from measuring import environment, held_bytes, restart_peak, write_report

from selavpr_peft.retrieval.descriptor_index import DescriptorIndex
from selavpr_peft.retrieval.index_kinds import FLAT, HNSW, IVF_PQ, KINDS, choose_kind

NUM_QUERIES, WANTED = 200, 10
SIZES = (10_000, 100_000, 1_000_000)
TASK = ("source", "rows", "kind")
LARGEST = {("crops", IVF_PQ): 100_000, ("gaussian", HNSW): 100_000}
"""Codes too coarse for more rows, and a graph whose building takes hours."""

LEFT_OUT = [("gaussian", FLAT), ("gaussian", IVF_PQ)]

SOURCES: dict[str, Callable[[int, int], tuple[np.ndarray, np.ndarray]]] = {
    "crops": make_descriptors,
    "gaussian": gaussian_descriptors,
}


def measure(source: str, num_rows: int, kind: str) -> dict[str, Any]:
    """Build one index and search it beside an exact one."""
    database, queries = SOURCES[source](num_rows, NUM_QUERIES)
    restart_peak()
    start = time.perf_counter()
    index = DescriptorIndex.build(database, kind)
    build_seconds = time.perf_counter() - start
    build_peak = held_bytes("VmHWM")
    with tempfile.TemporaryDirectory() as folder:
        index.save(Path(folder) / "index.faiss")
        index_bytes = (Path(folder) / "index.faiss").stat().st_size
    sides = {"exact": DescriptorIndex.build(database), kind: index}
    del database
    found: dict[str, list[np.ndarray]] = {name: [] for name in sides}
    alone: dict[str, list[float]] = {name: [] for name in sides}
    for query in queries:
        for name, side in sides.items():
            start = time.perf_counter()
            found[name].append(side.search(query[None], WANTED)[1][0])
            alone[name].append(time.perf_counter() - start)
    batched = {name: timed_batch(side, queries) for name, side in sides.items()}
    exact_ms, index_ms = (1e3 * statistics.median(alone[name]) for name in sides)
    shared = [len(np.intersect1d(*rows)) / WANTED for rows in zip(*found.values(), strict=True)]
    return {
        "source": source,
        "rows": num_rows,
        "kind": kind,
        "chosen": choose_kind(num_rows, queries.shape[1]),
        "build_seconds": build_seconds,
        "build_peak_bytes": build_peak,
        "index_bytes": index_bytes,
        "recall_at_10_of_exact": float(np.mean(shared)),
        "milliseconds": index_ms,
        "quartiles_ms": [1e3 * quartile for quartile in statistics.quantiles(alone[kind], n=4)],
        "exact_milliseconds": exact_ms,
        "times_faster": exact_ms / index_ms,
        "batched_milliseconds": 1e3 * batched[kind],
        "batched_exact_milliseconds": 1e3 * batched["exact"],
        "batched_times_faster": batched["exact"] / batched[kind],
    }


def rows_before(path: str | None) -> list[dict[str, Any]]:
    """Read what was measured before: large rows take minutes, and stay when others are measured anew."""
    if path is None or not Path(path).exists():
        return []
    rows: list[dict[str, Any]] = json.loads(Path(path).read_text())["rows"]
    return rows


def timed_batch(index: DescriptorIndex, queries: np.ndarray) -> float:
    """Search for all queries at once; seconds per query, median of three."""
    times = []
    for _ in range(3):
        start = time.perf_counter()
        index.search(queries, WANTED)
        times.append((time.perf_counter() - start) / len(queries))
    return statistics.median(times)


def main() -> None:
    """Measure all sizes and kinds, print a table and write it down."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", default=",".join(map(str, SIZES)))
    parser.add_argument("--kinds", default=",".join(KINDS))
    parser.add_argument("--sources", default=",".join(SOURCES))
    parser.add_argument("--json")
    arguments = parser.parse_args()
    sizes, kinds = [int(size) for size in arguments.sizes.split(",")], arguments.kinds.split(",")
    sources = arguments.sources.split(",")
    work = [
        (source, size, kind)
        for source in sources
        for kind in kinds
        for size in sizes
        if size <= LARGEST.get((source, kind), size) and (source, kind) not in LEFT_OUT
    ]
    report: dict[str, Any] = {**environment(), "faiss": faiss.__version__, "num_queries": NUM_QUERIES}
    report["rows"] = [row for row in rows_before(arguments.json) if tuple(row[name] for name in TASK) not in work]
    print(
        f"{'':<10}{'rows':>9} {'kind':<8}{'build s':>9}{'peak GB':>9}{'index GB':>9}{'recall':>8}"
        f"{'ms':>9}{'exact':>9}{'faster':>8}{'batched':>9}{'faster':>8}"
    )
    for task in work:
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            row = pool.apply(measure, task)
        report["rows"].append(row)
        print(
            f"{row['source']:<10}{row['rows']:>9} {row['kind']:<8}{row['build_seconds']:>9.1f}"
            f"{row['build_peak_bytes'] / 1e9:>9.2f}{row['index_bytes'] / 1e9:>9.2f}"
            f"{row['recall_at_10_of_exact']:>8.3f}{row['milliseconds']:>9.3f}{row['exact_milliseconds']:>9.3f}"
            f"{row['times_faster']:>8.1f}{row['batched_milliseconds']:>9.3f}{row['batched_times_faster']:>8.1f}",
            flush=True,
        )
        write_report(arguments.json, report)  # after every row: the largest ones take minutes


if __name__ == "__main__":
    main()
