"""What describing images costs on the CPU, beside a plain float32 transcription of the official network.

    python benchmarks/extraction.py --json benchmarks/results/extraction.json

ViT-L/14 with random weights at 224 x 224, adapters, descriptor and local features included. The plain side does what
the official backbone, adapters and heads do, in the order they do it, with attention as two products and a softmax
between them; it reads the very weights from a checkpoint in the official form, and its outputs are compared with ours
first. Every side runs in a process of its own; sides take turns. Times are medians with quartiles; packing the weights
is done once and not part of them.
"""

import argparse
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from measuring import compare_sides, environment, write_report
from torch import Tensor
from transformers import Dinov2Config, Dinov2Model

from selavpr_peft.hub.loading import adapt_freshly
from selavpr_peft.hub.official_checkpoint import export_official_checkpoint
from selavpr_peft.modeling.packed_linear import packed_weights
from selavpr_peft.tuner.config import SelaConfig

SIZE, PATCH = 224, 14
SHAPES = {"large": (1024, 24, 16), "small": (384, 12, 6), "tiny": (64, 2, 2)}
"""Width, blocks and heads."""

SIDES = ("plain", "float32", "bfloat16 autocast", "bfloat16 weights")


def make_model(shape: str) -> torch.nn.Module:
    """Make the adapted network; adapters are given weights that are not zero."""
    width, blocks, heads = SHAPES[shape]
    torch.manual_seed(0)
    config = Dinov2Config(
        hidden_size=width, num_hidden_layers=blocks, num_attention_heads=heads, image_size=SIZE, patch_size=PATCH
    )
    model = adapt_freshly(Dinov2Model(config), SelaConfig(), seed=0).eval()
    for name, parameter in model.named_parameters():
        if "sela_up." in name:
            torch.nn.init.normal_(parameter, std=0.02)
    return model


def official_weights(model: torch.nn.Module) -> dict[str, Tensor]:
    """Give the weights by their official names."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "official.pth"
        export_official_checkpoint(model, path)
        state = torch.load(path, weights_only=True)["model_state_dict"]
    return {name.removeprefix("module.").removeprefix("backbone."): tensor for name, tensor in state.items()}


def plain_network(weights: dict[str, Tensor], heads: int, images: Tensor) -> tuple[Tensor, Tensor]:
    """Describe images by the official network, step by step: descriptors (B, D) and features (B, H, W, C)."""

    def linear(name: str, x: Tensor) -> Tensor:
        return F.linear(x, weights[f"{name}.weight"], weights[f"{name}.bias"])

    def norm(name: str, x: Tensor) -> Tensor:
        return F.layer_norm(x, x.shape[-1:], weights[f"{name}.weight"], weights[f"{name}.bias"], 1e-6)

    def adapter(name: str, x: Tensor) -> Tensor:
        return linear(f"{name}.D_fc2", F.relu(linear(f"{name}.D_fc1", x)))

    def attention(block: str, x: Tensor) -> Tensor:
        query, key, value = linear(f"{block}.attn.qkv", x).unflatten(2, (3, heads, -1)).permute(2, 0, 3, 1, 4)
        shares = ((query * query.shape[-1] ** -0.5) @ key.transpose(-2, -1)).softmax(dim=-1)
        return linear(f"{block}.attn.proj", (shares @ value).transpose(1, 2).flatten(2))

    patches = F.conv2d(images, weights["patch_embed.proj.weight"], weights["patch_embed.proj.bias"], stride=PATCH)
    tokens = torch.cat([weights["cls_token"].expand(len(images), -1, -1), patches.flatten(2).transpose(1, 2)], dim=1)
    x = tokens + weights["pos_embed"]
    for number in range(sum(name.endswith("attn.qkv.weight") for name in weights)):
        block = f"blocks.{number}"
        attended = attention(block, norm(f"{block}.norm1", x))
        x = x + weights[f"{block}.ls1.gamma"] * (attended + adapter(f"{block}.adapter1", attended))
        normed = norm(f"{block}.norm2", x)
        expanded = linear(f"{block}.mlp.fc2", F.gelu(linear(f"{block}.mlp.fc1", normed)))
        x = x + weights[f"{block}.ls2.gamma"] * (expanded + 0.2 * adapter(f"{block}.adapter2", normed))
    patch_tokens = norm("norm", x)[:, 1:]
    powers = F.normalize(patch_tokens, dim=-1).clamp(min=1e-6) ** weights["aggregation.1.p"]
    descriptors = F.normalize(powers.mean(dim=1) ** (1 / weights["aggregation.1.p"]), dim=-1)
    grid = patch_tokens.transpose(1, 2).unflatten(2, (SIZE // PATCH, SIZE // PATCH))
    for layer in ("upconv1", "upconv2"):
        parts = (weights[f"LocalAdapt.{layer}.{kind}"] for kind in ("weight", "bias"))
        grid = F.conv_transpose2d(grid, *parts, stride=2, padding=1)
        grid = F.relu(grid) if layer == "upconv1" else grid
    return descriptors, F.normalize(grid.permute(0, 2, 3, 1), dim=-1)


def prepare(side: str, shape: str, num_images: int) -> Callable[[], Any]:
    """Make a side; the function describes all images once."""
    model = make_model(shape)
    images = torch.randn(num_images, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(0))
    if side == "plain":
        weights, heads = official_weights(model), SHAPES[shape][2]
        return torch.inference_mode()(lambda: plain_network(weights, heads, images))
    if side == "bfloat16 weights":
        model.get_base_model().to(torch.bfloat16)
        images = images.bfloat16()
    precision = torch.autocast("cpu", torch.bfloat16, enabled=side == "bfloat16 autocast")
    packing = packed_weights(model)
    with precision:
        packing.__enter__()
    model.packing = packing  # stays open as long as the model exists

    def run() -> Any:
        with torch.inference_mode(), precision:
            return model(pixel_values=images)

    return run


def differences(shape: str) -> dict[str, float]:
    """Say how far the outputs of two images lie from those of the plain side."""
    descriptors, features = prepare("plain", shape, 2)()
    found = {}
    for side in SIDES[1:]:
        output = prepare(side, shape, 2)()
        found[side] = float((1 - (output.global_descriptors * descriptors).sum(dim=1)).max())
        found[f"{side}, local"] = float((1 - (output.local_features * features).sum(dim=-1)).max())
    return found


def main() -> None:
    """Measure all sides, print a table and write it down."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=SHAPES, default="large")
    parser.add_argument("--images", type=int, default=4)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--json")
    arguments = parser.parse_args()
    far = differences(arguments.shape)
    rows = compare_sides(prepare, SIDES, arguments.repeats, arguments.shape, arguments.images)
    report: dict[str, Any] = {
        **environment(),
        "shape": arguments.shape,
        "images": arguments.images,
        "repeats": arguments.repeats,
        "sides": {},
    }
    for side, row in rows.items():
        report["sides"][side] = row | {
            "milliseconds_per_image": 1e3 * row["median_s"] / arguments.images,
            "one_minus_cosine": {"global": far.get(side, 0.0), "local": far.get(f"{side}, local", 0.0)},
        }
        print(
            f"{side:<20}{1e3 * row['median_s'] / arguments.images:9.0f} ms/image{row['times_faster']:7.2f} x"
            f"   1 - cosine {far.get(side, 0.0):.1e}, {far.get(f'{side}, local', 0.0):.1e}",
            flush=True,
        )
    write_report(arguments.json, report)


if __name__ == "__main__":
    main()
