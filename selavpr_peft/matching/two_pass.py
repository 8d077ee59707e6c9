"""Re-rank in two passes: count matches of all candidates in a small form, then those of the best ones exactly."""

import torch
from jaxtyping import Int, Num
from torch import Tensor

from selavpr_peft.matching.mutual_neighbours import count_mutual_matches
from selavpr_peft.matching.quantisation import quantize_local_features
from selavpr_peft.matching.ranking import rerank
from selavpr_peft.matching.thinning import thin_out

NUM_EXACT = 10


def rerank_in_two_passes(
    query: Num[Tensor, "H W C"],
    query_form: Num[Tensor, "_ _ _"],
    candidates: Num[Tensor, "K h w D"],
    candidate_forms: Num[Tensor, "K _ _ _"],
    rows: Int[Tensor, " K"],
    num_exact: int = NUM_EXACT,
) -> Int[Tensor, " K"]:
    """Order candidates by their number of mutual matches, the first ones exactly.

    Args:
        query: Local features of the query.
        query_form: The same in a small form, by `coarse_form` or `quantize_local_features`.
        candidates: Local features of the candidates; only those of the best in the first pass are read.
        candidate_forms: The same in a small form.
        rows: Database rows of the candidates, in the order of retrieval.
        num_exact: Candidates of the first pass that are compared again.

    Returns:
        The rows: the best `num_exact` of the first pass by exact counts, then the others by those of the first pass;
        equal counts keep the order before.

    Raises:
        ValueError: As `count_mutual_matches` does, or if fewer than one candidate is to be compared again.
    """
    return rows[order_in_two_passes(query, query_form, candidates, candidate_forms, num_exact)[0]]


def order_in_two_passes(
    query: Num[Tensor, "H W C"],
    query_form: Num[Tensor, "_ _ _"],
    candidates: Num[Tensor, "K h w D"],
    candidate_forms: Num[Tensor, "K _ _ _"],
    num_exact: int = NUM_EXACT,
) -> tuple[Int[Tensor, " K"], Int[Tensor, " E"]]:
    """Give the order of `rerank_in_two_passes`, and the exact counts of the first candidates in it.

    Args:
        query: As there.
        query_form: As there.
        candidates: As there, in the order of retrieval.
        candidate_forms: As there.
        num_exact: As there.

    Raises:
        ValueError: As there.
    """
    if num_exact < 1:
        raise ValueError(f"num_exact must be at least 1, got {num_exact}.")
    order = rerank(count_mutual_matches(query_form, candidate_forms), torch.arange(len(candidates)))
    best = order[:num_exact].sort().values  # back in the order of retrieval, which breaks ties
    counts = count_mutual_matches(query, candidates[best])
    return torch.cat((rerank(counts, best), order[num_exact:])), counts.sort(descending=True).values


def coarse_form(features: Num[Tensor, "*maps H W C"]) -> Num[Tensor, "*maps h w C"]:
    """Give whole maps for a first pass: a quarter of the locations, and floats in int8.

    Args:
        features: Maps in any form.

    Returns:
        The locations of odd rows and columns, which find their matches among their own kind (thinning.py).
    """
    height, width = features.shape[-3:-1]
    some = thin_out(features, (max(1, height // 2), max(1, width // 2)))
    return quantize_local_features(some.float(), "int8") if some.is_floating_point() else some
