"""Tell models apart by their weights, so that descriptions by different ones are never compared."""

import hashlib

import torch
from peft import PeftModel, get_peft_model_state_dict
from torch import Tensor


def adapter_fingerprint(model: PeftModel) -> str:
    """Give a digest of the active adapter's weights.

    Args:
        model: A model with a SelaVPR adapter.
    """
    return _digest(get_peft_model_state_dict(model, adapter_name=model.active_adapter))


def backbone_fingerprint(model: PeftModel) -> str:
    """Give a digest of the frozen backbone's weights; the same whatever adapters it carries.

    Args:
        model: A model with a SelaVPR adapter.
    """
    adapter_parameters = {id(p) for name, p in model.named_parameters() if _is_adapter(name)}
    frozen = {name: p for name, p in model.named_parameters() if id(p) not in adapter_parameters}
    return _digest({name.replace(".base_layer", ""): tensor for name, tensor in frozen.items()})


def _is_adapter(name: str) -> bool:
    return any(part.startswith(("sela_", "vpr_head")) for part in name.split("."))


def _digest(tensors: dict[str, Tensor]) -> str:
    digest = hashlib.blake2b(digest_size=16)
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        digest.update(tensor.flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()
