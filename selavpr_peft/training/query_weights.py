"""How often each query is drawn with `mining="weighted"`: as the caller says, or by the rule of MSLS."""

from collections.abc import Sequence

import numpy as np
from datasets import Dataset
from jaxtyping import Float

from selavpr_peft.training.places import TrainingPlaces

NOTE = "note"
"""Column with what is known of a view, for example "night_sideways"; MSLS has it in its file names."""


def weigh_queries(
    mode: str, given: np.ndarray | None, queries: Dataset, places: TrainingPlaces
) -> Float[np.ndarray, " Q"] | None:
    """Weigh the queries that are trained.

    Args:
        mode: How triplets are mined; other modes than "weighted" need no weights.
        given: A weight for each of all queries; None for the rule of MSLS, by the column `note`.
        queries: All queries.
        places: Those that are trained.

    Raises:
        ValueError: If mode "weighted" has neither weights nor notes, or there are not as many weights as queries.
    """
    if given is not None:
        if len(given) != len(queries):
            raise ValueError(f"query_weights must be {len(queries)} numbers, one per query, got {len(given)}.")
        return np.asarray(given, dtype=np.float64)[places.query_rows]
    if mode != "weighted":
        return None
    if NOTE not in queries.column_names:
        raise ValueError(
            f"mining='weighted' needs query_weights, or queries with a column {NOTE!r} as MSLS has; got"
            f" {queries.column_names}."
        )
    return msls_weights(places.queries[NOTE][:])


def msls_weights(notes: Sequence[str]) -> Float[np.ndarray, " Q"]:
    """Weigh queries so that night and sideways views are drawn more often (MSLS supplementary; datasets_ws.py).

    Every query weighs 1; night queries share as much again as all queries together, and so do sideways ones.

    Args:
        notes: Note of every query, for example "night_sideways" or "day_forward", as in MSLS file names.

    Returns:
        Weights relative to one another: 1, plus Q / (night queries) at night, plus Q / (sideways queries) sideways.

    Raises:
        ValueError: If there are no night or no sideways queries.

    Example:
        >>> msls_weights(["day_forward", "night_forward", "day_sideways", "day_forward"]).tolist()
        [1.0, 5.0, 5.0, 1.0]
    """
    words = [(note or "").split("_") for note in notes]
    weights = np.ones(len(words))
    for name, position in (("night", 0), ("sideways", 1)):
        has_word = np.array([word[position : position + 1] == [name] for word in words], dtype=bool)
        if not has_word.any():
            raise ValueError(
                f"None of the {len(words)} queries is noted as {name}, which the weights of MSLS need; expected notes"
                ' like "night_sideways" or "day_forward". For other data pass query_weights.'
            )
        weights[has_word] += len(words) / has_word.sum()
    return weights
