"""Tell models apart by their weights, so that descriptions by different ones are never compared."""

import hashlib
from collections.abc import Iterator

import torch
from peft import PeftModel
from torch import Tensor


def adapter_fingerprint(model: PeftModel) -> str:
    """Give a digest of the active adapter's weights; its name does not matter.

    Args:
        model: A model with a SelaVPR adapter.
    """
    return _digest(
        {short: tensor for short, adapter, tensor in _adapter_tensors(model) if adapter == model.active_adapter}
    )


def backbone_fingerprint(model: PeftModel) -> str:
    """Give a digest of the frozen backbone's weights; the same whatever adapters it carries.

    Args:
        model: A model with a SelaVPR adapter.
    """
    of_adapters = {id(tensor) for _, _, tensor in _adapter_tensors(model)}
    frozen = {name: tensor for name, tensor in model.named_parameters() if id(tensor) not in of_adapters}
    return _digest({name.replace(".base_layer", ""): tensor for name, tensor in frozen.items()})


def _adapter_tensors(model: PeftModel) -> Iterator[tuple[str, str, Tensor]]:
    """Go through the parameters of all adapters: name without that of the adapter, name of the adapter, parameter.

    The module `sela_...` holds one entry per adapter, by its name.
    """
    for name, tensor in model.named_parameters():
        parts = name.split(".")
        module = next((number for number, part in enumerate(parts) if part.startswith("sela_")), None)
        if module is not None:
            yield ".".join(parts[: module + 1] + parts[module + 2 :]), parts[module + 1], tensor


def _digest(tensors: dict[str, Tensor]) -> str:
    digest = hashlib.blake2b(digest_size=16)
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        digest.update(tensor.flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()
