"""Triton kernel of `fused.py`, which is its only caller and the only file that may import this one.

A program holds one block of candidate locations and walks down the query, one tile of similarities at a time. A tile
never leaves the registers. Its rows are reduced at once and sent to the row's key; its columns are compared with the
best so far of the same place in earlier tiles, which costs no exchange between threads, and are reduced at the end.

A key is an int64: the similarity in its upper half, as a whole number of the same order, and below it the location,
counted backwards. The largest key is then the most similar location and, of equally similar ones, the first. Programs
meet in a key by an atomic maximum, whose result does not depend on their order. The alternative, a partial result per
block and a second reduction, would write 30 times as much for two maps of 61 x 61 and read it again.

Tensor cores leave this kernel about six operations per similarity before those are the limit, three for each
direction: compare, keep the larger, keep its location. So first only those locations are compared that one thread
holds, whose numbers the compiler knows; this also makes the test for ties free.
"""

from typing import no_type_check

import triton
import triton.language as tl


@triton.jit(do_not_specialize=["num_rows", "num_columns", "num_candidates", "num_parts", "rows_per_part"])
@no_type_check
def keep_nearest(
    queries,
    candidates,
    row_keys,
    column_keys,
    query_stride,
    candidate_query_stride,
    candidate_stride,
    num_candidates,
    num_rows,
    num_columns,
    num_parts,
    rows_per_part,
    CHANNELS: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_COLUMNS: tl.constexpr,
    BLOCK_CHANNELS: tl.constexpr,
    ROWS_OF_THREAD: tl.constexpr,
    ROW_STEP: tl.constexpr,
    COLUMNS_OF_THREAD: tl.constexpr,
    COLUMN_STEP: tl.constexpr,
):
    """Raise the keys of all rows and columns to those of one block of columns and one part of the rows.

    Grid: blocks of columns x parts of the rows x candidates x queries, the first fastest.

    Args:
        queries: Pointer to (Q, N, C), each (N, C) contiguous.
        candidates: Pointer to (Q, K, M, C), each (M, C) contiguous.
        row_keys: Pointer to (Q, K, N) int64.
        column_keys: Pointer to (Q, K, M) int64.
        query_stride: Elements from a query to the next.
        candidate_query_stride: Elements from the candidates of a query to those of the next.
        candidate_stride: Elements from a candidate to the next.
        num_candidates: K.
        num_rows: N.
        num_columns: M.
        num_parts: Parts the rows are divided into.
        rows_per_part: Rows of each, a multiple of BLOCK_ROWS.
        CHANNELS: C.
        BLOCK_ROWS: Rows of a tile.
        BLOCK_COLUMNS: Columns of a tile.
        BLOCK_CHANNELS: Channels multiplied at a time.
        ROWS_OF_THREAD: Rows of a tile that are compared first, ROW_STEP apart.
        ROW_STEP: See above.
        COLUMNS_OF_THREAD: Columns of a tile that are compared first, COLUMN_STEP apart.
        COLUMN_STEP: See above.
    """
    program = tl.program_id(0)
    num_blocks = tl.cdiv(num_columns, BLOCK_COLUMNS)
    block, program = program % num_blocks, program // num_blocks
    part, pair = program % num_parts, (program // num_parts).to(tl.int64)
    query, candidate = pair // num_candidates, pair % num_candidates
    queries += query * query_stride
    candidates += query * candidate_query_stride + candidate * candidate_stride
    row_keys += pair * num_rows
    column_keys += pair * num_columns

    channels = tl.arange(0, BLOCK_CHANNELS)
    columns = block * BLOCK_COLUMNS + tl.arange(0, BLOCK_COLUMNS)
    # A block that is not full repeats the last location: of equals the first counts, so no similarity needs a mask.
    candidates += tl.minimum(columns, num_columns - 1)[None, :] * CHANNELS
    if CHANNELS <= BLOCK_CHANNELS:
        whole_block = tl.load(candidates + channels[:, None], mask=channels[:, None] < CHANNELS, other=0.0)

    row_groups: tl.constexpr = BLOCK_ROWS // (ROWS_OF_THREAD * ROW_STEP)
    best = tl.full((row_groups, ROW_STEP, BLOCK_COLUMNS), float("-inf"), tl.float32)
    best_row = tl.zeros((row_groups, ROW_STEP, BLOCK_COLUMNS), tl.int32)
    first_row = part * rows_per_part
    for start in range(first_row, tl.minimum(first_row + rows_per_part, num_rows), BLOCK_ROWS):
        rows = start + tl.arange(0, BLOCK_ROWS)
        features = queries + tl.minimum(rows, num_rows - 1)[:, None] * CHANNELS
        if CHANNELS <= BLOCK_CHANNELS:
            some = tl.load(features + channels[None, :], mask=channels[None, :] < CHANNELS, other=0.0)
            similarity = tl.dot(some, whole_block, input_precision="ieee")
        else:
            similarity = tl.zeros((BLOCK_ROWS, BLOCK_COLUMNS), tl.float32)
            for channel in range(0, CHANNELS, BLOCK_CHANNELS):
                here = channel + channels
                some = tl.load(features + here[None, :], mask=here[None, :] < CHANNELS, other=0.0)
                others = tl.load(candidates + here[:, None], mask=here[:, None] < CHANNELS, other=0.0)
                similarity = tl.dot(some, others, similarity, input_precision="ieee")
        row_best, column = _best_of_rows(similarity, COLUMNS_OF_THREAD, COLUMN_STEP)
        keys = _keys(row_best, block * BLOCK_COLUMNS + column)
        tl.atomic_max(row_keys + rows, keys, mask=rows < num_rows, sem="relaxed")
        best_of_thread, number = _best_of_threads(similarity, ROWS_OF_THREAD, ROW_STEP)
        better = best_of_thread > best
        best = tl.where(better, best_of_thread, best)
        best_row = tl.where(better, start + number * ROW_STEP, best_row)

    best_row += tl.arange(0, row_groups)[:, None, None] * (ROWS_OF_THREAD * ROW_STEP)
    best_row += tl.arange(0, ROW_STEP)[None, :, None]
    best = tl.reshape(best, (row_groups * ROW_STEP, BLOCK_COLUMNS))
    best_row = tl.reshape(best_row, (row_groups * ROW_STEP, BLOCK_COLUMNS))
    column_best, row = tl.reduce((best, best_row), 0, _first_larger)
    tl.atomic_max(column_keys + columns, _keys(column_best, row), mask=columns < num_columns, sem="relaxed")


@triton.jit
@no_type_check
def _best_of_rows(similarity, OF_THREAD: tl.constexpr, STEP: tl.constexpr):
    """Find value and column of the first largest entry of each row."""
    num_rows: tl.constexpr = similarity.shape[0]
    groups: tl.constexpr = similarity.shape[1] // (OF_THREAD * STEP)
    tiles = tl.reshape(similarity, (num_rows, groups, OF_THREAD, STEP))
    numbers = tl.broadcast_to(tl.arange(0, OF_THREAD)[None, None, :, None], tiles.shape)
    best, number = tl.reduce((tiles, numbers), 2, _first_larger)
    column = (
        number * STEP + tl.arange(0, groups)[None, :, None] * (OF_THREAD * STEP) + tl.arange(0, STEP)[None, None, :]
    )
    best = tl.reshape(best, (num_rows, groups * STEP))
    column = tl.reshape(column, (num_rows, groups * STEP))
    return tl.reduce((best, column), 1, _first_larger)


@triton.jit
@no_type_check
def _best_of_threads(similarity, OF_THREAD: tl.constexpr, STEP: tl.constexpr):
    """Find value and number of the first largest of those entries of each column that one thread holds."""
    groups: tl.constexpr = similarity.shape[0] // (OF_THREAD * STEP)
    tiles = tl.reshape(similarity, (groups, OF_THREAD, STEP, similarity.shape[1]))
    numbers = tl.broadcast_to(tl.arange(0, OF_THREAD)[None, :, None, None], tiles.shape)
    return tl.reduce((tiles, numbers), 1, _first_larger)


@triton.jit
@no_type_check
def _first_larger(value, location, other_value, other_location):
    """Choose the larger of two entries, of equal ones the first. NaN counts as larger than all, wherever it is."""
    is_other = (other_value > value) | ((other_value == value) & (other_location < location))
    larger = tl.maximum(value, other_value, propagate_nan=tl.PropagateNan.ALL)
    return larger, tl.where(is_other, other_location, location)


@triton.jit
@no_type_check
def _keys(similarity, location):
    """Pack similarities and locations; NaN becomes infinity and -0 becomes 0, which it equals."""
    similarity = tl.where(similarity == similarity, similarity, float("inf"))
    similarity = tl.where(similarity == 0.0, 0.0, similarity)
    bits = similarity.to(tl.int32, bitcast=True)
    in_order = bits ^ ((bits >> 31) & 0x7FFFFFFF)
    return (in_order.to(tl.int64) << 32) | (0x7FFFFFFF - location).to(tl.int64)
