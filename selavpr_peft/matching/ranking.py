"""Order retrieval candidates by their re-ranking scores, and tell which are worth scoring.

Unlike the official code (`argsort()[::-1]`), equal scores keep the order of retrieval.
"""

import torch
from jaxtyping import Float, Int, Num
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


def num_in_doubt(similarities: Float[Tensor, "*queries K"], window: float | int) -> Int[Tensor, "*queries"]:
    """Count the candidates that re-ranking could put first, if it never overturns a clear lead in retrieval.

    Args:
        similarities: Cosine similarities of global descriptors, best first.
        window: Lead that is taken for decided. docs/performance.md shows what windows cost and save.

    Returns:
        How many candidates lie within the window of the best; 0 where that is the best alone.

    Raises:
        ValueError: If the window is negative.

    Example:
        >>> num_in_doubt(torch.tensor([[0.9, 0.88, 0.5], [0.9, 0.6, 0.5]]), window=0.1).tolist()
        [2, 0]
    """
    if not window >= 0:
        raise ValueError(f"The window must be a difference of similarities of 0 or more, got {window}.")
    number = (similarities >= similarities[..., :1] - window).sum(dim=-1)
    return number.where(number > 1, 0)
