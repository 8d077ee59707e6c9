"""Nearest neighbours both ways on an NVIDIA GPU, in one kernel that never writes similarities to memory.

float32 is multiplied in float32 (not in TF32); float16 and bfloat16 are multiplied by the tensor cores and summed in
float32. The kernel is in fused_kernel.py. It needs Triton, which PyTorch brings along where it brings CUDA; whoever
asks `serves` first needs neither.
"""

import functools
import logging
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from selavpr_peft.matching.tiled import TiledSearch

logger = logging.getLogger(__name__)

OLDEST_CAPABILITY = (8, 0)
"""Ampere: the first whose tensor cores know bfloat16."""

PROGRAMS_PER_MULTIPROCESSOR = 6
"""So many programs there are at least: some waves of those that fit at once, or the last wave leaves the GPU idle."""

TRIAL_SIZES, TRIAL_CHANNELS = (333, 257), 128
"""Several tiles and parts, the last ones not full, with the channels that the kernel is compiled for anyway."""

INFINITY_BITS = 0x7F800000
LAST_LOCATION = 0x7FFFFFFF


@dataclass(frozen=True, kw_only=True)
class Blocks:
    """How the kernel divides its work; results do not depend on it.

    Args:
        rows: Query locations of a tile.
        columns: Database locations of a tile.
        channels: Channels multiplied at a time, at least; fewer channels are multiplied at once.
        num_warps: Warps of a program.
        num_stages: Tiles under way from memory.
        max_registers: Registers per thread, at most, on the GPU this was chosen for; None leaves it to the compiler.
        rows_of_thread: Rows of a tile that one thread holds, `row_step` apart. Another number than the GPU's costs
            time only.
        row_step: See above.
        columns_of_thread: Columns that one thread holds, `column_step` apart.
        column_step: See above.
    """

    rows: int
    columns: int
    channels: int
    num_warps: int
    num_stages: int
    max_registers: int | None
    rows_of_thread: int
    row_step: int
    columns_of_thread: int
    column_step: int


ON_TENSOR_CORES = Blocks(
    rows=64,
    columns=128,
    channels=128,
    num_warps=4,
    num_stages=2,
    max_registers=168,
    rows_of_thread=2,
    row_step=8,
    columns_of_thread=16,
    column_step=8,
)
"""64 rows are one warp group of a Hopper GPU. 168 registers and 66 KB of shared memory let three programs share a
multiprocessor, so that tensor cores work for one of them while the others compare."""

IN_FLOAT32 = Blocks(
    rows=64,
    columns=64,
    channels=16,
    num_warps=4,
    num_stages=2,
    max_registers=None,
    rows_of_thread=4,
    row_step=1,
    columns_of_thread=4,
    column_step=1,
)
"""32 sums per thread, 16 channels at a time: more of either no longer fits in the registers."""

BLOCKS = {torch.float32: IN_FLOAT32, torch.float16: ON_TENSOR_CORES, torch.bfloat16: ON_TENSOR_CORES}


def serves(query: Tensor, candidates: Tensor) -> bool:
    """Tell whether `nearest_both_ways` can take these: floats of one type on one NVIDIA GPU, and a working Triton."""
    return (
        query.is_cuda
        and query.device == candidates.device
        and query.dtype == candidates.dtype
        and query.dtype in BLOCKS
        and _works_on(query.device, query.dtype)
    )


def nearest_both_ways(
    queries: Float[Tensor, "Q N C"], candidates: Float[Tensor, "Q K M C"], blocks: Blocks | None = None
) -> tuple[Int[Tensor, "Q K N"], Int[Tensor, "Q K M"]]:
    """Find nearest neighbours between each query and its K database images, as `TiledSearch` does for one pair.

    Args:
        queries: Local features of Q queries. Nothing may be empty.
        candidates: Local features of the database images of each query, of the same type.
        blocks: How to divide the work; None takes what suits the type.

    Returns:
        Candidate location of each query location, and query location of each candidate location; of equally similar
        ones the first. Both come from the same computed similarities.

    Raises:
        FloatingPointError: If a similarity that counts is NaN or infinite.
    """
    row_keys, column_keys = _keys(_with_plain_rows(queries), _with_plain_rows(candidates), blocks)
    _check_numbers(row_keys, column_keys)
    return _locations(row_keys), _locations(column_keys)


def _keys(queries: Tensor, candidates: Tensor, blocks: Blocks | None) -> tuple[Tensor, Tensor]:
    """Run the kernel. A key is a similarity and, below it, a location (see fused_kernel.py)."""
    from selavpr_peft.matching.fused_kernel import keep_nearest

    blocks = blocks or BLOCKS[queries.dtype]
    num_queries, num_candidates, num_columns, num_channels = candidates.shape
    num_rows = queries.shape[1]
    lowest = torch.iinfo(torch.int64).min
    row_keys = candidates.new_full((num_queries, num_candidates, num_rows), lowest, dtype=torch.int64)
    column_keys = candidates.new_full((num_queries, num_candidates, num_columns), lowest, dtype=torch.int64)
    num_programs = num_queries * num_candidates * _divide_up(num_columns, blocks.columns)
    rows_per_part = _rows_per_part(num_rows, blocks.rows, num_programs, candidates.device)
    num_parts = _divide_up(num_rows, rows_per_part)
    with torch.cuda.device_of(candidates):
        keep_nearest[(num_programs * num_parts,)](
            queries,
            candidates,
            row_keys,
            column_keys,
            queries.stride(0),
            candidates.stride(0),
            candidates.stride(1),
            num_candidates,
            num_rows,
            num_columns,
            num_parts,
            rows_per_part,
            CHANNELS=num_channels,
            BLOCK_ROWS=blocks.rows,
            BLOCK_COLUMNS=blocks.columns,
            BLOCK_CHANNELS=min(blocks.channels, max(16, _next_power_of_two(num_channels))),
            ROWS_OF_THREAD=blocks.rows_of_thread,
            ROW_STEP=blocks.row_step,
            COLUMNS_OF_THREAD=blocks.columns_of_thread,
            COLUMN_STEP=blocks.column_step,
            num_warps=blocks.num_warps,
            num_stages=blocks.num_stages,
            maxnreg=_max_registers(blocks, num_channels, candidates.device),
            enable_fp_fusion=True,
        )
    return row_keys, column_keys


def _max_registers(blocks: Blocks, num_channels: int, device: torch.device) -> int | None:
    """Limit registers on a Hopper GPU only: elsewhere, and with more channels, the compiler needs more or spills."""
    is_hopper = device.type == "cuda" and torch.cuda.get_device_capability(device)[0] == 9
    return blocks.max_registers if is_hopper and num_channels <= blocks.channels else None


def _rows_per_part(num_rows: int, block_rows: int, num_programs: int, device: torch.device) -> int:
    """Divide the rows where there are too few programs to keep a GPU busy, as for a single pair of maps."""
    wanted = PROGRAMS_PER_MULTIPROCESSOR * _num_multiprocessors(device)
    num_tiles = _divide_up(num_rows, block_rows)
    num_parts = min(num_tiles, _divide_up(wanted, num_programs))
    return _divide_up(num_tiles, num_parts) * block_rows


def _check_numbers(row_keys: Tensor, column_keys: Tensor) -> None:
    """NaN, which the kernel makes infinity, and infinity of any feature reach the maximum of its row or column."""
    for keys in (row_keys, column_keys):
        lowest, highest = keys.aminmax()
        if lowest < -(INFINITY_BITS << 32) or highest >= INFINITY_BITS << 32:
            raise FloatingPointError("A similarity is NaN or infinite.")


def _locations(keys: Tensor) -> Tensor:
    return LAST_LOCATION - (keys & 0xFFFFFFFF)


def _with_plain_rows(features: Tensor) -> Tensor:
    """Lay the locations of each map out one after another; whole maps may lie anywhere, or in the same place."""
    is_plain = features.stride()[-2:] == (features.shape[-1], 1)
    return features if is_plain else features.contiguous()


@functools.cache
def _works_on(device: torch.device, dtype: torch.dtype) -> bool:
    """Try it once: Triton may be missing, lack what it compiles with, or make mistakes on a GPU nobody tried."""
    if torch.version.hip or torch.cuda.get_device_capability(device) < OLDEST_CAPABILITY:
        return False
    try:
        _check_results(device, dtype)
    except Exception as error:
        logger.warning("Local features are matched without Triton, which is slower on a GPU: %s", error)
        return False
    return True


def _check_results(device: torch.device, dtype: torch.dtype) -> None:
    """Raise unless the trial is matched as by tiles."""
    query, candidate = _trial_maps(device, dtype)
    found = nearest_both_ways(query[None], candidate[None, None])
    expected = TiledSearch(query.float()).nearest_both_ways(candidate.float())
    num_wrong = sum(int((one[0, 0] != other).sum()) for one, other in zip(found, expected, strict=True))
    if num_wrong:
        raise ArithmeticError(
            f"{num_wrong} of {sum(TRIAL_SIZES)} locations got a wrong neighbour in {dtype}; please report it with the"
            " names of the GPU and of the Triton release."
        )


def _trial_maps(device: torch.device, dtype: torch.dtype) -> tuple[Float[Tensor, "N C"], Float[Tensor, "M C"]]:
    """Make features of whole numbers, whose products are exact in any order of summation, and often equal."""
    generator = torch.Generator().manual_seed(0)
    maps = [torch.randint(-2, 3, (size, TRIAL_CHANNELS), generator=generator) for size in TRIAL_SIZES]
    return maps[0].to(device, dtype), maps[1].to(device, dtype)


@functools.cache
def _num_multiprocessors(device: torch.device) -> int:
    return torch.cuda.get_device_properties(device).multi_processor_count if device.type == "cuda" else 1


def _divide_up(number: int, divisor: int) -> int:
    return -(-number // divisor)


def _next_power_of_two(number: int) -> int:
    return 1 << (number - 1).bit_length()
