"""Nearest neighbours both ways between two lists of local features, one tile of similarities at a time.

A tile holds the similarities of some candidate locations with all query locations. It is made by one matrix product
and read twice while it is in the cache: for the best query location of its rows, which is final, and for the best
candidate location of its columns, which is kept where it beats the tiles before. Looking for a maximum and remembering
where it was is several times slower than looking for the maximum alone (PyTorch vectorises only the latter), so both
directions first take maxima of small groups and then search the one group that holds the best. Groups are filled up by
repeating the last location: of equals the first counts.

The query is the same for all candidates, so that it is brought into the processor's own layout once.

docs/performance.md compares this with other ways of doing it.
"""

from collections.abc import Callable

import torch
from jaxtyping import Int, Num
from torch import Tensor

from selavpr_peft.matching.checks import check_numbers
from selavpr_peft.packed_product import can_pack, packed_product

TILE_ROWS = 256
"""Candidate locations per tile on a CPU: 3.9 MB of similarities against 61 x 61 query locations."""

TILE_BYTES_ON_ACCELERATOR = 1 << 26
"""Size of a tile elsewhere, where starting an operation costs more than memory."""

GROUP_ROWS = 16
GROUP_COLUMNS = 64


class TiledSearch:
    """Find nearest neighbours between one query and any number of database images.

    Args:
        query: Local features of the query as rows: float32, or int8 to be multiplied as whole numbers (up to 1040
            channels).
    """

    def __init__(self, query: Num[Tensor, "N C"]) -> None:
        """Prepare the query's features."""
        self._num_locations = len(query)
        query = _filled_up(query, GROUP_COLUMNS)
        self._num_columns = len(query)
        self._similarities = _product(query)

    def nearest_both_ways(self, candidate: Num[Tensor, "M C"]) -> tuple[Int[Tensor, " N"], Int[Tensor, " M"]]:
        """Find the most similar candidate location of each query location, and the other way round.

        Args:
            candidate: Local features of a database image as rows, of the query's type; at least one row.

        Returns:
            Candidate location of each query location, and query location of each candidate location; of equally
            similar ones the first. Both come from the same computed similarities.

        Raises:
            FloatingPointError: If a similarity that counts is NaN or infinite.
        """
        columns, tile_rows = self._num_columns, _tile_rows(candidate, self._num_columns)
        forward = torch.zeros(columns, dtype=torch.long, device=candidate.device)
        best_of_columns = torch.full((columns,), -torch.inf, device=candidate.device)  # float32: exact also for int8
        backward, best_of_rows = [], []
        for start in range(0, len(candidate), tile_rows):
            part = candidate[start : start + tile_rows]
            tile = self._similarities(_filled_up(part, GROUP_ROWS))
            _improve_columns(tile, start, forward, best_of_columns)
            locations, best = _best_of_rows(tile[: len(part)])
            backward.append(locations)
            best_of_rows.append(best)
            del tile  # so that its memory serves the next one
        check_numbers(best_of_columns, *best_of_rows)
        return forward[: self._num_locations], torch.cat(backward)


def _product(query: Num[Tensor, "N C"]) -> Callable[[Num[Tensor, "T C"]], Num[Tensor, "T N"]]:
    """Choose how similarities with all query locations are computed."""
    if query.dtype is torch.int8:
        return lambda rows: torch._int_mm(rows, query.T)
    if can_pack(query.device, query.dtype):
        return packed_product(query)
    return lambda rows: rows @ query.T


def _filled_up(features: Num[Tensor, "N C"], step: int) -> Num[Tensor, "M C"]:
    """Repeat the last location until their number is a multiple."""
    missing = -len(features) % step
    return torch.cat((features, features[-1:].expand(missing, -1))) if missing else features


def _best_of_rows(tile: Tensor) -> tuple[Int[Tensor, " T"], Tensor]:
    """Find column and value of the largest entry of each row."""
    groups = tile.unflatten(1, (-1, GROUP_COLUMNS))
    best, group = groups.amax(dim=2).max(dim=1)
    inside = groups[torch.arange(len(tile), device=tile.device), group].max(dim=1).indices
    return group * GROUP_COLUMNS + inside, best


def _improve_columns(tile: Tensor, start: int, rows: Int[Tensor, " N"], best_of_columns: Tensor) -> None:
    """Update row and value of the largest entry of each column; equal ones do not replace earlier ones."""
    groups = tile.unflatten(0, (-1, GROUP_ROWS))
    best, group = groups.amax(dim=1).max(dim=0)
    better = (best > best_of_columns).nonzero()[:, 0]
    group = group[better]
    inside = groups[group, :, better].max(dim=1).indices
    rows[better] = group * GROUP_ROWS + inside + start
    torch.maximum(best_of_columns, best, out=best_of_columns)


def _tile_rows(candidate: Tensor, columns: int) -> int:
    return TILE_ROWS if candidate.device.type == "cpu" else max(1, TILE_BYTES_ON_ACCELERATOR // (4 * columns))
