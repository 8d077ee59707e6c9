"""Names that differ between the supported versions of transformers."""

import torch
import transformers
from packaging.version import Version


def dtype_argument(dtype: torch.dtype) -> dict[str, torch.dtype]:
    """Spell the argument of `from_pretrained` that sets the type of the weights.

    Args:
        dtype: The type wanted.
    """
    is_version_5 = Version(transformers.__version__) >= Version("5.0.0")
    return {"dtype" if is_version_5 else "torch_dtype": dtype}
