"""Re-rank in two passes: count matches of all candidates in a small form, then those of the best ones exactly."""

import torch
from jaxtyping import Int, Num
from torch import Tensor

from selavpr_peft.matching.checks import check_comparable, check_num_exact
from selavpr_peft.matching.mutual_neighbours import count_mutual_matches
from selavpr_peft.matching.ranking import rerank

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
        query_form: The same by `quantize_local_features`.
        candidates: Local features of the candidates; only those of the best in the first pass are read.
        candidate_forms: The same by `quantize_local_features`.
        rows: Database rows of the candidates, in the order of retrieval.
        num_exact: Candidates of the first pass that are compared again.

    Returns:
        The rows: the best `num_exact` of the first pass by exact counts, then the others by those of the first pass;
        equal counts keep the order before.

    Raises:
        ValueError: As `count_mutual_matches` does, or if fewer than one candidate is to be compared again.
    """
    check_num_exact(num_exact)
    check_comparable(query, candidates)
    first_counts = count_mutual_matches(query_form, candidate_forms)
    return rows[order_in_two_passes(first_counts, query, candidates, num_exact)[0]]


def order_in_two_passes(
    first_counts: Int[Tensor, " K"],
    query: Num[Tensor, "H W C"],
    candidates: Num[Tensor, "K h w D"],
    num_exact: int = NUM_EXACT,
) -> tuple[Int[Tensor, " K"], Int[Tensor, " E"]]:
    """Give the order of `rerank_in_two_passes`, and the exact counts of the first candidates in it.

    Args:
        first_counts: Matches that the first pass counted.
        query: Local features of the query.
        candidates: Local features of the candidates, in the order of retrieval.
        num_exact: Candidates of the first pass that are compared again.

    Raises:
        ValueError: As there.
    """
    check_num_exact(num_exact)
    order = rerank(first_counts, torch.arange(len(candidates)))
    best = order[:num_exact].sort().values  # back in the order of retrieval, which breaks ties
    counts = count_mutual_matches(query, candidates[best])
    return torch.cat((rerank(counts, best), order[num_exact:])), counts.sort(descending=True).values
