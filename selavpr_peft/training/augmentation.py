"""Change a training picture at random: colours, perspective, crop and mirror. Off by default, as in the paper.

As in the official datasets_ws.py only the query is changed; mirroring concerns a whole triplet.
"""

from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageEnhance, ImageOps


@dataclass(frozen=True, kw_only=True)
class Augmentation:
    """How far a picture may be changed; 0 switches a change off.

    Args:
        colour_jitter: Largest relative change of brightness, contrast and saturation.
        perspective: Largest shift of a corner towards the middle, as a share of half the width or height.
        random_resized_crop: Largest share of the area that a crop may lose; its aspect changes by up to 4:3.
        horizontal_flip: Probability of mirroring.
    """

    colour_jitter: float = 0.0
    perspective: float = 0.0
    random_resized_crop: float = 0.0
    horizontal_flip: float = 0.0

    def change_query(self, image: Image.Image, generator: np.random.Generator) -> Image.Image:
        """Change colours, perspective and crop of a query.

        Args:
            image: RGB picture.
            generator: Source of randomness.
        """
        if self.colour_jitter:
            image = jitter_colours(image, self.colour_jitter, generator)
        if self.perspective:
            image = change_perspective(image, self.perspective, generator)
        if self.random_resized_crop:
            image = crop_at_random(image, self.random_resized_crop, generator)
        return image

    def change_triplet(self, images: list[Image.Image], generator: np.random.Generator) -> list[Image.Image]:
        """Change the query, which comes first, and mirror all or none.

        Args:
            images: Query, positive and negatives.
            generator: Source of randomness.
        """
        query, *others = images
        changed = [self.change_query(query, generator), *others]
        if self.horizontal_flip and generator.random() < self.horizontal_flip:
            changed = [ImageOps.mirror(image) for image in changed]
        return changed


def jitter_colours(image: Image.Image, strength: float, generator: np.random.Generator) -> Image.Image:
    """Scale brightness, contrast and saturation by factors from 1 - strength to 1 + strength, in random order.

    Args:
        image: RGB picture.
        strength: Largest relative change.
        generator: Source of randomness.
    """
    enhancers = [ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color]
    for index in generator.permutation(len(enhancers)):
        image = enhancers[index](image).enhance(float(generator.uniform(1 - strength, 1 + strength)))
    return image


def change_perspective(image: Image.Image, strength: float, generator: np.random.Generator) -> Image.Image:
    """View a picture from a slightly other place: its corners move towards the middle.

    Args:
        image: RGB picture.
        strength: Largest shift as a share of half the width or height.
        generator: Source of randomness.
    """
    width, height = image.size
    corners = np.array([[0, 0], [width, 0], [width, height], [0, height]], dtype=np.float64)
    source = _move_inwards(corners, strength, generator)
    while not _is_convex(source):  # rare, and only above a strength of 2/3
        source = _move_inwards(corners, strength, generator)
    coefficients = _perspective_coefficients(target=corners, source=source)
    return image.transform(image.size, Image.Transform.PERSPECTIVE, coefficients, Image.Resampling.BILINEAR)


def crop_at_random(image: Image.Image, loss: float, generator: np.random.Generator) -> Image.Image:
    """Cut out a random rectangle with a share of 1 - loss to 1 of the area and an aspect up to 4:3 from the picture's.

    Args:
        image: RGB picture.
        loss: Largest share of the area that may be cut off.
        generator: Source of randomness.
    """
    area = generator.uniform(1 - loss, 1)
    stretch = np.exp(generator.uniform(np.log(3 / 4), np.log(4 / 3)))
    width = min(image.width, max(1, round(image.width * float(np.sqrt(area * stretch)))))
    height = min(image.height, max(1, round(image.height * float(np.sqrt(area / stretch)))))
    left, top = (int(generator.integers(0, space + 1)) for space in (image.width - width, image.height - height))
    return image.crop((left, top, left + width, top + height))


def _move_inwards(corners: np.ndarray, strength: float, generator: np.random.Generator) -> np.ndarray:
    """Draw the visible part that is stretched to the whole picture."""
    inwards = np.array([[1, 1], [-1, 1], [-1, -1], [1, -1]])
    return corners + inwards * generator.uniform(0, strength / 2, (4, 2)) * corners[2]


def _is_convex(corners: np.ndarray) -> bool:
    """Tell whether one turns the same way at all corners; otherwise parts of the result would lie outside."""
    side = np.roll(corners, -1, axis=0) - corners
    following = np.roll(side, -1, axis=0)
    return bool((side[:, 0] * following[:, 1] - side[:, 1] * following[:, 0] > 0).all())


def _perspective_coefficients(*, target: np.ndarray, source: np.ndarray) -> list[float]:
    """Solve for the eight numbers by which Pillow maps target points to source points."""
    rows, values = [], []
    for (x, y), (u, v) in zip(target, source, strict=True):
        rows += [[x, y, 1, 0, 0, 0, -u * x, -u * y], [0, 0, 0, x, y, 1, -v * x, -v * y]]
        values += [u, v]
    return [float(number) for number in np.linalg.solve(np.array(rows), np.array(values))]
