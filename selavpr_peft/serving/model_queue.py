"""One thread that does the work of the model, while the server goes on answering everything else."""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import ParamSpec, TypeVar

from selavpr_peft.serving.request_error import RequestError

MAX_WAITING = 16

_P = ParamSpec("_P")
_T = TypeVar("_T")


class ModelQueue:
    """Runs functions one after another, in the order they came.

    Args:
        max_waiting: Functions that may wait or run at once.
    """

    def __init__(self, max_waiting: int = MAX_WAITING) -> None:
        """Start with nothing to do."""
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="model")
        self._max_waiting = max_waiting
        self._num_waiting = 0  # only the event loop's thread changes it

    async def run(self, work: Callable[_P, _T], *args: _P.args, **kwargs: _P.kwargs) -> _T:
        """Run a function in the thread and give its result.

        Args:
            work: What to run.
            *args: Its arguments.
            **kwargs: Its named arguments.

        Raises:
            RequestError: If too many are waiting already.
        """
        if self._num_waiting >= self._max_waiting:
            raise RequestError(f"{self._num_waiting} photographs are waiting already; try again in a moment.", 503)
        self._num_waiting += 1
        try:
            return await asyncio.wrap_future(self._thread.submit(work, *args, **kwargs))
        finally:
            self._num_waiting -= 1

    def close(self) -> None:
        """End the thread; what has not begun is dropped."""
        self._thread.shutdown(wait=True, cancel_futures=True)
