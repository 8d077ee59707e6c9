"""Models in and out: loading by name, and official SelaVPR checkpoints both ways."""

from typing import TYPE_CHECKING

import lazy_loader as _lazy_loader

if TYPE_CHECKING:
    from selavpr_peft.hub.loading import load_adapted_model, load_backbone
    from selavpr_peft.hub.official_checkpoint import convert_official_checkpoint, export_official_checkpoint

__all__ = ["convert_official_checkpoint", "export_official_checkpoint", "load_adapted_model", "load_backbone"]

__getattr__, __dir__, _ = _lazy_loader.attach(
    __name__,
    submod_attrs={
        "loading": ["load_adapted_model", "load_backbone"],
        "official_checkpoint": ["convert_official_checkpoint", "export_official_checkpoint"],
    },
)
