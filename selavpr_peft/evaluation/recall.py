"""Recall@N, the field's measure (called Success@N in information retrieval)."""

from collections.abc import Sequence

import numpy as np


def recall_at_n(
    predictions: np.ndarray, positives: Sequence[np.ndarray], n_values: Sequence[int] = (1, 5, 10, 20)
) -> dict[int, float]:
    """Compute the share of queries that have at least one positive among their first N predictions.

    Queries without any positive stay in the denominator, as in the official test.py.

    Args:
        predictions: (Q, K) database rows, best first; a row of -1 stands for no prediction. Where N is larger than K,
            all K count.
        positives: Database rows that show the query's place, for each of the Q queries.
        n_values: The values of N.

    Returns:
        Share in [0, 1] for every N.

    Raises:
        ValueError: If there is no query, the numbers of queries differ, or an N is below 1.

    Example:
        >>> recall_at_n(np.array([[7, 3], [4, 5]]), [np.array([3]), np.array([])], n_values=(1, 2))
        {1: 0.0, 2: 0.5}
    """
    predictions = np.asarray(predictions)
    if predictions.ndim != 2 or len(predictions) == 0:
        raise ValueError(f"predictions must have shape (Q, K) with at least one query, got {predictions.shape}.")
    if len(predictions) != len(positives):
        raise ValueError(f"Expected positives for {len(predictions)} queries, got {len(positives)}.")
    check_n_values(n_values)
    is_hit = np.stack([np.isin(rows, found) for rows, found in zip(predictions, positives, strict=True)])
    return {n: float(is_hit[:, :n].any(axis=1).mean()) for n in n_values}


def check_n_values(n_values: Sequence[int]) -> None:
    """Refuse values of N that Recall@N has no meaning for.

    Args:
        n_values: The values of N.

    Raises:
        ValueError: If there is none, or one is below 1.
    """
    if not n_values or min(n_values) < 1:
        raise ValueError(f"n_values must be whole numbers of at least 1, got {tuple(n_values)}.")
