"""What must be known of a model to repeat an evaluation."""

from typing import Any

from peft import PeftModel

from selavpr_peft.retrieval.fingerprint import adapter_fingerprint

ADAPTER_DIGEST = "adapter_fingerprint"
"""In the protocol of an evaluation report: the digest of the weights that were evaluated."""


def model_protocol(model: PeftModel, backbone: str | None) -> dict[str, Any]:
    """Name the weights that are evaluated and how images are brought before them.

    Args:
        model: A model with a SelaVPR adapter.
        backbone: What its backbone is called; None where it has no name.

    Returns:
        Plain values for the protocol of a report.
    """
    config = model.active_peft_config
    return {
        "backbone": backbone,
        ADAPTER_DIGEST: adapter_fingerprint(model),
        "image_size": list(config.image_size),
        "resize": config.resize,
        "position_interpolation": config.position_interpolation,
    }
