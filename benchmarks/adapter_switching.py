"""How long it takes to go from one city's adapter to another's over one loaded backbone.

    python benchmarks/adapter_switching.py [--backbone facebook/dinov2-base] [--num-adapters 8] [--json OUT.json]

Without --backbone a ViT-S of random weights stands in: times depend on the shape alone.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from measuring import environment, write_report
from transformers import Dinov2Config, Dinov2Model

import selavpr_peft
from selavpr_peft import SelaConfig
from selavpr_peft.hub import add_adapter, load_backbone, save_adapter
from selavpr_peft.hub.loading import adapt_freshly


def milliseconds(work: Callable[[int], object], repeats: int) -> float:
    """Median of several runs; the first is nobody's."""
    times = []
    for number in range(repeats + 1):
        start = time.perf_counter()
        work(number)
        times.append(1e3 * (time.perf_counter() - start))
    return statistics.median(times[1:])


parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("--backbone")
parser.add_argument("--num-adapters", type=int, default=8)
parser.add_argument("--repeats", type=int, default=50)
parser.add_argument("--json")
args = parser.parse_args()

small = Dinov2Config(hidden_size=384, num_hidden_layers=12, num_attention_heads=6, image_size=518, patch_size=14)
base = load_backbone(args.backbone) if args.backbone else Dinov2Model(small).eval()

with tempfile.TemporaryDirectory() as temporary:
    # 1. N adapters and their backbone on disk.
    backbone = Path(temporary, "backbone")
    base.save_pretrained(backbone)
    cities = [Path(temporary, f"city-{number}") for number in range(args.num_adapters)]
    for number, folder in enumerate(cities):
        model = adapt_freshly(base, SelaConfig(), seed=number)
        save_adapter(model, folder)
        base = model.unload()

    # 2. All of them over one backbone.
    model = selavpr_peft.load(cities[0], backbone=backbone)
    for folder in cities[1:]:
        add_adapter(model, folder, folder.name)
    names = list(model.peft_config)
    pixels = torch.randn(1, 3, 224, 224)

    @torch.inference_mode()
    def describe(number: int) -> None:
        """Describe an image by whichever adapter is active."""
        model(pixel_values=pixels)

    def add_again(number: int) -> None:
        """Read an adapter from disk over the loaded backbone."""
        add_adapter(model, cities[0], f"again-{number}")
        model.delete_adapter(f"again-{number}")

    # 3. Switch, against what a program without switching would do.
    medians_ms = {
        "switch among loaded adapters": milliseconds(
            lambda number: model.set_adapter(names[number % len(names)]), args.repeats
        ),
        "read one more adapter from disk": milliseconds(add_again, 5),
        "load backbone and adapter": milliseconds(lambda number: selavpr_peft.load(cities[0], backbone=backbone), 5),
        "describe an image of 224x224": milliseconds(describe, 5),
    }
    adapter_bytes = (cities[0] / "adapter_model.safetensors").stat().st_size

print(
    f"{args.num_adapters} adapters of {adapter_bytes / 1e6:.1f} MB over {args.backbone or 'a random ViT-S'}; medians"
)
for name, value in medians_ms.items():
    print(f"{name:<34} {value:>9.2f} ms")
report = {
    "environment": environment(),
    "backbone": Path(args.backbone).name if args.backbone else "random ViT-S",
    "num_adapters": args.num_adapters,
    "adapter_bytes": adapter_bytes,
    "medians_ms": medians_ms,
}
write_report(args.json, report)
