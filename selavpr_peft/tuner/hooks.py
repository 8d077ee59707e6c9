"""What runs around the backbone's own forward: check the image size, place the positions, describe the place.

`PeftModel.forward` calls the backbone and never the tuner, so everything that is not a wrapped module hangs on the
backbone as a hook. Hooks are plain functions of the backbone, so that a model with them can be copied and pickled.
"""

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.utils import ModelOutput

from selavpr_peft.modeling.output import SelaOutput
from selavpr_peft.modeling.positions import official_position_embeddings
from selavpr_peft.tuner.backbones import backbone_shape
from selavpr_peft.tuner.head import VprHead
from selavpr_peft.tuner.state_names import check_and_rename_on_load

HEAD_NAME = "vpr_head"
"""Attribute of the backbone that holds the head. It must not contain "sela_": PEFT would overlook it (loading and
deleting look for tuner layers among modules without the prefix)."""

_POSITIONS = "interpolate_pos_encoding"


def attach_head(backbone: PreTrainedModel) -> VprHead:
    """Give a backbone its head and the hooks that use it.

    Args:
        backbone: A supported backbone without a head.
    """
    head = VprHead(backbone, backbone_shape(backbone).patch_size)
    backbone.add_module(HEAD_NAME, head)
    head.hook_handles = [
        backbone.register_load_state_dict_pre_hook(check_and_rename_on_load),
        backbone.register_forward_pre_hook(_check_image_size, with_kwargs=True),
        backbone.register_forward_hook(_describe_output, with_kwargs=True),
        backbone.embeddings.register_forward_hook(partial(_start_gradient, backbone)),
    ]
    if hasattr(backbone.embeddings, _POSITIONS):
        setattr(backbone.embeddings, _POSITIONS, partial(_interpolate_positions, backbone))
    return head


def detach_head(backbone: PreTrainedModel) -> None:
    """Take the head and everything that came with it off a backbone; one without a head is left as it is.

    Args:
        backbone: The backbone.
    """
    head = getattr(backbone, HEAD_NAME, None)
    if head is None:
        return
    for handle in head.hook_handles:
        handle.remove()
    vars(backbone.embeddings).pop(_POSITIONS, None)
    delattr(backbone, HEAD_NAME)


def _check_image_size(backbone: PreTrainedModel, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    """Refuse what is no batch of images, and images that would silently be cut to a multiple of the patch size."""
    pixel_values = _pixel_values(args, kwargs)
    head = getattr(backbone, HEAD_NAME)
    if head.active_name is None:
        return
    if not isinstance(pixel_values, Tensor) or pixel_values.ndim != 4:
        found = tuple(pixel_values.shape) if isinstance(pixel_values, Tensor) else type(pixel_values).__name__
        raise ValueError(f"pixel_values must be a tensor of shape (B, 3, H, W), got {found}.")
    height, width = pixel_values.shape[-2:]
    patch = head.patch_size
    if height % patch or width % patch or not height or not width:
        raise ValueError(
            f"Image height and width must be multiples of the patch size {patch}, got {height} x {width}; resize to"
            f" {_nearest_multiple(height, patch)} x {_nearest_multiple(width, patch)}, for example."
        )


def _describe_output(backbone: PreTrainedModel, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> Any:
    """Turn the backbone's output into a `SelaOutput`, or append both descriptions to a tuple."""
    head = getattr(backbone, HEAD_NAME)
    if head.active_name is None:
        return output
    pixel_values = _pixel_values(args, kwargs)
    height, width = (size // head.patch_size for size in pixel_values.shape[-2:])
    patch_tokens = output[0][:, -height * width :]  # CLS and register tokens come first in every supported backbone
    descriptors, features = head.describe(patch_tokens, height, width)
    if not isinstance(output, ModelOutput):
        return (*output, descriptors, features)
    return SelaOutput(**output, global_descriptors=descriptors, local_features=features)


def _interpolate_positions(backbone: PreTrainedModel, embeddings: Tensor, height: int, width: int) -> Tensor:
    """Stand in for the embeddings' own method: the active adapter decides which rule is used."""
    head, module = getattr(backbone, HEAD_NAME), backbone.embeddings
    settings = head.active_settings
    if settings is None or not settings.uses_official_positions:
        return type(module).interpolate_pos_encoding(module, embeddings, height, width)
    return official_position_embeddings(module.position_embeddings, height, width, head.patch_size)


def _start_gradient(backbone: PreTrainedModel, embeddings: nn.Module, args: tuple[Any, ...], output: Tensor) -> None:
    """Let a gradient flow through checkpointed blocks.

    Reentrant gradient checkpointing drops the gradients of a block none of whose inputs requires one, and below the
    first adapter of a frozen backbone nothing does (https://github.com/huggingface/transformers/issues/23170).
    """
    is_training = backbone.training and torch.is_grad_enabled() and not output.requires_grad
    if is_training and getattr(backbone, HEAD_NAME).active_name is not None and _is_checkpointing(backbone):
        output.requires_grad_(True)


def _is_checkpointing(backbone: PreTrainedModel) -> bool:
    """Tell whether any block checkpoints; the model's own property changed its name between versions."""
    return any(getattr(module, "gradient_checkpointing", False) for module in backbone.modules())


def _pixel_values(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    return args[0] if args else kwargs.get("pixel_values")


def _nearest_multiple(size: int, patch_size: int) -> int:
    return max(1, round(size / patch_size)) * patch_size
