"""Re-rank in two passes: count matches of all candidates in a small form, then those of the best ones exactly."""

import torch
from jaxtyping import Float, Int, Num
from torch import Tensor

from selavpr_peft.matching.mutual_neighbours import count_mutual_matches
from selavpr_peft.matching.ranking import rerank

NUM_EXACT = 10


def rerank_in_two_passes(
    query: Float[Tensor, "H W C"],
    query_form: Num[Tensor, "H W D"],
    candidates: Float[Tensor, "K h w C"],
    candidate_forms: Num[Tensor, "K h w D"],
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
    if num_exact < 1:
        raise ValueError(f"num_exact must be at least 1, got {num_exact}.")
    order = rerank(count_mutual_matches(query_form, candidate_forms), torch.arange(len(rows)))
    best = order[:num_exact].sort().values  # back in the order of retrieval, which breaks ties
    exact = rerank(count_mutual_matches(query, candidates[best]), best)
    return rows[torch.cat((exact, order[num_exact:]))]
