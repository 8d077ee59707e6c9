"""Which database images a query should be answered with, and which one it must not be: its own picture."""

import numpy as np
from datasets import Dataset

from selavpr_peft.data.positives import positives_within
from selavpr_peft.data.schema import picture_names, positions


def own_and_positives(queries: Dataset, database: Dataset, radius: float | int) -> tuple[np.ndarray, list[np.ndarray]]:
    """Give the database rows that a query must not be answered with, and those that it should be.

    Args:
        queries: Table of places to locate.
        database: Table of places to search.
        radius: Distance up to which a database image shows the query's place, in metres or frames.

    Returns:
        The row of each query's own picture, -1 where the database does not have it, and the rows of all others within
        the radius.

    Raises:
        ValueError: If the tables measure positions in different units, or the radius is negative.
    """
    own = _own_rows(queries, database)
    positives = positives_within(positions(queries), positions(database), radius)
    return own, [rows[rows != own_row] for rows, own_row in zip(positives, own, strict=True)]


def _own_rows(queries: Dataset, database: Dataset) -> np.ndarray:
    """Give the database row that holds each query's own picture, -1 where none does."""
    row_of = {name: row for row, name in enumerate(picture_names(database))}
    return np.array([row_of.get(name, -1) for name in picture_names(queries)])
