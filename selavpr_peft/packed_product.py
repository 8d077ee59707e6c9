"""Multiply many matrices with one that lies in the processor's own layout.

PyTorch multiplies float32 matrices on the CPU by MKL, with both as they lie in memory. oneDNN, which it carries too,
uses the whole vector width of every x86 processor, wants the matrix of weights reordered once, and applies GELU while
it has the product at hand. `torch.compile` calls the same operators, but needs a C++ compiler where it runs.
"""

import platform
from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

_X86 = ("x86_64", "AMD64")


def can_pack(device: torch.device, dtype: torch.dtype) -> bool:
    """Say whether this machine has products with packed weights of a type.

    Args:
        device: Where the weights are.
        dtype: Their type.
    """
    if device.type != "cpu" or not torch.backends.mkldnn.is_available() or platform.machine() not in _X86:
        return False
    return dtype is torch.float32 or (dtype is torch.bfloat16 and torch.ops.mkldnn._is_mkldnn_bf16_supported())


def packed_product(
    weight: Float[Tensor, "N C"], bias: Float[Tensor, " N"] | None = None, activation: str = "none"
) -> Callable[[Float[Tensor, "*rows C"]], Float[Tensor, "*rows N"]]:
    """Make the function that computes `activation(x @ weight.T + bias)`, without recording gradients.

    Args:
        weight: Weights of a device and type that `can_pack` names; copied, later changes are not noticed.
        bias: Added to the product, in the same type.
        activation: "none" or "gelu" (the exact one).
    """
    packed = torch.ops.mkldnn._reorder_linear_weight(weight)

    def multiply(x: Tensor) -> Tensor:
        return torch.ops.mkldnn._linear_pointwise(x, packed, bias, activation, [], "none")

    return multiply
