"""The PEFT method: its configuration, its layers, and which module of a backbone gets what."""

# peft comes first: its import triggers the registration, which must find none of this package's modules half loaded.
import peft  # noqa: F401

from selavpr_peft.tuner.config import SelaConfig
from selavpr_peft.tuner.model import SelaModel

__all__ = ["SelaConfig", "SelaModel"]
