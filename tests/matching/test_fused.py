"""Matching on a GPU: the kernel interpreted on a CPU, when it is used, and the real thing where there is a GPU."""

import importlib.util
import os
import subprocess
import sys
from dataclasses import replace
from importlib.metadata import version
from unittest import mock

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from packaging.version import Version
from torch.nn.functional import normalize

from selavpr_peft.matching import count_mutual_matches, fused, mutual_matches
from selavpr_peft.matching.tiled import TiledSearch
from tests.conftest import REPOSITORY
from tests.matching import interpreter


def why_not_interpreted():
    """Say why Triton's interpreter cannot be used here; None where it can."""
    if importlib.util.find_spec("triton") is None:
        return "Triton is not installed: it has wheels for Linux, and the extra dev brings it"
    if Version(version("triton")) < Version("3.7") and Version(np.__version__) >= Version("2.4"):
        return "the interpreter of Triton 3.6 cannot run loops with NumPy 2.4 or newer"
    return None


needs_interpreter = pytest.mark.skipif(why_not_interpreted() is not None, reason=str(why_not_interpreted()))
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no NVIDIA GPU")

DTYPES = [torch.float32, torch.float16, torch.bfloat16]

# The interpreter takes a millisecond per similarity. Of what one thread holds there are several groups here too.
SMALL_BLOCKS = {
    dtype: replace(blocks, rows=8, columns=8, channels=16, row_step=row_step, columns_of_thread=2, column_step=2)
    for dtype, blocks, row_step in (
        (torch.float32, fused.IN_FLOAT32, 1),
        (torch.float16, fused.ON_TENSOR_CORES, 2),
        (torch.bfloat16, fused.ON_TENSOR_CORES, 4),
    )
}


def random_map(*shape, seed=0):
    return normalize(torch.randn(*shape, generator=torch.Generator().manual_seed(seed)), dim=-1)


def whole_numbers(*shape, seed=0):
    """Features whose products are exact in any order of summation, and often equal."""
    return torch.randint(-2, 3, shape, generator=torch.Generator().manual_seed(seed)).float()


def by_tiles(queries, candidates):
    """Search every pair by itself in float32."""
    found = [
        [TiledSearch(query.float()).nearest_both_ways(candidate.float()) for candidate in some]
        for query, some in zip(queries, candidates, strict=True)
    ]
    return [[[nearest[way].tolist() for nearest in row] for row in found] for way in (0, 1)]


@pytest.fixture(scope="module")
def interpret():
    """Run `nearest_both_ways` with small blocks by Triton's interpreter."""
    with interpreter.start() as executor:

        def run(queries, candidates):
            found = executor.submit(fused.nearest_both_ways, queries, candidates, SMALL_BLOCKS[queries.dtype])
            return [locations.tolist() for locations in found.result()]

        yield run


@needs_interpreter
class TestNearestBothWaysInterpreted:
    @pytest.mark.parametrize("dtype", DTYPES)
    def test_random_maps_are_matched_as_by_tiles(self, interpret, dtype):
        queries, candidates = random_map(1, 19, 20).to(dtype), random_map(1, 1, 18, 20, seed=1).to(dtype)
        assert interpret(queries, candidates) == by_tiles(queries, candidates)

    @pytest.mark.parametrize("dtype", DTYPES)
    @settings(deadline=None, max_examples=10, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(st.data())
    def test_the_first_of_equals_counts_whatever_the_size(self, interpret, dtype, data):
        channels = data.draw(st.integers(1, 3))
        queries, candidates = (
            torch.from_numpy(
                data.draw(hnp.arrays(np.int8, (1,) * ones + (size, channels), elements=st.integers(-1, 1)))
            ).to(dtype)
            for ones, size in ((1, data.draw(st.integers(1, 12))), (2, data.draw(st.integers(1, 12))))
        )
        assert interpret(queries, candidates) == by_tiles(queries, candidates)

    @pytest.mark.parametrize("dtype", DTYPES)
    def test_the_first_of_equals_counts_across_blocks_and_parts(self, interpret, dtype):
        queries, candidates = whole_numbers(1, 30, 3).to(dtype), whole_numbers(1, 1, 29, 3, seed=1).to(dtype)
        assert interpret(queries, candidates) == by_tiles(queries, candidates)

    @pytest.mark.parametrize("num_candidates", [3, 7])  # 7 are enough programs, so that each sees all rows
    def test_every_candidate_is_compared_with_the_query(self, interpret, num_candidates):
        queries, candidates = whole_numbers(1, 18, 4), whole_numbers(1, num_candidates, 5, 4, seed=1)
        assert interpret(queries, candidates) == by_tiles(queries, candidates)

    def test_every_query_has_its_own_candidates(self, interpret):
        queries, candidates = random_map(2, 6, 8), random_map(2, 3, 7, 8, seed=1)
        assert interpret(queries, candidates) == by_tiles(queries, candidates)

    def test_maps_that_lie_in_the_same_place_or_far_apart_are_not_copied(self, interpret):
        candidates = random_map(3, 4, 5, 8)[:, ::2].expand(3, 2, 5, 8)
        queries = random_map(1, 6, 8, seed=1).expand(3, 6, 8)
        assert fused._with_plain_rows(queries) is queries
        assert fused._with_plain_rows(candidates) is candidates
        assert interpret(queries, candidates) == by_tiles(queries, candidates)

    def test_maps_whose_locations_are_not_contiguous_are_matched_by_their_values(self, interpret):
        queries, candidates = random_map(1, 8, 6).mT, random_map(1, 2, 8, 5, seed=1).mT
        assert interpret(queries, candidates) == by_tiles(queries, candidates)

    @pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
    @pytest.mark.parametrize("position", [0, 1])
    def test_features_that_are_no_numbers_are_refused(self, interpret, value, position):
        maps = [random_map(1, 12, 4), random_map(1, 1, 18, 4, seed=1)]
        maps[position][..., 2, 1] = value
        for search in (by_tiles, interpret):
            with pytest.raises(FloatingPointError, match="NaN or infinite"):
                search(*maps)

    @pytest.mark.parametrize("signs", [(1, 1), (1, -1), (-1, -1)])  # infinity, its difference with itself, -infinity
    def test_features_too_large_to_be_compared_are_refused(self, interpret, signs):
        queries, candidates = torch.full((1, 3, 2), 1e30), torch.tensor(signs).mul(1e30).expand(1, 1, 2, 2)
        for search in (by_tiles, interpret):
            with pytest.raises(FloatingPointError, match="NaN or infinite"):
                search(queries, candidates)

    def test_an_infinite_similarity_that_does_not_count_is_no_harm(self, interpret):
        queries, candidates = torch.tensor([[[1e30], [-1.0]]]), torch.tensor([[[[1e30], [-1e30], [0.0]]]])
        candidates[..., 0, 0] = 1.0  # similarities: 1e30 -inf 0 | -1 1e30 0
        assert interpret(queries, candidates) == by_tiles(queries, candidates) == [[[[0, 1]]], [[[0, 1, 0]]]]


def on_gpu(dtype=torch.float32, device="cuda:0"):
    """What a test without GPU can have of a tensor on one."""
    return mock.Mock(spec=torch.Tensor, is_cuda=True, dtype=dtype, device=torch.device(device))


class TestServes:
    @pytest.fixture(autouse=True)
    def _working(self, monkeypatch):
        monkeypatch.setattr(fused, "_works_on", lambda device, dtype: True)

    @pytest.mark.parametrize("dtype", DTYPES)
    def test_floats_on_a_gpu_are_served(self, dtype):
        assert fused.serves(on_gpu(dtype), on_gpu(dtype))

    @pytest.mark.parametrize("dtype", [torch.int8, torch.uint8, torch.float64])
    def test_other_types_are_not(self, dtype):
        assert not fused.serves(on_gpu(dtype), on_gpu(dtype))

    def test_neither_are_tensors_elsewhere_or_of_two_kinds(self):
        here = torch.ones(2, 2)
        assert not fused.serves(here, here)
        assert not fused.serves(on_gpu(), here)
        assert not fused.serves(on_gpu(), on_gpu(device="cuda:1"))
        assert not fused.serves(on_gpu(), on_gpu(torch.float16))

    def test_nothing_is_served_where_triton_does_not_work(self, monkeypatch):
        monkeypatch.setattr(fused, "_works_on", lambda device, dtype: False)
        assert not fused.serves(on_gpu(), on_gpu())


class TestMaxRegisters:
    @pytest.mark.parametrize(
        ("capability", "num_channels", "expected"), [((9, 0), 128, 168), ((9, 0), 129, None), ((10, 0), 128, None)]
    )
    def test_they_are_limited_where_that_was_tried(self, monkeypatch, capability, num_channels, expected):
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
        assert fused._max_registers(fused.ON_TENSOR_CORES, num_channels, torch.device("cuda:0")) == expected


def as_tensors(queries, candidates):
    """Search every pair by itself, on any device."""
    return tuple(torch.tensor(found) for found in by_tiles(queries, candidates))


class TestWorksOn:
    @pytest.fixture
    def works(self, monkeypatch):
        """Ask without the memory of earlier answers; the trial runs where this machine can."""
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
        return lambda: fused._works_on.__wrapped__(torch.device("cpu"), torch.bfloat16)

    def test_a_trial_decides(self, works, monkeypatch):
        monkeypatch.setattr(fused, "nearest_both_ways", as_tensors)
        assert works()

    @pytest.mark.parametrize("way", [0, 1])
    def test_a_gpu_that_gives_one_wrong_neighbour_is_not_used(self, works, monkeypatch, caplog, way):
        def wrong_once(queries, candidates):
            found = as_tensors(queries, candidates)
            found[way][0, 0, -1] += 1
            return found

        monkeypatch.setattr(fused, "nearest_both_ways", wrong_once)
        assert not works()
        assert "1 of 590 locations got a wrong neighbour in torch.bfloat16; please report it" in caplog.text

    @needs_interpreter
    @pytest.mark.parametrize("dtype", DTYPES)
    def test_the_kernel_finds_in_a_small_trial_what_it_should(self, interpret, monkeypatch, dtype):
        monkeypatch.setattr(fused, "TRIAL_SIZES", (21, 19))
        monkeypatch.setattr(fused, "TRIAL_CHANNELS", 3)
        query, candidate = fused._trial_maps(torch.device("cpu"), dtype)
        maps = query[None], candidate[None, None]
        assert interpret(*maps) == by_tiles(*maps)

    @pytest.mark.parametrize("error", [ImportError("No module named 'triton'"), RuntimeError("no C compiler")])
    def test_a_failed_trial_is_told_once_and_nothing_is_raised(self, works, monkeypatch, caplog, error):
        monkeypatch.setattr(fused, "nearest_both_ways", mock.Mock(side_effect=error))
        assert not works()
        assert f"without Triton, which is slower on a GPU: {error}" in caplog.text

    def test_gpus_older_than_ampere_are_left_to_torch(self, works, monkeypatch):
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (7, 5))
        assert not works()

    def test_other_makes_of_gpu_are_left_to_torch(self, works, monkeypatch):
        monkeypatch.setattr(torch.version, "hip", "7.0")
        assert not works()


class TestDispatch:
    @pytest.fixture
    def served(self, monkeypatch):
        """Let this machine pass for a GPU; the list keeps what was asked of it."""
        calls = []

        def search(queries, candidates):
            calls.append((queries.shape, candidates.shape))
            return as_tensors(queries, candidates)

        monkeypatch.setattr(fused, "serves", lambda query, candidates: True)
        monkeypatch.setattr(fused, "nearest_both_ways", search)
        return calls

    def test_all_candidates_are_counted_at_once(self, served):
        counts = count_mutual_matches(random_map(3, 4, 8), random_map(5, 2, 6, 8, seed=1))
        assert served == [((1, 12, 8), (1, 5, 12, 8))]
        assert (counts.dtype, counts.shape) == (torch.int64, (5,))

    def test_the_caller_does_not_notice(self, served):
        query, candidates = whole_numbers(3, 4, 2), whole_numbers(5, 2, 7, 2, seed=1)
        found = count_mutual_matches(query, candidates).tolist(), mutual_matches(query, candidates[0]).tolist()
        assert len(served) == 2
        with mock.patch.object(fused, "serves", return_value=False):
            assert count_mutual_matches(query, candidates).tolist() == found[0]
            assert mutual_matches(query, candidates[0]).tolist() == found[1]

    def test_empty_maps_do_not_reach_the_gpu(self, served):
        assert count_mutual_matches(torch.ones(2, 2, 4), torch.ones(0, 2, 2, 4)).tolist() == []
        assert count_mutual_matches(torch.ones(0, 2, 4), torch.ones(3, 2, 2, 4)).tolist() == [0, 0, 0]
        assert count_mutual_matches(torch.ones(2, 2, 4), torch.ones(3, 0, 2, 4)).tolist() == [0, 0, 0]
        assert mutual_matches(torch.ones(0, 4), torch.ones(3, 4)).tolist() == []
        assert not served

    def test_damaged_features_are_named(self, served):
        damaged = random_map(2, 2, 4)
        damaged[0, 1, 3] = torch.nan
        with pytest.raises(ValueError, match="features of the query hold NaN or infinity; check"):
            count_mutual_matches(damaged, random_map(3, 2, 2, 4))

    def test_triton_is_not_imported_without_a_gpu(self):
        code = (
            "import sys, torch; import selavpr_peft; from selavpr_peft.matching import count_mutual_matches\n"
            "count_mutual_matches(torch.ones(2, 2, 4), torch.ones(1, 2, 2, 4))\n"
            "sys.exit('triton' in sys.modules)"
        )
        subprocess.run([sys.executable, "-c", code], env=os.environ | {"PYTHONPATH": str(REPOSITORY)}, check=True)


@pytest.mark.gpu
@needs_gpu
class TestOnGpu:
    @pytest.mark.parametrize("dtype", DTYPES)
    @pytest.mark.parametrize("sizes", [(3721, 3721, 128), (700, 300, 128), (257, 65, 200), (17, 129, 5)])
    def test_whole_numbers_are_matched_as_on_the_cpu(self, sizes, dtype):
        num_rows, num_columns, channels = sizes
        query, candidates = whole_numbers(1, num_rows, channels), whole_numbers(3, 1, num_columns, channels, seed=1)
        query, candidates = query.to(dtype), candidates.to(dtype)
        assert fused.serves(query.cuda(), candidates.cuda())
        counts = count_mutual_matches(query.cuda(), candidates.cuda())
        assert counts.tolist() == count_mutual_matches(query, candidates).tolist()
        pairs = mutual_matches(query.cuda(), candidates[0].cuda())
        assert pairs.tolist() == mutual_matches(query, candidates[0]).tolist()

    @pytest.mark.parametrize("dtype", DTYPES)
    def test_unit_vectors_are_matched_up_to_rounding(self, dtype):
        queries = random_map(1, 3721, 128).to(dtype).cuda()
        candidates = random_map(1, 2, 3721, 128, seed=1).to(dtype).cuda()
        exact = queries[:, None].double() @ candidates.double().mT  # (1, 2, N, M)
        forward, backward = fused.nearest_both_ways(queries, candidates)
        for found, dim in ((forward[..., None], 3), (backward[..., None, :], 2)):
            assert (exact.amax(dim, keepdim=True) - exact.gather(dim, found)).max() < 1e-6

    @pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
    @pytest.mark.parametrize("dtype", DTYPES)
    def test_features_that_are_no_numbers_are_refused(self, value, dtype):
        query, candidates = random_map(9, 9, 32).to(dtype).cuda(), random_map(3, 9, 9, 32).to(dtype).cuda()
        candidates[2, 8, 8, 31] = value
        with pytest.raises(ValueError, match="of the database image hold NaN"):
            count_mutual_matches(query, candidates)

    @pytest.mark.parametrize("dtype", DTYPES)
    def test_minus_zero_and_zero_are_equal(self, dtype):
        query = torch.zeros(1, 16, dtype=dtype, device="cuda")
        candidate = torch.ones(2, 16, dtype=dtype, device="cuda") * torch.tensor([[-1], [1]], device="cuda")
        assert mutual_matches(query, candidate).tolist() == [[0, 0]]

    def test_the_similarities_are_never_held(self):
        query, candidates = random_map(61, 61, 128).cuda(), random_map(4, 61, 61, 128, seed=1).cuda()
        count_mutual_matches(query, candidates)
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        count_mutual_matches(query, candidates)
        assert torch.cuda.max_memory_allocated() - before < 61**4 * 4 / 10
