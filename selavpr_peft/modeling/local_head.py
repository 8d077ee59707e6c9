"""Dense local features: two up-convolutions over the patch grid (SelaVPR, section 3.3; official LocalAdapt).

A grid of h x w patches becomes (4h-3) x (4w-3) locations: 16 x 16 -> 31 x 31 -> 61 x 61.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn


def local_features(
    patch_map: Float[Tensor, "B D h w"], upconv1: nn.ConvTranspose2d, upconv2: nn.ConvTranspose2d
) -> Float[Tensor, "B H W C"]:
    """Up-sample a map of patch tokens into dense local features.

    Args:
        patch_map: Patch tokens after the backbone's final norm, in any floating type, laid out as the patch grid.
        upconv1: First up-convolution, from the backbone's width; a ReLU follows it.
        upconv2: Second up-convolution.

    Returns:
        (B, 4h-3, 4w-3, C) float32 features, channels last, unit L2 norm per location.
    """
    features = F.relu(upconv1(patch_map.to(upconv1.weight.dtype)))
    features = upconv2(features).permute(0, 2, 3, 1)
    return F.normalize(features.float(), dim=-1)


def up_convolution(in_channels: int, out_channels: int) -> nn.ConvTranspose2d:
    """Make one float32 up-convolution, n cells -> 2n-1, with PyTorch's default initialisation as in the official code.

    Args:
        in_channels: Channels of the map it takes.
        out_channels: Channels of the map it gives.
    """
    return nn.ConvTranspose2d(in_channels, out_channels, kernel_size=3, stride=2, padding=1, dtype=torch.float32)


def local_map_size(image_size: tuple[int, int], patch_size: int) -> tuple[int, int]:
    """Give height and width of the map of local features of an image.

    Args:
        image_size: Height and width of the network's input, in pixels.
        patch_size: Patch size of the backbone in pixels.

    Example:
        >>> local_map_size((224, 322), patch_size=14)
        (61, 89)
    """
    height, width = (4 * (side // patch_size) - 3 for side in image_size)
    return height, width


def location_centres_px(height: int, width: int, patch_size: int) -> Float[Tensor, "H W 2"]:
    """Give the image position of every local feature.

    Args:
        height: Rows of the local feature map (4h-3 for a patch grid of h rows).
        width: Columns of the local feature map.
        patch_size: Patch size of the backbone in pixels.

    Returns:
        x and y of every location's centre, in pixels of the image the network saw, whose pixel centres lie at +0.5.
        Multiply by (original size / network size) for the original image.

    Example:
        >>> location_centres_px(61, 61, patch_size=14)[0, -1].tolist()  # right end of the top row of a 224 px image
        [217.0, 7.0]
    """
    x = (torch.arange(width) / 4 + 0.5) * patch_size
    y = (torch.arange(height) / 4 + 0.5) * patch_size
    return torch.stack(torch.meshgrid(x, y, indexing="xy"), dim=-1)
