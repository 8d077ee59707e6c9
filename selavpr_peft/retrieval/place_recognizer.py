"""Tell where photographs were taken: retrieve candidates from a place database, then re-rank them."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, overload

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from peft import PeftModel
from PIL import Image
from torch import Tensor

from selavpr_peft.data.schema import DEGREES, FRAME, IMAGE, KEY, MAX_DEGREES, METRES, POINT_IN_DEGREES
from selavpr_peft.errors import PlaceDatabaseError, UnreadableImageError
from selavpr_peft.matching import (
    count_matches_within_phases,
    count_mutual_matches,
    num_in_doubt,
    order_in_two_passes,
    rerank,
)
from selavpr_peft.matching.checks import check_num_exact
from selavpr_peft.modeling.preprocessing import Picture, as_picture, read_image
from selavpr_peft.retrieval.calibration import Calibration, answer_form, calibration_of
from selavpr_peft.retrieval.encoding import check_descriptions, describe, in_batches
from selavpr_peft.retrieval.matched_points import MatchedPoints, match_pictures
from selavpr_peft.retrieval.place_database import PlaceDatabase

EARTH_RADIUS_M = 6_371_008.8
Point = tuple[float | int, float | int]


@dataclass(frozen=True, kw_only=True)
class RecognizedPlace:
    """A place of the database that a query may show.

    Args:
        key: Name of the database image.
        row: Its row.
        score: Cosine similarity of the global descriptors.
        num_matches: Mutual nearest neighbours of the local features; None where it was not re-ranked, or only in the
            first of two passes.
        retrieval_rank: Its rank among the candidates before re-ranking, from 0.
        image: Path of the database image; None if it came without one.
        columns: Everything else the database knows of it, coordinates among them.
        probability: Estimate that it is the place of the query; only of the first place, where a calibration holds.
    """

    key: str
    row: int
    score: float
    num_matches: int | None
    retrieval_rank: int
    image: str | None
    columns: dict[str, Any] = field(default_factory=dict)
    probability: float | None = None

    @property
    def evidence(self) -> float | int:
        """What speaks for it and a calibration is about: its matches, or its score where it was not re-ranked."""
        return self.score if self.num_matches is None else self.num_matches

    @property
    def coordinates(self) -> dict[str, float | int]:
        """Its position in whatever the database has: latitude and longitude, metres, or a frame number."""
        names = (*DEGREES, *METRES, FRAME)
        return {name: self.columns[name] for name in names if self.columns.get(name) is not None}


@dataclass(frozen=True)
class _Question:
    """What is asked about every photograph of a call."""

    top_k: int
    rerank_num: int
    rerank_window: float | int | None
    num_exact: int | None
    is_allowed: Bool[np.ndarray, " N"] | None
    calibration: Calibration | None


class PlaceRecognizer:
    """Locates photographs in a database.

    Args:
        model: The model the database was built with, in evaluation mode.
        database: An open database.
        calibration: How likely first answers are to be right; None for the one that the model carries, if it does.

    Raises:
        PlaceDatabaseError: If the database was built with another model or other settings.
        TypeError: If the model has no SelaVPR adapter, or the database is none.
        ValueError: If the calibration is of another adapter.
    """

    def __init__(self, model: PeftModel, database: PlaceDatabase, *, calibration: Calibration | None = None) -> None:
        """Check that model, database and calibration belong together."""
        if not isinstance(database, PlaceDatabase):
            raise TypeError(f"database must be an open PlaceDatabase, got {database!r}; see PlaceDatabase.open.")
        database.check_model(model)
        self.model = model
        self.database = database
        digest = database.manifest.adapter
        self.calibration = calibration_of(model, digest) if calibration is None else calibration
        if self.calibration is not None:
            self.calibration.check_adapter(digest)
        self._adapter = model.active_adapter

    def __repr__(self) -> str:
        """Tell what locates photographs, and among what."""
        calibrated = "not calibrated" if self.calibration is None else "calibrated"
        return f"PlaceRecognizer(adapter {self._adapter!r}, {calibrated}, {self.database!r})"

    @overload
    def recognize(  # type: ignore[overload-overlap]  # a text, too, is a sequence of texts
        self,
        images: Picture,
        *,
        top_k: int = ...,
        rerank_num: int = ...,
        rerank_window: float | int | None = ...,
        num_exact: int | None = ...,
        near: Point | None = ...,
        radius_m: float | int | None = ...,
        batch_size: int = ...,
    ) -> list[RecognizedPlace]: ...

    @overload
    def recognize(
        self,
        images: Iterable[Picture],
        *,
        top_k: int = ...,
        rerank_num: int = ...,
        rerank_window: float | int | None = ...,
        num_exact: int | None = ...,
        near: Point | None = ...,
        radius_m: float | int | None = ...,
        batch_size: int = ...,
    ) -> list[list[RecognizedPlace]]: ...

    def recognize(
        self,
        images: Picture | Iterable[Picture],
        *,
        top_k: int = 10,
        rerank_num: int = 100,
        rerank_window: float | int | None = None,
        num_exact: int | None = None,
        near: Point | None = None,
        radius_m: float | int | None = None,
        batch_size: int = 16,
    ) -> list[RecognizedPlace] | list[list[RecognizedPlace]]:
        """Rank the places of the database for each photograph.

        Args:
            images: Path, Pillow image or 8-bit array (H, W) or (H, W, 3) in RGB; or any iterable of such, which is
                read batch by batch.
            top_k: Places wanted; fewer where the database has fewer.
            rerank_num: Candidates of retrieval that are re-ranked by their local features; 0 for none.
            rerank_window: Re-rank only candidates whose score lies within this of the best one's, and none where the
                best is alone in that; None for all `rerank_num`.
            num_exact: Re-rank in two passes: all candidates within phases (`count_matches_within_phases`), and then so
                many of the best exactly; None for one pass. A database of fewer locations needs no such pass.
            near: Latitude and longitude in degrees around which to look; needs `radius_m`, and a database with the
                columns `latitude` and `longitude`.
            radius_m: Distance from `near` in metres up to which a place is considered.
            batch_size: Photographs per forward pass.

        Returns:
            For one photograph its places, best first; for several a list of such lists. Those behind the re-ranked
            ones are in the order of retrieval. The first has a probability where the calibration was fitted for a
            database of this form and this `rerank_num`, without window, and all places were considered.

        Raises:
            PlaceDatabaseError: If another adapter of the model has become the active one meanwhile.
            UnreadableImageError: If a photograph cannot be read; the message names it.
            TypeError: If it is something else, such as a tensor.
            ValueError: If an array is not an image, a number is out of range, the model gives no usable description,
                or the database cannot tell what is near.
        """
        self._check_adapter()
        if top_k < 1 or rerank_num < 0:
            raise ValueError(f"top_k must be at least 1 and rerank_num at least 0, got {top_k} and {rerank_num}.")
        if rerank_window is not None and not rerank_window >= 0:
            raise ValueError(f"rerank_window must be a difference of scores of 0 or more, got {rerank_window}.")
        if num_exact is not None:
            check_num_exact(num_exact)
        is_allowed = self._near(near, radius_m)
        is_calibrated = rerank_window is None and is_allowed is None and not self.uncalibrated(rerank_num)
        calibration = self.calibration if is_calibrated else None
        ask = _Question(top_k, rerank_num, rerank_window, num_exact, is_allowed, calibration)
        if isinstance(images, Picture):
            return self._recognize_batch([images], ask)[0]
        return [places for batch in in_batches(images, batch_size) for places in self._recognize_batch(batch, ask)]

    def match(self, image: Picture, place: RecognizedPlace) -> MatchedPoints:
        """Place the mutual nearest neighbours of a photograph and a recognised place in both pictures.

        Args:
            image: The photograph.
            place: One of the places it was recognised as.

        Raises:
            PlaceDatabaseError: If another adapter of the model has become the active one meanwhile.
            UnreadableImageError: If the database image is not where it was.
            ValueError: If the model has no local head.
        """
        self._check_adapter()
        pictures = as_picture(image), picture_of(place)
        points = match_pictures(self.model, self.database.preprocessing, *pictures)
        if points is None:
            raise ValueError("The model has no local head, so there is nothing to match.")
        return points

    def uncalibrated(self, rerank_num: int) -> list[str]:
        """Name in what the answers differ from those that the calibration was fitted on.

        Args:
            rerank_num: Candidates that are re-ranked.

        Returns:
            Nothing where it holds, and where there is none.
        """
        form = answer_form(self.database.manifest, rerank_num)
        return [] if self.calibration is None else self.calibration.differing(form)

    def _check_adapter(self) -> None:
        active = self.model.active_adapter
        if active != self._adapter:
            raise PlaceDatabaseError(
                f"The database was made with the adapter {self._adapter!r}, but {active!r} is active now; call"
                f" model.set_adapter({self._adapter!r})."
            )

    def _recognize_batch(self, images: Sequence[Picture], ask: _Question) -> list[list[RecognizedPlace]]:
        prepare = self.database.preprocessing
        descriptors, features = describe(self.model, torch.stack([prepare(as_picture(image)) for image in images]))
        check_descriptions(descriptors, features, [_name_of(image) for image in images])
        if not self.database.has_local_features or features is None:
            ask = replace(ask, rerank_num=0)
        number = max(ask.top_k, ask.rerank_num)
        scores, rows = self.database.index.search(descriptors.numpy(), number, ask.is_allowed)
        return [
            self._rank(scores[n], rows[n], None if features is None else features[n], ask) for n in range(len(images))
        ]

    def _rank(
        self, scores: np.ndarray, rows: np.ndarray, features: Tensor | None, ask: _Question
    ) -> list[RecognizedPlace]:
        """Re-rank the first candidates of one query, and look all of them up."""
        scores, rows = scores[rows >= 0], rows[rows >= 0]
        number = ask.rerank_num if len(rows) else 0
        if number and ask.rerank_window is not None:
            number = min(number, int(num_in_doubt(torch.from_numpy(scores), ask.rerank_window)))
        order = torch.arange(len(rows))
        counts: dict[int, int] = {}
        if number and features is not None:
            reranked, counts = self._rerank(features, rows[:number], ask.num_exact)
            order = torch.cat((reranked, order[number:]))
        places = [
            self._place(int(rows[position]), float(scores[position]), counts.get(position), position)
            for position in order[: ask.top_k].tolist()
        ]
        if places and ask.calibration is not None:
            places[0] = replace(places[0], probability=ask.calibration.probability(places[0].evidence))
        return places

    def _rerank(
        self, features: Tensor, rows: np.ndarray, num_exact: int | None
    ) -> tuple[Int[Tensor, " K"], dict[int, int]]:
        """Order candidates by their matches with one query; also tell the exact counts of some or all of them."""
        query, candidates = self.database.query_form(features), self.database.local_features(rows)
        is_whole = self.database.local_locations is None
        if num_exact is not None and num_exact < len(rows) and is_whole:
            first_counts = count_matches_within_phases(query, candidates)
            order, counts = order_in_two_passes(first_counts, query, candidates, num_exact)
            return order, dict(zip(order[:num_exact].tolist(), counts.tolist(), strict=True))
        counts = count_mutual_matches(query, candidates)
        return rerank(counts, torch.arange(len(rows))), dict(enumerate(counts.tolist()))

    def _place(self, row: int, score: float, num_matches: int | None, retrieval_rank: int) -> RecognizedPlace:
        columns = dict(self.database.places[row])
        return RecognizedPlace(
            key=columns.pop(KEY),
            image=columns.pop(IMAGE),
            row=row,
            score=score,
            num_matches=num_matches,
            retrieval_rank=retrieval_rank,
            columns=columns,
        )

    def _near(self, near: Point | None, radius_m: float | int | None) -> Bool[np.ndarray, " N"] | None:
        if near is None and radius_m is None:
            return None
        if near is None or radius_m is None:
            raise ValueError("near and radius_m must be given together: where to look, and how far around.")
        if np.shape(near) != (2,):
            raise ValueError(
                f"near must be one point for all photographs, as (latitude, longitude), got {near}; ask about"
                " photographs one by one where each has its own."
            )
        is_point = all(abs(value) <= limit for value, limit in zip(near, MAX_DEGREES.values(), strict=True))
        if not (is_point and radius_m >= 0):
            raise ValueError(
                f"near must be {POINT_IN_DEGREES}, in degrees, and radius_m must not be negative, got {near[0]},"
                f" {near[1]} and {radius_m}."
            )
        columns = self.database.places.column_names
        if not set(DEGREES) <= set(columns):
            raise ValueError(f"near needs a database with the columns 'latitude' and 'longitude', got {columns}.")
        places = self.database.places.select_columns(list(DEGREES)).with_format("arrow")[:]  # lists would take seconds
        latitudes, longitudes = (places[name].to_numpy().astype(np.float64, copy=False) for name in DEGREES)
        return distances_m(latitudes, longitudes, near) <= radius_m


def picture_of(place: RecognizedPlace) -> Image.Image:
    """Read the database image of a place.

    Args:
        place: A place that was recognised.

    Raises:
        UnreadableImageError: If the database does not know its image, or it is not there or no picture.
    """
    if place.image is None:
        raise UnreadableImageError(f"The database does not know where the image of {place.key} is.")
    if not Path(place.image).exists() and not Path(place.image).is_absolute():
        raise UnreadableImageError(
            f"There is no image {place.image} of the database in {Path.cwd()}: its paths begin where the database was"
            " built; go on there."
        )
    return read_image(place.image)


def distances_m(
    latitudes: Float[np.ndarray, " N"], longitudes: Float[np.ndarray, " N"], near: Point
) -> Float[np.ndarray, " N"]:
    """Compute great-circle distances on a sphere (haversine formula), within 0.6 % of those on the ellipsoid.

    Args:
        latitudes: In degrees.
        longitudes: In degrees.
        near: Latitude and longitude of the point distances are measured from, in degrees.

    Example:
        >>> distances_m(np.array([0.0]), np.array([1.0]), (0.0, 0.0)).round().tolist()  # one degree of the equator
        [111195.0]
    """
    first, second = np.radians(latitudes), np.radians(near[0])
    across = np.sin(np.radians(longitudes - near[1]) / 2) ** 2
    along = np.sin((first - second) / 2) ** 2
    return 2 * EARTH_RADIUS_M * np.arcsin(np.sqrt(along + np.cos(first) * np.cos(second) * across))


def _name_of(image: Picture) -> str:
    return f"an array {image.shape}" if isinstance(image, np.ndarray) else str(image)
