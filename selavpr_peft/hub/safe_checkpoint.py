"""Read a PyTorch checkpoint of unknown origin without running code from it.

PyTorch's restricted unpickler does the reading. Beside tensors and plain containers it is allowed just the numpy
members in which the official training script keeps its recalls, under the names that numpy 1 and numpy 2 give them.
"""

import pickle
import re
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy._core import multiarray
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from selavpr_peft.errors import CheckpointError

NUMPY_MEMBERS: list[Any] = [
    *((multiarray._reconstruct, f"numpy.{core}.multiarray._reconstruct") for core in ("core", "_core")),
    *((multiarray.scalar, f"numpy.{core}.multiarray.scalar") for core in ("core", "_core")),
    np.ndarray,
    np.dtype,
    type(np.dtype(np.float64)),
]
"""What may be in a checkpoint beside tensors and plain containers: (object, name in the file) or the object."""


def read_network_state(path: Path) -> dict[str, Tensor]:
    """Read the tensors of a network from a training checkpoint, a plain state dict or a safetensors file.

    Args:
        path: File to read. In a training checkpoint the tensors are under "model_state_dict".

    Returns:
        Tensors by name on the CPU, without the `module.` that DataParallel puts in front.

    Raises:
        CheckpointError: If the file is missing, damaged, would need code to be run, or holds something else.
    """
    path = Path(path)
    if not path.is_file():
        raise CheckpointError(f"There is no checkpoint file {path}.")
    content = _read_safetensors(path) if path.suffix == ".safetensors" else _read_pickled(path)
    state = content.get("model_state_dict", content) if isinstance(content, dict) else content
    if not isinstance(state, dict) or not state or not all(_is_entry(name, value) for name, value in state.items()):
        raise CheckpointError(
            f"{path} must hold a state dict of float tensors, under 'model_state_dict' or by itself, got"
            f" {_describe(state)}."
        )
    return {name.removeprefix("module."): tensor for name, tensor in state.items()}


def _read_pickled(path: Path) -> Any:
    try:
        with torch.serialization.safe_globals(NUMPY_MEMBERS):
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"{path} was not read: it holds more than tensors, plain containers and numpy numbers, or is not a PyTorch"
            f" file; reading that could run code. Save its tensors anew where it comes from. ({_reason(error)})"
        ) from error
    except Exception as error:  # a damaged file surfaces as whatever its bytes happen to provoke
        raise CheckpointError(
            f"{path} cannot be read as a PyTorch checkpoint ({_reason(error)}); the file is damaged or incomplete:"
            " fetch it again."
        ) from error


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise CheckpointError(
            f"{path} cannot be read as safetensors ({_reason(error)}); the file is damaged or incomplete: fetch it"
            " again."
        ) from error


def _is_entry(name: Any, value: Any) -> bool:
    is_float_tensor = isinstance(value, Tensor) and value.is_floating_point() and value.layout is torch.strided
    return isinstance(name, str) and is_float_tensor


def _describe(state: Any) -> str:
    """Say what stands where a state dict was expected; of a dictionary, its first entry that is out of place."""
    if not isinstance(state, dict):
        return f"an object of type {type(state).__name__}"
    for name, value in state.items():
        if not _is_entry(name, value):
            kind = f"{value.dtype}, {value.layout}" if isinstance(value, Tensor) else type(value).__name__
            return f"{name!r} ({kind}) in it"
    return "an empty one"


def _reason(error: Exception) -> str:
    """Say in a few words what the reader met, and leave out its advice to read the file without restrictions."""
    refused = error.__context__ if isinstance(error, pickle.UnpicklingError) else None  # torch.load wraps its own
    sentence = re.split(r"(?<=\S)\.\s|\n", str(refused or error).strip())[0].rstrip(".")
    return sentence if " " in sentence else repr(error)
