"""Names of adapter tensors in files, and what is checked when they are loaded.

The file format has one spelling for every version of transformers: DINOv3's blocks are `layer.N` (transformers 4),
also where the module is called `model.layer.N` (transformers 5). PEFT loads with `strict=False`; a file that does
not fit the adapter is refused here.
"""

import re
from typing import Any

import torch
from torch import nn

from selavpr_peft.errors import BackboneMismatchError

_ADAPTER_TENSOR = re.compile(r"\.(sela_\w+)\.([^.]+)(?:\.|$)")
_OTHER_ADAPTERS_TENSOR = re.compile(r"\.sela_\w+\.[^.]+\.(?!(?:weight|bias)$)[^.]+(?:\.weight|\.bias)?$")
"""peft < 0.20 writes the tensors of all adapters into each file; on loading, those of the others get two names."""
_LONG_BLOCK_NAME = re.compile(r"^((?:base_model\.model\.)?)model\.(layer\.\d+\.(?:attention|mlp)\.sela_)")


def canonical_name(name: str) -> str:
    """Give an adapter tensor's name the spelling of the file format.

    Args:
        name: Name in a module or a file, with or without PEFT's `base_model.model.`.

    Example:
        >>> canonical_name("base_model.model.model.layer.0.mlp.sela_up.weight")
        'base_model.model.layer.0.mlp.sela_up.weight'
    """
    return _LONG_BLOCK_NAME.sub(r"\1\2", name)


def check_and_rename_on_load(
    backbone: nn.Module, state_dict: dict[str, torch.Tensor], prefix: str, *args: Any
) -> None:
    """Before a backbone loads a state dict: spell adapter tensors as this version does, refuse an incomplete adapter.

    Args:
        backbone: The adapted backbone.
        state_dict: What is going to be loaded, of this and other modules; changed in place.
        prefix: What the backbone's names begin with in it.
        *args: What else PyTorch passes to such hooks; not used.

    Raises:
        BackboneMismatchError: If tensors of an adapter are there but not all of them, some that it does not have or of
            another shape, or beside them some of the backbone's: an adapter's file must leave the backbone alone.
    """
    for name in [name for name in state_dict if name.startswith(prefix) and _OTHER_ADAPTERS_TENSOR.search(name)]:
        del state_dict[name]
    present = backbone.state_dict()
    own = {name for name in present if _ADAPTER_TENSOR.search(name)}
    by_canonical_name = {canonical_name(name): name for name in own}
    arriving = [name for name in state_dict if name.startswith(prefix) and _ADAPTER_TENSOR.search(name)]
    for name in arriving:
        short = name.removeprefix(prefix)
        state_dict[prefix + by_canonical_name.get(canonical_name(short), short)] = state_dict.pop(name)
    loaded = {name.removeprefix(prefix) for name in state_dict if name.startswith(prefix)}
    replaced = loaded & (present.keys() - own)
    loaded = {name for name in loaded if _ADAPTER_TENSOR.search(name)}
    adapters = {_adapter_of(name) for name in loaded}
    problems = {
        "missing": {name for name in own if _adapter_of(name) in adapters} - loaded,
        "not expected": loaded - own,
        "of another shape": {name for name in loaded & own if state_dict[prefix + name].shape != present[name].shape},
        "of the backbone": replaced if loaded and len(replaced) < len(present) - len(own) else set(),
    }
    if any(problems.values()):
        raise BackboneMismatchError(
            "The adapter file does not fit its adapter_config.json:"
            f" {''.join(_listing(kind, names) for kind, names in problems.items())}take both files from the same save."
        )


def _adapter_of(name: str) -> str:
    match = _ADAPTER_TENSOR.search(name)
    assert match is not None
    return match[2]


def _listing(kind: str, names: set[str]) -> str:
    if not names:
        return ""
    shown = ", ".join(sorted(names)[:3])
    return f"{len(names)} tensors {kind} ({shown}{', ...' if len(names) > 3 else ''}); "
