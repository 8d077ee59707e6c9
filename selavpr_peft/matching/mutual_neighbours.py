"""Mutual nearest neighbours of two maps of local features (SelaVPR, section 3.4; official local_matching.py).

What is public stands here; the search itself, which never holds the similarities of all locations (55 MB for two maps
of 61 x 61), is in tiled.py, and for floats on an NVIDIA GPU in fused.py. Both directions are found in the same
computed numbers, so that there is always at least one mutual pair.

Unlike the official code, a single mutual match counts as one and not as none.
"""

import torch
from jaxtyping import Bool, Int, Num
from torch import Tensor

from selavpr_peft.matching import fused
from selavpr_peft.matching.checks import check_comparable, not_finite
from selavpr_peft.matching.packing import as_vectors
from selavpr_peft.matching.threads import map_in_threads
from selavpr_peft.matching.tiled import TiledSearch


def mutual_matches(
    query_features: Num[Tensor, "*query C"], candidate_features: Num[Tensor, "*candidate D"]
) -> Int[Tensor, "K 2"]:
    """List the pairs of locations that are each other's most similar one.

    Args:
        query_features: Map (H, W, C) or list (N, C) of local features; see `count_mutual_matches` for the types.
        candidate_features: The same of a database image; its size may differ.

    Returns:
        Flat query location and flat database location of every match, by ascending query location. Of equally
        similar locations the first counts. At least one match, unless a map is empty: then none.

    Raises:
        ValueError: If one of them is neither a map nor a list, channels or types differ, or a feature is not a number.

    Example:
        >>> mutual_matches(torch.eye(2), torch.tensor([[0.0, 1.0], [0.6, 0.8], [0.8, 0.6]])).tolist()
        [[0, 2], [1, 0]]
    """
    query, candidate = _as_rows(query_features), _as_rows(candidate_features)
    check_comparable(query, candidate)
    if not len(query) or not len(candidate):
        return torch.empty(0, 2, dtype=torch.long, device=query.device)
    forward, backward = _nearest_both_ways(query, candidate[None])
    locations = are_mutual(forward, backward)[0].nonzero()[:, 0]
    return torch.stack((locations, forward[0, locations]), dim=1)


def count_mutual_matches(
    query_features: Num[Tensor, "H W C"], candidate_features: Num[Tensor, "K h w D"]
) -> Int[Tensor, " K"]:
    """Count the mutual nearest neighbours of one query with each of K database images: their re-ranking scores.

    Float maps hold unit vectors; bfloat16 and float16 are multiplied in float32. int8 maps hold quantised vectors
    whose products are exact (up to 1040 channels). uint8 maps hold signs as packed bits, most significant first,
    compared with each other by Hamming distance.

    Args:
        query_features: Map of local features of the query.
        candidate_features: Maps of the candidates, of the query's type, or of any whole numbers where it is. Their
            size may differ from the query's.

    Returns:
        Number of matches of every candidate.

    Raises:
        ValueError: If shapes are not these, channels or types differ, or a feature is not a number.
    """
    if candidate_features.ndim != 4:
        raise ValueError(
            f"Candidates must have shape (K, H, W, C), got {tuple(candidate_features.shape)}; a single map becomes one"
            " by [None]."
        )
    query, candidates = _as_rows(query_features), candidate_features.detach().flatten(1, -2)
    check_comparable(query, candidates)
    if not len(query) or not candidates.shape[0] or not candidates.shape[1]:
        return torch.zeros(len(candidates), dtype=torch.long, device=query.device)
    return are_mutual(*_nearest_both_ways(query, candidates)).sum(dim=1)


def _nearest_both_ways(
    query: Num[Tensor, "N C"], candidates: Num[Tensor, "K M D"]
) -> tuple[Int[Tensor, "K N"], Int[Tensor, "K M"]]:
    """Find the candidate location of every query location, and the other way round, in whatever way is fastest."""
    try:
        with torch.autocast(query.device.type, enabled=False):  # similarities must be exact
            if fused.serves(query, candidates):
                forward, backward = fused.nearest_both_ways(query[None], candidates[None])
                return forward[0], backward[0]
            search = TiledSearch(as_vectors(query))
            over_candidates = map_in_threads if query.device.type == "cpu" else map
            found = list(over_candidates(lambda rows: search.nearest_both_ways(as_vectors(rows)), candidates.unbind()))
    except FloatingPointError:
        raise not_finite(query, candidates) from None
    return torch.stack([forward for forward, _ in found]), torch.stack([backward for _, backward in found])


def are_mutual(forward: Int[Tensor, "K N"], backward: Int[Tensor, "K M"]) -> Bool[Tensor, "K N"]:
    """Mark the query locations whose nearest candidate location has them as its nearest.

    Args:
        forward: Nearest candidate location of every query location, of K pairs.
        backward: Nearest query location of every candidate location.
    """
    return backward.gather(1, forward) == torch.arange(forward.shape[1], device=forward.device)


def _as_rows(features: Tensor) -> Num[Tensor, "N C"]:
    """Lay a map out as a list of locations, row by row."""
    if features.ndim not in (2, 3):
        raise ValueError(
            f"Local features must be a map (H, W, C) or a list (N, C), got shape {tuple(features.shape)}; take one"
            " image of a batch at a time."
        )
    return features.detach().reshape(-1, features.shape[-1])
