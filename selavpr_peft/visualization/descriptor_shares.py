"""What each patch of an image contributes to its global descriptor, or to its similarity with another image.

GeM pools every channel to g_c = (mean over patches n of x_nc^p)^(1/p). It is homogeneous of degree 1, so by Euler's
theorem g_c is the sum over patches of x_nc * dg_c/dx_nc, and a patch's share of it is x_nc^p / sum over m of x_mc^p.
Weighted by what channel c brings to the cosine similarity with another descriptor, d_c * e_c, the shares add up to
that similarity exactly: nothing is lost or counted twice. With the descriptor itself for e they add up to 1. The plain
cosine between a patch and a descriptor, the usual heat map, has no such property: the exponent lets few strong patches
make up the descriptor, and that map ignores it.
"""

import numpy as np
import torch.nn.functional as F
from jaxtyping import Float
from peft import PeftModel
from PIL import Image
from torch import Tensor

from selavpr_peft.modeling.pooling import global_descriptors
from selavpr_peft.modeling.preprocessing import Preprocessing
from selavpr_peft.tuner.hooks import HEAD_NAME
from selavpr_peft.visualization.patch_tokens import patch_tokens


def descriptor_shares(
    patch_tokens: Float[Tensor, "N D"],
    p: Float[Tensor, "1"],
    eps: float = 1e-6,
    *,
    other: Float[Tensor, " D"] | None = None,
) -> Float[Tensor, " N"]:
    """Divide the similarity of an image's descriptor with another among the image's patches.

    Args:
        patch_tokens: Patch tokens of the image after the backbone's final norm.
        p: GeM exponent.
        eps: GeM lower clamp.
        other: Unit descriptor of another image; the image's own if None.

    Returns:
        Not negative for descriptors by GeM. The sum is the cosine similarity: 1 for the image's own descriptor.
    """
    descriptor = global_descriptors(patch_tokens[None], p, eps)[0]
    clamped = F.normalize(patch_tokens.float(), dim=-1).clamp(min=eps)
    powers = (clamped / clamped.amax(dim=0)).pow(p)  # as in gem_pool: powers of eps would vanish
    shares = powers / powers.sum(dim=0)  # of every patch in each channel
    return shares @ (descriptor * (descriptor if other is None else other))


def descriptor_maps(
    model: PeftModel, preprocessing: Preprocessing, image: Image.Image, other: Image.Image | None = None
) -> list[Float[np.ndarray, "h w"]]:
    """Show which patches make up the descriptor of a picture, or what makes two pictures alike.

    Args:
        model: A model with a SelaVPR adapter, in evaluation mode.
        preprocessing: How a picture becomes network input.
        image: A picture.
        other: Another one.

    Returns:
        Of one picture the share of each patch of the grid in its descriptor, which add up to 1. Of two pictures a map
        for each, both of which add up to the cosine similarity of their descriptors.
    """
    head = getattr(model.get_base_model(), HEAD_NAME)
    p, eps = head.sela_gem_p[head.active_name].detach().cpu(), head.settings[head.active_name].gem_eps
    grids = patch_tokens(model, preprocessing, [image] if other is None else [image, other])
    descriptors = global_descriptors(grids.flatten(1, 2), p, eps)
    partners = descriptors.flip(0)  # a picture alone is its own partner
    return [
        descriptor_shares(grid.flatten(0, 1), p, eps, other=partner).unflatten(0, grid.shape[:2]).numpy()
        for grid, partner in zip(grids, partners, strict=True)
    ]
