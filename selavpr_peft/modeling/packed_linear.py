"""Run linear layers on weights in the processor's own layout: the same network, a quarter faster on x86.

PyTorch multiplies float32 matrices on the CPU by MKL, with weights as they lie in memory. oneDNN, which it carries
too, uses the whole vector width of every x86 processor, wants weights reordered once, and applies GELU while it has
the product at hand. `torch.compile` calls the same operators, but needs a C++ compiler where the model runs.
"""

import platform
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from transformers.activations import GELUActivation


@contextmanager
def packed_weights(model: nn.Module) -> Iterator[None]:
    """Run the linear layers of a model on reordered copies of their weights for a while.

    Enter it around many images, inside autocast if that is used: the copies are made once, in the type the layers
    compute in, and take as much memory as the weights. Weights changed inside are not noticed. Layers in a type the
    processor has no products for, on another device or with a `forward` of somebody else stay as they are. Outputs
    differ from the unpacked ones as sums in another order do (about 1e-6 in float32).

    Args:
        model: Any module in evaluation mode; afterwards it is as it was, also after an error.

    Yields:
        Nothing; inside, the layers refuse to record gradients.
    """
    replaced: list[nn.Module] = []
    try:
        for linear, activation in _linear_layers(model):
            _replace(linear, _packed(linear, "none" if activation is None else "gelu"), replaced)
            if activation is not None:
                _replace(activation, _identity, replaced)
        yield
    finally:
        for module in replaced:
            del module.forward


def _replace(module: nn.Module, forward: Callable[[Tensor], Tensor], replaced: list[nn.Module]) -> None:
    vars(module)["forward"] = forward
    replaced.append(module)


def _linear_layers(model: nn.Module) -> list[tuple[nn.Linear, nn.Module | None]]:
    """Find the layers that can be packed, each with the GELU that directly follows it, if any."""
    before_gelu = {}
    for module in model.modules():
        gelu = getattr(module, "activation", getattr(module, "activation_fn", None))  # transformers 4 and 5
        if _is_exact_gelu(gelu) and isinstance(fc1 := getattr(module, "fc1", None), nn.Linear):
            before_gelu[fc1] = gelu
    return [
        (module, before_gelu.get(module)) for module in model.modules() if type(module) is nn.Linear and _fits(module)
    ]


def _is_exact_gelu(module: nn.Module | None) -> bool:
    return isinstance(module, GELUActivation) or (isinstance(module, nn.GELU) and module.approximate == "none")


def _fits(linear: nn.Linear) -> bool:
    is_plain = type(linear.weight) is nn.Parameter and "forward" not in vars(linear)  # not quantised, not offloaded
    if not is_plain or linear.weight.device.type != "cpu" or not _has_onednn():
        return False
    dtype = _computing_dtype(linear)
    return dtype == torch.float32 or (dtype == torch.bfloat16 and torch.ops.mkldnn._is_mkldnn_bf16_supported())


def _has_onednn() -> bool:
    return torch.backends.mkldnn.is_available() and platform.machine() in ("x86_64", "AMD64")


def _computing_dtype(linear: nn.Linear) -> torch.dtype:
    return torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else linear.weight.dtype


def _packed(linear: nn.Linear, activation: str) -> Callable[[Tensor], Tensor]:
    """Make the forward of a layer on a reordered copy of its weights."""
    dtype = _computing_dtype(linear)
    weight = torch.ops.mkldnn._reorder_linear_weight(linear.weight.detach().to(dtype))
    bias = None if linear.bias is None else linear.bias.detach().to(dtype)

    def forward(x: Tensor) -> Tensor:
        if torch.is_grad_enabled():
            raise RuntimeError("Packed weights are for inference: call the model in torch.inference_mode().")
        return torch.ops.mkldnn._linear_pointwise(x.to(dtype), weight, bias, activation, [], "none")

    return forward


def _identity(x: Tensor) -> Tensor:
    return x
