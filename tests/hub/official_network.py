"""Tiny random SelaVPR networks under their official names, and the checkpoint its training script makes of one."""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor


def official_state(
    *,
    width: int = 48,
    depth: int = 2,
    grid: int = 5,
    patch: int = 14,
    registers: int = 0,
    swiglu: bool = False,
    mlp_ratio: int = 4,
    qkv_bias: bool = True,
    adapter_width: int | None = None,
    local_channels: tuple[int, int] = (12, 8),
    gem_p: float = 2.5,
    seed: int = 0,
) -> dict[str, Tensor]:
    """Give the tensors of a network by official name; every one is random, so that each of them matters."""
    generator = torch.Generator().manual_seed(seed)

    def random(*shape: int, scale: float = 0.5, mean: float = 0.0) -> Tensor:
        return torch.randn(shape, generator=generator) * scale + mean

    state: dict[str, Tensor] = {}

    def layer(name: str, size_in: int, size_out: int, has_bias: bool = True) -> None:
        state[f"{name}.weight"] = random(size_out, size_in, scale=1.5 / size_in**0.5)
        if has_bias:
            state[f"{name}.bias"] = random(size_out, scale=0.2)

    def norm(name: str) -> None:
        state[f"{name}.weight"] = random(width, scale=0.2, mean=1.0)
        state[f"{name}.bias"] = random(width, scale=0.2)

    state["backbone.cls_token"] = random(1, 1, width)
    state["backbone.pos_embed"] = random(1, grid * grid + 1, width)
    if registers:
        state["backbone.register_tokens"] = random(1, registers, width)
    state["backbone.mask_token"] = random(1, width)
    state["backbone.patch_embed.proj.weight"] = random(width, 3, patch, patch, scale=1 / patch)
    state["backbone.patch_embed.proj.bias"] = random(width)
    hidden = adapter_width or width // 2
    for index in range(depth):
        name = f"backbone.blocks.{index}"
        norm(f"{name}.norm1")
        layer(f"{name}.attn.qkv", width, 3 * width, qkv_bias)
        layer(f"{name}.attn.proj", width, width)
        state[f"{name}.ls1.gamma"] = random(width, scale=0.2, mean=0.5)
        norm(f"{name}.norm2")
        if swiglu:
            inner = (int(mlp_ratio * width * 2 / 3) + 7) // 8 * 8
            layer(f"{name}.mlp.w12", width, 2 * inner)
            layer(f"{name}.mlp.w3", inner, width)
        else:
            layer(f"{name}.mlp.fc1", width, mlp_ratio * width)
            layer(f"{name}.mlp.fc2", mlp_ratio * width, width)
        state[f"{name}.ls2.gamma"] = random(width, scale=0.2, mean=0.5)
        for adapter in ("adapter1", "adapter2"):
            layer(f"{name}.{adapter}.D_fc1", width, hidden)
            layer(f"{name}.{adapter}.D_fc2", hidden, width)
    norm("backbone.norm")
    state["aggregation.1.p"] = torch.tensor([gem_p])
    state["LocalAdapt.upconv1.weight"] = random(width, local_channels[0], 3, 3, scale=0.2)
    state["LocalAdapt.upconv1.bias"] = random(local_channels[0], scale=0.2)
    state["LocalAdapt.upconv2.weight"] = random(*local_channels, 3, 3, scale=0.2)
    state["LocalAdapt.upconv2.bias"] = random(local_channels[1], scale=0.2)
    return state


def training_checkpoint(state: dict[str, Tensor]) -> dict[str, object]:
    """Put a network's tensors into what the official train.py saves."""
    return {
        "epoch_num": 3,
        "model_state_dict": {f"module.{name}": tensor for name, tensor in state.items()},
        "optimizer_state_dict": {"state": {}, "param_groups": [{"lr": 1e-5, "params": [0, 1]}]},
        "recalls": np.array([90.8, 96.4, 97.2, 97.6]),
        "best_r5": np.float64(96.4),
        "not_improved_num": 1,
    }


def save_official(path: Path, state: dict[str, Tensor]) -> Path:
    """Write a training checkpoint and give its path back."""
    torch.save(training_checkpoint(state), path)
    return path
