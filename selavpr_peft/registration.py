"""Enter the method "SELA" in PEFT's tables: the only file that touches PEFT's globals.

PEFT has no plug-in mechanism: `register_peft_method` accepts only members of its enum `PeftType`
(https://github.com/huggingface/peft/issues/2273). So the enum gets one more member, and then PEFT's own function
does the rest. `arm()` costs nothing: the work waits until somebody imports peft.
"""

from enum import EnumMeta
from types import ModuleType
from typing import Any, cast

import wrapt

PEFT_TYPE = "SELA"
PREFIX = "sela_"
"""What the names of an adapter's parameters begin with, by which PEFT tells them from the backbone's."""


def arm() -> None:
    """Register SELA as soon as peft has been imported, at once if it already is."""
    wrapt.when_imported("peft")(_register)


def _register(peft: ModuleType) -> None:
    """Add SELA to `PeftType` and to PEFT's tables; a second call changes nothing."""
    from peft.mapping import PEFT_TYPE_TO_TUNER_MAPPING
    from peft.utils import PeftType, register_peft_method

    if PEFT_TYPE in PEFT_TYPE_TO_TUNER_MAPPING:
        return
    if PEFT_TYPE not in PeftType.__members__:
        _add_string_member(PeftType, PEFT_TYPE)

    from selavpr_peft.tuner.config import SelaConfig
    from selavpr_peft.tuner.model import SelaModel

    register_peft_method(name=PEFT_TYPE.lower(), config_cls=SelaConfig, model_cls=SelaModel, prefix=PREFIX)


def _add_string_member(enum: EnumMeta, name: str) -> None:
    """Append a member whose value equals its name to a finished `str` enum, as the class body would have done.

    The attribute is set through `type` first: `EnumMeta.__setattr__` protects names that are already members.
    """
    member: Any = str.__new__(cast("type[str]", enum), name)
    member._name_ = name
    member._value_ = name
    member.__objclass__ = enum
    member._sort_order_ = len(enum._member_names_)
    type.__setattr__(enum, name, member)
    enum._member_names_.append(name)
    enum._member_map_[name] = member
    enum._value2member_map_[name] = member
