"""Fewer local features per image: those at the points of a grid.

The local head enlarges the map of patches twice, to twice as many rows and columns each time. What it puts between
two locations is computed by other weights than what it puts on them, and finds its match among its own kind. So a grid
that takes some of the rows or columns takes odd ones (counted from zero), and is compared with the odd ones of the
query. Of the ways tried to choose locations this kept most of the recall (docs/performance.md).
"""

import math

import torch
from jaxtyping import Int, Num
from torch import Tensor


def grid_within(map_size: tuple[int, int], num_kept: int) -> tuple[int, int]:
    """Give the rows and columns of a grid in the shape of a map with at most so many points.

    Args:
        map_size: Height and width of the map, in locations.
        num_kept: Locations to keep.

    Returns:
        The number of rows and columns: all of a side, or as many as fit on its odd ones.

    Raises:
        ValueError: If fewer than one is to be kept.

    Example:
        >>> grid_within((61, 61), 500), grid_within((61, 61), 1500), grid_within((61, 61), 2000)
        ((22, 22), (30, 30), (30, 61))
    """
    if num_kept < 1:
        raise ValueError(f"The number of locations to keep must be at least 1, got {num_kept}.")
    height, width = map_size
    if num_kept >= height * width:
        return height, width
    rows = _fitting(height, min(num_kept, max(1, math.isqrt(num_kept * height // width))))
    return rows, _fitting(width, num_kept // rows)


def query_grid(map_size: tuple[int, int], grid: tuple[int, int]) -> tuple[int, int]:
    """Give the grid of a query that is compared with a grid of a database image: all there is of the same kind.

    Args:
        map_size: Height and width of the map.
        grid: Rows and columns of the database image's grid.

    Example:
        >>> query_grid((61, 61), (22, 22))
        (30, 30)
    """
    height, width = (side if points == side else side // 2 for side, points in zip(map_size, grid, strict=True))
    return height, width


def grid_locations(map_size: tuple[int, int], grid: tuple[int, int]) -> Int[Tensor, " N"]:
    """Give the flat locations of a grid's points in a map, row by row.

    Args:
        map_size: Height and width of the map.
        grid: Rows and columns of the grid: all of a side, or up to half of it, spread evenly over its odd ones.

    Raises:
        ValueError: If a side has more points than its odd ones, and not all.

    Example:
        >>> grid_locations((3, 5), (1, 2)).tolist()
        [6, 8]
    """
    rows, columns = (_points(side, points) for side, points in zip(map_size, grid, strict=True))
    return (rows[:, None] * map_size[1] + columns).flatten()


def _fitting(side: int, most: int) -> int:
    return side if most >= side else min(most, side // 2)


def _points(side: int, points: int) -> Int[Tensor, " P"]:
    if points == side:
        return torch.arange(side)
    if not 1 <= points <= side // 2:
        raise ValueError(f"A grid must take all {side} of a side or from 1 to {side // 2}, got {points}.")
    return 1 + 2 * torch.linspace(0, side // 2 - 1, points).round().long()


def thin_out(features: Num[Tensor, "*maps H W C"], grid: tuple[int, int]) -> Num[Tensor, "*maps h w C"]:
    """Keep the local features at the points of a grid.

    Args:
        features: Maps of local features.
        grid: Rows and columns of the grid.
    """
    height, width = features.shape[-3:-1]
    kept = features.flatten(-3, -2)[..., grid_locations((height, width), grid), :]
    return kept.unflatten(-2, grid)
