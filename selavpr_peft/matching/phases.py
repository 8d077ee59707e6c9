"""Count matches within the phases of the local head: a sixteenth of the work, and nearly the same counts.

Two up-convolutions of stride 2 make the local features (SelaVPR, section 3.3). Which of their weights a location comes
from depends on its row and its column modulo 4: its phase. Features of different phases are so unlike that mutual
nearest neighbours are nearly always of one phase; what that changes on real photographs is in docs/performance.md.
Nothing guarantees it for features from elsewhere, so `count_mutual_matches` compares all locations with all.
"""

from itertools import product

import torch
from jaxtyping import Float, Int, Num
from torch import Tensor

from selavpr_peft.matching.checks import check_comparable, check_numbers, not_finite
from selavpr_peft.matching.mutual_neighbours import are_mutual
from selavpr_peft.matching.packing import as_vectors
from selavpr_peft.matching.threads import map_in_threads

STRIDE = 4
"""Locations from one patch to the next."""


def count_matches_within_phases(
    query_features: Num[Tensor, "H W C"], candidate_features: Num[Tensor, "K H W D"]
) -> Int[Tensor, " K"]:
    """Count the mutual nearest neighbours of one query with each of K database images, phase by phase.

    Args:
        query_features: Whole map of local features of the query, in any form of `count_mutual_matches`.
        candidate_features: Whole maps of the candidates, of the same size.

    Returns:
        Number of matches of every candidate.

    Raises:
        ValueError: If channels or types differ, or a feature is not a number.
    """
    check_comparable(query_features, candidate_features)
    over_candidates = map_in_threads if query_features.device.type == "cpu" else map
    try:
        with torch.autocast(query_features.device.type, enabled=False):
            query = _phases(query_features.detach())
            counts = list(
                over_candidates(lambda features: _count(query, _phases(features)), candidate_features.unbind())
            )
    except FloatingPointError:
        raise not_finite(query_features, candidate_features) from None
    return torch.tensor(counts, dtype=torch.long, device=query_features.device)


def _phases(features: Num[Tensor, "H W D"]) -> list[Float[Tensor, "P N C"]]:
    """Put the locations of each phase together, and phases of the same size."""
    by_size: dict[tuple[int, int], list[Tensor]] = {}
    for row, column in product(range(STRIDE), repeat=2):
        phase = features[row::STRIDE, column::STRIDE]
        if phase.shape[0] and phase.shape[1]:
            by_size.setdefault((phase.shape[0], phase.shape[1]), []).append(as_vectors(phase.flatten(0, 1)).float())
    return [torch.stack(phases) for phases in by_size.values()]


def _count(query: list[Float[Tensor, "_ _ C"]], candidate: list[Float[Tensor, "_ _ C"]]) -> int:
    total = 0
    for of_query, of_candidate in zip(query, candidate, strict=True):
        similarities = of_query @ of_candidate.mT
        best_of_query, forward = similarities.max(dim=2)
        best_of_candidate, backward = similarities.max(dim=1)
        check_numbers(best_of_query, best_of_candidate)
        total += int(are_mutual(forward, backward).sum())
    return total
