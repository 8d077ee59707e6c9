"""Models in and out: loading by name, publishing with a model card, and official SelaVPR checkpoints both ways."""

from typing import TYPE_CHECKING

import lazy_loader as _lazy_loader

if TYPE_CHECKING:
    from selavpr_peft.hub.calibration_file import save_calibration
    from selavpr_peft.hub.descriptor_pipeline import DescriptorPipeline, pipeline
    from selavpr_peft.hub.loading import add_adapter, load, load_adapted_model, load_backbone
    from selavpr_peft.hub.official_checkpoint import convert_official_checkpoint, export_official_checkpoint
    from selavpr_peft.hub.pushing import push_adapter
    from selavpr_peft.hub.saving import save_adapter

__all__ = [
    "DescriptorPipeline",
    "add_adapter",
    "convert_official_checkpoint",
    "export_official_checkpoint",
    "load",
    "load_adapted_model",
    "load_backbone",
    "pipeline",
    "push_adapter",
    "save_adapter",
    "save_calibration",
]

__getattr__, __dir__, _ = _lazy_loader.attach(
    __name__,
    submod_attrs={
        "loading": ["add_adapter", "load", "load_adapted_model", "load_backbone"],
        "official_checkpoint": ["convert_official_checkpoint", "export_official_checkpoint"],
        "descriptor_pipeline": ["DescriptorPipeline", "pipeline"],
        "pushing": ["push_adapter"],
        "saving": ["save_adapter"],
        "calibration_file": ["save_calibration"],
    },
)
