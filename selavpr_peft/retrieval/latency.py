"""How long describing, searching and re-ranking one photograph takes on this machine."""

import resource
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from peft import PeftModel
from PIL import Image

from selavpr_peft.matching import count_mutual_matches, quantize_local_features, query_dtype
from selavpr_peft.modeling.preprocessing import Preprocessing
from selavpr_peft.retrieval.descriptor_index import DescriptorIndex, choose_kind
from selavpr_peft.retrieval.encoding import describe

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
class Measurements:
    """What one photograph and one place cost.

    Args:
        latencies: Seconds of every stage.
        descriptor_bytes: Size of a place's global descriptor.
        local_feature_bytes: Size of its local features in the form that was chosen; 0 without a local head.
        peak_memory_bytes: Most memory that this process has held.
    """

    latencies: list[Latency]
    descriptor_bytes: int
    local_feature_bytes: int
    peak_memory_bytes: int


@torch.inference_mode()
def measure_latencies(
    model: PeftModel,
    *,
    num_places: int = 1000,
    rerank_num: int = 100,
    local_dtype: str = "float16",
    repeats: int = 20,
    seed: int = 0,
) -> Measurements:
    """Time every stage on a picture of noise; only sizes matter to the time.

    Args:
        model: A model with a SelaVPR adapter, in evaluation mode.
        num_places: Places in the index that is searched.
        rerank_num: Candidates that are re-ranked.
        local_dtype: Form of the local features, one of `matching.LOCAL_DTYPES`.
        repeats: How often every stage is timed, after one run that is not.
        seed: Determines the noise.
    """
    config = model.active_peft_config
    prepare = Preprocessing.of(config)
    rng = np.random.default_rng(seed)
    width, height = PICTURE_SIZE_PX
    picture = Image.fromarray(rng.integers(0, 256, size=(height, width, 3), dtype=np.uint8))

    def extract() -> tuple[torch.Tensor, torch.Tensor | None]:
        return describe(model, prepare(picture)[None])

    descriptor, features = extract()
    places = rng.normal(size=(num_places, descriptor.shape[1])).astype(np.float32)
    places /= np.linalg.norm(places, axis=1, keepdims=True)
    kind = choose_kind(*places.shape)
    index = DescriptorIndex.build(places, kind)
    query = descriptor.numpy()
    latencies = [
        _time(
            "extraction",
            f"a picture of {width}x{height} at {prepare.image_size[0]}x{prepare.image_size[1]}",
            extract,
            repeats,
        ),
        _time("search", f"{num_places} places, {kind}", lambda: index.search(query, rerank_num), repeats),
    ]
    local_bytes = 0
    if features is not None:
        asked = quantize_local_features(features[0], query_dtype(local_dtype))
        candidates = quantize_local_features(features, local_dtype)
        local_bytes = candidates.numel() * candidates.element_size()
        candidates = candidates.expand(rerank_num, *candidates.shape[1:])
        what = f"{rerank_num} candidates, {local_dtype}"
        latencies.append(_time("re-ranking", what, lambda: count_mutual_matches(asked, candidates), repeats))
    return Measurements(
        latencies=latencies,
        descriptor_bytes=4 * places.shape[1],
        local_feature_bytes=local_bytes,
        peak_memory_bytes=_peak_memory_bytes(),
    )


def _time(stage: str, what: str, work: Callable[[], object], repeats: int) -> Latency:
    work()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return Latency(stage=stage, what=what, p50_s=statistics.median(times), p95_s=float(np.percentile(times, 95)))


def _peak_memory_bytes() -> int:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024  # the one system that counts in bytes
