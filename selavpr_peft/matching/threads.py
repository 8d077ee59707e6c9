"""Divide work among threads by candidates, not by operations."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch

Item = TypeVar("Item")
Result = TypeVar("Result")


def map_in_threads(function: Callable[[Item], Result], items: Sequence[Item]) -> list[Result]:
    """Apply a function to every item, each in one of PyTorch's number of threads.

    PyTorch divides every operation among its threads and waits for the last of them. Of operations that take a
    millisecond there are many, and whenever another process takes a core, all threads wait for it. A thread that has
    an item for itself waits once, at the end. Fewer items than threads go one after the other, each with all threads.

    Args:
        function: Work without gradients; it runs outside of the caller's inference mode and autocast.
        items: What it is applied to.

    Returns:
        Results in the order of the items.

    Raises:
        Exception: What the function raises first.
    """
    num_threads = torch.get_num_threads()
    if num_threads == 1 or len(items) < num_threads:
        return [function(item) for item in items]
    try:
        with ThreadPoolExecutor(num_threads, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            return list(pool.map(function, items))
    finally:
        torch.set_num_threads(num_threads)  # the number is each thread's own, but new threads take the last one set
