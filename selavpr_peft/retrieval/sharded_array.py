"""An array on disk that grows by whole shards: rows are read through a memory map and checked as they are read.

A shard is two files: `NNNNN.npy` with the rows, and `NNNNN.crc.npy` with a checksum (CRC-32) of every row, which is
written last. A shard counts once it has both, so what a killed writer leaves behind is not seen. Files are plain
NumPy arrays and are read without pickle. Readers that are open see new shards after `refresh`.
"""

import zlib
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np

from selavpr_peft.errors import PlaceDatabaseError
from selavpr_peft.files import write_atomically

OPEN_SHARDS = 1024
"""Memory maps that are kept; beyond that, the oldest is closed."""


class ShardedArray:
    """Rows of one shape and type in a folder.

    Args:
        folder: Where the shards are; made when the first is written.
        num_rows: Look at no more shards than hold so many rows, because somebody may be writing behind them; None for
            all there are.
    """

    def __init__(self, folder: Path, num_rows: int | None = None) -> None:
        """Look for the shards that are complete."""
        self.folder = Path(folder)
        self._num_rows = float("inf") if num_rows is None else num_rows
        self._starts = np.zeros(1, dtype=np.int64)  # first row of each shard, and the number of rows
        self._maps: dict[int, tuple[np.ndarray, np.ndarray]] = {}
        self.refresh()

    def __len__(self) -> int:
        """Give the number of rows."""
        return int(self._starts[-1])

    @property
    def num_shards(self) -> int:
        """Number of complete shards."""
        return len(self._starts) - 1

    @property
    def shard_sizes(self) -> list[int]:
        """Number of rows of every shard."""
        sizes: list[int] = np.diff(self._starts).tolist()
        return sizes

    @property
    def row_shape(self) -> tuple[int, ...]:
        """Shape of a row; there must be a shard."""
        return self._open(0)[0].shape[1:]

    @property
    def files(self) -> list[Path]:
        """Files of all shards."""
        numbers = range(self.num_shards)
        return [path(number) for number in numbers for path in (self._path, self._checksum_path)]

    def refresh(self) -> None:
        """See shards that were added by others meanwhile."""
        starts = self._starts.tolist()
        while starts[-1] < self._num_rows and self._checksum_path(len(starts) - 1).is_file():
            starts.append(starts[-1] + len(self._load(self._checksum_path(len(starts) - 1))))
        self._starts = np.array(starts)

    def append(self, rows: np.ndarray) -> None:
        """Add a shard.

        Args:
            rows: Array whose first axis counts rows; shape and type of a row are those of the rows before.

        Raises:
            OSError: If it cannot be written, for example because the disk is full; nothing was added then.
        """
        number = self.num_shards
        rows = np.ascontiguousarray(rows)
        checksums = np.array([zlib.crc32(row) for row in rows], dtype=np.uint32)
        write_atomically(self._path(number), partial(_save, rows))
        write_atomically(self._checksum_path(number), partial(_save, checksums))
        self._starts = np.append(self._starts, self._starts[-1] + len(rows))

    def truncate(self, num_shards: int) -> None:
        """Drop the last shards, for example those of a step that was not finished.

        Args:
            num_shards: Shards to keep.
        """
        for number in range(self.num_shards - 1, num_shards - 1, -1):
            self._maps.pop(number, None)
            self._checksum_path(number).unlink()
            self._path(number).unlink(missing_ok=True)
        self._starts = self._starts[: num_shards + 1]

    def read(self, rows: Sequence[int] | np.ndarray) -> np.ndarray:
        """Read some rows; only they are taken from the disk.

        Args:
            rows: Their numbers, counted from 0, in any order.

        Raises:
            IndexError: If there is no such row.
            PlaceDatabaseError: If a row is damaged; the message names its file, and others stay readable.
        """
        numbers = np.asarray(rows, dtype=np.int64)
        if len(numbers) and (numbers.min() < 0 or numbers.max() >= len(self)):
            raise IndexError(f"Rows must be in [0, {len(self)}), got {numbers.min()} to {numbers.max()}.")
        shards = np.searchsorted(self._starts, numbers, side="right") - 1
        return np.stack([self._row(int(s), int(n - self._starts[s])) for s, n in zip(shards, numbers, strict=True)])

    def read_all(self) -> np.ndarray:
        """Read and check everything; for small rows."""
        parts = [self.read(np.arange(*self._starts[s : s + 2])) for s in range(self.num_shards) if self.shard_sizes[s]]
        return np.concatenate(parts)

    def damaged_rows(self) -> Iterator[tuple[int, str]]:
        """Check everything.

        Yields:
            Number and message of every row that cannot be read.
        """
        for row in range(len(self)):
            try:
                self.read([row])
            except PlaceDatabaseError as error:
                yield row, str(error)

    def _row(self, shard: int, position: int) -> np.ndarray:
        rows, checksums = self._open(shard)
        if position >= len(rows) or zlib.crc32(rows[position]) != checksums[position]:
            raise PlaceDatabaseError(
                f"Row {position} of {self._path(shard)} is damaged: its checksum is not the one that was written."
                " Build the database again, or leave this image out."
            )
        return rows[position, ...]

    def _open(self, shard: int) -> tuple[np.ndarray, np.ndarray]:
        if shard not in self._maps:
            if len(self._maps) >= OPEN_SHARDS:
                self._maps.pop(next(iter(self._maps)))
            self._maps[shard] = (self._load(self._path(shard), mmap_mode="r"), self._load(self._checksum_path(shard)))
        return self._maps[shard]

    def _load(self, path: Path, mmap_mode: Literal["r"] | None = None) -> np.ndarray:
        try:
            array: np.ndarray = np.load(path, mmap_mode=mmap_mode, allow_pickle=False)
        except (ValueError, EOFError, OSError) as error:
            raise PlaceDatabaseError(f"{path} cannot be read as a NumPy array: {error}") from error
        return array

    def _path(self, shard: int) -> Path:
        return self.folder / f"{shard:05d}.npy"

    def _checksum_path(self, shard: int) -> Path:
        return self.folder / f"{shard:05d}.crc.npy"


def _save(array: np.ndarray, path: Path) -> None:
    np.save(path, array, allow_pickle=False)
