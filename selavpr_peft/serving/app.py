"""The web application: a static page and the few requests it makes.

Nothing about a user is kept between requests: the page sends the photograph again when it asks for matches. The model
works in one thread (model_queue.py); thumbnails and everything else are served meanwhile.
"""

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from time import perf_counter
from typing import Annotated
from urllib.parse import urlencode

from fastapi import FastAPI, Query, Request, Response
from fastapi.concurrency import run_in_threadpool
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, JSONResponse
from fastapi.staticfiles import StaticFiles
from starlette.middleware.trustedhost import TrustedHostMiddleware

from selavpr_peft.matching.two_pass import NUM_EXACT
from selavpr_peft.retrieval import PlaceRecognizer, RecognizedPlace
from selavpr_peft.retrieval.matched_points import match_pictures
from selavpr_peft.serving.answers import (
    DatabaseAnswer,
    MatchesAnswer,
    PlaceAnswer,
    RecognitionAnswer,
    describe_matches,
)
from selavpr_peft.serving.catalogue import PlaceCatalogue
from selavpr_peft.serving.model_queue import ModelQueue
from selavpr_peft.serving.pictures import MAX_UPLOAD_BYTES, jpeg_copy, read_photograph
from selavpr_peft.serving.request_error import RequestError
from selavpr_peft.serving.served_database import ServedDatabase
from selavpr_peft.serving.uploads import Uploads

STATIC = Path(__file__).parent / "static"
THUMBNAIL_SIDE_PX, PICTURE_SIDE_PX = 320, 1600
MAX_TOP_K, MAX_RERANK_NUM, RERANK_NUM = 100, 1000, 100
HEADERS = {
    "Content-Security-Policy": "default-src 'self'; img-src 'self' blob:; object-src 'none'; base-uri 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
}
"""Sent with every answer: browsers fetch nothing from elsewhere, and show pictures of ours to no other page."""

Key = Annotated[str, Query(description="Key of a place, as in a result.")]


def create_app(recognizer: PlaceRecognizer, *, allowed_hosts: Sequence[str] = ("*",)) -> FastAPI:
    """Make the web application that shows a recogniser and its database.

    Args:
        recognizer: Model and database. Only the application may use the model from now on.
        allowed_hosts: Host names under which it answers; "*" is any. On a loopback address, naming its names keeps
            web sites from reaching it under a name of their own.
    """
    endpoints = _Endpoints(recognizer)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        yield
        endpoints.queue.close()

    # FastAPI's own documentation pages load scripts from elsewhere.
    app = FastAPI(title="selavpr", lifespan=lifespan, docs_url=None, redoc_url=None, openapi_url="/api/openapi.json")
    app.add_middleware(TrustedHostMiddleware, allowed_hosts=list(allowed_hosts))
    app.middleware("http")(_with_headers)
    app.get("/api/database")(endpoints.describe_database)
    app.post("/api/recognize")(endpoints.recognize)
    app.post("/api/match")(endpoints.match)
    app.get("/api/thumbnail")(endpoints.thumbnail)
    app.get("/api/picture")(endpoints.picture)
    app.get("/", include_in_schema=False)(_page)
    app.mount("/static", StaticFiles(directory=STATIC))
    app.exception_handler(RequestError)(_refuse)
    app.exception_handler(RequestValidationError)(_explain_parameters)
    app.exception_handler(Exception)(_hide_details)
    return app


class _Endpoints:
    """What each address answers."""

    def __init__(self, recognizer: PlaceRecognizer) -> None:
        self.recognizer = recognizer
        self.database = recognizer.database
        self.served = ServedDatabase(self.database)
        self.uploads = Uploads()
        self.queue = ModelQueue()

    async def describe_database(self) -> DatabaseAnswer:
        """Tell what is searched."""
        if self.served.has_changed:
            await self.queue.run(self.served.refresh)
        return await run_in_threadpool(self._describe, self.served.catalogue)

    def _describe(self, catalogue: PlaceCatalogue) -> DatabaseAnswer:
        return DatabaseAnswer(
            name=self.database.folder.resolve().name,
            version=catalogue.version,
            num_places=catalogue.num_places,
            adapter=self.database.manifest.adapter,
            unit=catalogue.unit,
            points=catalogue.points(),
            can_match=self.recognizer.model.active_peft_config.use_local_head,
            calibrated_rerank_num=calibrated_rerank_num(self.recognizer),
            max_upload_bytes=MAX_UPLOAD_BYTES,
        )

    async def recognize(
        self,
        request: Request,
        top_k: Annotated[int, Query(ge=1, le=MAX_TOP_K)] = 10,
        rerank_num: Annotated[int | None, Query(ge=0, le=MAX_RERANK_NUM)] = None,
    ) -> RecognitionAnswer:
        """Rank the places for the photograph in the request's body.

        Without `rerank_num`, as many candidates are re-ranked as the adapter was calibrated for, or 100.
        """
        if rerank_num is None:
            calibrated = calibrated_rerank_num(self.recognizer)
            rerank_num = RERANK_NUM if calibrated is None else calibrated
        return await self.queue.run(self._recognize, await self.uploads.receive(request), top_k, rerank_num)

    async def match(self, request: Request, key: Key) -> MatchesAnswer:
        """Match the photograph in the request's body with a place."""
        return await self.queue.run(self._match, await self.uploads.receive(request), key)

    def thumbnail(self, key: Key) -> Response:
        """Give a small picture of a place."""
        return self._copy(key, THUMBNAIL_SIDE_PX)

    def picture(self, key: Key) -> Response:
        """Give a large picture of a place."""
        return self._copy(key, PICTURE_SIDE_PX)

    def _recognize(self, content: bytes, top_k: int, rerank_num: int) -> RecognitionAnswer:
        photograph, catalogue = read_photograph(content), self._current_catalogue()
        start = perf_counter()
        num_exact = max(top_k, NUM_EXACT)  # people wait for the answer, and only the places listed need exact counts
        places = self.recognizer.recognize(photograph, top_k=top_k, rerank_num=rerank_num, num_exact=num_exact)
        return RecognitionAnswer(
            places=[_describe_place(place, catalogue) for place in places],
            version=catalogue.version,
            duration_s=perf_counter() - start,
        )

    def _match(self, content: bytes, key: str) -> MatchesAnswer:
        photograph, image = read_photograph(content), self._current_catalogue().read_picture(key)
        points = match_pictures(self.recognizer.model, self.database.preprocessing, photograph, image)
        if points is None:
            raise RequestError("The model has no local head, so there is nothing to match.", 409)
        return MatchesAnswer(
            key=key, query_size=photograph.size, database_size=image.size, matches=describe_matches(points)
        )

    def _current_catalogue(self) -> PlaceCatalogue:
        """See what has changed in the database; in the model's thread only."""
        self.served.refresh()
        return self.served.catalogue

    def _copy(self, key: str, max_side_px: int) -> Response:
        content = jpeg_copy(self.served.catalogue.read_picture(key), max_side_px)
        return Response(content, media_type="image/jpeg", headers={"Cache-Control": "private, max-age=3600"})


def _describe_place(place: RecognizedPlace, catalogue: PlaceCatalogue) -> PlaceAnswer:
    key = catalogue.keys[place.row]
    question = urlencode({"key": key, "version": catalogue.version})  # browsers keep pictures
    has_picture = catalogue.has_picture(place.row)
    return PlaceAnswer(
        key=key,
        score=place.score,
        num_matches=place.num_matches,
        probability=place.probability,
        coordinates=place.coordinates,
        point=catalogue.point(place.row),
        thumbnail=f"api/thumbnail?{question}" if has_picture else None,
        picture=f"api/picture?{question}" if has_picture else None,
    )


def calibrated_rerank_num(recognizer: PlaceRecognizer) -> int | None:
    """Give the number of re-ranked candidates for which first answers have a probability; None if they have none.

    Args:
        recognizer: Model and database.
    """
    if recognizer.calibration is None:
        return None
    number: int = recognizer.calibration.form["rerank_num"]
    return number if number <= MAX_RERANK_NUM and not recognizer.uncalibrated(number) else None


async def _page() -> FileResponse:
    return FileResponse(STATIC / "index.html")


async def _with_headers(request: Request, answer: Callable[[Request], Awaitable[Response]]) -> Response:
    response = await answer(request)
    response.headers.update(HEADERS)
    response.headers.setdefault("Cache-Control", "no-cache")  # asks whether a file has changed
    return response


def _refuse(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestError)
    return _sentence(error.status, str(error))


def _explain_parameters(request: Request, error: Exception) -> JSONResponse:
    """Make one sentence of FastAPI's list of wrong parameters."""
    assert isinstance(error, RequestValidationError)
    faults = [f"{fault['loc'][-1]}: {fault['msg']}, got {fault.get('input')!r}" for fault in error.errors()]
    return _sentence(422, f"A parameter cannot be used: {'; '.join(faults)}.")


def _hide_details(request: Request, error: Exception) -> JSONResponse:
    """Answer what went wrong here without saying where; the log has the traceback."""
    return _sentence(500, "The server failed at this request; its log says why.")


def _sentence(status: int, text: str) -> JSONResponse:
    return JSONResponse({"detail": text}, status, HEADERS)  # a failure's answer never passes _with_headers
