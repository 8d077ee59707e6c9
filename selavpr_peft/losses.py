"""The two losses SelaVPR is trained with, and their sum (SelaVPR, section 3.5; official loss.py and train.py).

Both compare a query with its positive and with each of its negatives: the global loss by the distance of global
descriptors, the local loss by the mean similarity of mutually nearest local features. Which features are mutual
nearest neighbours is found without gradient and without ever holding all similarities; only matched pairs carry one.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

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
            ValueError: If some local features are given and others are not, or shapes are not these.
        """
        is_missing = [features is None for features in (query_local, positive_local, negative_local)]
        if any(is_missing) and not all(is_missing):
            raise ValueError("query_local, positive_local and negative_local must be given together, or none of them.")
        _check_shapes("descriptors", "D", query_global, positive_global, negative_global)
        with torch.autocast(query_global.device.type, enabled=False):  # matching must be exact
            global_loss = self._reduce(
                triplet_loss(query_global, positive_global, negative_global, self.global_margin)
            )
            local_loss = torch.zeros_like(global_loss)
            if query_local is not None and positive_local is not None and negative_local is not None:
                _check_shapes("local features", "H, W, C", query_local, positive_local, negative_local)
                _check_same_triplets(negative_global, negative_local)
                local_loss = self._reduce(
                    mutual_neighbour_loss(query_local, positive_local, negative_local, self.local_margin)
                )
        total = global_loss + self.local_weight * local_loss
        return SelaLossOutput(loss=total, global_loss=global_loss, local_loss=local_loss)

    def _reduce(self, values: Tensor) -> Tensor:
        return values if self.reduction == "none" else getattr(values, self.reduction)()


def _check_shapes(name: str, axes: str, query: Tensor, positive: Tensor, negative: Tensor) -> None:
    """Raise where broadcasting would compare a query with what is not its own."""
    batch, num_axes = query.shape[:1], 1 + len(axes.split(", "))
    are_three = (query.ndim, positive.ndim, negative.ndim) == (num_axes, num_axes, num_axes + 1)
    if not are_three or positive.shape[:1] != batch or negative.shape[:1] != batch or 0 in negative.shape[:2]:
        shapes = ", ".join(str(tuple(tensor.shape)) for tensor in (query, positive, negative))
        raise ValueError(
            f"The {name} of queries, positives and negatives must be (B, {axes}), (B, {axes}) and (B, N, {axes}) with"
            f" at least one query and one negative, got {shapes}; negatives in one list become (B, N, ...) by"
            " unflatten(0, (B, N))."
        )


def _check_same_triplets(negative_global: Tensor, negative_local: Tensor) -> None:
    if negative_local.shape[:2] != negative_global.shape[:2]:
        raise ValueError(
            f"Local features must be of the {tuple(negative_global.shape[:2])} queries and negatives that the"
            f" descriptors are of, got {tuple(negative_local.shape[:2])}."
        )


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
    similarities = mutual_similarities(query, positive[:, None], negative)
    return (similarities[:, 1:] - similarities[:, :1] + margin).clamp(min=0)


def mutual_similarities(
    query: Float[Tensor, "B H W C"], *database: Float[Tensor, "B _ _ _ C"]
) -> Float[Tensor, "B M"]:
    """Compute the mean cosine similarity of the mutual nearest neighbours of each query with each of its M images.

    Unlike the official code, a single mutual pair counts as it is (there: the mean over equal positions instead).
    Locations with NaN or infinity match nothing; if no finite pair is left, the similarity is 0 and its gradient too.

    Args:
        query: Local features of the queries.
        *database: Local features of each query's images, (B, images, height, width, C); M is the sum of the images.
    """
    rows = [query.flatten(1, 2).float(), *(maps.flatten(2, 3).float() for maps in database)]
    values: Tensor = _MutualSimilarities.apply(*rows)
    return values


class _MutualSimilarities(torch.autograd.Function):
    """Keep, for the way back, which rows were matched and not copies of them, and make each gradient once."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, *database: Tensor) -> Tensor:
        ctx.save_for_backward(query, *database)
        images = _per_query(*database)
        ctx.matches = [[_finite_matches(q, image) for image in many] for q, many in zip(query, images, strict=True)]
        values = query.new_zeros(len(query), len(images[0]))
        for b, m, first, second in _numbered(ctx.matches):
            values[b, m] = (query[b, first] * images[b][m][second]).sum(dim=1).mean()
        return values

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, ...]:
        query, *database = ctx.saved_tensors
        gradients = [torch.zeros_like(rows) for rows in (query, *database)]
        images, of_images = _per_query(*database), _per_query(*gradients[1:])
        for b, m, first, second in _numbered(ctx.matches):
            share = gradient[b, m] / len(first)
            gradients[0][b, first] += images[b][m][second] * share  # no row is matched twice
            of_images[b][m][second] = query[b, first] * share
        return tuple(gradients)


def _per_query(*database: Tensor) -> list[list[Tensor]]:
    """List the images of each query; they share the tensors' memory."""
    return [[image for maps in of_query for image in maps] for of_query in zip(*database, strict=True)]


def _numbered(matches: list[list[tuple[Tensor, Tensor]]]) -> Iterator[tuple[int, int, Tensor, Tensor]]:
    """Go through the pairs of images that have matches."""
    for b, many in enumerate(matches):
        for m, (first, second) in enumerate(many):
            if len(first):
                yield b, m, first, second


def _finite_matches(query: Tensor, database: Tensor) -> tuple[Tensor, Tensor]:
    """Match what is finite; nearly always everything is, and nothing is copied."""
    try:
        pairs = mutual_matches(query, database)
        return pairs[:, 0], pairs[:, 1]
    except ValueError:
        rows, columns = (features.isfinite().all(dim=1).nonzero()[:, 0] for features in (query, database))
        pairs = mutual_matches(query[rows], database[columns])
        return rows[pairs[:, 0]], columns[pairs[:, 1]]
