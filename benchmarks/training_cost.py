"""What a training step and a mining pass cost, beside a plain transcription of the official procedure.

    python benchmarks/training_cost.py --backbone DIR --json benchmarks/results/training_cost.json

The plain side does what the official train.py, loss.py and datasets_ws.py do: it compares pairs one by one with the
whole similarity matrix, the positive once per negative, and keeps the local features of every mined image. Both sides
run in turn on the same images, each in a process of its own for memory. Times are medians with the quartiles beside
them; memory is the peak of the process beyond what it held before.
"""

import argparse
import json
import multiprocessing
import platform
import resource
import statistics
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from selavpr_peft.hub.loading import adapt_freshly, load_backbone
from selavpr_peft.losses import SelaLoss
from selavpr_peft.tuner.config import SelaConfig
from selavpr_peft.tuner.layer import global_descriptors_only

QUERIES, NEGATIVES, SIZE, GRID, CHANNELS = 4, 2, 224, 61, 128
IMAGES = QUERIES * (2 + NEGATIVES)


def plain_similarity(query: Tensor, database: Tensor) -> Tensor:
    """Mean cosine of the mutual nearest neighbours by the whole similarity matrix."""
    first, second = query.reshape(-1, CHANNELS), database.reshape(-1, CHANNELS)
    similarity = second @ first.T
    of_first, of_second = similarity.argmax(dim=0), similarity.argmax(dim=1)
    mutual = (of_second[of_first] == torch.arange(len(first))).nonzero().squeeze(1)
    return (first[mutual] * second[of_first[mutual]]).sum(dim=1).mean()


def plain_losses(descriptors: Tensor, features: Tensor) -> Tensor:
    """Both losses, pair by pair; descriptors (B, 2 + N, D), features (B, 2 + N, H, W, C)."""
    triplet = torch.nn.TripletMarginLoss(margin=0.1, p=2, reduction="sum")
    total = torch.zeros(())
    for negative in range(2, 2 + NEGATIVES):
        total = total + triplet(descriptors[:, 0], descriptors[:, 1], descriptors[:, negative])
        for group in features:
            to_positive = plain_similarity(group[0], group[1])
            to_negative = plain_similarity(group[0], group[negative])
            total = total + (to_negative - to_positive).clamp(min=0)
    return total / (QUERIES * NEGATIVES)


def own_losses(descriptors: Tensor, features: Tensor) -> Tensor:
    """Both losses by this package."""
    return (
        SelaLoss()(
            descriptors[:, 0], descriptors[:, 1], descriptors[:, 2:], features[:, 0], features[:, 1], features[:, 2:]
        )
    ).loss


LOSSES = {"plain": plain_losses, "ours": own_losses}


def losses_only(side: str, backbone: str) -> Callable[[], None]:
    """Matching and both losses, forward and backward, on features that are given."""
    generator = torch.Generator().manual_seed(0)
    shape = (QUERIES, 2 + NEGATIVES)
    descriptors = F.normalize(torch.randn(*shape, 384, generator=generator), dim=-1).requires_grad_()
    features = F.normalize(torch.randn(*shape, GRID, GRID, CHANNELS, generator=generator), dim=-1).requires_grad_()

    def run() -> None:
        descriptors.grad = features.grad = None
        LOSSES[side](descriptors, features).backward()

    return run


def whole_step(side: str, backbone: str, *, bfloat16: bool = False, checkpointing: bool = False) -> Callable[[], None]:
    """Describe 16 images, compute the losses, go back through the network and update the weights."""
    model = adapt_freshly(load_backbone(backbone), SelaConfig(), seed=0).train()
    if checkpointing:
        model.get_base_model().gradient_checkpointing_enable({"use_reentrant": False})
    optimiser = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=1e-5)
    images = torch.randn(IMAGES, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(0))

    def run() -> None:
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=bfloat16):
            output = model(pixel_values=images)
            groups = (QUERIES, 2 + NEGATIVES)
            loss = LOSSES[side](
                output.global_descriptors.unflatten(0, groups), output.local_features.unflatten(0, groups)
            )
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()

    return run


def mining(side: str, backbone: str) -> Callable[[], None]:
    """Describe 64 images for mining and keep what the procedure keeps."""
    model = adapt_freshly(load_backbone(backbone), SelaConfig(), seed=0).eval()
    images = torch.randn(IMAGES, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(0))
    kept: list[Any] = []

    def run() -> None:
        kept.clear()
        for _ in range(4):
            if side == "plain":
                with torch.no_grad():
                    output = model(pixel_values=images)
                kept.append((output.global_descriptors.numpy().copy(), output.local_features.numpy().copy()))
            else:
                with torch.inference_mode(), global_descriptors_only(model):
                    kept.append(model(pixel_values=images).global_descriptors.numpy().copy())

    return run


WORK: dict[str, tuple[Callable[..., Callable[[], None]], dict[str, Any]]] = {
    "matching and losses": (losses_only, {}),
    "whole step": (whole_step, {}),
    "whole step, bf16 autocast": (whole_step, {"bfloat16": True}),
    "whole step, gradient checkpointing": (whole_step, {"checkpointing": True}),
    "mining 64 images": (mining, {}),
}


def measure(name: str, side: str, backbone: str, repeats: int, results: Any) -> None:
    """Time one side of one piece of work, in a process of its own."""
    make, options = WORK[name]
    run = make(side, backbone, **options)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    run()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    quartiles = statistics.quantiles(times, n=4) if len(times) > 1 else times * 3
    results.put({"median_s": quartiles[1], "quartiles_s": quartiles, "extra_memory_bytes": (peak - before) * 1024})


def main() -> None:
    """Measure everything and write it down."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbone", required=True)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json")
    arguments = parser.parse_args()
    context = multiprocessing.get_context("spawn")
    report: dict[str, Any] = {"work": {}, **environment(arguments)}
    for name in WORK:
        rows = {}
        for side in LOSSES:
            results = context.Queue()
            process = context.Process(
                target=measure, args=(name, side, arguments.backbone, arguments.repeats, results)
            )
            process.start()
            rows[side] = results.get()
            process.join()
        rows["times_faster"] = rows["plain"]["median_s"] / rows["ours"]["median_s"]
        rows["memory_share"] = rows["ours"]["extra_memory_bytes"] / max(1, rows["plain"]["extra_memory_bytes"])
        report["work"][name] = rows
        print(
            f"{name:<38} plain {rows['plain']['median_s']:7.3f} s  ours {rows['ours']['median_s']:7.3f} s "
            f" {rows['times_faster']:5.2f}x  memory {rows['memory_share']:6.3f}",
            flush=True,
        )
    global_bytes, local_bytes = 384 * 4, GRID * GRID * CHANNELS * 4
    report["mining_bytes_per_image"] = {"plain": global_bytes + local_bytes, "ours": global_bytes}
    print(f"mining memory per cached image: {(global_bytes + local_bytes) / global_bytes:.0f} times less")
    if arguments.json:
        Path(arguments.json).parent.mkdir(parents=True, exist_ok=True)
        Path(arguments.json).write_text(json.dumps(report, indent=2) + "\n")


def environment(arguments: argparse.Namespace) -> dict[str, Any]:
    """Where and with what this was measured."""
    commit = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, cwd=Path(__file__).parent)
    return {
        "commit": commit.stdout.strip(),
        "device": f"{platform.machine()} CPU, {torch.get_num_threads()} threads",
        "torch": torch.__version__,
        "repeats": arguments.repeats,
        "images": IMAGES,
    }


if __name__ == "__main__":
    main()
