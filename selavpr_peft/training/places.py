"""What training must know of its places: which images may be positives and which may be negatives of a query."""

from collections import Counter
from dataclasses import dataclass

import numpy as np
from datasets import Dataset, DatasetDict
from jaxtyping import Int

from selavpr_peft.data.positives import positives_within
from selavpr_peft.data.schema import TRAVERSE, picture_names, positions, radius_unit


@dataclass(frozen=True, kw_only=True)
class TrainingPlaces:
    """Queries with at least one positive, and the database they are trained against.

    Args:
        queries: Queries that have a positive; those without are left out together with their lists.
        database: All database images.
        positives: Database rows that are positives of every query.
        near: Database rows within the negative radius of every query, which can be no negatives of it.
        query_traverses: A number for the traverse of every query, None where places have none.
        database_traverses: The same of the database; the numbers agree.
        query_images: A number for the picture of every query; equal numbers are one picture.
        database_images: The same of the database.
        query_rows: Row of every query in the table that was given.
        num_queries_without_positive: Queries that were left out.
    """

    queries: Dataset
    database: Dataset
    positives: list[np.ndarray]
    near: list[np.ndarray]
    query_traverses: np.ndarray | None
    database_traverses: np.ndarray | None
    query_images: np.ndarray
    database_images: np.ndarray
    query_rows: np.ndarray
    num_queries_without_positive: int

    def negatives_among(self, query: int, rows: Int[np.ndarray, " R"]) -> Int[np.ndarray, " K"]:
        """Keep those database rows that may be negatives of a query.

        Args:
            query: Number of the query.
            rows: Database rows.
        """
        rows = rows[np.isin(rows, self.near[query], invert=True)]
        if self.query_traverses is not None and self.database_traverses is not None:
            rows = rows[self.database_traverses[rows] != self.query_traverses[query]]
        return rows

    def num_possible_negatives(self) -> Int[np.ndarray, " Q"]:
        """Count the database images that may be negatives of each query, without listing them."""
        total = len(self.database)
        if self.query_traverses is None or self.database_traverses is None:
            return np.array([total - len(near) for near in self.near])
        sizes = np.bincount(self.database_traverses, minlength=int(self.query_traverses.max()) + 1)
        near_in_others = [
            np.count_nonzero(self.database_traverses[rows] != traverse)
            for rows, traverse in zip(self.near, self.query_traverses, strict=True)
        ]
        return total - sizes[self.query_traverses] - np.array(near_in_others)


def training_places(
    places: DatasetDict, *, positive_radius: float | int, negative_radius: float | int
) -> TrainingPlaces:
    """Find positives and possible negatives of every query, and leave out queries without a positive.

    An image is never its own positive. Where places have a traverse, positives and negatives come from another
    traverse than the query.

    Args:
        places: Splits "database" and "queries".
        positive_radius: Distance up to which a database image is a positive, in metres or frames.
        negative_radius: Distance beyond which it may be a negative.

    Raises:
        ValueError: If the radii are in the wrong order, units differ, no query has a positive or an image is named
            twice.
    """
    if not 0 <= positive_radius <= negative_radius:
        raise ValueError(
            f"positive_radius must be at least 0 and not exceed negative_radius, got {positive_radius:g} and"
            f" {negative_radius:g}: images between the two are neither positives nor negatives."
        )
    queries, database = places["queries"], places["database"]
    query_images, database_images = _picture_numbers(queries, database)
    query_traverses, database_traverses = _traverse_numbers(queries, database)
    within = positives_within(positions(queries), positions(database), positive_radius)
    positives = [rows[database_images[rows] != query_images[q]] for q, rows in enumerate(within)]
    if query_traverses is not None and database_traverses is not None:
        positives = [rows[database_traverses[rows] != query_traverses[q]] for q, rows in enumerate(positives)]
    kept = np.array([q for q, rows in enumerate(positives) if len(rows)], dtype=np.int64)
    if not len(kept):
        where = "" if query_traverses is None else " in another traverse than its own"
        raise ValueError(
            f"None of the {len(queries)} training queries has a positive within {positive_radius:g}"
            f" {radius_unit(database)}{where}: widen positive_radius, or check that positions of queries and database"
            f" agree{' and that there is more than one traverse' if where else ''}."
        )
    near = positives_within(positions(queries)[kept], positions(database), negative_radius)
    return TrainingPlaces(
        queries=queries.select(kept),
        database=database,
        positives=[positives[q] for q in kept],
        near=near,
        query_traverses=None if query_traverses is None else query_traverses[kept],
        database_traverses=database_traverses,
        query_images=query_images[kept],
        database_images=database_images,
        query_rows=kept,
        num_queries_without_positive=len(queries) - len(kept),
    )


def _picture_numbers(queries: Dataset, database: Dataset) -> tuple[np.ndarray, np.ndarray]:
    """Number the pictures so that one file has one number, also where it is query and database image."""
    names = [_unique_picture_names(queries, "queries"), _unique_picture_names(database, "database")]
    _, numbers = np.unique(np.concatenate(names), return_inverse=True)
    return numbers[: len(queries)], numbers[len(queries) :]


def _unique_picture_names(places: Dataset, split: str) -> np.ndarray:
    """Name every picture, and refuse one that stands twice."""
    names = picture_names(places)
    repeated = [name for name, count in Counter(names).items() if count > 1]
    if repeated:
        raise ValueError(f"The image {repeated[0]} stands twice in the {split}; every image must have one row.")
    return np.asarray(names)


def _traverse_numbers(queries: Dataset, database: Dataset) -> tuple[np.ndarray | None, np.ndarray | None]:
    if TRAVERSE not in queries.column_names or TRAVERSE not in database.column_names:
        return None, None
    names = [str(name) for split in (queries, database) for name in split[TRAVERSE][:]]
    _, numbers = np.unique(names, return_inverse=True)
    return numbers[: len(queries)], numbers[len(queries) :]
