"""Kinds of faiss index for global descriptors: what each keeps of a row, and which suits how many rows.

| kind | what it keeps of a row | how it searches |
|---|---|---|
| `flat` | float32 | compares everything |
| `ivf-fastscan` | codes of half a byte for two channels, and float16 | short codes in some cells, the best again |
| `hnsw` | a byte per channel, links | walks a graph |
| `ivf-sq` | a byte per channel | compares what is in some cells |
| `ivf-pq` | codes of a byte for eight channels | the same |

Fast scan compares many short codes at a time (André et al., Quicker ADC, TPAMI 2021).
"""

from typing import Any

import faiss
from jaxtyping import Float
from numpy import ndarray

FLAT, IVF_FASTSCAN, HNSW, IVF_SQ, IVF_PQ = "flat", "ivf-fastscan", "hnsw", "ivf-sq", "ivf-pq"
KINDS = (FLAT, IVF_FASTSCAN, HNSW, IVF_SQ, IVF_PQ)

FLAT_ROWS = 100_000
"""Up to here an exact search takes milliseconds and `choose_kind` takes it."""

HNSW_LINKS = 32
"""Links of a row in a graph, and twice as many on the lowest level; about so many rows are compared at every step."""

HNSW_BYTES = 4 * 2 * HNSW_LINKS + 32
"""What the graph takes per row beside its byte per channel: links on the lowest level, and a little for the others."""

IVF_BYTES = 16
"""What an inverted file takes per row beside its codes: the number of the row, and a little for the cells."""

ROWS_PER_CELL = 32
"""Rows that place a cell; faiss would take up to 256, and eight times as long. There are no more cells than so many
rows can place."""

CELLS = {IVF_FASTSCAN: 0.5, IVF_SQ: 3.0, IVF_PQ: 3.0}
"""Cells of an inverted file, in square roots of N. Sorting N rows into them takes time in proportion to N sqrt(N), and
fewer are better where comparing a row takes less."""

TRAINING_ROWS = 65_536
"""Rows from which the range of each channel is learned, at most; cells may need more."""

ROWS_PER_CODE = 64
"""Rows that place one of the values of a code."""

CODE_VALUES = {IVF_FASTSCAN: 16, IVF_PQ: 256}
"""Values of a code that is learned."""


def choose_kind(num_rows: int, num_channels: int, memory_bytes: int | None = None) -> str:
    """Choose an index by size and memory: the first of KINDS that fits, an exact one only while it is fast.

    Args:
        num_rows: Database images.
        num_channels: Length of a descriptor.
        memory_bytes: Memory the index may take; None for as much as it wants.
    """
    bytes_per_row = {
        FLAT: 4 * num_channels,
        IVF_FASTSCAN: 2 * num_channels + num_channels // 4 + IVF_BYTES,
        HNSW: num_channels + HNSW_BYTES,
        IVF_SQ: num_channels + IVF_BYTES,
        IVF_PQ: 0,
    }
    budget = float("inf") if memory_bytes is None else memory_bytes
    kinds = KINDS if num_rows <= FLAT_ROWS else KINDS[1:]
    return next(kind for kind in kinds if num_rows * bytes_per_row[kind] <= budget)


def check_kind(kind: str, num_rows: int | None) -> None:
    """Raise if there is no such kind of index, or it cannot be built of so few rows.

    Args:
        kind: What it was called.
        num_rows: Rows to be indexed; None where this is not known yet.

    Raises:
        ValueError: Naming KINDS, or the rows that are needed.
    """
    if kind not in KINDS:
        raise ValueError(f"The kind of index must be one of {', '.join(map(repr, KINDS))}, got {kind!r}.")
    if num_rows is not None and num_rows < (least := least_rows(kind)):
        raise ValueError(f"An index of kind {kind!r} needs {least} rows or more, got {num_rows}; use {FLAT!r}.")


def least_rows(kind: str) -> int:
    """Give the number of rows that an index can be built of: one for each value of the codes that faiss learns.

    Args:
        kind: One of KINDS.
    """
    return CODE_VALUES.get(kind, 0)


def trained_index(descriptors: Float[ndarray, "N D"], kind: str) -> faiss.Index:
    """Make an index without rows, with cells and codes learned from those it will get.

    Args:
        descriptors: Unit vectors, float32.
        kind: One of KINDS.
    """
    num_rows, num_channels = descriptors.shape
    cells = num_cells(num_rows, kind)
    names = {
        FLAT: "Flat",
        IVF_FASTSCAN: f"IVF{cells},PQ{_num_codes(num_channels, 2)}x4fsr,Refine(SQfp16)",
        HNSW: f"HNSW{HNSW_LINKS}_SQ8",
        IVF_SQ: f"IVF{cells},SQ8",
        IVF_PQ: f"IVF{cells},PQ{_num_codes(num_channels, 8)}",
    }
    index = faiss.index_factory(num_channels, names[kind], faiss.METRIC_INNER_PRODUCT)
    inverted: Any = inverted_file(index)  # its stubs do not know everything
    if inverted is not None:
        inverted.cp.min_points_per_centroid = inverted.cp.max_points_per_centroid = ROWS_PER_CELL
    if kind == IVF_PQ:
        inverted.do_polysemous_training = False  # takes minutes, for a way of searching that is not used
    if kind in CODE_VALUES:
        inverted.pq.cp.min_points_per_centroid = 1  # it would warn of each code
        inverted.pq.cp.max_points_per_centroid, inverted.pq.cp.niter = ROWS_PER_CODE, inverted.cp.niter
    if not index.is_trained:
        step = max(1, num_rows // max(TRAINING_ROWS, ROWS_PER_CELL * cells))
        index.train(descriptors[::step])
    return index


def inverted_file(index: faiss.Index) -> faiss.IndexIVF | None:
    """Give the cells of an index that has any, also below a second comparison; their owner must outlive them."""
    swig: Any = faiss  # its stubs do not know these
    if isinstance(index, swig.IndexRefine):
        index = swig.downcast_index(index.base_index)
    return index if isinstance(index, faiss.IndexIVF) else None


def num_cells(num_rows: int, kind: str) -> int:
    """Choose the cells of an inverted file.

    Args:
        num_rows: Rows it is built of.
        kind: One of KINDS; 1 for those that have no cells.
    """
    return int(max(1, min(CELLS.get(kind, 0) * num_rows**0.5, num_rows / ROWS_PER_CELL)))


def _num_codes(num_channels: int, channels_per_code: int) -> int:
    """Give the number of codes where channels divide evenly, and otherwise the next lower one at which they do."""
    return next(
        codes for codes in range(max(1, num_channels // channels_per_code), 0, -1) if num_channels % codes == 0
    )
