"""How the benchmarks measure: memory alone, times in turns, and a note of where; and how they write it down."""

import json
import multiprocessing
import os
import platform
import statistics
import subprocess
import time
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import torch

from selavpr_peft.files import write_text_atomically

Make = Callable[..., Callable[[], Any]]
"""Prepares a piece of work from a side's name and further arguments, and gives a function that does it."""


def compare_sides(make: Make, sides: Sequence[str], repeats: int, *arguments: Any) -> dict[str, dict[str, Any]]:
    """Measure the same work done in several ways: memory one by one, times in turns, each in a process of its own.

    The first side is the plain one, which the others are compared with.
    """
    rows: dict[str, dict[str, Any]] = {}
    os.environ["MALLOC_MMAP_THRESHOLD_"] = "65536"  # give freed memory back at once, so that the peak is what was used
    for side in sides:
        connection, process = _start(_measure_memory, make, side, *arguments)
        rows[side] = {"extra_memory_bytes": connection.recv()}
        process.join()
    del os.environ["MALLOC_MMAP_THRESHOLD_"]
    workers = {side: _start(_measure_times, make, side, *arguments) for side in sides}
    times: dict[str, list[float]] = {side: [] for side in sides}
    for _ in range(repeats):
        for side, (connection, _process) in workers.items():
            connection.send(True)
            times[side].append(connection.recv())
    for connection, process in workers.values():
        connection.send(False)
        process.join()
    for side, row in rows.items():
        quartiles = statistics.quantiles(times[side], n=4)
        row |= {"median_s": quartiles[1], "quartiles_s": quartiles}
        row["times_faster"] = statistics.median(times[sides[0]]) / row["median_s"]
        row["memory_share"] = row["extra_memory_bytes"] / rows[sides[0]]["extra_memory_bytes"]
    return rows


def environment() -> dict[str, Any]:
    """Say where, when and with what something is measured."""
    folder = Path(__file__).parent
    commit = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, cwd=folder)
    model = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    return {
        "commit": commit.stdout.strip(),
        "date": time.strftime("%Y-%m-%d"),
        "device": f"{model[0].partition(':')[2].strip() if model else platform.machine()} CPU",
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
    }


def write_report(path: str | None, report: dict[str, Any], indent: int | None = 2) -> None:
    """Write what was measured as JSON, all of it or nothing; do nothing where no file is named."""
    if path is not None:
        write_text_atomically(Path(path), json.dumps(report, indent=indent) + "\n")


def held_bytes(name: str) -> int:
    """Read what this process holds (VmRSS) or has held at most (VmHWM)."""
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(name))
    return int(line.split()[1]) * 1024


def restart_peak() -> None:
    """Let the peak (VmHWM) start again at what this process holds now."""
    Path("/proc/self/clear_refs").write_text("5")


def _measure_memory(connection: Connection, make: Make, side: str, *arguments: Any) -> None:
    """Send how far the peak of this process lies above what it held before."""
    run = make(side, *arguments)
    run()  # what libraries set up at the first time is nobody's cost
    before = held_bytes("VmRSS")
    restart_peak()
    run()
    connection.send(held_bytes("VmHWM") - before)


def _measure_times(connection: Connection, make: Make, side: str, *arguments: Any) -> None:
    """Run as often as asked and send the seconds."""
    run = make(side, *arguments)
    run()
    while connection.recv():
        start = time.perf_counter()
        run()
        connection.send(time.perf_counter() - start)


def _start(work: Callable[..., None], *arguments: Any) -> tuple[Connection, BaseProcess]:
    """Start work in a process of its own, with a connection to it."""
    context = multiprocessing.get_context("spawn")
    connection, other = context.Pipe()
    process = context.Process(target=work, args=(other, *arguments))
    process.start()
    return connection, process
