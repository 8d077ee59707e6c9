"""A process in which Triton interprets kernels on the CPU: whether it does is decided when Triton is imported."""

import multiprocessing
import os
from concurrent.futures import ProcessPoolExecutor
from unittest import mock


def start():
    """Give the process; what is submitted to it sees interpreted kernels."""
    executor = ProcessPoolExecutor(1, multiprocessing.get_context("spawn"), initializer=_multiply_bfloat16_as_numbers)
    with mock.patch.dict(os.environ, TRITON_INTERPRET="1", OMP_NUM_THREADS="1"):
        executor.submit(os.getpid).result()  # it starts now, with this environment
    return executor


def _multiply_bfloat16_as_numbers():
    """The interpreter holds bfloat16 as 16 bits, and multiplies them as whole numbers (seen in Triton 3.6 to 3.9)."""
    import triton.language as tl
    from triton.runtime.interpreter import InterpreterBuilder

    create_dot = InterpreterBuilder.create_dot

    def create_exact_dot(builder, first, second, *options):
        if first.dtype.scalar == tl.bfloat16:
            first, second = (builder.create_fp_ext(factor, tl.float32) for factor in (first, second))
        return create_dot(builder, first, second, *options)

    InterpreterBuilder.create_dot = create_exact_dot
