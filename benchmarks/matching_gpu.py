"""Re-ranking one query on an NVIDIA GPU: the fused kernel beside a plain transcription of the official code.

    python benchmarks/matching_gpu.py --candidates 100 --json benchmarks/results/matching_gpu.json

Features and the plain side are those of matching.py. Times are taken by CUDA events and are medians; they include
everything from the features on the GPU to the counts. Counts are compared with plain ones of the same rounded features
in float32, and what rounding changes with plain ones of the exact features. The share of the matrix rate is that of
2 L^2 C operations per pair, relative to the largest product this GPU was seen to make in the same type. `--blocks`
also times other ways of dividing the work in bfloat16, for those who want to tune `fused.ON_TENSOR_CORES`.
"""

import argparse
import statistics
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from matching import CHANNELS, GRID, features, plain_counts
from measuring import environment, write_report
from torch import Tensor

from selavpr_peft.matching import count_mutual_matches, fused, quantize_local_features

DTYPES = ("float32", "float16", "bfloat16")
OTHER_BLOCKS = {
    f"{rows} x {columns}, {num_warps} warps, {num_stages} stages, {max_registers} registers": replace(
        fused.ON_TENSOR_CORES,
        rows=rows,
        columns=columns,
        columns_of_thread=columns // fused.ON_TENSOR_CORES.column_step,
        num_warps=num_warps,
        num_stages=num_stages,
        max_registers=max_registers,
    )
    for rows, columns, num_warps, num_stages, max_registers in (
        (64, 128, 4, 2, None),
        (64, 128, 4, 3, None),
        (64, 256, 8, 2, None),
        (128, 128, 4, 2, None),
        (128, 128, 8, 2, None),
        (128, 128, 8, 3, None),
        (128, 64, 4, 2, 168),
        (64, 64, 4, 3, 128),
    )
}


def measure(path: str, query: Tensor, candidates: Tensor, repeats: int, matrix_rate: float) -> dict[str, Any]:
    """Measure one way of counting: "plain", or the kernel in one of DTYPES."""
    count = plain_counts if path == "plain" else count_mutual_matches
    forms = [x if path == "plain" else quantize_local_features(x, path) for x in (query, candidates)]
    exact, plain = plain_counts(query, candidates), plain_counts(*(form.float() for form in forms))
    counts = count(*forms)
    quartiles = statistics.quantiles(seconds(lambda: count(*forms), repeats), n=4)
    return {
        "milliseconds": 1e3 * quartiles[1],
        "quartiles_ms": [1e3 * quartile for quartile in quartiles],
        "extra_bytes": extra_bytes(lambda: count(*forms)),
        "share_of_matrix_rate": operations(candidates) / quartiles[1] / matrix_rate,
        "counts_equal": torch.equal(counts, plain),
        "mean_count_difference": float((counts - plain).abs().float().mean()),
        "mean_count_change": float(((counts - exact).abs() / exact).mean()),
    }


def measure_blocks(query: Tensor, candidates: Tensor, repeats: int, matrix_rate: float) -> dict[str, dict[str, float]]:
    """Time the kernel, without the counting after it, for several ways of dividing the work."""
    maps = [quantize_local_features(x.flatten(-3, -2)[None], "bfloat16") for x in (query, candidates)]
    rows = {}
    for name, blocks in {"as used": fused.ON_TENSOR_CORES, **OTHER_BLOCKS}.items():
        median = statistics.median(seconds(partial(fused.nearest_both_ways, *maps, blocks), repeats))
        share = operations(candidates) / median / matrix_rate
        rows[name] = {"milliseconds": 1e3 * median, "share_of_matrix_rate": share}
        print(f"{name:<48}{1e3 * median:>9.3f} ms{share:>9.2f} of rate", flush=True)
    return rows


def operations(candidates: Tensor) -> int:
    """Count what the similarities of all pairs take."""
    return 2 * GRID**4 * CHANNELS * len(candidates)


def seconds(work: Callable[[], Any], repeats: int) -> list[float]:
    """Time work on the GPU, after it was warmed up."""
    for _ in range(5):
        work()
    times = []
    for _ in range(repeats):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        work()
        end.record()
        end.synchronize()
        times.append(start.elapsed_time(end) / 1e3)
    return times


def extra_bytes(work: Callable[[], Any]) -> int:
    """Measure how far the peak of the GPU's memory lies above what is held before."""
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    work()
    return torch.cuda.max_memory_allocated() - before


def matrix_rate(dtype: str, repeats: int) -> float:
    """Operations per second of the best of some products of large matrices."""
    size = 8192
    matrix = torch.randn(size, size, device="cuda", dtype=getattr(torch, dtype))
    return 2 * size**3 / min(seconds(lambda: matrix @ matrix, repeats))


def main() -> None:
    """Measure all sides, print a table and write it down."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--candidates", type=int, default=100)
    parser.add_argument("--repeats", type=int, default=50)
    parser.add_argument("--blocks", action="store_true")
    parser.add_argument("--json")
    arguments = parser.parse_args()
    if not torch.cuda.is_available():
        parser.error("there is no NVIDIA GPU here; benchmarks/matching.py measures the CPU")
    query, candidates = (x.cuda() for x in features(arguments.candidates))
    rates = {dtype: matrix_rate(dtype, arguments.repeats) for dtype in DTYPES}
    report: dict[str, Any] = {
        **environment(),
        "gpu": torch.cuda.get_device_name(),
        "is_fused": fused.serves(query, candidates),
        "candidates": arguments.candidates,
        "repeats": arguments.repeats,
        "map": [GRID, GRID, CHANNELS],
        "matrix_rate_gflops": {dtype: rate / 1e9 for dtype, rate in rates.items()},
        "paths": {},
    }
    print(f"{'':<12}{'ms':>9}{'ratio':>8}{'extra MB':>10}{'of rate':>9}  counts")
    for path in ("plain", *DTYPES):
        rate = rates["float32" if path == "plain" else path]
        report["paths"][path] = row = measure(path, query, candidates, arguments.repeats, rate)
        row["ratio_to_plain"] = report["paths"]["plain"]["milliseconds"] / row["milliseconds"]
        counts = "equal" if row["counts_equal"] else f"{row['mean_count_difference']:.2f} apart"
        print(
            f"{path:<12}{row['milliseconds']:>9.3f}{row['ratio_to_plain']:>8.1f}{row['extra_bytes'] / 1e6:>10.1f}"
            f"{row['share_of_matrix_rate']:>9.2f}  {counts}, {100 * row['mean_count_change']:.2f} % by rounding",
            flush=True,
        )
    if arguments.blocks:
        report["blocks"] = measure_blocks(query, candidates, arguments.repeats, rates["bfloat16"])
    write_report(arguments.json, report)


if __name__ == "__main__":
    main()
