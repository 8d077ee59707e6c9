"""Smaller forms of local features: what they cost in matches is measured in docs/performance.md.

A form is made once per image and compared with images in the same form by `count_mutual_matches`.
"""

import functools
import time

import torch
from jaxtyping import Float, Num
from torch import Tensor

from selavpr_peft.matching.mutual_neighbours import count_mutual_matches
from selavpr_peft.matching.packing import SIGNS_PER_BYTE, pack_signs

LOCAL_DTYPES = ("float32", "bfloat16", "float16", "int8", "binary")
"""Forms of local features: 4, 2, 2, 1 and 1/8 bytes per channel."""

FAITHFUL_DTYPES = ("float32", "int8")
"""Forms fast enough to be worth it that find the same places when the ten best are compared again in float32."""

INT8_LIMIT = 0.5
"""Components of unit vectors are cut at this size. All locations share one step, so that products are comparable."""


def quantize_local_features(features: Float[Tensor, "*maps C"], dtype: str) -> Num[Tensor, "*maps D"]:
    """Give local features in a smaller form.

    Args:
        features: Unit vectors, channels last.
        dtype: One of LOCAL_DTYPES. int8 rounds to steps of INT8_LIMIT / 127; binary keeps the signs as packed bits,
            most significant first, D = C / 8.

    Raises:
        ValueError: If there is no such form, the channels of binary features are not a multiple of 8, or a form of
            whole numbers would hide that a feature is NaN or infinite.
    """
    if dtype not in LOCAL_DTYPES:
        raise ValueError(f"dtype must be one of {', '.join(map(repr, LOCAL_DTYPES))}, got {dtype!r}.")
    if dtype in ("int8", "binary") and not features.isfinite().all():
        raise ValueError(
            f"Local features hold NaN or infinity, which {dtype} cannot express; check pixels and the model's weights."
        )
    if dtype == "binary":
        channels = features.shape[-1]
        if channels % SIGNS_PER_BYTE:
            raise ValueError(f"Binary local features need a multiple of 8 channels, got {channels}; use int8.")
        return pack_signs(features)
    if dtype == "int8":
        return (features * (127 / INT8_LIMIT)).round().clamp(-127, 127).to(torch.int8)
    form: Tensor = features.to(getattr(torch, dtype))
    return form


def query_dtype(dtype: str) -> str:
    """Name the form of a query that is compared with database images in a form.

    Signs of database images are compared with the query in int8, which is not stored and costs no more to compare:
    with the signs of the query alone more would be lost.

    Args:
        dtype: One of LOCAL_DTYPES.
    """
    return "int8" if dtype == "binary" else dtype


@functools.cache
def fastest_local_dtype() -> str:
    """Name the form of FAITHFUL_DTYPES that this machine compares fastest, measured once per process on a CPU.

    Processors without instructions for products of whole numbers compare float32 faster.
    """
    features = torch.nn.functional.normalize(torch.randn(2, 40, 40, 128), dim=-1)
    return min(FAITHFUL_DTYPES, key=lambda dtype: _seconds(quantize_local_features(features, dtype)))


def _seconds(features: Tensor) -> float:
    times = []
    for _ in range(4):
        start = time.perf_counter()
        count_mutual_matches(features[0], features[1:])
        times.append(time.perf_counter() - start)
    return min(times[1:])
