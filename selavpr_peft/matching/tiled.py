"""Nearest neighbours both ways between two lists of local features, one tile of similarities at a time.

A tile holds the similarities of some query locations with all database locations. It is made by one matrix product
and read twice while it is in the cache: for the best database location of its rows, which is final, and for the best
query location of its columns, which is kept where it beats the tiles before. Looking for a maximum and remembering
where it was is several times slower than looking for the maximum alone (PyTorch vectorises only the latter), so both
directions first take maxima of small groups and then search the one group that holds the best.

docs/performance.md compares this with other ways of doing it.
"""

import torch
from jaxtyping import Int, Num
from torch import Tensor

TILE_ROWS = 256
"""Query locations per tile on a CPU: 3.9 MB of similarities against 61 x 61 database locations."""

TILE_BYTES_ON_ACCELERATOR = 1 << 26
"""Size of a tile elsewhere, where starting an operation costs more than memory."""

GROUP_ROWS = 16
GROUP_COLUMNS = 64


class TiledSearch:
    """Find nearest neighbours between one query and any number of database images.

    Args:
        query: Local features of the query as rows: float32, or int8 to be multiplied as whole numbers.
    """

    def __init__(self, query: Num[Tensor, "N C"]) -> None:
        """Keep the query's features."""
        self.query = query.contiguous()
        self._tile: Tensor | None = None

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
        rows, columns = len(self.query), len(candidate)
        forward = torch.zeros(rows, dtype=torch.long, device=candidate.device)
        backward = torch.zeros(columns, dtype=torch.long, device=candidate.device)
        multiply, candidate = _product(self.query, candidate)
        tile = self._reserve(candidate)
        best_of_rows = tile.new_empty(rows)
        best_of_columns = tile.new_full((columns,), _lowest(tile.dtype))
        for start in range(0, rows, len(tile)):
            part = self.query[start : start + len(tile)]
            multiply(part, candidate.T, out=tile[: len(part), : len(candidate)])
            here = slice(start, start + len(part))
            forward[here], best_of_rows[here] = _best_of_rows(tile[: len(part)])
            tile[len(part) :] = _lowest(tile.dtype)  # the last tile is not full
            _improve_columns(tile, start, backward, best_of_columns)
        _check_numbers(best_of_rows, best_of_columns)
        return forward, backward

    def _reserve(self, candidate: Tensor) -> Tensor:
        """Give memory for a tile; columns beyond the candidate's are never the best ones."""
        columns = _round_up(len(candidate), GROUP_COLUMNS)
        if self._tile is None or self._tile.shape[1] != columns:
            rows = _round_up(min(_tile_rows(candidate, columns), len(self.query)), GROUP_ROWS)
            kind = torch.int32 if candidate.dtype is torch.int8 else torch.float32
            self._tile = torch.empty(rows, columns, dtype=kind, device=candidate.device)
        self._tile[:, len(candidate) :] = _lowest(self._tile.dtype)
        return self._tile


def _product(query: Tensor, candidate: Tensor) -> tuple:
    """Choose the matrix product; that of whole numbers writes whole tiles, so its candidate is filled up.

    The last location is repeated for that: of equals the first counts.
    """
    if candidate.dtype is not torch.int8:
        return torch.mm, candidate
    missing = _round_up(len(candidate), GROUP_COLUMNS) - len(candidate)
    return torch._int_mm, torch.cat((candidate, candidate[-1:].expand(missing, -1)))


def _best_of_rows(tile: Tensor) -> tuple[Int[Tensor, " T"], Tensor]:
    """Find column and value of the largest entry of each row."""
    groups = tile.unflatten(1, (-1, GROUP_COLUMNS))
    best, group = groups.amax(dim=2).max(dim=1)
    inside = groups[torch.arange(len(tile), device=tile.device), group].max(dim=1).indices
    return group * GROUP_COLUMNS + inside, best


def _improve_columns(tile: Tensor, start: int, backward: Tensor, best_of_columns: Tensor) -> None:
    """Update row and value of the largest entry of each column; equal ones do not replace earlier ones."""
    groups = tile.unflatten(0, (-1, GROUP_ROWS))
    best, group = groups.amax(dim=1)[:, : len(backward)].max(dim=0)
    better = (best > best_of_columns).nonzero()[:, 0]
    group = group[better]
    inside = groups[group, :, better].max(dim=1).indices
    backward[better] = group * GROUP_ROWS + inside + start
    torch.maximum(best_of_columns, best, out=best_of_columns)


def _check_numbers(*maxima: Tensor) -> None:
    """NaN and infinity of any feature reach the maximum of its row or column."""
    if not all(best.isfinite().all() for best in maxima):
        raise FloatingPointError("A similarity is NaN or infinite.")


def _tile_rows(candidate: Tensor, columns: int) -> int:
    return TILE_ROWS if candidate.device.type == "cpu" else max(1, TILE_BYTES_ON_ACCELERATOR // (4 * columns))


def _round_up(number: int, step: int) -> int:
    return -(-number // step) * step


def _lowest(kind: torch.dtype) -> float | int:
    return -torch.inf if kind.is_floating_point else torch.iinfo(kind).min
