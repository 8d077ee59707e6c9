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
from typing import Any

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


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """Save adapters and their backbone, load all of them over one backbone, and time what going between them takes."""
    small = Dinov2Config(hidden_size=384, num_hidden_layers=12, num_attention_heads=6, image_size=518, patch_size=14)
    base = load_backbone(arguments.backbone) if arguments.backbone else Dinov2Model(small).eval()
    with tempfile.TemporaryDirectory() as temporary:
        backbone = Path(temporary, "backbone")
        base.save_pretrained(backbone)
        cities = [Path(temporary, f"city-{number}") for number in range(arguments.num_adapters)]
        for number, folder in enumerate(cities):
            model = adapt_freshly(base, SelaConfig(), seed=number)
            save_adapter(model, folder)
            base = model.unload()
        adapter_bytes = (cities[0] / "adapter_model.safetensors").stat().st_size
        medians_ms = time_switching(cities, backbone, arguments.repeats)
    return {"num_adapters": len(cities), "adapter_bytes": adapter_bytes, "medians_ms": medians_ms}


def time_switching(cities: list[Path], backbone: Path, repeats: int) -> dict[str, float]:
    """Time switching among loaded adapters, against what a program without switching would do."""
    model = selavpr_peft.load(cities[0], backbone=backbone)
    for folder in cities[1:]:
        add_adapter(model, folder, folder.name)
    names = list(model.peft_config)
    pixels = torch.randn(1, 3, 224, 224)

    @torch.inference_mode()
    def describe(number: int) -> None:
        model(pixel_values=pixels)

    def add_again(number: int) -> None:
        add_adapter(model, cities[0], f"again-{number}")
        model.delete_adapter(f"again-{number}")

    return {
        "switch among loaded adapters": milliseconds(
            lambda number: model.set_adapter(names[number % len(names)]), repeats
        ),
        "read one more adapter from disk": milliseconds(add_again, 5),
        "load backbone and adapter": milliseconds(lambda number: selavpr_peft.load(cities[0], backbone=backbone), 5),
        "describe an image of 224x224": milliseconds(describe, 5),
    }


def main() -> None:
    """Measure, print a table and write it down."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbone")
    parser.add_argument("--num-adapters", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=50)
    parser.add_argument("--json")
    arguments = parser.parse_args()
    found = measure(arguments)
    name = Path(arguments.backbone).name if arguments.backbone else "random ViT-S"
    print(f"{found['num_adapters']} adapters of {found['adapter_bytes'] / 1e6:.1f} MB over {name}; medians")
    for step, value in found["medians_ms"].items():
        print(f"{step:<34} {value:>9.2f} ms")
    write_report(arguments.json, {"environment": environment(), "backbone": name, **found})


if __name__ == "__main__":
    main()
