"""How images are described, as far as comparing their descriptions depends on it."""

from typing import Annotated

from pydantic import BaseModel, Field, PositiveInt

from selavpr_peft.matching import LOCAL_DTYPES
from selavpr_peft.modeling.preprocessing import MODES
from selavpr_peft.tuner.config import PositionInterpolation
from selavpr_peft.validation import one_of

STORED_DTYPES = tuple(name for name in LOCAL_DTYPES if name != "bfloat16")
"""Forms of local features that NumPy can store."""

Digest = Annotated[str, Field(pattern="^[0-9a-f]{1,64}$")]
Size = tuple[PositiveInt, PositiveInt]


class InputForm(BaseModel, frozen=True, strict=True, extra="forbid"):
    """How pictures become network input.

    Args:
        image_size: Height and width of the input in pixels.
        resize: How they are brought to it, one of `preprocessing.MODES`.
    """

    image_size: Size
    resize: Annotated[str, one_of(MODES)]


class KeptLocations(BaseModel, frozen=True, strict=True, extra="forbid"):
    """The local features that are kept of a map.

    Args:
        map_size: Rows and columns of the whole map.
        grid: Rows and columns that are kept.
    """

    map_size: Size
    grid: Size


class DescriptionForm(BaseModel, frozen=True, strict=True):
    """How a database's images are described, whatever adapter does it.

    Args:
        backbone: Digest of the backbone's weights.
        position_interpolation: How position embeddings are brought to another size.
        preprocessing: How pictures become network input.
        local_dtype: Form of the local features, one of STORED_DTYPES.
        kept_locations: Which of them are kept; None for all.
    """

    backbone: Digest
    position_interpolation: PositionInterpolation
    preprocessing: InputForm
    local_dtype: Annotated[str, one_of(STORED_DTYPES)]
    kept_locations: KeptLocations | None

    @property
    def kept_grid(self) -> Size | None:
        """Rows and columns of local features that are kept of a map; None where all are."""
        return None if self.kept_locations is None else self.kept_locations.grid


def check_stored_dtype(local_dtype: str) -> None:
    """Raise if local features cannot be kept in a form.

    Args:
        local_dtype: What it was called.

    Raises:
        ValueError: Naming STORED_DTYPES.
    """
    if local_dtype not in STORED_DTYPES:
        raise ValueError(f"local_dtype must be one of {', '.join(map(repr, STORED_DTYPES))}, got {local_dtype!r}.")
