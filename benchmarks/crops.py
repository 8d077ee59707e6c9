"""Descriptors by the million that lie as those of real crops do: made from a seed and a few measured numbers.

    python benchmarks/crops.py --data DIR --backbone DIR --adapter DIR/seed-1 --json benchmarks/results/crops.json \
        --figure docs/images/crop-descriptors.png

Ten random crops of every third photograph of three walks are described. Kept are the mean descriptor, the spectrum of
the covariance between photographs and of that within them, how unequally far crops lie from the centre of their
photograph, and how similar a crop's neighbours are. `make_descriptors` draws a place from the first covariance and its
crops from the second, in 1024 channels: the spectra are continued by their own power law, and turned by a random
rotation, so that no channel is special. The figure and the printed table compare spectrum and neighbours of as many
made descriptors as were measured.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from measuring import environment, write_report
from tqdm.auto import tqdm

RESULTS = Path(__file__).parent / "results" / "crops.json"
CROPS_PER_PHOTO = 10
EVERY = 3
"""Every third photograph of a walk is cropped."""

LOST_AREA = 0.7
"""A crop keeps from 30 % of a photograph to all of it."""

NUM_CHANNELS = 1024
NEIGHBOURS = (1, 5, 10, 50, 100)
"""Ranks whose similarity is compared."""


def continued(spectrum: np.ndarray, num_channels: int) -> np.ndarray:
    """Continue a spectrum by the power law of its second half."""
    ranks = np.arange(1, len(spectrum) + 1)
    half = slice(len(spectrum) // 4, 3 * len(spectrum) // 4)
    slope, level = np.polyfit(np.log(ranks[half]), np.log(spectrum[half]), 1)
    more = np.exp(level + slope * np.log(np.arange(len(spectrum) + 1, num_channels + 1)))
    return np.concatenate([spectrum, np.minimum(more, spectrum[-1])])[:num_channels]


class CropDescriptors:
    """Draws descriptors of places and of crops of them."""

    def __init__(self, statistics: dict[str, Any], num_channels: int = NUM_CHANNELS, seed: int = 0) -> None:
        """Take what was measured."""
        self.generator = np.random.default_rng(seed)
        self.between, self.within = (
            np.sqrt(continued(np.array(statistics[name]), num_channels)).astype(np.float32)
            for name in ("spectrum_between", "spectrum_within")
        )
        self.distances = np.array(statistics["distance_quantiles"])
        basis = self.generator.normal(size=(num_channels, num_channels)).astype(np.float32)
        self.rotation = np.linalg.qr(basis)[0]
        self.mean = np.zeros(num_channels, np.float32)
        self.mean[: len(statistics["mean"])] = statistics["mean"]

    def places(self, number: int) -> np.ndarray:
        """Draw places (P, D)."""
        return self.mean + self._normal(number) * self.between

    def crops(self, places: np.ndarray, per_place: int = CROPS_PER_PHOTO) -> np.ndarray:
        """Draw crops of places (P * C, D), those of a place together: unit vectors."""
        crops = np.repeat(places, per_place, axis=0)
        crops += self._normal(len(crops)) * self.within * self._distances(len(crops))
        crops = crops @ self.rotation
        return crops / np.linalg.norm(crops, axis=1, keepdims=True)

    def _distances(self, number: int) -> np.ndarray:
        """Draw how far crops lie from their centre, 1 in the quadratic mean, by inverting the measured quantiles."""
        shares = np.linspace(0, 1, len(self.distances))
        drawn = np.interp(self.generator.random((number, 1)), shares, self.distances)
        typical = np.sqrt((np.interp(np.linspace(0, 1, 9999), shares, self.distances) ** 2).mean())
        return (drawn / typical).astype(np.float32)

    def _normal(self, number: int) -> np.ndarray:
        return self.generator.standard_normal((number, len(self.mean)), dtype=np.float32)


def make_descriptors(number: int, num_queries: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Draw database descriptors (N, D) and those of further crops of some of the places (Q, D)."""
    source = CropDescriptors(json.loads(RESULTS.read_text()), seed=seed)
    num_places = number // CROPS_PER_PHOTO
    database = np.empty((number, NUM_CHANNELS), np.float32)
    queries = []
    for first in range(0, num_places, 1000):
        places = source.places(min(1000, num_places - first))
        rows = slice(first * CROPS_PER_PHOTO, (first + len(places)) * CROPS_PER_PHOTO)
        database[rows] = source.crops(places)
        queries.append(source.crops(places[:: max(1, num_places // num_queries)], 1))
    return database, np.concatenate(queries)[:num_queries]


def gaussian_descriptors(number: int, num_queries: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Draw unit vectors in all directions alike, which have no near neighbours at all: the worst case."""
    rows = np.random.default_rng(seed).standard_normal((number + num_queries, NUM_CHANNELS), dtype=np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    return rows[:number], rows[number:]


def measure(descriptors: np.ndarray) -> dict[str, Any]:
    """Measure spectra and neighbours of crops (P * 10, D) that lie together by photograph."""
    mean = descriptors.mean(axis=0)
    of_photos = descriptors.reshape(-1, CROPS_PER_PHOTO, descriptors.shape[1])
    centres = of_photos.mean(axis=1)
    inside = (of_photos - centres[:, None]).reshape(descriptors.shape)
    distances = np.linalg.norm(inside, axis=1)
    within = inside.T @ inside / (len(descriptors) - len(centres))  # unbiased: every photograph has its own mean
    between = np.cov(centres.T) - within / CROPS_PER_PHOTO
    similarity = descriptors @ descriptors.T
    np.fill_diagonal(similarity, -1)
    nearest = -np.sort(-similarity, axis=1)[:, [rank - 1 for rank in NEIGHBOURS]]
    eigenvalues, vectors = np.linalg.eigh(np.cov(descriptors.T))
    turned = vectors[:, ::-1]
    return {
        "num_crops": len(descriptors),
        "mean": (mean @ turned).tolist(),
        "spectrum": eigenvalues[::-1].tolist(),
        "spectrum_between": _positive(np.diag(turned.T @ between @ turned)),
        "spectrum_within": _positive(np.diag(turned.T @ within @ turned)),
        "distance_quantiles": np.quantile(distances, np.linspace(0, 1, 21)).tolist(),
        "neighbour_similarity": {
            str(rank): np.quantile(nearest[:, number], (0.1, 0.5, 0.9)).tolist()
            for number, rank in enumerate(NEIGHBOURS)
        },
    }


def _positive(spectrum: np.ndarray) -> list[float]:
    return np.maximum(spectrum, 1e-9).tolist()


def describe_crops(arguments: argparse.Namespace) -> np.ndarray:
    """Describe the crops (P * 10, D), those of a photograph together."""
    from selavpr_peft.data.place_table import read_place_table
    from selavpr_peft.hub.loading import load_adapted_model
    from selavpr_peft.modeling.packed_linear import packed_weights
    from selavpr_peft.modeling.preprocessing import Preprocessing
    from selavpr_peft.retrieval.encoding import describe
    from selavpr_peft.training.augmentation import crop_at_random
    from selavpr_peft.tuner.head import global_descriptors_only

    generator = np.random.default_rng(0)
    model = load_adapted_model(arguments.backbone, arguments.adapter).eval()
    prepare = Preprocessing.of(model.active_peft_config)
    described = []
    with global_descriptors_only(model), packed_weights(model):
        for name in arguments.traverses.split(","):
            table = read_place_table(f"{arguments.data}:{name}")
            for image in tqdm(table.select(range(0, len(table), EVERY))["image"], desc=name, unit="photo"):
                crops = [crop_at_random(image.convert("RGB"), LOST_AREA, generator) for _ in range(CROPS_PER_PHOTO)]
                described.append(describe(model, torch.stack([prepare(part) for part in crops]))[0])
    return torch.cat(described).numpy()


def draw(measured: dict[str, Any], made: dict[str, Any], path: str) -> None:
    """Draw spectra and neighbours of measured and made descriptors."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.4), layout="constrained", dpi=110)
    left, right = figure.subplots(1, 2)
    for report, label, style in ((measured, "real crops", "-"), (made, "made", "--")):
        variance = np.cumsum(report["spectrum"])
        left.plot(np.arange(1, len(variance) + 1), variance / variance[-1], style, label=label)
        ranks = [int(rank) for rank in report["neighbour_similarity"]]
        low, median, high = np.array(list(report["neighbour_similarity"].values())).T
        (line,) = right.plot(ranks, median, style, marker="o", label=f"{label}, median and 10-90 %")
        right.fill_between(ranks, low, high, color=line.get_color(), alpha=0.15)
    left.set(xscale="log", xlabel="principal components", ylabel="share of the variance", ylim=(0, 1))
    right.set(xscale="log", xlabel="rank of the neighbour", ylabel="cosine similarity")
    for axes in (left, right):
        axes.legend(frameon=False)
        axes.grid(alpha=0.3)
    figure.savefig(path)


def main() -> None:
    """Measure real crops, write the numbers down and compare what is made from them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("--data", "--backbone", "--adapter", "--figure"):
        parser.add_argument(name, required=True)
    parser.add_argument("--traverses", default="day_right,night_right,day_left")
    parser.add_argument("--json", default=str(RESULTS))
    arguments = parser.parse_args()
    measured = measure(describe_crops(arguments))
    source = CropDescriptors(measured)
    made = measure(source.crops(source.places(measured["num_crops"] // CROPS_PER_PHOTO)))
    for rank in NEIGHBOURS:
        pair = (report["neighbour_similarity"][str(rank)] for report in (measured, made))
        print(f"neighbour {rank:>3}: measured {next(pair)}, made {next(pair)}")
    report = environment() | measured | {"made": {name: made[name] for name in ("spectrum", "neighbour_similarity")}}
    write_report(arguments.json, report, indent=None)  # long rows of numbers
    draw(measured, made, arguments.figure)


if __name__ == "__main__":
    main()
