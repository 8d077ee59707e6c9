"""Signs of local features as packed bits, and the vectors that features of any form stand for.

uint8 holds the signs of eight channels in an item, so that its last dimension is an eighth of the others'.
"""

import torch
from jaxtyping import Float, Num, UInt8
from torch import Tensor

SIGNS_PER_BYTE = 8


def num_channels(features: Num[Tensor, "*maps D"]) -> int:
    """Give the number of channels of features in any form.

    Args:
        features: Local features, channels last.
    """
    return features.shape[-1] * (SIGNS_PER_BYTE if features.dtype is torch.uint8 else 1)


def pack_signs(features: Float[Tensor, "*maps C"]) -> UInt8[Tensor, "*maps D"]:
    """Keep the signs of features as bits, most significant first.

    Args:
        features: Local features; their channels are a multiple of 8.
    """
    weights = torch.tensor([128, 64, 32, 16, 8, 4, 2, 1], dtype=torch.uint8, device=features.device)
    bits = (features > 0).unflatten(-1, (-1, SIGNS_PER_BYTE)).to(torch.uint8)
    return (bits * weights).sum(dim=-1, dtype=torch.uint8)


def as_vectors(features: Num[Tensor, "N D"]) -> Num[Tensor, "N C"]:
    """Give vectors whose inner products order features of any form: signs become -1 and 1.

    Args:
        features: Local features as rows. Whole numbers stay such on a CPU; all else becomes float32.
    """
    if features.dtype is torch.uint8:
        shifts = torch.arange(SIGNS_PER_BYTE - 1, -1, -1, device=features.device, dtype=torch.uint8)
        bits = (features[..., None] >> shifts) & 1
        features = bits.flatten(-2).to(torch.int8) * 2 - 1
    return features if _multiplies_whole_numbers(features) else features.float()


def _multiplies_whole_numbers(features: Tensor) -> bool:
    """Whole numbers are multiplied as such on a CPU; elsewhere float32 is as exact (up to 1040 channels).

    PyTorch 2.13's product of whole numbers is wrong for a single channel.
    """
    return features.dtype is torch.int8 and features.device.type == "cpu" and features.shape[-1] > 1
