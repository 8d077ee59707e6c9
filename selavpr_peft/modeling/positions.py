"""Resize a table of position embeddings to the patch grid of an image as the original DINOv2 code does.

The official SelaVPR checkpoints were trained with this rule. Hugging Face's backbones resize differently
(`Dinov2Model` without the 0.1 offset, `Dinov2WithRegistersModel` also with antialiasing), which moves the features
silently. As in official backbone/dinov2/vision_transformer.py, `interpolate_pos_encoding`.
"""

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

OFFSET = 0.1
"""Added to the grid before the scale is taken, so that rounding cannot lose a row (facebookresearch/dino issue 8)."""


def official_position_embeddings(
    table: Float[Tensor, "1 P D"], image_height: int, image_width: int, patch_size: int
) -> Float[Tensor, "1 N D"]:
    """Resize a position table to an image's patch grid by the official rule: bicubic, not antialiased, in float32.

    Args:
        table: Position of the CLS token, then of a square grid of patches, row by row.
        image_height: Image height in pixels, a multiple of the patch size.
        image_width: Image width in pixels, a multiple of the patch size.
        patch_size: Patch size in pixels.

    Returns:
        Position of the CLS token, then of every patch, in the table's type. The table itself when it has as many
        patches as the image **and** the image is square; a non-square image with as many patches is resized.
    """
    rows, columns = image_height // patch_size, image_width // patch_size
    num_positions = table.shape[1] - 1
    if rows * columns == num_positions and image_height == image_width:
        return table
    side = math.isqrt(num_positions)
    grid = table[:, 1:].float().reshape(1, side, side, -1).permute(0, 3, 1, 2)
    scale = ((rows + OFFSET) / side, (columns + OFFSET) / side)
    grid = F.interpolate(grid, scale_factor=scale, mode="bicubic")
    patches = grid.permute(0, 2, 3, 1).flatten(1, 2).to(table.dtype)
    return torch.cat((table[:, :1], patches), dim=1)
