"""The names and shapes inside an official SelaVPR checkpoint, and their counterparts in a Hugging Face backbone.

The official network (Lu-Feng/SelaVPR, network.py and backbone/dinov2/) keeps query, key and value in one matrix, and
gate and up of SwiGLU in another; Hugging Face splits the first always and the second since transformers 5.
"""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from selavpr_peft.errors import CheckpointError

OUTSIDE_BLOCKS = {
    "cls_token": "embeddings.cls_token",
    "pos_embed": "embeddings.position_embeddings",
    "mask_token": "embeddings.mask_token",
    "register_tokens": "embeddings.register_tokens",
    "patch_embed.proj.weight": "embeddings.patch_embeddings.projection.weight",
    "patch_embed.proj.bias": "embeddings.patch_embeddings.projection.bias",
    "norm.weight": "layernorm.weight",
    "norm.bias": "layernorm.bias",
}
"""Official name after `backbone.` -> Hugging Face name."""

_SPELLINGS: dict[str, tuple[tuple[str, ...], ...]] = {
    "norm1": (("norm1",),),
    "norm2": (("norm2",),),
    "attn.qkv": (
        ("attention.attention.query", "attention.attention.key", "attention.attention.value"),
        ("attention.q_proj", "attention.k_proj", "attention.v_proj"),
    ),
    "attn.proj": (("attention.output.dense",), ("attention.o_proj",)),
    "mlp.fc1": (("mlp.fc1",),),
    "mlp.fc2": (("mlp.fc2",),),
    "mlp.w12": (("mlp.weights_in",), ("mlp.gate_proj", "mlp.up_proj")),
    "mlp.w3": (("mlp.weights_out",), ("mlp.down_proj",)),
}
"""Official module of a block -> its Hugging Face modules, stacked in this order: transformers 4, transformers 5."""

_IN_BLOCK = {
    f"{official}.{kind}": tuple(tuple(f"{part}.{kind}" for part in parts) for parts in spellings)
    for official, spellings in _SPELLINGS.items()
    for kind in ("weight", "bias")
} | {f"ls{index}.gamma": ((f"layer_scale{index}.lambda1",),) for index in (1, 2)}

ADAPTERS = {"adapter1": "attention", "adapter2": "mlp"}
"""Official adapter of a block -> the Hugging Face module it belongs to."""

PROJECTIONS = {"D_fc1": "sela_down", "D_fc2": "sela_up"}

HEAD = {
    "aggregation.1.p": "vpr_head.sela_gem_p",
    "LocalAdapt.upconv1.weight": "vpr_head.sela_upconv1.weight",
    "LocalAdapt.upconv1.bias": "vpr_head.sela_upconv1.bias",
    "LocalAdapt.upconv2.weight": "vpr_head.sela_upconv2.weight",
    "LocalAdapt.upconv2.bias": "vpr_head.sela_upconv2.bias",
}


def backbone_names(present: Collection[str], num_layers: int) -> dict[str, tuple[str, ...]]:
    """Map every official backbone tensor to the Hugging Face tensors that make it up when stacked.

    Args:
        present: Names of the parameters of the Hugging Face backbone, whose version decides the spelling.
        num_layers: Number of blocks.
    """
    names: dict[str, tuple[str, ...]] = {
        f"backbone.{official}": (ours,) for official, ours in OUTSIDE_BLOCKS.items() if ours in present
    }
    for index in range(num_layers):
        for official, spellings in _IN_BLOCK.items():
            for parts in spellings:
                full = tuple(f"encoder.layer.{index}.{part}" for part in parts)
                if all(name in present for name in full):
                    names[f"backbone.blocks.{index}.{official}"] = full
    return names


def adapter_names(num_layers: int) -> dict[str, str]:
    """Map every official adapter and head tensor to its name in our files, without `base_model.model.`.

    Args:
        num_layers: Number of blocks.
    """
    names = {
        f"backbone.blocks.{index}.{adapter}.{projection}.{kind}": f"encoder.layer.{index}.{module}.{ours}.{kind}"
        for index in range(num_layers)
        for adapter, module in ADAPTERS.items()
        for projection, ours in PROJECTIONS.items()
        for kind in ("weight", "bias")
    }
    return names | HEAD


@dataclass(frozen=True, kw_only=True)
class OfficialArchitecture:
    """What the shapes in an official checkpoint say of the network it was saved from."""

    hidden_size: int
    num_layers: int
    patch_size: int
    position_grid: int
    num_register_tokens: int
    uses_swiglu: bool
    mlp_ratio: int
    has_qkv_bias: bool
    adapter_width: int
    local_channels: tuple[int, int]
    gem_p: float

    @classmethod
    def of(cls, state: Mapping[str, Tensor]) -> "OfficialArchitecture":
        """Read the architecture off a state dict with official names.

        Args:
            state: Tensors by name, without `module.`.

        Raises:
            CheckpointError: If a tensor is missing or the shapes contradict each other.
        """
        width = _shape(state, "backbone.cls_token", 3)[-1]
        num_positions = _shape(state, "backbone.pos_embed", 3)[1] - 1
        grid = round(num_positions**0.5)
        if grid * grid != num_positions or grid == 0:
            raise CheckpointError(
                f"backbone.pos_embed must hold a square grid and the CLS token, got {num_positions}."
            )
        has_registers = "backbone.register_tokens" in state
        uses_swiglu = "backbone.blocks.0.mlp.w12.weight" in state
        first_channels = _shape(state, "LocalAdapt.upconv1.weight", 4)[1]
        return cls(
            hidden_size=width,
            num_layers=_count_blocks(state),
            patch_size=_shape(state, "backbone.patch_embed.proj.weight", 4)[-1],
            position_grid=grid,
            num_register_tokens=_shape(state, "backbone.register_tokens", 3)[1] if has_registers else 0,
            uses_swiglu=uses_swiglu,
            mlp_ratio=_swiglu_ratio(state, width) if uses_swiglu else _mlp_ratio(state, width),
            has_qkv_bias="backbone.blocks.0.attn.qkv.bias" in state,
            adapter_width=_adapter_width(state, width),
            local_channels=(first_channels, _shape(state, "LocalAdapt.upconv2.weight", 4)[1]),
            gem_p=_scalar(state, "aggregation.1.p"),
        )

    def backbone_settings(self, num_attention_heads: int) -> dict[str, Any]:
        """Give the arguments of the Hugging Face configuration of this backbone.

        Args:
            num_attention_heads: Number of attention heads, which no shape tells.
        """
        settings: dict[str, Any] = {
            "hidden_size": self.hidden_size,
            "num_hidden_layers": self.num_layers,
            "num_attention_heads": num_attention_heads,
            "image_size": self.position_grid * self.patch_size,
            "patch_size": self.patch_size,
            "mlp_ratio": self.mlp_ratio,
            "use_swiglu_ffn": self.uses_swiglu,
            "qkv_bias": self.has_qkv_bias,
        }
        return settings | ({"num_register_tokens": self.num_register_tokens} if self.num_register_tokens else {})


def _shape(state: Mapping[str, Tensor], name: str, num_dims: int) -> torch.Size:
    """Give the shape of a tensor that must be there and have so many dimensions, none of them empty."""
    if name not in state:
        raise CheckpointError(
            f"The checkpoint has no tensor {name}; expected the state of an official SelaVPR network (DINOv2 with"
            " adapters and local head), as its train.py saves it."
        )
    shape = state[name].shape
    if len(shape) != num_dims or 0 in shape:
        raise CheckpointError(f"{name} must have {num_dims} dimensions, none of them 0, got shape {tuple(shape)}.")
    return shape


def _scalar(state: Mapping[str, Tensor], name: str) -> float:
    _shape(state, name, 1)
    value = state[name]
    if value.numel() != 1 or not value.is_floating_point() or not value.isfinite() or value <= 0:
        raise CheckpointError(f"{name} must be one positive number, got {value.tolist()}.")
    return float(value)


def _count_blocks(state: Mapping[str, Tensor]) -> int:
    """Count the blocks, which must be numbered from 0 without a gap."""
    indices = set(_block_indices(state))
    if not indices or indices != set(range(len(indices))):
        raise CheckpointError(f"Blocks must be numbered 0, 1, 2, ... without a gap, got {sorted(indices)}.")
    return len(indices)


def _block_indices(state: Mapping[str, Tensor]) -> Iterator[int]:
    for name in state:
        parts = name.split(".")
        if parts[:2] == ["backbone", "blocks"] and len(parts) > 3 and parts[2].isdecimal():
            yield int(parts[2])


def _adapter_width(state: Mapping[str, Tensor], width: int) -> int:
    hidden = _shape(state, "backbone.blocks.0.adapter1.D_fc1.weight", 2)[0]
    if hidden > width:
        raise CheckpointError(
            f"backbone.blocks.0.adapter1.D_fc1 must be at most as wide as the backbone, {width}, got {hidden}."
        )
    return hidden


def _mlp_ratio(state: Mapping[str, Tensor], width: int) -> int:
    hidden = _shape(state, "backbone.blocks.0.mlp.fc1.weight", 2)[0]
    if hidden % width:
        raise CheckpointError(
            f"backbone.blocks.0.mlp.fc1 must be a whole multiple of the width {width}, got {hidden}: Hugging Face's"
            " Dinov2Config cannot say other ratios."
        )
    return hidden // width


def _swiglu_ratio(state: Mapping[str, Tensor], width: int) -> int:
    """Find the ratio from which the width of SwiGLU follows: two thirds of it, rounded up to a multiple of 8."""
    hidden = _shape(state, "backbone.blocks.0.mlp.w3.weight", 2)[1]
    for ratio in range(1, 33):
        if (int(width * ratio * 2 / 3) + 7) // 8 * 8 == hidden:
            return ratio
    raise CheckpointError(
        f"backbone.blocks.0.mlp.w3 takes {hidden} channels, which follows from no whole mlp_ratio at width {width}:"
        " Hugging Face's Dinov2Config cannot say it."
    )
