"""Whole numbers smaller than a byte: how they are packed, and the vectors they stand for.

The type of a tensor tells what an item of it holds: uint8 eight signs, int16 four numbers of 4 bits, int8 one number.
The last dimension of packed forms is shorter by as much.
"""

import torch
from jaxtyping import Float, Num
from torch import Tensor

CHANNELS_PER_ITEM = {torch.uint8: 8, torch.int16: 4}
"""Channels that an item of a packed form holds."""


def num_channels(features: Num[Tensor, "*maps D"]) -> int:
    """Give the number of channels of features in any form.

    Args:
        features: Local features, channels last.
    """
    return features.shape[-1] * CHANNELS_PER_ITEM.get(features.dtype, 1)


def pack_signs(features: Float[Tensor, "*maps C"]) -> Num[Tensor, "*maps D"]:
    """Keep the signs of features as bits, most significant first.

    Args:
        features: Local features; their channels are a multiple of 8.
    """
    weights = torch.tensor([128, 64, 32, 16, 8, 4, 2, 1], dtype=torch.uint8, device=features.device)
    bits = (features > 0).unflatten(-1, (-1, 8)).to(torch.uint8)
    return (bits * weights).sum(dim=-1, dtype=torch.uint8)


def pack_nibbles(numbers: Num[Tensor, "*maps C"]) -> Num[Tensor, "*maps D"]:
    """Keep whole numbers as 4 bits each, two a byte, the first one in the high bits.

    Args:
        numbers: int8, from -8 to 7; the channels are a multiple of 4.
    """
    pairs = (numbers & 15).unflatten(-1, (-1, 2)).to(torch.uint8)
    return (pairs[..., 0] * 16 + pairs[..., 1]).contiguous().view(torch.int16)


def as_vectors(features: Num[Tensor, "N D"]) -> Num[Tensor, "N C"]:
    """Give vectors whose inner products order features of any form: signs become -1 and 1.

    Args:
        features: Local features as rows. Whole numbers stay such on a CPU; all else becomes float32.
    """
    if features.dtype is torch.uint8:
        features = _unpack_signs(features)
    elif features.dtype is torch.int16:
        features = _unpack_nibbles(features)
    return features if _multiplies_whole_numbers(features) else features.float()


def _unpack_signs(features: Num[Tensor, "N D"]) -> Num[Tensor, "N C"]:
    shifts = torch.arange(7, -1, -1, device=features.device, dtype=torch.uint8)
    bits = (features[..., None] >> shifts) & 1
    return bits.flatten(-2).to(torch.int8) * 2 - 1


def _unpack_nibbles(features: Num[Tensor, "N D"]) -> Num[Tensor, "N C"]:
    pairs = features.contiguous().view(torch.int8)
    low = ((pairs & 15) ^ 8) - 8  # the highest of four bits is the sign
    return torch.stack((pairs >> 4, low), dim=-1).flatten(-2)


def _multiplies_whole_numbers(features: Tensor) -> bool:
    """Whole numbers are multiplied as such on a CPU; elsewhere float32 is as exact (up to 1040 channels).

    PyTorch 2.13's product of whole numbers is wrong for a single channel.
    """
    return features.dtype is torch.int8 and features.device.type == "cpu" and features.shape[-1] > 1
