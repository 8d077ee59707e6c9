"""What SelaVPR must know of a backbone: which models are supported, and where their parts are.

The three supported families share their block (norm1, attention, layer scale, norm2, MLP, layer scale) and put the
patch tokens last; they differ in names, in the position embeddings and in the patch size.
"""

import re
from dataclasses import dataclass
from typing import Any

from torch import nn

from selavpr_peft.errors import UnsupportedBackboneError

ADAPTED_MODULE = re.compile(r"(?:^|\.)layer\.(\d+)\.(attention|mlp)$")
"""Name of a module that gets an adapter; `layer.0.attention.attention` (transformers 4) must not match."""

SUPPORTED = {
    "Dinov2Model": "facebook/dinov2-{small,base,large,giant}",
    "Dinov2WithRegistersModel": "facebook/dinov2-with-registers-{small,base,large,giant}",
    "DINOv3ViTModel": "facebook/dinov3-vit*",
}
"""Class of a supported backbone -> models on the Hub that load as it."""


@dataclass(frozen=True, kw_only=True)
class BackboneShape:
    """The numbers an adapter depends on."""

    num_layers: int
    hidden_size: int
    patch_size: int
    has_position_table: bool


def backbone_shape(model: nn.Module) -> BackboneShape:
    """Read depth, width and patch size of a supported backbone.

    Args:
        model: The bare backbone, not a model built around one.

    Raises:
        UnsupportedBackboneError: If the model is not a supported backbone; where it contains one, the message says
            how to reach it.
    """
    if not is_supported(model):
        raise UnsupportedBackboneError(_explain_unsupported(model))
    backbone: Any = model
    config = backbone.config
    return BackboneShape(
        num_layers=config.num_hidden_layers,
        hidden_size=config.hidden_size,
        patch_size=_as_int(config.patch_size),
        has_position_table=hasattr(backbone.embeddings, "position_embeddings"),
    )


def is_supported(model: nn.Module) -> bool:
    """Tell whether the model is one of the supported backbones or a subclass of one."""
    return any(cls.__name__ in SUPPORTED for cls in type(model).__mro__)


def adapted_module(name: str) -> tuple[int, str] | None:
    """Split the name of an adaptable module into the block's index and "attention" or "mlp".

    Args:
        name: Dotted name inside the backbone.

    Returns:
        None where the module is not one that can be adapted.

    Example:
        >>> adapted_module("encoder.layer.3.mlp"), adapted_module("encoder.layer.3.attention.attention")
        ((3, 'mlp'), None)
    """
    match = ADAPTED_MODULE.search(name)
    return (int(match[1]), match[2]) if match else None


def _explain_unsupported(model: nn.Module) -> str:
    expected = f"SelaVPR adapts {', '.join(SUPPORTED)}; got {type(model).__name__}"
    for name, module in model.named_modules():
        if name and is_supported(module):
            return f"{expected}, which contains a {type(module).__name__}: pass that part instead, model.{name}."
    if type(model).__name__.endswith("Backbone"):
        return f"{expected}, which returns feature maps without patch tokens; load it with AutoModel.from_pretrained."
    examples = " or ".join(SUPPORTED.values())
    return f"{expected}. Load one with AutoModel.from_pretrained, for example {examples}."


def _as_int(patch_size: int | tuple[int, int] | list[int]) -> int:
    """Reduce a patch size given per axis to one number."""
    if isinstance(patch_size, int):
        return patch_size
    if len(set(patch_size)) != 1:
        raise UnsupportedBackboneError(f"SelaVPR needs square patches, got patch_size {tuple(patch_size)}.")
    return patch_size[0]
