"""Order retrieval candidates by their re-ranking scores.

Unlike the official code (`argsort()[::-1]`), equal scores keep the order of retrieval.
"""

import torch
from jaxtyping import Int, Num
from torch import Tensor


def rerank(scores: Num[Tensor, "*queries K"], candidates: Int[Tensor, "*queries K"]) -> Int[Tensor, "*queries K"]:
    """Put the candidates with the highest scores first.

    Args:
        scores: Score of every candidate, for example its number of mutual matches.
        candidates: Database rows from retrieval, best first.

    Returns:
        The same rows by descending score; equal scores keep retrieval order.

    Raises:
        ValueError: If the shapes differ or a score is not a number.

    Example:
        >>> rerank(torch.tensor([5, 9, 9]), torch.tensor([40, 41, 42])).tolist()
        [41, 42, 40]
    """
    if scores.shape != candidates.shape:
        raise ValueError(
            f"There must be one score per candidate, got {tuple(scores.shape)} scores for"
            f" {tuple(candidates.shape)} candidates."
        )
    if scores.is_floating_point() and scores.isnan().any():
        raise ValueError("Scores must be numbers, got NaN; check the local features they were computed from.")
    order = torch.argsort(scores, dim=-1, descending=True, stable=True)
    return candidates.gather(-1, order.to(candidates.device))
