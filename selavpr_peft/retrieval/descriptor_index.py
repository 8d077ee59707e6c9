"""Find candidates by global descriptor with faiss: exactly, or approximately where a database is large.

An index is two files: what faiss wrote, and beside it what is known of it (index_description.py).
"""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import faiss
import numpy as np
from jaxtyping import Bool, Float, Int

from selavpr_peft.errors import PlaceDatabaseError
from selavpr_peft.files import crc32_of, write_atomically
from selavpr_peft.retrieval.index_description import IndexDescription
from selavpr_peft.retrieval.index_kinds import FLAT, HNSW_LINKS, check_kind, inverted_file, num_cells, trained_index
from selavpr_peft.retrieval.index_reach import NUM_NEIGHBOURS, set_reach

OVER_QUERIES, WITHIN_A_QUERY = 0, 1
SCAN_OVER_QUERIES, SCAN_WITHIN_A_QUERY = 0, 15
"""faiss's numbers for what threads divide among them, in inverted files and in those of fast scan."""

GROWTH = 1.25
"""Cells and codes are learned anew when the rows have become this many times those they were learned for."""


class DescriptorIndex:
    """Rows of unit descriptors, searched by inner product. A row keeps its number for ever, also when others go.

    Args:
        index: A faiss index whose numbers are rows.
        kind: One of `index_kinds.KINDS`.
        model: Names the model that made the descriptors; kept with the index.
    """

    def __init__(self, index: faiss.Index, kind: str = FLAT, model: str = "") -> None:
        """Take a faiss index."""
        self._index = index
        self.kind = kind
        self.model = model
        self._is_live = np.ones(index.ntotal, dtype=bool)
        self._num_live = len(self)

    def __len__(self) -> int:
        """Give the number of rows, removed ones included."""
        return int(self._index.ntotal)

    @property
    def num_channels(self) -> int:
        """Length of a descriptor."""
        return int(self._index.d)

    @property
    def is_live(self) -> Bool[np.ndarray, " N"]:
        """Rows that were not removed."""
        return self._is_live.copy()

    @classmethod
    def build(cls, descriptors: Float[np.ndarray, "N D"], kind: str = FLAT, model: str = "") -> "DescriptorIndex":
        """Index descriptors, and set an approximate index to find nearly all that an exact one finds.

        How far it has to look is measured (index_reach.py). Codes too coarse for that are searched as far as it helps.

        Args:
            descriptors: Unit vectors, float32; their order is that of the rows.
            kind: One of `index_kinds.KINDS`.
            model: Names the model that made them.

        Raises:
            ValueError: If there is no such kind, there are too few rows for it, or a descriptor holds NaN or
                infinity.
        """
        check_kind(kind, len(descriptors))
        descriptors = _checked(descriptors, descriptors.shape[1])
        index = trained_index(descriptors, kind)
        index.add(descriptors)
        set_reach(index, descriptors)
        return cls(index, kind, model)

    def add(self, descriptors: Float[np.ndarray, "N D"]) -> None:
        """Add rows behind those there are.

        Args:
            descriptors: Unit vectors, float32.

        Raises:
            ValueError: If their length is another, or one holds NaN or infinity.
        """
        self._index.add(_checked(descriptors, self.num_channels))
        self._count_as_live(len(descriptors))

    def grow(self, descriptors: Float[np.ndarray, "N D"], read_all: Callable[[], Float[np.ndarray, "M D"]]) -> None:
        """Add rows behind those there are, and set how far an approximate index looks anew.

        Cells and codes stay as they are until the rows have grown by a quarter; then they are learned anew from all
        rows, because new ones may lie where no cell was placed, and searching then takes longer.

        Args:
            descriptors: Unit vectors of the new rows, float32.
            read_all: Gives those of all rows, the new ones behind the others; not called for an exact index.

        Raises:
            ValueError: If their length is another, or one holds NaN or infinity.
        """
        cells = inverted_file(self._index)
        if cells is not None and cells.nlist < num_cells(int((len(self) + len(descriptors)) / GROWTH), self.kind):
            self._index = DescriptorIndex.build(read_all(), self.kind)._index
            self._count_as_live(len(descriptors))
            return
        self.add(descriptors)
        if self.kind != FLAT:
            set_reach(self._index, read_all())

    def remove(self, rows: Int[np.ndarray, " K"]) -> None:
        """Never find some rows again.

        They are passed over at every search: a flat index would number its rows anew, and HNSW cannot take any out.
        Their memory comes back when an index is built of the others.

        Args:
            rows: Their numbers; those that were removed before may be among them.

        Raises:
            IndexError: If there is no such row; none is removed then.
        """
        if len(rows) and (rows.min() < 0 or rows.max() >= len(self)):
            raise IndexError(f"Rows must be in [0, {len(self)}), got {rows.min()} to {rows.max()}.")
        self._is_live[rows] = False
        self._num_live = int(np.count_nonzero(self._is_live))

    def search(
        self,
        query_descriptors: Float[np.ndarray, "Q D"],
        num_candidates: int,
        is_allowed: Bool[np.ndarray, " N"] | None = None,
    ) -> tuple[Float[np.ndarray, "Q K"], Int[np.ndarray, "Q K"]]:
        """Find the most similar rows that were not removed.

        Args:
            query_descriptors: Unit vectors, float32.
            num_candidates: Number wanted; fewer where fewer are allowed.
            is_allowed: Rows that may be found; None for all.

        Returns:
            Similarities, highest first, and rows; -1 where an approximate index found fewer.

        Raises:
            ValueError: If the queries' length is another than the rows', or one holds NaN or infinity.
        """
        queries = _checked(query_descriptors, self.num_channels)
        is_searched, num_searched = self._is_live, self._num_live
        if is_allowed is not None:
            is_searched = is_searched & is_allowed
            num_searched = int(np.count_nonzero(is_searched))
        num_found = min(num_candidates, num_searched)
        if num_found == 0:
            empty = (len(queries), 0)
            return np.empty(empty, np.float32), np.empty(empty, np.int64)
        selector = None
        if num_searched < len(self):
            swig: Any = faiss  # its stubs do not know that it takes the bits of an array
            bits = np.packbits(is_searched, bitorder="little")  # faiss reads them while it searches
            selector = swig.IDSelectorBitmap(bits)
        _share_threads(self._index, len(queries))
        index, parameters = _way_of_searching(self._index, selector, num_found, num_searched)
        scores, rows = index.search(queries, num_found, params=parameters)
        return scores, rows

    def _count_as_live(self, num_rows: int) -> None:
        """Count rows that came last as not removed."""
        self._is_live = np.append(self._is_live, np.ones(num_rows, dtype=bool))
        self._num_live += num_rows

    def save(self, path: Path) -> None:
        """Write the index to a file, and what it is beside it.

        Args:
            path: File; one already there is replaced at once. `index.faiss` is described by `index.json`.
        """
        write_atomically(path, lambda temporary: faiss.write_index(self._index, str(temporary)))
        description = IndexDescription(
            faiss_version=faiss.__version__,
            kind=self.kind,
            model=self.model,
            num_rows=len(self),
            num_channels=self.num_channels,
            removed_rows=np.flatnonzero(~self._is_live).tolist(),
            crc32=crc32_of(path),
        )
        description.write(path)

    @classmethod
    def load(cls, path: Path, *, is_mapped: bool = False) -> "DescriptorIndex":
        """Read an index.

        Args:
            path: File by `save`.
            is_mapped: Leave it on the disk, of which a search reads what it needs: the system takes the memory back
                where it is short.

        Raises:
            PlaceDatabaseError: If a file is missing, damaged or no index, or the index has another format.
        """
        description = IndexDescription.read(path)
        if path.is_file() and crc32_of(path) != description.crc32:
            raise PlaceDatabaseError(f"{path} is damaged: its checksum is not the one that was written.")
        try:
            index = faiss.read_index(str(path), faiss.IO_FLAG_MMAP_IFC if is_mapped else 0)
        except RuntimeError as error:
            raise PlaceDatabaseError(f"{path} cannot be read as a faiss index: {error}") from error
        loaded = cls(index, description.kind, description.model)
        try:
            loaded.remove(np.array(description.removed_rows, dtype=np.int64))
        except IndexError as error:
            raise PlaceDatabaseError(
                f"{path} is of other rows than those that were removed from it: {error}"
            ) from error
        return loaded


def _checked(descriptors: Float[np.ndarray, "N D"], num_channels: int) -> Float[np.ndarray, "N D"]:
    """Give descriptors as faiss wants them; it would take NaN, and stop the process at another length."""
    if descriptors.shape[1] != num_channels:
        raise ValueError(
            f"Descriptors must have {num_channels} channels as those of the index, got {descriptors.shape[1]}; were"
            " they made by another model?"
        )
    with np.errstate(all="ignore"):  # what is not finite stays so in a sum, and needs no mask of all numbers
        is_finite = np.isfinite(descriptors.sum(axis=1))
    if not is_finite.all():
        raise ValueError(f"Descriptors must be finite, got NaN or infinity in row {int(np.argmin(is_finite))}.")
    return np.ascontiguousarray(descriptors)


def _share_threads(index: faiss.Index, num_queries: int) -> None:
    """Let threads divide the cells of a single query, or else the queries."""
    cells: Any = inverted_file(index)
    if cells is None:
        return
    cells.parallel_mode = WITHIN_A_QUERY if num_queries == 1 else OVER_QUERIES
    if hasattr(cells, "implem"):
        cells.implem = SCAN_WITHIN_A_QUERY if num_queries == 1 else SCAN_OVER_QUERIES


def _way_of_searching(
    index: Any, selector: faiss.IDSelector | None, num_found: int, num_searched: int
) -> tuple[faiss.Index, Any]:
    """Say what is searched and with which parameters: the fewer rows may be found, the further away the nearest lie.

    Where a walk over a graph would pass most of the rows that may be found, these are compared one after another.
    """
    swig: Any = faiss  # its stubs know neither these classes nor their arguments
    further = index.ntotal / num_searched
    if isinstance(index, faiss.IndexHNSW):
        reach = math.ceil(further * max(index.hnsw.efSearch, 2 * num_found))
        if reach * HNSW_LINKS < num_searched:
            return index, swig.SearchParametersHNSW(sel=selector, efSearch=reach)
        index = swig.downcast_index(index.storage)
    if (cells := inverted_file(index)) is not None:
        parameters = swig.SearchParametersIVF(sel=selector, nprobe=min(math.ceil(further * cells.nprobe), cells.nlist))
        if cells is index:
            return index, parameters
        again = further * index.k_factor * max(num_found, NUM_NEIGHBOURS)
        factor = max(1.0, min(again, num_searched) / num_found)
        return index, swig.IndexRefineSearchParameters(k_factor=factor, base_index_params=parameters)
    return index, swig.SearchParameters(sel=selector)
