"""What a training step and a mining pass cost, beside a plain transcription of the official procedure.

    python benchmarks/training_cost.py --backbone DIR --json benchmarks/results/training_cost.json

The plain side does what the official network, train.py, loss.py and datasets_ws.py do: attention as two products and a
softmax between them, pairs compared one by one with the whole similarity matrix, the positive once per negative, and
local features made and kept for every mined image. It is float32 throughout. Every side runs alone in a process of its
own, on the same images; plain and ours take turns. Times are medians with the quartiles beside them; memory is the
peak of the process beyond what it held before the work, gradients of the inputs included in what it held.
"""

import argparse
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import torch
import torch.nn.functional as F
from measuring import compare_sides, environment, write_report
from peft import PeftModel
from torch import Tensor

from selavpr_peft.hub.loading import adapt_freshly, load_backbone
from selavpr_peft.losses import SelaLoss
from selavpr_peft.modeling.packed_linear import packed_weights
from selavpr_peft.tuner.config import SelaConfig
from selavpr_peft.tuner.head import global_descriptors_only

QUERIES, NEGATIVES, SIZE, GRID, CHANNELS = 4, 2, 224, 61, 128
IMAGES = QUERIES * (2 + NEGATIVES)


def plain_similarity(query: Tensor, database: Tensor) -> Tensor:
    """Mean cosine of the mutual nearest neighbours by the whole similarity matrix."""
    first, second = query.reshape(-1, CHANNELS), database.reshape(-1, CHANNELS)
    similarity = second @ first.T
    of_first, of_second = similarity.argmax(dim=0), similarity.argmax(dim=1)
    mutual = (of_second[of_first] == torch.arange(len(first))).nonzero().squeeze(1)
    return (first[mutual] * second[of_first[mutual]]).sum(dim=1).mean()


def plain_losses(*parts: Tensor) -> Tensor:
    """Both losses, pair by pair, of what `SelaLoss` takes."""
    query, positive, negatives, query_local, positive_local, negatives_local = parts
    triplet = torch.nn.TripletMarginLoss(margin=0.1, p=2, reduction="sum")
    total = torch.zeros(())
    for negative in range(NEGATIVES):
        total = total + triplet(query, positive, negatives[:, negative])
        for number in range(QUERIES):
            to_positive = plain_similarity(query_local[number], positive_local[number])
            to_negative = plain_similarity(query_local[number], negatives_local[number, negative])
            total = total + (to_negative - to_positive).clamp(min=0)
    return total / (QUERIES * NEGATIVES)


def own_losses(*parts: Tensor) -> Tensor:
    """Both losses by this package."""
    return SelaLoss()(*parts).loss


LOSSES = {"plain": plain_losses, "ours": own_losses}


def losses_only(side: str, backbone: str) -> Callable[[], None]:
    """Matching and both losses, forward and backward, on features that are given."""
    generator = torch.Generator().manual_seed(0)
    shapes = ((QUERIES,), (QUERIES,), (QUERIES, NEGATIVES))
    parts = [
        F.normalize(torch.randn(*shape, *size, generator=generator), dim=-1).requires_grad_()
        for size in ((384,), (GRID, GRID, CHANNELS))
        for shape in shapes
    ]
    for part in parts:
        part.grad = torch.zeros_like(part)

    def run() -> None:
        for part in parts:
            part.grad = None  # the new ones take the place of those held before
        LOSSES[side](*parts).backward()

    return run


def make_model(side: str, backbone: str) -> PeftModel:
    """Adapt the backbone, for the plain side with attention as the official code computes it."""
    base = load_backbone(backbone)
    if side == "plain":
        base.set_attn_implementation("eager")
    return adapt_freshly(base, SelaConfig(), seed=0)


def random_images() -> Tensor:
    """Give the images of a step."""
    return torch.randn(IMAGES, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(0))


def as_triplets(of_images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Tell queries, positives and negatives apart."""
    query, positive, negatives = of_images.unflatten(0, (QUERIES, 2 + NEGATIVES)).split((1, 1, NEGATIVES), dim=1)
    return query[:, 0], positive[:, 0], negatives


def whole_step(side: str, backbone: str) -> Callable[[], None]:
    """Describe 16 images, compute the losses, go back through the network and update the weights."""
    model = make_model(side, backbone).train()
    if side == "ours, gradient checkpointing":
        model.get_base_model().gradient_checkpointing_enable({"use_reentrant": False})
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    for parameter in trained:
        parameter.grad = torch.zeros_like(parameter)
    optimiser = torch.optim.Adam(trained, lr=1e-5)
    images = random_images()
    losses = LOSSES["plain" if side == "plain" else "ours"]

    def run() -> None:
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=side == "ours, bf16 autocast"):
            output = model(pixel_values=images)
            parts = (*as_triplets(output.global_descriptors), *as_triplets(output.local_features))
            loss = losses(*parts)
        optimiser.zero_grad(set_to_none=False)
        loss.backward()
        optimiser.step()

    return run


def mining(side: str, backbone: str) -> Callable[[], None]:
    """Describe 64 images for mining and keep what the procedure keeps."""
    model = make_model(side, backbone).eval()
    images = random_images()
    kept: list[Any] = []

    def describe() -> None:
        output = model(pixel_values=images)
        kept.append(output.global_descriptors.numpy().copy())
        if side == "plain":
            kept.append(output.local_features.numpy().copy())

    def run() -> None:
        kept.clear()
        with (
            torch.inference_mode(),
            torch.autocast("cpu", dtype=torch.bfloat16, enabled=side == "ours, bf16 autocast"),
            nullcontext() if side == "plain" else global_descriptors_only(model),
            nullcontext() if side == "plain" else packed_weights(model),  # each run pays for packing
        ):
            for _ in range(4):
                describe()

    return run


WORK: dict[str, tuple[Callable[..., Callable[[], None]], tuple[str, ...]]] = {
    "matching and losses": (losses_only, ("ours",)),
    "whole step": (whole_step, ("ours", "ours, bf16 autocast", "ours, gradient checkpointing")),
    "mining 64 images": (mining, ("ours", "ours, bf16 autocast")),
}


def main() -> None:
    """Measure everything and write it down."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbone", required=True)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--json")
    arguments = parser.parse_args()
    report: dict[str, Any] = {"work": {}, **environment(), "repeats": arguments.repeats, "images": IMAGES}
    for name in WORK:
        make, sides = WORK[name]
        rows = compare_sides(make, ("plain", *sides), arguments.repeats, arguments.backbone)
        report["work"][name] = rows
        for side, row in rows.items():
            print(
                f"{name:<20} {side:<30} {row['median_s']:7.3f} s  {row['times_faster']:5.2f} times faster "
                f" {row['extra_memory_bytes'] / 1e6:8.1f} MB  {row['memory_share']:6.3f} of plain",
                flush=True,
            )
    global_bytes, local_bytes = 384 * 4, GRID * GRID * CHANNELS * 4
    report["mining_bytes_per_image"] = {"plain": global_bytes + local_bytes, "ours": global_bytes}
    print(f"mining memory per cached image: {(global_bytes + local_bytes) / global_bytes:.0f} times less")
    write_report(arguments.json, report)


if __name__ == "__main__":
    main()
