"""Mutual nearest neighbours of two maps of local features (SelaVPR, section 3.4; official local_matching.py).

The similarity of a query and a database image is made tile by tile and never held as a whole (55 MB for two maps of
61 x 61): each tile gives the final best partner of its query locations and updates that of the database locations.
Both come from the same computed numbers, so that there is always at least one mutual pair.

Unlike the official code, a single mutual match counts as one and not as none.
"""

from collections.abc import Iterator

import torch
from jaxtyping import Float, Int, Num
from torch import Tensor

TILE_ROWS = 256
"""Query locations per tile: 3.8 MB of similarities against 61 x 61 database locations."""


def mutual_matches(
    query_features: Num[Tensor, "*query C"], candidate_features: Num[Tensor, "*candidate C"]
) -> Int[Tensor, "K 2"]:
    """List the pairs of locations that are each other's most similar one.

    Args:
        query_features: Map (H, W, C) or list (N, C) of local features; see `count_mutual_matches` for the types.
        candidate_features: The same of a database image; its size may differ.

    Returns:
        Flat query location and flat database location of every match, by ascending query location. Of equally
        similar locations the first counts. At least one match, unless a map is empty: then none.

    Raises:
        ValueError: If channels or types differ, or a feature is not a number.

    Example:
        >>> mutual_matches(torch.eye(2), torch.tensor([[0.0, 1.0], [0.6, 0.8], [0.8, 0.6]])).tolist()
        [[0, 2], [1, 0]]
    """
    query, candidate = _as_rows(query_features), _as_rows(candidate_features)
    _check_comparable(query, candidate)
    forward, backward = _nearest_both_ways(query, candidate)
    locations = torch.arange(len(query), device=query.device)
    if not len(candidate):
        return torch.empty(0, 2, dtype=torch.long, device=query.device)
    is_mutual = backward[forward] == locations
    return torch.stack((locations[is_mutual], forward[is_mutual]), dim=1)


def count_mutual_matches(
    query_features: Num[Tensor, "H W C"], candidate_features: Num[Tensor, "K h w C"]
) -> Int[Tensor, " K"]:
    """Count the mutual nearest neighbours of one query with each of K database images: their re-ranking scores.

    Float maps hold unit vectors; bfloat16 and float16 are multiplied in float32. int8 maps hold quantised vectors
    whose products are exact (up to 1040 channels). uint8 maps hold packed bits, most significant first, compared by
    Hamming distance.

    Args:
        query_features: Map of local features of the query.
        candidate_features: Maps of the candidates; their size may differ from the query's.

    Returns:
        Number of matches of every candidate.

    Raises:
        ValueError: If channels or types differ, or a feature is not a number.
    """
    query = _as_rows(query_features)
    counts = [len(mutual_matches(query, candidate)) for candidate in candidate_features]
    return torch.tensor(counts, dtype=torch.long, device=query.device)


def _nearest_both_ways(query: Tensor, candidate: Tensor) -> tuple[Int[Tensor, " N"], Int[Tensor, " M"]]:
    """Find the most similar candidate location of each query location, and the other way round."""
    num_candidate = len(candidate)
    forward = torch.zeros(len(query), dtype=torch.long, device=query.device)
    backward = torch.zeros(num_candidate, dtype=torch.long, device=query.device)
    best = torch.full((num_candidate,), -torch.inf, device=query.device)
    if not num_candidate:
        return forward, backward
    for start, similarity in _similarity_tiles(query, candidate):
        forward[start : start + len(similarity)] = similarity.max(dim=1).indices
        values, rows = similarity.max(dim=0)  # on a CPU three times faster than argmax; of equals the first, too
        is_better = values > best  # of equals the earlier tile, and so the first location, is kept
        backward[is_better] = rows[is_better] + start
        best = torch.maximum(best, values)
    return forward, backward


def _similarity_tiles(query: Tensor, candidate: Tensor) -> Iterator[tuple[int, Float[Tensor, "T M"]]]:
    """Give the similarity of all pairs, some rows at a time, with the number of the first row."""
    columns = _as_vectors(candidate).T
    for start in range(0, len(query), TILE_ROWS):
        yield start, _as_vectors(query[start : start + TILE_ROWS]) @ columns


def _as_rows(features: Tensor) -> Num[Tensor, "N C"]:
    """Lay a map out as a list of locations, row by row."""
    return features.reshape(-1, features.shape[-1])


def _as_vectors(features: Num[Tensor, "N C"]) -> Float[Tensor, "N D"]:
    """Turn stored features into float32 vectors whose inner product orders them: packed bits become -1 and 1."""
    if features.dtype is not torch.uint8:
        return features.float()
    shifts = torch.arange(7, -1, -1, device=features.device, dtype=torch.uint8)
    bits = (features[..., None] >> shifts) & 1
    return bits.flatten(-2).float() * 2 - 1


def _check_comparable(query: Tensor, candidate: Tensor) -> None:
    if query.shape[-1] != candidate.shape[-1] or query.dtype != candidate.dtype:
        raise ValueError(
            "Local features must have the same number of channels and the same type, got"
            f" {query.shape[-1]} {query.dtype} for the query and {candidate.shape[-1]} {candidate.dtype} for the"
            " database image; were they made by the same adapter and stored alike?"
        )
    for name, features in (("query", query), ("database image", candidate)):
        if features.is_floating_point() and not features.isfinite().all():
            raise ValueError(
                f"The local features of the {name} hold NaN or infinity; check its pixels and the model's weights."
            )
