"""What describing, searching and re-ranking one photograph takes on this machine: time, bytes and memory."""

import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from peft import PeftModel
from PIL import Image
from torch import Tensor

from selavpr_peft.matching import count_mutual_matches, database_form, grid_within, query_form
from selavpr_peft.modeling.preprocessing import Preprocessing
from selavpr_peft.retrieval.descriptor_index import DescriptorIndex
from selavpr_peft.retrieval.encoding import describe
from selavpr_peft.retrieval.index_kinds import choose_kind

PICTURE_SIZE_PX = (640, 480)


@dataclass(frozen=True, kw_only=True)
class Latency:
    """Seconds that a stage takes for one photograph.

    Args:
        stage: "extraction", "search" or "re-ranking".
        what: What exactly was done.
        p50_s: Median.
        p95_s: 95th percentile.
    """

    stage: str
    what: str
    p50_s: float
    p95_s: float


@dataclass(frozen=True, kw_only=True)
class Size:
    """Bytes that a database keeps of one image.

    Args:
        part: "descriptor", "local features" or "image" for both.
        what: What exactly is kept.
        num_bytes: Bytes in the form that was chosen.
        float32_bytes: Bytes in float32 with all locations.
    """

    part: str
    what: str
    num_bytes: int
    float32_bytes: int


@dataclass(frozen=True, kw_only=True)
class Measurements:
    """What one photograph and one database image cost.

    Args:
        latencies: Seconds of every stage.
        sizes: Bytes of every part of a database image, and last of the whole.
        peak_memory_bytes: Most memory that this process has held.
    """

    latencies: list[Latency]
    sizes: list[Size]
    peak_memory_bytes: int


@torch.inference_mode()
def measure_latencies(
    model: PeftModel,
    *,
    num_places: int = 1000,
    rerank_num: int = 100,
    local_dtype: str = "float16",
    keep_locations: int | None = None,
    repeats: int = 20,
    seed: int = 0,
) -> Measurements:
    """Time every stage on a picture of noise; only sizes matter to the time.

    Args:
        model: A model with a SelaVPR adapter, in evaluation mode.
        num_places: Places in the index that is searched.
        rerank_num: Candidates that are re-ranked.
        local_dtype: Form of the local features, one of `matching.LOCAL_DTYPES`.
        keep_locations: Local features kept of every database image, at most; None for all.
        repeats: How often every stage is timed, after one run that is not.
        seed: Determines the noise.
    """
    config = model.active_peft_config
    prepare = Preprocessing.of(config)
    rng = np.random.default_rng(seed)
    width, height = PICTURE_SIZE_PX
    picture = Image.fromarray(rng.integers(0, 256, size=(height, width, 3), dtype=np.uint8))

    def extract() -> tuple[Tensor, Tensor | None]:
        return describe(model, prepare(picture)[None])

    descriptor, features = extract()
    index = _index_of_noise(num_places, descriptor.shape[1], rng)
    query = descriptor.numpy()
    latencies = [
        _time(
            "extraction",
            f"a picture of {width}x{height} at {_by(prepare.image_size)}",
            extract,
            repeats,
        ),
        _time("search", f"{num_places} places, {index.kind}", lambda: index.search(query, rerank_num), repeats),
    ]
    sizes = [_size("descriptor", f"{query.size} channels, float32", query.nbytes, query.nbytes)]
    if features is not None:
        map_size = (features.shape[1], features.shape[2])
        grid = None if keep_locations is None else grid_within(map_size, keep_locations)
        asked, kept = query_form(features[0], local_dtype, grid), database_form(features, local_dtype, grid)
        candidates = kept.expand(rerank_num, *kept.shape[1:])
        what = f"{rerank_num} candidates, {local_dtype}"
        latencies.append(_time("re-ranking", what, lambda: count_mutual_matches(asked, candidates), repeats))
        locations = _by(map_size) if grid is None else f"{_by(grid)} of {_by(map_size)}"
        sizes.append(_size("local features", f"{locations} locations, {local_dtype}", kept.nbytes, features.nbytes))
    in_all = (sum(size.num_bytes for size in sizes), sum(size.float32_bytes for size in sizes))
    return Measurements(
        latencies=latencies, sizes=[*sizes, _size("image", "in all", *in_all)], peak_memory_bytes=peak_memory_bytes()
    )


def _index_of_noise(num_places: int, num_channels: int, rng: np.random.Generator) -> DescriptorIndex:
    places = rng.standard_normal((num_places, num_channels), dtype=np.float32)
    places /= np.linalg.norm(places, axis=1, keepdims=True)
    return DescriptorIndex.build(places, choose_kind(*places.shape))


def _time(stage: str, what: str, work: Callable[[], object], repeats: int) -> Latency:
    work()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return Latency(stage=stage, what=what, p50_s=statistics.median(times), p95_s=float(np.percentile(times, 95)))


def _size(part: str, what: str, num_bytes: int, float32_bytes: int) -> Size:
    return Size(part=part, what=what, num_bytes=num_bytes, float32_bytes=float32_bytes)


def _by(size: Sequence[int]) -> str:
    height, width = size
    return f"{height}x{width}"


def peak_memory_bytes() -> int:
    """Give the most memory that this process has held."""
    if sys.platform == "win32":
        import psutil

        return int(psutil.Process().memory_info().peak_wset)
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024  # the one Unix that counts in bytes
