"""Photographs arrive one chunk after the other, and nobody can fill the memory or hold the server's attention."""

import asyncio

import pytest
from starlette.requests import Request

from selavpr_peft.serving import pictures
from selavpr_peft.serving.request_error import RequestError
from selavpr_peft.serving.uploads import Uploads


def request_of(messages, pause_s=0.0, **headers):
    """A request whose body arrives in the messages of an ASGI server; when they are over, nothing comes any more."""
    remaining = iter(messages)

    async def receive():
        await asyncio.sleep(pause_s)
        message = next(remaining, None)
        return message if message is not None else await asyncio.Event().wait()

    fields = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    return Request({"type": "http", "headers": fields}, receive)


def chunk(body, *, more_body=True):
    return {"type": "http.request", "body": body, "more_body": more_body}


class TestReceive:
    def test_chunks_are_put_together(self):
        request = request_of([chunk(b"ab"), chunk(b"c", more_body=False)])
        assert asyncio.run(Uploads().receive(request)) == b"abc"

    @pytest.mark.parametrize("pause_s", [0.0, 0.02])
    def test_one_that_never_ends_is_given_up(self, pause_s):
        request = request_of([chunk(b"a")] * 20, pause_s)
        with pytest.raises(RequestError, match=r"did not arrive within 0\.1 s; send a smaller copy") as refused:
            asyncio.run(Uploads(max_duration_s=0.1).receive(request))
        assert refused.value.status == 408

    def test_one_that_is_broken_off_is_no_failure_of_the_server(self):
        request = request_of([chunk(b"a"), {"type": "http.disconnect"}])
        with pytest.raises(RequestError, match="did not arrive whole") as refused:
            asyncio.run(Uploads().receive(request))
        assert refused.value.status == 400

    def test_one_that_announces_too_much_is_not_read(self, monkeypatch):
        monkeypatch.setattr(pictures, "MAX_UPLOAD_BYTES", 10)
        with pytest.raises(RequestError, match="The photograph is larger"):
            asyncio.run(Uploads().receive(request_of([], content_length="11")))

    def test_too_many_at_once_are_refused_until_one_has_ended(self):
        async def arrive():
            uploads = Uploads(max_arriving=2, max_duration_s=0.2)
            slow = [asyncio.create_task(uploads.receive(request_of([chunk(b"a")]))) for _ in range(2)]
            await asyncio.sleep(0.05)
            with pytest.raises(RequestError, match="2 photographs are arriving already; try again") as refused:
                await uploads.receive(request_of([chunk(b"b", more_body=False)]))
            assert refused.value.status == 503
            await asyncio.gather(*slow, return_exceptions=True)
            return await uploads.receive(request_of([chunk(b"b", more_body=False)]))

        assert asyncio.run(arrive()) == b"b"
