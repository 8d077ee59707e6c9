"""Tell models apart by their weights, so that descriptions by different ones are never compared."""

import hashlib
from collections.abc import Iterator, Mapping

import torch
from peft import PeftModel
from torch import Tensor, nn

from selavpr_peft.registration import PREFIX
from selavpr_peft.tuner.state_names import canonical_name

MASK_TOKEN = "mask_token"
"""Backbones have one, never use it, and not every file holds it."""
FUSED_GATE = "mlp.weights_in."
"""transformers 4 keeps the two input projections of SwiGLU in one tensor, transformers 5 in two."""


def adapter_fingerprint(model: PeftModel, adapter_name: str | None = None) -> str:
    """Give a digest of an adapter's weights; its name does not matter.

    Args:
        model: A model with a SelaVPR adapter.
        adapter_name: Which one; None for the active one.
    """
    wanted = model.active_adapter if adapter_name is None else adapter_name
    return state_fingerprint({short: tensor for short, name, tensor in _adapter_tensors(model) if name == wanted})


def state_fingerprint(state: Mapping[str, Tensor]) -> str:
    """Give the digest of an adapter from its tensors as they are in a file.

    Args:
        state: Tensors by name, without the name of the adapter.
    """
    digest = hashlib.blake2b(digest_size=16)
    tensors = {canonical_name(name): tensor for name, tensor in state.items()}
    for name in sorted(tensors):
        digest.update(name.encode())
        digest.update(_digest(tensors[name]))
    return digest.hexdigest()


def backbone_fingerprint(model: nn.Module, dtype: torch.dtype | None = None) -> str:
    """Give a digest of the frozen backbone's weights, whatever adapters it carries.

    Names do not count, because versions of transformers name the parts differently; nor does the mask token.

    Args:
        model: A backbone, with or without SelaVPR adapters.
        dtype: Type the weights are brought to before; None for the one that they have.
    """
    of_adapters = {id(tensor) for _, _, tensor in _adapter_tensors(model)}
    frozen = {name: tensor for name, tensor in model.named_parameters() if id(tensor) not in of_adapters}
    parts = [
        _digest(part if dtype is None else part.to(dtype))
        for name, tensor in frozen.items()
        if not name.endswith(MASK_TOKEN)
        for part in (tensor.chunk(2) if FUSED_GATE in name else (tensor,))
    ]
    return hashlib.blake2b(b"".join(sorted(parts)), digest_size=16).hexdigest()


def _adapter_tensors(model: nn.Module) -> Iterator[tuple[str, str, Tensor]]:
    """Go through the parameters of all adapters: name without that of the adapter, name of the adapter, parameter.

    The module `sela_...` holds one entry per adapter, by its name.
    """
    for name, tensor in model.named_parameters():
        parts = name.split(".")
        module = next((number for number, part in enumerate(parts) if part.startswith(PREFIX)), None)
        if module is not None:
            yield ".".join(parts[: module + 1] + parts[module + 2 :]), parts[module + 1], tensor


def _digest(tensor: Tensor) -> bytes:
    tensor = tensor.detach().cpu().contiguous()
    digest = hashlib.blake2b(f"{tuple(tensor.shape)} {tensor.dtype}".encode(), digest_size=16)
    digest.update(tensor.flatten().view(torch.uint8).numpy().data)
    return digest.digest()
