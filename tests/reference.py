"""The network of the paper in plain code: slow, literal, and independent of the package and of transformers.

Written from the equations of SelaVPR (arXiv 2402.14505), DINOv2 and GeM. Everything is computed in float64 from a
state dict with the official names, so that what remains of a difference is the rounding of the code under test.
"""

import math

import torch
from torch import Tensor


def official_network(state: dict[str, Tensor], pixel_values: Tensor, num_heads: int) -> tuple[Tensor, Tensor, Tensor]:
    """Run a network given by official names (without `module.`).

    Returns:
        Patch tokens (B, h*w, D), global descriptors (B, D) and local features (B, 4h-3, 4w-3, C), all float64.
    """
    state = {name: tensor.double() for name, tensor in state.items()}
    backbone = within(state, "backbone")
    num_blocks = len({name.split(".")[1] for name in backbone if name.startswith("blocks.")})
    x = embed(backbone, pixel_values.double())
    for index in range(num_blocks):
        x = block(within(backbone, f"blocks.{index}"), x, num_heads)
    x = layer_norm(x, within(backbone, "norm"))
    patch = backbone["patch_embed.proj.weight"].shape[-1]
    height, width = pixel_values.shape[-2] // patch, pixel_values.shape[-1] // patch
    tokens = x[:, x.shape[1] - height * width :]
    return (
        tokens,
        global_descriptors(tokens, float(state["aggregation.1.p"])),
        local_features(within(state, "LocalAdapt"), tokens, height, width),
    )


def within(state: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Give the tensors below a prefix, under what follows it."""
    return {name[len(prefix) + 1 :]: tensor for name, tensor in state.items() if name.startswith(f"{prefix}.")}


def embed(backbone: dict[str, Tensor], pixels: Tensor) -> Tensor:
    """CLS token, registers, patches; CLS and patches carry positions, registers do not."""
    weight, bias = backbone["patch_embed.proj.weight"], backbone["patch_embed.proj.bias"]
    patch = weight.shape[-1]
    rows = []
    for top in range(0, pixels.shape[2], patch):
        for left in range(0, pixels.shape[3], patch):
            window = pixels[:, :, top : top + patch, left : left + patch]
            rows.append(window.flatten(1) @ weight.flatten(1).T + bias)
    cls = backbone["cls_token"].expand(len(pixels), 1, -1)
    x = torch.cat((cls, torch.stack(rows, dim=1)), dim=1)
    x = x + positions(backbone["pos_embed"], pixels.shape[2], pixels.shape[3], patch)
    if "register_tokens" in backbone:
        registers = backbone["register_tokens"].expand(len(pixels), -1, -1)
        x = torch.cat((x[:, :1], registers, x[:, 1:]), dim=1)
    return x


def positions(table: Tensor, image_height: int, image_width: int, patch: int) -> Tensor:
    """The table itself for a square image with as many patches, else a bicubic resize by (n + 0.1) / side."""
    height, width = image_height // patch, image_width // patch
    num_positions = table.shape[1] - 1
    if height * width == num_positions and image_height == image_width:
        return table
    side = math.isqrt(num_positions)
    grid = table[0, 1:].reshape(side, side, -1)
    vertical = bicubic_weights(side, height, (height + 0.1) / side)
    horizontal = bicubic_weights(side, width, (width + 0.1) / side)
    resized = torch.einsum("os,pt,std->opd", vertical, horizontal, grid)
    return torch.cat((table[:, :1], resized.reshape(1, height * width, -1)), dim=1)


def bicubic_weights(size_in: int, size_out: int, scale: float) -> Tensor:
    """Share of every input cell in every output cell: Keys' cubic with a = -0.75, borders repeated, no antialias."""
    weights = torch.zeros(size_out, size_in, dtype=torch.float64)
    for out in range(size_out):
        source = (out + 0.5) / scale - 0.5
        nearest = math.floor(source)
        for cell in range(nearest - 1, nearest + 3):
            inside = min(max(cell, 0), size_in - 1)
            weights[out, inside] += keys_cubic(abs(source - cell))
    return weights


def keys_cubic(x: float, a: float = -0.75) -> float:
    """Keys' interpolation kernel."""
    if x <= 1:
        return (a + 2) * x**3 - (a + 3) * x**2 + 1
    if x < 2:
        return a * x**3 - 5 * a * x**2 + 8 * a * x - 4 * a
    return 0.0


def block(part: dict[str, Tensor], x: Tensor, num_heads: int) -> Tensor:
    """x += ls1(adapter1(attn(norm1(x)))); n = norm2(x); x += ls2(mlp(n) + 0.2 adapter2(n))."""
    attended = attention(within(part, "attn"), layer_norm(x, within(part, "norm1")), num_heads)
    attended = attended + bottleneck(within(part, "adapter1"), attended)
    x = x + part["ls1.gamma"] * attended
    n = layer_norm(x, within(part, "norm2"))
    return x + part["ls2.gamma"] * (mlp(within(part, "mlp"), n) + 0.2 * bottleneck(within(part, "adapter2"), n))


def attention(part: dict[str, Tensor], x: Tensor, num_heads: int) -> Tensor:
    """Softmax attention, one head after another; query, key and value come from one matrix, in this order."""
    query, key, value = linear(part, "qkv", x).chunk(3, dim=-1)
    channels = x.shape[-1] // num_heads
    heads = []
    for head in range(num_heads):
        own = slice(head * channels, (head + 1) * channels)
        scores = query[..., own] @ key[..., own].transpose(1, 2) / math.sqrt(channels)
        heads.append(scores.softmax(dim=-1) @ value[..., own])
    return linear(part, "proj", torch.cat(heads, dim=-1))


def mlp(part: dict[str, Tensor], x: Tensor) -> Tensor:
    """Two layers around a GELU, or SwiGLU with gate and value in one matrix, in this order."""
    if "w12.weight" in part:
        gate, value = linear(part, "w12", x).chunk(2, dim=-1)
        return linear(part, "w3", gate * gate.sigmoid() * value)
    hidden = linear(part, "fc1", x)
    return linear(part, "fc2", hidden * 0.5 * (1 + torch.erf(hidden / math.sqrt(2))))


def bottleneck(part: dict[str, Tensor], x: Tensor) -> Tensor:
    """W2 relu(W1 x), with biases."""
    return linear(part, "D_fc2", linear(part, "D_fc1", x).clamp(min=0))


def linear(part: dict[str, Tensor], name: str, x: Tensor) -> Tensor:
    """W x + b; a missing bias is zero."""
    return x @ part[f"{name}.weight"].T + part.get(f"{name}.bias", 0.0)


def layer_norm(x: Tensor, part: dict[str, Tensor]) -> Tensor:
    """Zero mean and unit variance over channels, eps 1e-6."""
    centred = x - x.mean(dim=-1, keepdim=True)
    return centred / (centred.square().mean(dim=-1, keepdim=True) + 1e-6).sqrt() * part["weight"] + part["bias"]


def global_descriptors(tokens: Tensor, p: float, eps: float = 1e-6) -> Tensor:
    """Unit tokens, generalised mean of every channel over the grid, unit length."""
    clamped = unit(tokens).clamp(min=eps)
    return unit((clamped**p).mean(dim=1) ** (1 / p))


def local_features(head: dict[str, Tensor], tokens: Tensor, height: int, width: int) -> Tensor:
    """Up-convolution, ReLU, up-convolution, unit length per location."""
    grid = tokens.reshape(len(tokens), height, width, -1)
    hidden = up_convolution(grid, head["upconv1.weight"], head["upconv1.bias"]).clamp(min=0)
    return unit(up_convolution(hidden, head["upconv2.weight"], head["upconv2.bias"]))


def up_convolution(grid: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Transposed 3x3 convolution with stride 2 and padding 1: cell i reaches 2i - 1, 2i and 2i + 1."""
    batch, height, width, _ = grid.shape
    padded = grid.new_zeros(batch, 2 * height + 1, 2 * width + 1, weight.shape[1])
    for dy in range(3):
        for dx in range(3):
            padded[:, dy : dy + 2 * height : 2, dx : dx + 2 * width : 2] += grid @ weight[:, :, dy, dx]
    return padded[:, 1:-1, 1:-1] + bias


def unit(x: Tensor) -> Tensor:
    """x / |x| over the last axis."""
    return x / x.square().sum(dim=-1, keepdim=True).sqrt()
