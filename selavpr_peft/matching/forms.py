"""The forms in which local features are compared: what a database keeps of an image, and what a query brings."""

from jaxtyping import Float, Num
from torch import Tensor

from selavpr_peft.matching.quantisation import quantize_local_features, query_dtype
from selavpr_peft.matching.thinning import query_grid, thin_out


def database_form(
    features: Float[Tensor, "*maps H W C"], dtype: str, grid: tuple[int, int] | None = None
) -> Num[Tensor, "*maps h w D"]:
    """Give local features as a database keeps them.

    Args:
        features: Whole maps of unit vectors.
        dtype: One of LOCAL_DTYPES.
        grid: Rows and columns that are kept, by `grid_within`; None for all.

    Raises:
        ValueError: If there is no such form, or binary features have channels that are not a multiple of 8.
    """
    return quantize_local_features(features if grid is None else thin_out(features, grid), dtype)


def query_form(
    features: Float[Tensor, "H W C"], dtype: str, grid: tuple[int, int] | None = None
) -> Num[Tensor, "h w D"]:
    """Give a query's local features as they are compared with a database's.

    Args:
        features: The whole map of the query: unit vectors.
        dtype: Form of the database.
        grid: Rows and columns that the database keeps of maps of this size; None for all.

    Returns:
        At least as fine as what the database keeps; where locations were thinned out, all of the same kind.

    Raises:
        ValueError: If there is no such form, or binary features have channels that are not a multiple of 8.
    """
    height, width, _ = features.shape
    kind = None if grid is None else query_grid((height, width), grid)
    return database_form(features, query_dtype(dtype), kind)
