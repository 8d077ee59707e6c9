"""Fewer local features per image: those at the points of an even grid.

The local head enlarges the map of patches nearly fourfold, so that neighbouring locations say nearly the same. Of the
ways tried to choose some of them, an even spread kept most of the recall (docs/performance.md).
"""

import math

import torch
from jaxtyping import Int, Num
from torch import Tensor


def grid_within(map_size: tuple[int, int], num_kept: int) -> tuple[int, int]:
    """Give the rows and columns of a grid in the shape of a map with at most so many points.

    Args:
        map_size: Height and width of the map, in locations.
        num_kept: Locations to keep; the whole map where it has no more.

    Raises:
        ValueError: If fewer than one is to be kept.

    Example:
        >>> grid_within((61, 61), 500)
        (22, 22)
    """
    if num_kept < 1:
        raise ValueError(f"The number of locations to keep must be at least 1, got {num_kept}.")
    height, width = map_size
    if num_kept >= height * width:
        return height, width
    rows = min(height, num_kept, max(1, math.isqrt(num_kept * height // width)))
    return rows, min(width, num_kept // rows)


def grid_locations(map_size: tuple[int, int], grid: tuple[int, int]) -> Int[Tensor, " N"]:
    """Give the flat locations of a grid's points in a map, row by row; the first and the last of a side belong to it.

    Args:
        map_size: Height and width of the map.
        grid: Rows and columns of the grid.

    Example:
        >>> grid_locations((3, 5), (2, 3)).tolist()
        [0, 2, 4, 10, 12, 14]
    """
    rows, columns = (
        torch.linspace(0, side - 1, points).round().long() for side, points in zip(map_size, grid, strict=True)
    )
    return (rows[:, None] * map_size[1] + columns).flatten()


def thin_out(features: Num[Tensor, "*maps H W C"], grid: tuple[int, int]) -> Num[Tensor, "*maps h w C"]:
    """Keep the local features at the points of a grid.

    Args:
        features: Maps of local features.
        grid: Rows and columns of the grid.
    """
    height, width = features.shape[-3:-1]
    kept = features.flatten(-3, -2)[..., grid_locations((height, width), grid), :]
    return kept.unflatten(-2, grid)
