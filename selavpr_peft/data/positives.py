"""Which database images show the place of a query: those within a radius of it."""

import numpy as np
from jaxtyping import Float
from scipy.spatial import cKDTree


def positives_within(
    query_positions: Float[np.ndarray, "Q dims"], database_positions: Float[np.ndarray, "N dims"], radius: float | int
) -> list[np.ndarray]:
    """Find the database images within a radius of every query.

    Args:
        query_positions: Positions of the queries, in metres or frames.
        database_positions: Positions of the database images, in the same unit.
        radius: Largest distance that counts, itself included.

    Returns:
        Ascending database rows for every query; empty where there is none.

    Raises:
        ValueError: If one side has metres and the other frames, or the radius is negative or not a number.

    Example:
        >>> positives_within(np.array([[5.0]]), np.array([[1.0], [3.0], [8.0]]), radius=3)
        [array([1, 2])]
    """
    if query_positions.shape[1] != database_positions.shape[1]:
        raise ValueError("Queries and database must both have metres or both have frames, got one of each.")
    if not 0 <= radius < np.inf:
        raise ValueError(f"The radius must be a number of at least 0, got {radius}.")
    tree = cKDTree(database_positions)
    found = tree.query_ball_point(query_positions, r=radius, return_sorted=True)
    return [np.asarray(rows, dtype=np.int64) for rows in found]
