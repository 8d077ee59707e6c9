"""Where the class token of a block looks, with the adapter and without.

The attention that models usually run (sdpa, flash) never forms its weights, so for one forward pass the backbone is
switched to transformers' eager attention, which returns them. Only the class token's row of one block is kept.

SelaVPR's descriptor is pooled from the patch tokens, so this attention tells what the network finds important, as in
the paper's figures; what the descriptor is made of is told by descriptor_shares.py.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from peft import PeftModel
from PIL import Image
from torch import Tensor, nn

from selavpr_peft.modeling.preprocessing import Preprocessing
from selavpr_peft.tuner.backbones import adapted_module, backbone_shape


def attention_of_frozen_and_adapted(
    model: PeftModel, preprocessing: Preprocessing, image: Image.Image, *, layer: int = -1
) -> tuple[Float[np.ndarray, "h w"], Float[np.ndarray, "h w"]]:
    """Show where the class token looks in the frozen backbone and in the adapted one.

    Args:
        model: A model with a SelaVPR adapter, in evaluation mode.
        preprocessing: How the picture becomes network input.
        image: A picture.
        layer: Block, counted from 0, or from the end if negative.

    Returns:
        Share of the attention to patches that each patch of the grid gets, without the adapter and with it.

    Raises:
        ValueError: If there is no such block.
    """
    pixel_values = preprocessing(image)[None]
    with model.disable_adapter():
        frozen = class_token_attention(model, pixel_values, layer=layer)
    adapted = class_token_attention(model, pixel_values, layer=layer)
    return frozen[0].numpy(), adapted[0].numpy()


@torch.inference_mode()
def class_token_attention(
    model: PeftModel, pixel_values: Float[Tensor, "B 3 H W"], *, layer: int = -1
) -> Float[Tensor, "B h w"]:
    """Compute how the class token of a block divides its attention among the patches, whatever attention is in use.

    Args:
        model: A model with a SelaVPR adapter, in evaluation mode; a disabled adapter is not applied.
        pixel_values: Images by `Preprocessing`, on any device.
        layer: Block, counted from 0, or from the end if negative.

    Returns:
        Mean over the heads on the CPU, laid out as the patch grid; each image's adds up to 1.

    Raises:
        ValueError: If there is no such block.
    """
    backbone = model.get_base_model()
    patch_size = backbone_shape(backbone).patch_size
    height, width = (size // patch_size for size in pixel_values.shape[-2:])
    rows: list[Tensor] = []

    def keep_first_row(module: nn.Module, arguments: Any, output: Any) -> None:
        weights = output[1] if isinstance(output, tuple) and len(output) > 1 else None
        if weights is not None:
            rows.append(weights[:, :, 0].float().cpu())  # (B, heads, tokens)

    # which module returns the weights depends on the version of transformers; an outer one passes on the same
    handles = [module.register_forward_hook(keep_first_row) for module in _attention(backbone, layer).modules()]
    try:
        with _eager_attention(backbone):
            model(pixel_values=pixel_values.to(next(backbone.parameters()).device))
    finally:
        for handle in handles:
            handle.remove()
    return patch_shares(rows[0], height, width)


def patch_shares(class_token_row: Float[Tensor, "B heads T"], height: int, width: int) -> Float[Tensor, "B h w"]:
    """Turn the class token's attention to all tokens into shares of the patches.

    Args:
        class_token_row: Attention weights; the patches come last, after class and register tokens.
        height: Rows of the patch grid.
        width: Columns of the patch grid.

    Returns:
        Mean over the heads, divided by its sum over the patches.

    Example:
        >>> patch_shares(torch.tensor([[[0.6, 0.1, 0.3]]]), height=1, width=2).tolist()
        [[[0.25, 0.75]]]
    """
    weights = class_token_row.mean(dim=1)[:, -height * width :]
    return (weights / weights.sum(dim=1, keepdim=True)).unflatten(1, (height, width))


def _attention(backbone: nn.Module, layer: int) -> nn.Module:
    """Find the attention of a block."""
    found = ((adapted_module(name), module) for name, module in backbone.named_modules())
    attentions = {place[0]: module for place, module in found if place is not None and place[1] == "attention"}
    if not -len(attentions) <= layer < len(attentions):
        raise ValueError(f"layer must be one of the backbone's {len(attentions)} blocks, counted from 0, got {layer}.")
    return attentions[layer % len(attentions)]


@contextmanager
def _eager_attention(backbone: nn.Module) -> Iterator[None]:
    """Let a backbone compute its attention in plain steps for a while."""
    changeable: Any = backbone
    before = changeable.config._attn_implementation
    changeable.set_attn_implementation("eager")
    try:
        yield
    finally:
        changeable.set_attn_implementation(before)
