"""Photographs on their way in: not too many at a time, none too large, and none that never ends.

They are held in memory, so what arrives is bounded before it is read: a queue behind it would be too late.
"""

import asyncio

from starlette.requests import ClientDisconnect, Request

from selavpr_peft.serving.pictures import check_upload_size
from selavpr_peft.serving.request_error import RequestError

MAX_ARRIVING = 32
MAX_DURATION_S = 60


class Uploads:
    """Receives the bodies of requests.

    Args:
        max_arriving: Bodies that may arrive at once.
        max_duration_s: Time that one may take.
    """

    def __init__(self, max_arriving: int = MAX_ARRIVING, max_duration_s: float | int = MAX_DURATION_S) -> None:
        """Start with none."""
        self._max_arriving = max_arriving
        self._max_duration_s = max_duration_s
        self._num_arriving = 0  # only the event loop's thread changes it

    async def receive(self, request: Request) -> bytes:
        """Read the body of a request, as long as it is no larger than a photograph may be.

        Args:
            request: The request.

        Raises:
            RequestError: If it is too large or too slow, ends before its end, or too many are arriving already.
        """
        check_upload_size(int(request.headers.get("content-length", 0)))
        if self._num_arriving >= self._max_arriving:
            raise RequestError(f"{self._num_arriving} photographs are arriving already; try again in a moment.", 503)
        self._num_arriving += 1
        try:
            async with asyncio.timeout(self._max_duration_s):
                return await _read(request)
        except TimeoutError:
            raise RequestError(
                f"The photograph did not arrive within {self._max_duration_s:g} s; send a smaller copy.", 408
            ) from None
        except ClientDisconnect:  # nobody reads this answer, and the log is not for it
            raise RequestError("The photograph did not arrive whole; send it again.", 400) from None
        finally:
            self._num_arriving -= 1


async def _read(request: Request) -> bytes:
    content = bytearray()
    async for chunk in request.stream():
        content += chunk
        check_upload_size(len(content))
    return bytes(content)
