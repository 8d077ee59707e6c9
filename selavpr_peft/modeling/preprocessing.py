"""From an image file to `pixel_values`, in the two ways the official code uses.

`official` is its evaluation (datasets_ws.py with torchvision 0.15): normalise first, then resize the tensor without
antialiasing. `antialias` is its training: resize the picture with a filter first. Both ignore the aspect ratio. The
stock DINOv2 image processor (short edge, centre crop) is neither. A result must say which was used.
"""

from collections.abc import Callable
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from PIL import Image, ImageOps
from torch import Tensor

from selavpr_peft.errors import UnreadableImageError

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

Picture = str | Path | Image.Image | np.ndarray
"""What a photograph may be given as: a path, a Pillow image, or an 8-bit array (H, W) or (H, W, 3) in RGB."""


@dataclass(frozen=True, kw_only=True)
class Preprocessing:
    """Turn pictures into network input, always in the same way.

    Args:
        image_size: Height and width of the input in pixels.
        resize: "antialias" or "official".

    Raises:
        ValueError: If `resize` is neither.
    """

    image_size: tuple[int, int] = (224, 224)
    resize: str = "antialias"

    def __post_init__(self) -> None:
        """Check the mode."""
        if self.resize not in MODES:
            raise ValueError(f"resize must be one of {', '.join(map(repr, MODES))}, got {self.resize!r}.")

    @classmethod
    def of(cls, config: Any) -> "Preprocessing":
        """Give the preprocessing an adapter was trained with.

        Args:
            config: Its `SelaConfig`.
        """
        return cls(image_size=config.image_size, resize=config.resize)

    def __call__(self, image: Image.Image) -> Float[Tensor, "3 H W"]:
        """Give the ImageNet-normalised tensor of one picture.

        Args:
            image: A picture of any size and mode but float.
        """
        return MODES[self.resize](as_rgb(image), self.image_size)


def resize_antialiased(image: Image.Image, size: tuple[int, int]) -> Float[Tensor, "3 H W"]:
    """Resize a picture with Pillow's bilinear filter, which antialiases, then normalise it.

    Args:
        image: RGB picture.
        size: Height and width wanted, in pixels.
    """
    height, width = size
    return normalise(image.resize((width, height), Image.Resampling.BILINEAR))


def resize_official(image: Image.Image, size: tuple[int, int]) -> Float[Tensor, "3 H W"]:
    """Normalise a picture, then resize the tensor bilinearly without antialiasing.

    Args:
        image: RGB picture.
        size: Height and width wanted, in pixels.
    """
    pixels = normalise(image)
    if pixels.shape[1:] == size:
        return pixels
    return F.interpolate(pixels[None], size=size, mode="bilinear", align_corners=False, antialias=False)[0]


def normalise(image: Image.Image) -> Float[Tensor, "3 H W"]:
    """Scale a picture to [0, 1] and standardise its channels with ImageNet's mean and deviation.

    Args:
        image: RGB picture.
    """
    pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1).float().div(255)
    mean, std = torch.tensor(IMAGENET_MEAN), torch.tensor(IMAGENET_STD)
    return (pixels - mean[:, None, None]) / std[:, None, None]


def as_rgb(image: Image.Image) -> Image.Image:
    """Turn a picture into 8-bit RGB; 16-bit greys are scaled, where Pillow alone would clip them to white.

    Args:
        image: A picture of any mode but float; an alpha channel is dropped.

    Raises:
        ValueError: If the picture holds floating-point numbers, whose range is not known.
    """
    if image.mode == "F":
        raise ValueError("A picture of floating-point numbers has no known range; save it with 8 or 16 bits.")
    if image.mode.startswith("I"):  # 16 bits: Pillow calls them "I;16", "I;16B" or, from a PGM file, "I"
        image = Image.fromarray((np.asarray(image) // 256).clip(0, 255).astype(np.uint8))
    return image.convert("RGB")


def as_picture(image: Picture) -> Image.Image:
    """Give the RGB picture of a photograph, in whatever form it is at hand.

    Args:
        image: A path, a Pillow image or an 8-bit array.

    Raises:
        UnreadableImageError: If a file cannot be read; the message names it.
        ValueError: If an array is not an image.
        TypeError: If it is something else.
    """
    if isinstance(image, np.ndarray):
        if image.dtype != np.uint8 or image.ndim not in {2, 3} or image.shape[2:] not in {(), (3,)}:
            raise ValueError(
                f"An array must be an 8-bit image (H, W) or (H, W, 3), got {image.dtype} {image.shape}; scale and"
                " transpose it, or pass a Pillow image. Several arrays are passed as a list."
            )
        image = Image.fromarray(image)
    if isinstance(image, Image.Image):
        return as_rgb(image)
    if isinstance(image, str | Path):
        return read_image(image)
    raise TypeError(
        "A photograph must be a path, a Pillow image or an 8-bit array (H, W) or (H, W, 3), got"
        f" {type(image).__name__}."
    )


def read_image(path: str | Path | BytesIO) -> Image.Image:
    """Read a picture as RGB, turned upright as its EXIF orientation says.

    Args:
        path: Image file, by name or as bytes in memory.

    Raises:
        UnreadableImageError: If the file is missing, damaged or no picture; the message names it.
    """
    try:
        with Image.open(path) as image:
            return as_rgb(ImageOps.exif_transpose(image))
    except Exception as error:  # Pillow's decoders raise many types on damaged files
        raise UnreadableImageError(
            f"The image {path} cannot be read ({type(error).__name__}: {error}); replace or remove it."
        ) from error


MODES: dict[str, Callable[[Image.Image, tuple[int, int]], Tensor]] = {
    "antialias": resize_antialiased,
    "official": resize_official,
}
