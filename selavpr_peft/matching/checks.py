"""Tell features that cannot be matched, and why."""

from jaxtyping import Num
from torch import Tensor

from selavpr_peft.matching.packing import num_channels


def check_comparable(query: Num[Tensor, "*query D"], candidates: Num[Tensor, "*candidates E"]) -> None:
    """Raise if local features cannot be compared.

    Args:
        query: Those of a query, in any form.
        candidates: Those of database images.

    Raises:
        ValueError: If channels or types differ.
    """
    are_whole = not (query.is_floating_point() or candidates.is_floating_point())
    if num_channels(query) != num_channels(candidates) or not (are_whole or query.dtype == candidates.dtype):
        raise ValueError(
            "Local features must have the same number of channels, and be of the same type or all whole numbers, got"
            f" {num_channels(query)} {query.dtype} for the query and {num_channels(candidates)} {candidates.dtype} for"
            " the database image; were they made by the same adapter?"
        )


def check_num_exact(num_exact: int) -> None:
    """Raise if no candidate would be compared again in the second of two passes.

    Args:
        num_exact: Candidates of the first pass that are compared again.

    Raises:
        ValueError: If there are fewer than one.
    """
    if num_exact < 1:
        raise ValueError(f"num_exact must be at least 1, got {num_exact}.")


def check_numbers(*maxima: Num[Tensor, "..."]) -> None:
    """Raise if a similarity is no number; NaN and infinity of any feature reach the maximum of its row or column.

    Args:
        maxima: Largest similarities of locations.

    Raises:
        FloatingPointError: If one of them is NaN or infinite.
    """
    if not all(best.isfinite().all() for best in maxima):
        raise FloatingPointError("A similarity is NaN or infinite.")


def not_finite(query: Num[Tensor, "*query D"], candidates: Num[Tensor, "*candidates E"]) -> ValueError:
    """Say whose local features made a similarity that is no number.

    Args:
        query: Those of a query.
        candidates: Those of database images.
    """
    damaged = [name for name, rows in (("query", query), ("database image", candidates)) if not rows.isfinite().all()]
    if not damaged:
        return ValueError("Similarities of local features are too large for float32; features must be unit vectors.")
    return ValueError(
        f"The local features of the {damaged[0]} hold NaN or infinity; check its pixels and the model's weights."
    )
