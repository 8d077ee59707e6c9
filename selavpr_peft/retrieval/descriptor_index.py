"""Find candidates by global descriptor with faiss: exactly, or approximately where a database is large."""

from pathlib import Path
from typing import Any

import faiss
import numpy as np
from jaxtyping import Bool, Float, Int

from selavpr_peft.errors import PlaceDatabaseError
from selavpr_peft.files import write_atomically
from selavpr_peft.retrieval.index_reach import set_reach

FLAT, HNSW, IVF_SQ, IVF_PQ = "flat", "hnsw", "ivf-sq", "ivf-pq"
KINDS = (FLAT, HNSW, IVF_SQ, IVF_PQ)
FLAT_ROWS = 100_000
"""Up to here an exact search takes milliseconds and `choose_kind` takes it."""

HNSW_LINKS = 32
SAMPLES_PER_CELL = 64
"""Rows that place a cell. faiss would take 256, four times as long, for the same recall (benchmarks/search.py)."""


def choose_kind(num_rows: int, num_channels: int, memory_bytes: int | None = None) -> str:
    """Choose an index by size and memory: the most exact one that fits and is built in minutes.

    A graph ("hnsw") is never chosen: building it takes ten times as long as cells of bytes ("ivf-sq"), which
    find as much as fast (docs/performance.md).

    Args:
        num_rows: Database images.
        num_channels: Length of a descriptor.
        memory_bytes: Memory the index may take; None for as much as it wants.
    """
    flat_bytes = 4 * num_rows * num_channels
    budget = float("inf") if memory_bytes is None else memory_bytes
    if num_rows <= FLAT_ROWS and flat_bytes <= budget:
        return FLAT
    return IVF_SQ if flat_bytes / 4 + 16 * num_rows <= budget else IVF_PQ


class DescriptorIndex:
    """Rows of unit descriptors, searched by inner product.

    Args:
        index: A faiss index whose numbers are rows.
    """

    def __init__(self, index: faiss.Index) -> None:
        """Take a faiss index."""
        self._index = index

    def __len__(self) -> int:
        """Give the number of rows."""
        return int(self._index.ntotal)

    @classmethod
    def build(cls, descriptors: Float[np.ndarray, "N D"], kind: str = FLAT) -> "DescriptorIndex":
        """Index descriptors, and set an approximate index to find 99 % of what an exact one finds.

        How far it has to look is measured (index_reach.py). Codes too coarse for that are searched as far as it helps.

        Args:
            descriptors: Unit vectors, float32; their order is that of the rows.
            kind: One of KINDS.

        Raises:
            ValueError: If there is no such kind.
        """
        if kind not in KINDS:
            raise ValueError(f"The kind of index must be one of {', '.join(map(repr, KINDS))}, got {kind!r}.")
        num_rows, num_channels = descriptors.shape
        cells = int(max(1, min(4 * num_rows**0.5, num_rows / 39)))  # faiss wants 39 rows or more to place a cell
        names = {
            FLAT: "Flat",
            HNSW: f"HNSW{HNSW_LINKS}",
            IVF_SQ: f"IVF{cells},SQ8",
            IVF_PQ: f"IVF{cells},PQ{_num_codes(num_channels)}",
        }
        index = faiss.index_factory(num_channels, names[kind], faiss.METRIC_INNER_PRODUCT)
        descriptors = np.ascontiguousarray(descriptors)
        if isinstance(index, faiss.IndexIVF):
            index.cp.max_points_per_centroid = SAMPLES_PER_CELL
        if not index.is_trained:
            index.train(descriptors)
        index.add(descriptors)
        set_reach(index, descriptors)
        return cls(index)

    def add(self, descriptors: Float[np.ndarray, "N D"]) -> None:
        """Add rows behind those there are.

        Args:
            descriptors: Unit vectors, float32.
        """
        self._index.add(np.ascontiguousarray(descriptors))

    def search(
        self,
        query_descriptors: Float[np.ndarray, "Q D"],
        num_candidates: int,
        is_allowed: Bool[np.ndarray, " N"] | None = None,
    ) -> tuple[Float[np.ndarray, "Q K"], Int[np.ndarray, "Q K"]]:
        """Find the most similar rows.

        Args:
            query_descriptors: Unit vectors, float32.
            num_candidates: Number wanted; fewer where fewer are allowed.
            is_allowed: Rows that may be found; None for all.

        Returns:
            Similarities, highest first, and rows; -1 where an approximate index found fewer.
        """
        num_found = min(num_candidates, len(self) if is_allowed is None else int(is_allowed.sum()))
        if num_found == 0:
            empty = (len(query_descriptors), 0)
            return np.empty(empty, np.float32), np.empty(empty, np.int64)
        selector = None if is_allowed is None else faiss.IDSelectorBatch(np.flatnonzero(is_allowed))
        parameters = _search_parameters(self._index, selector, num_found)
        scores, rows = self._index.search(np.ascontiguousarray(query_descriptors), num_found, params=parameters)
        return scores, rows

    def save(self, path: Path) -> None:
        """Write the index to a file.

        Args:
            path: File; one already there is replaced at once.
        """
        write_atomically(path, lambda temporary: faiss.write_index(self._index, str(temporary)))

    @classmethod
    def load(cls, path: Path, *, is_mapped: bool = False) -> "DescriptorIndex":
        """Read an index.

        Args:
            path: File by `save`.
            is_mapped: Leave it on the disk and read what a search needs.

        Raises:
            PlaceDatabaseError: If the file is missing or no index.
        """
        try:
            return cls(faiss.read_index(str(path), faiss.IO_FLAG_MMAP_IFC if is_mapped else 0))
        except RuntimeError as error:
            raise PlaceDatabaseError(f"{path} cannot be read as a faiss index: {error}") from error


def _num_codes(num_channels: int) -> int:
    """Use a code of 8 channels each where they divide evenly."""
    return next(codes for codes in range(max(1, num_channels // 8), 0, -1) if num_channels % codes == 0)


def _search_parameters(index: faiss.Index, selector: faiss.IDSelector | None, num_found: int) -> Any:
    swig: Any = faiss  # its stubs know neither these classes nor their arguments
    if isinstance(index, faiss.IndexHNSW):
        return swig.SearchParametersHNSW(sel=selector, efSearch=max(index.hnsw.efSearch, 2 * num_found))
    if isinstance(index, faiss.IndexIVF):
        return swig.SearchParametersIVF(sel=selector, nprobe=index.nprobe)
    return swig.SearchParameters(sel=selector)
