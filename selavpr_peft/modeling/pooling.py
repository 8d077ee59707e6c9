"""Generalised-mean (GeM) pooling of patch tokens into one global descriptor (SelaVPR, section 3.3).

As in the official network.py: tokens are L2-normalised over channels, pooled over the patch grid with one learnable
exponent, and the result is L2-normalised.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor


def gem_pool(features: Float[Tensor, "B N D"], p: Float[Tensor, "1"], eps: float = 1e-6) -> Float[Tensor, "B D"]:
    """Pool N feature vectors per image by the generalised mean of every channel.

    The maximum of every channel is taken out before the power is: powers of `eps` itself vanish in float32 from an
    exponent of about 7 on, and with them the gradient.

    Args:
        features: Feature vectors; values below `eps` count as `eps`.
        p: Exponent: 1 gives the mean, large values approach the maximum.
        eps: Lower clamp, which keeps the power real and its gradient finite.

    Returns:
        One vector per image, not normalised.

    Example:
        >>> gem_pool(torch.tensor([[[1.0], [3.0]]]), p=torch.tensor([1.0])).tolist()
        [[2.0]]
    """
    clamped = features.clamp(min=eps)
    largest = clamped.detach().amax(dim=1, keepdim=True)
    return (clamped / largest).pow(p).mean(dim=1).pow(1.0 / p) * largest[:, 0]


def global_descriptors(
    patch_tokens: Float[Tensor, "B N D"], p: Float[Tensor, "1"], eps: float = 1e-6
) -> Float[Tensor, "B D"]:
    """Describe every image by one unit vector: normalise the tokens, pool them with GeM, normalise the result.

    Args:
        patch_tokens: Patch tokens after the backbone's final norm, in any floating type.
        p: GeM exponent.
        eps: GeM lower clamp.

    Returns:
        Float32 descriptors with unit L2 norm. Computed in float32 also under autocast: 1e-6 to the power of 3
        vanishes in float16.
    """
    with torch.autocast(patch_tokens.device.type, enabled=False):
        tokens = F.normalize(patch_tokens.float(), dim=-1)
        return F.normalize(gem_pool(tokens, p.float(), eps), dim=-1)
