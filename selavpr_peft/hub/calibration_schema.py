"""What stands in `calibration.json`: every key, type and range, because the file may come from a stranger."""

import math
import re
import reprlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, get_args

from selavpr_peft.modeling.preprocessing import MODES
from selavpr_peft.retrieval.place_database import STORED_DTYPES
from selavpr_peft.tuner.config import PositionInterpolation

LARGEST = 10**12
"""Of any number; what is larger is a mistake, and some are too large to be printed."""
LONGEST = 1000
"""Characters of any text."""


@dataclass(frozen=True)
class Kind:
    """A plain value.

    Args:
        words: What it must be, as a message says it.
        is_met: Whether a value is that.
    """

    words: str
    is_met: Callable[[Any], bool]


@dataclass(frozen=True)
class OrNothing:
    """What may be None instead.

    Args:
        expected: What it must be otherwise.
    """

    expected: "Kind | Mapping[str, Any]"


def one_of(*choices: str) -> Kind:
    """Describe a word out of a few.

    Args:
        *choices: The words.
    """
    return Kind(f"one of {', '.join(map(repr, choices))}", lambda value: isinstance(value, str) and value in choices)


def whole(low: int) -> Kind:
    """Describe a whole number.

    Args:
        low: The lowest.
    """
    return Kind(f"a whole number from {low} to {LARGEST}", lambda value: _is_whole(value) and low <= value <= LARGEST)


def number(words: str, low: float | int, high: float | int) -> Kind:
    """Describe a number; NaN and infinity are none.

    Args:
        words: What it must be.
        low: The lowest.
        high: The highest.
    """
    return Kind(words, lambda value: (_is_whole(value) or isinstance(value, float)) and low <= value <= high)


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


TEXT = Kind(
    f"printable text of 1 to {LONGEST} characters",
    lambda value: isinstance(value, str) and 0 < len(value) <= LONGEST and value.isprintable(),
)
DIGEST = Kind(
    "a digest in hexadecimal digits",
    lambda value: isinstance(value, str) and re.fullmatch("[0-9a-f]{1,64}", value) is not None,
)
SIZE = Kind(
    "a height and a width, two whole numbers from 1",
    lambda value: isinstance(value, list) and len(value) == 2 and all(map(whole(1).is_met, value)),
)
SHARE = number("a number from 0 to 1", 0, 1)

SCHEMA: Mapping[str, Any] = {
    "adapter": DIGEST,
    "form": {
        "backbone": DIGEST,
        "position_interpolation": one_of(*get_args(PositionInterpolation)),
        "preprocessing": {"image_size": SIZE, "resize": one_of(*MODES)},
        "local_dtype": one_of(*STORED_DTYPES),
        "kept_locations": OrNothing({"map_size": SIZE, "grid": SIZE}),
        "rerank_num": whole(0),
    },
    "intercept": number(f"a number from -{LARGEST} to {LARGEST}", -LARGEST, LARGEST),
    "slope": number(f"a positive number up to {LARGEST}", math.ulp(0.0), LARGEST),
    "fitted_on": {
        "data": OrNothing(TEXT),
        "num_queries": whole(1),
        "num_right": whole(0),
        "num_database": whole(1),
        "positive_radius": number(f"a number from 0 to {LARGEST}", 0, LARGEST),
        "radius_unit": one_of("m", "frames"),
    },
    "quality": {
        "num_folds": whole(2),
        "brier_score": SHARE,
        "brier_score_of_share": SHARE,
        "expected_calibration_error": SHARE,
        "precision": SHARE,
        "threshold": OrNothing(
            {"probability": SHARE, "num_answered": whole(1), "num_right": whole(0), "precision_at_least": SHARE}
        ),
    },
}
"""The keys of the file but its version; nested ones are those of `Calibration`'s mappings."""


def check_content(content: Any) -> None:
    """Raise unless a calibration has just the keys of SCHEMA, with values that can be.

    Args:
        content: The fields of a `Calibration` as plain values.

    Raises:
        ValueError: Saying where, what was expected and what arrived.
    """
    _check("it", content, SCHEMA)
    fitted_on, threshold = content["fitted_on"], content["quality"]["threshold"]
    _check_at_most("fitted_on.num_right", fitted_on["num_right"], fitted_on["num_queries"])
    if threshold is not None:
        _check_at_most("quality.threshold.num_answered", threshold["num_answered"], fitted_on["num_queries"])
        _check_at_most("quality.threshold.num_right", threshold["num_right"], threshold["num_answered"])


def _check(name: str, value: Any, expected: Any) -> None:
    if isinstance(expected, OrNothing):
        if value is not None:
            _check(name, value, expected.expected)
    elif isinstance(expected, Kind):
        if not expected.is_met(value):
            raise ValueError(f"{name} must be {expected.words}, got {reprlib.repr(value)}")
    elif not isinstance(value, dict) or set(value) != set(expected):
        found = reprlib.repr(list(value) if isinstance(value, dict) else value)
        raise ValueError(f"{name} must have the keys {', '.join(expected)}, got {found}")
    else:
        for key, kind in expected.items():
            _check(key if name == "it" else f"{name}.{key}", value[key], kind)


def _check_at_most(name: str, value: int, highest: int) -> None:
    if value > highest:
        raise ValueError(f"{name} must be at most {highest}, as many as there are, got {value}")
