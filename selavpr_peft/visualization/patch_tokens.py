"""The patch tokens of pictures, as the descriptor is pooled from them."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float
from peft import PeftModel
from PIL import Image
from torch import Tensor

from selavpr_peft.modeling.preprocessing import Preprocessing
from selavpr_peft.tuner.backbones import backbone_shape


@torch.inference_mode()
def patch_tokens(
    model: PeftModel, preprocessing: Preprocessing, images: Sequence[Image.Image]
) -> Float[Tensor, "B h w D"]:
    """Compute the patch tokens of some pictures after the final norm.

    Args:
        model: A model with a SelaVPR adapter, in evaluation mode; a disabled adapter is not applied.
        preprocessing: How a picture becomes network input.
        images: At least one picture.

    Returns:
        Unit vectors in float32 on the CPU, laid out as the patch grid.
    """
    backbone = model.get_base_model()
    pixel_values = torch.stack([preprocessing(image) for image in images])
    height, width = (size // backbone_shape(backbone).patch_size for size in pixel_values.shape[-2:])
    tokens = model(pixel_values=pixel_values.to(next(backbone.parameters()).device)).last_hidden_state
    return F.normalize(tokens[:, -height * width :].float().cpu(), dim=-1).unflatten(1, (height, width))
