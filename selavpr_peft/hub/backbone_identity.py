"""Which backbone an adapter was trained on: recorded with it by a digest of the weights, and checked on loading."""

import logging

import torch
from torch import nn

from selavpr_peft.errors import BackboneMismatchError
from selavpr_peft.registration import PREFIX
from selavpr_peft.retrieval.fingerprint import backbone_fingerprint
from selavpr_peft.tuner.config import SelaConfig

logger = logging.getLogger(__name__)


def identify_backbone(model: nn.Module) -> str | None:
    """Name the weights of a backbone as `TYPE:DIGEST`.

    Args:
        model: A backbone, with or without SelaVPR adapters.

    Returns:
        None for weights that are not plain numbers of one type, such as quantised ones.
    """
    dtype = backbone_dtype(model)
    return None if dtype is None else f"{str(dtype).removeprefix('torch.')}:{backbone_fingerprint(model)}"


def check_backbone(backbone: nn.Module, config: SelaConfig, name: str) -> None:
    """Raise if a backbone has other weights than the one an adapter was trained on.

    Weights in float32 are rounded to the type that was recorded before they are compared. Nothing is compared where
    nothing was recorded, or where the weights at hand are coarser than the recorded ones.

    Args:
        backbone: The backbone at hand.
        config: Settings of the adapter.
        name: What a message calls the backbone.

    Raises:
        BackboneMismatchError: If the weights differ.
    """
    if config.backbone_fingerprint is None:
        return
    type_name, _, digest = config.backbone_fingerprint.partition(":")
    recorded, held = getattr(torch, type_name, None), backbone_dtype(backbone)
    if held is None or held not in {recorded, torch.float32}:
        logger.warning(
            "Whether %s is the adapter's backbone cannot be told from weights in %s.", name, held or "parts"
        )
        return
    if backbone_fingerprint(backbone, recorded) != digest:
        base = config.base_model_name_or_path
        raise BackboneMismatchError(
            f"The backbone {name} has other weights than the one the adapter was trained on"
            f"{f' ({base})' if base else ''}: expected digest {digest}. Load that backbone, or train an adapter on"
            " this one."
        )


def backbone_dtype(model: nn.Module) -> torch.dtype | None:
    """Give the type of a backbone's weights; None if they are not plain floating-point numbers of one type.

    Args:
        model: A backbone, with or without SelaVPR adapters.
    """
    frozen = [tensor for name, tensor in model.named_parameters() if f".{PREFIX}" not in name]
    dtypes = {tensor.dtype for tensor in frozen}
    is_plain = all(type(tensor.data) is torch.Tensor for tensor in frozen)
    return dtypes.pop() if is_plain and len(dtypes) == 1 and frozen[0].is_floating_point() else None
