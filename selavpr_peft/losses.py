"""The two losses SelaVPR is trained with, and their sum (SelaVPR, section 3.5; official loss.py and train.py).

Both compare a query with its positive and with each of its negatives: the global loss by the distance of global
descriptors, the local loss by the mean similarity of mutually nearest local features. Which features are mutual
nearest neighbours is found without gradient and without ever holding all similarities; only matched pairs carry one.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from selavpr_peft.matching import mutual_matches

REDUCTIONS = ("mean", "sum", "none")


@dataclass(frozen=True, kw_only=True)
class SelaLossOutput:
    """The total loss and its two parts.

    Args:
        loss: `global_loss + local_weight * local_loss`, what is minimised.
        global_loss: Triplet loss of the global descriptors.
        local_loss: Mutual nearest neighbour loss of the local features; zero where there are none.
    """

    loss: Tensor
    global_loss: Tensor
    local_loss: Tensor


class SelaLoss(nn.Module):
    """Sum the triplet loss of global descriptors and the mutual nearest neighbour loss of local features.

    It has no parameters; the official values are the defaults (parser.py: margin 0.1; loss.py: margin 0).
    """

    def __init__(
        self,
        global_margin: float = 0.1,
        local_margin: float = 0.0,
        local_weight: float = 1.0,
        reduction: str = "mean",
    ) -> None:
        """Set margins, weight and reduction.

        Args:
            global_margin: By how much a negative must be farther than the positive, in L2 distance of unit vectors.
            local_margin: By how much a positive must be more similar than a negative, in cosine.
            local_weight: Factor on the local loss.
            reduction: "mean" over all (query, negative) pairs as in the official train.py, "sum", or "none" for a
                value per pair.

        Raises:
            ValueError: If the reduction is not one of these, or a margin or the weight is negative.
        """
        super().__init__()
        if reduction not in REDUCTIONS:
            raise ValueError(f"reduction must be one of {', '.join(map(repr, REDUCTIONS))}, got {reduction!r}.")
        for name, value in (
            ("global_margin", global_margin),
            ("local_margin", local_margin),
            ("local_weight", local_weight),
        ):
            if not 0 <= value < float("inf"):
                raise ValueError(f"{name} must be a number of at least 0, got {value!r}.")
        self.global_margin = global_margin
        self.local_margin = local_margin
        self.local_weight = local_weight
        self.reduction = reduction

    def forward(
        self,
        query_global: Float[Tensor, "B D"],
        positive_global: Float[Tensor, "B D"],
        negative_global: Float[Tensor, "B N D"],
        query_local: Float[Tensor, "B H W C"] | None = None,
        positive_local: Float[Tensor, "B H W C"] | None = None,
        negative_local: Float[Tensor, "B N H W C"] | None = None,
    ) -> SelaLossOutput:
        """Compute the loss of B queries, each with its positive and N negatives.

        Args:
            query_global: Global descriptors of the queries.
            positive_global: Of their positives.
            negative_global: Of their negatives.
            query_local: Local features of the queries; None for a model without local head.
            positive_local: Of their positives.
            negative_local: Of their negatives.

        Returns:
            Scalars, or (B, N) values with reduction "none".

        Raises:
            ValueError: If some local features are given and others are not.
        """
        is_missing = [features is None for features in (query_local, positive_local, negative_local)]
        if any(is_missing) and not all(is_missing):
            raise ValueError("query_local, positive_local and negative_local must be given together, or none of them.")
        with torch.autocast(query_global.device.type, enabled=False):  # matching must be exact
            return self._in_full_precision(
                query_global, positive_global, negative_global, query_local, positive_local, negative_local
            )

    def _in_full_precision(
        self,
        query_global: Tensor,
        positive_global: Tensor,
        negative_global: Tensor,
        query_local: Tensor | None,
        positive_local: Tensor | None,
        negative_local: Tensor | None,
    ) -> SelaLossOutput:
        global_loss = self._reduce(triplet_loss(query_global, positive_global, negative_global, self.global_margin))
        if query_local is None or positive_local is None or negative_local is None:
            return SelaLossOutput(loss=global_loss, global_loss=global_loss, local_loss=torch.zeros_like(global_loss))
        local_loss = self._reduce(
            mutual_neighbour_loss(query_local, positive_local, negative_local, self.local_margin)
        )
        total = global_loss + self.local_weight * local_loss
        return SelaLossOutput(loss=total, global_loss=global_loss, local_loss=local_loss)

    def _reduce(self, values: Tensor) -> Tensor:
        return values if self.reduction == "none" else getattr(values, self.reduction)()


def triplet_loss(
    query: Float[Tensor, "B D"], positive: Float[Tensor, "B D"], negative: Float[Tensor, "B N D"], margin: float
) -> Float[Tensor, "B N"]:
    """Compute max(0, |q - p| - |q - n| + margin) for every query and negative.

    PyTorch's own distance is used because it adds 1e-6 to every difference, as the official training did.

    Args:
        query: Global descriptors of the queries.
        positive: Of their positives.
        negative: Of their negatives.
        margin: Distance by which a negative must be farther.
    """
    query, positive, negative = query.float(), positive.float(), negative.float()
    to_positive = F.pairwise_distance(query, positive)
    to_negative = F.pairwise_distance(query[:, None], negative)
    return (margin + to_positive[:, None] - to_negative).clamp(min=0)


def mutual_neighbour_loss(
    query: Float[Tensor, "B H W C"],
    positive: Float[Tensor, "B H W C"],
    negative: Float[Tensor, "B N H W C"],
    margin: float = 0.0,
) -> Float[Tensor, "B N"]:
    """Compute max(0, sim(q, n) - sim(q, p) + margin) for every query and negative.

    The similarity of a query and its positive is computed once, not once per negative.

    Args:
        query: Local features of the queries.
        positive: Of their positives.
        negative: Of their negatives.
        margin: Similarity by which a positive must be ahead.
    """
    to_positive = torch.stack([mutual_similarity(q, p) for q, p in zip(query, positive, strict=True)])
    to_negative = torch.stack(
        [torch.stack([mutual_similarity(q, n) for n in many]) for q, many in zip(query, negative, strict=True)]
    )
    return (to_negative - to_positive[:, None] + margin).clamp(min=0)


def mutual_similarity(query: Float[Tensor, "H W C"], database: Float[Tensor, "h w C"]) -> Float[Tensor, ""]:
    """Compute the mean cosine similarity of the mutual nearest neighbours of two images.

    Unlike the official code, a single mutual pair counts as it is (there: the mean over equal positions instead).
    Locations with NaN or infinity match nothing; if no finite pair is left, the similarity is 0 without a gradient.

    Args:
        query: Local features of the query.
        database: Local features of a database image.
    """
    query, database = query.flatten(0, 1).float(), database.flatten(0, 1).float()
    with torch.no_grad():
        rows, columns = _finite_rows(query), _finite_rows(database)
        pairs = mutual_matches(query[rows], database[columns])
        first, second = rows[pairs[:, 0]], columns[pairs[:, 1]]
    if not len(first):
        return query.new_zeros(())
    return (query[first] * database[second]).sum(dim=1).mean()


def _finite_rows(features: Tensor) -> Tensor:
    return features.isfinite().all(dim=1).nonzero()[:, 0]
