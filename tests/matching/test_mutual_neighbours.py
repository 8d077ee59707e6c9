"""Mutual nearest neighbours: worked cases, plain loops, and what must hold of any two maps."""

import os
import subprocess
import sys
import weakref
from concurrent.futures import ThreadPoolExecutor
from unittest import mock

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from torch.nn.functional import normalize
from torch.utils._python_dispatch import TorchDispatchMode

from selavpr_peft import packed_product
from selavpr_peft.matching import count_mutual_matches, mutual_matches, quantize_local_features, tiled
from selavpr_peft.matching.threads import map_in_threads
from tests.conftest import REPOSITORY
from tests.matching import plain_loops

FULL_MATRIX_BYTES = 61**4 * 4  # 55.4 MB, for two maps of 61 x 61 in float32


def random_map(*shape, seed=0):
    """Unit vectors without ties."""
    return normalize(torch.randn(*shape, generator=torch.Generator().manual_seed(seed)), dim=-1)


def unchecked(function):
    """Give a function without the shape checker, which, where on, comes before the function's own errors."""
    return getattr(function, "__wrapped__", function)


# Whole numbers from a narrow range: products are exact in any order of summation, and ties are frequent.
sizes = st.integers(1, 8)


@st.composite
def pairs_of_maps(draw):
    channels = draw(st.integers(1, 4))
    elements = st.integers(-2, 2)
    return tuple(
        torch.from_numpy(draw(hnp.arrays(np.int8, (draw(sizes), channels), elements=elements))).float()
        for _ in range(2)
    )


any_pair = given(pairs_of_maps())
quick = settings(deadline=None, max_examples=30)


class TestMutualMatches:
    def test_golden_case(self):
        query = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.6, 0.8]])
        candidate = torch.tensor([[0.0, 1.0], [0.8, 0.6]])
        # similarities: 0.0 0.8 | 1.0 0.6 | 0.8 0.96 -> rows choose 1, 0, 1; columns choose 1, 2
        assert mutual_matches(query, candidate).tolist() == [[1, 0], [2, 1]]

    def test_a_location_whose_best_partner_prefers_another_is_left_out(self):
        query = torch.tensor([[1.0, 0.0], [0.8, 0.6]])
        candidate = torch.tensor([[1.0, 0.0]])
        assert mutual_matches(query, candidate).tolist() == [[0, 0]]  # row 1 would like column 0 too

    def test_locations_of_maps_are_numbered_row_by_row(self):
        query, candidate = torch.zeros(2, 3, 6), torch.zeros(3, 2, 6)
        query[...] = torch.eye(6).view(2, 3, 6)
        candidate[...] = torch.eye(6).flip(0).view(3, 2, 6)
        assert mutual_matches(query, candidate).tolist() == [[i, 5 - i] for i in range(6)]

    def test_result_is_a_table_of_whole_numbers(self):
        matches = mutual_matches(random_map(4, 8), random_map(5, 8, seed=1))
        assert (matches.dtype, matches.ndim, matches.shape[1]) == (torch.int64, 2, 2)

    @quick
    @any_pair
    def test_plain_loops_find_the_same(self, maps):
        query, candidate = maps
        expected = plain_loops.mutual_matches(plain_loops.inner_products(query.tolist(), candidate.tolist()))
        assert mutual_matches(query, candidate).tolist() == expected

    def test_plain_loops_find_the_same_in_unit_vectors_of_several_tiles(self):
        query, candidate = random_map(23, 25, 16), random_map(19, 7, 16, seed=1)
        assert query.shape[0] * query.shape[1] > tiled.TILE_ROWS
        similarity = (query.flatten(0, 1).double() @ candidate.flatten(0, 1).double().T).tolist()
        assert mutual_matches(query, candidate).tolist() == plain_loops.mutual_matches(similarity)

    @quick
    @any_pair
    def test_exchanging_the_maps_exchanges_the_columns(self, maps):
        query, candidate = maps
        exchanged = mutual_matches(candidate, query).flip(1).tolist()
        assert sorted(exchanged) == mutual_matches(query, candidate).tolist()

    @quick
    @any_pair
    def test_no_location_is_matched_twice_and_query_locations_ascend(self, maps):
        rows, columns = mutual_matches(*maps).T.tolist()
        assert rows == sorted(set(rows))
        assert len(columns) == len(set(columns))

    @quick
    @any_pair
    def test_there_is_at_least_one_match(self, maps):
        assert len(mutual_matches(*maps)) >= 1

    @quick
    @given(pairs_of_maps(), st.integers(1, 9))
    def test_the_tile_size_does_not_matter(self, maps, tile_rows):
        expected = mutual_matches(*maps).tolist()
        with mock.patch.object(tiled, "TILE_ROWS", tile_rows):
            assert mutual_matches(*maps).tolist() == expected

    @quick
    @given(pairs_of_maps(), st.integers(1, 3), st.integers(1, 3), st.integers(1, 9))
    def test_the_size_of_the_groups_searched_does_not_matter(self, maps, group_rows, group_columns, tile_rows):
        expected = mutual_matches(*maps).tolist()
        with mock.patch.multiple(tiled, GROUP_ROWS=group_rows, GROUP_COLUMNS=group_columns, TILE_ROWS=tile_rows):
            assert mutual_matches(*maps).tolist() == expected

    @pytest.mark.parametrize("dtype", [torch.float32, torch.int8])
    @pytest.mark.parametrize("shape", [(700, 300), (300, 700), (257, 65), (17, 129)])
    def test_plain_loops_find_the_same_in_large_maps_with_many_ties(self, shape, dtype):
        generator = torch.Generator().manual_seed(sum(shape))
        query, candidate = (torch.randint(-2, 3, (n, 5), generator=generator).to(dtype) for n in shape)
        similarity = (query.long() @ candidate.long().T).tolist()
        assert mutual_matches(query, candidate).tolist() == plain_loops.mutual_matches(similarity)

    def test_processors_without_packed_products_find_the_same(self, monkeypatch):
        query, candidate = random_map(23, 25, 16), random_map(19, 7, 16, seed=1)
        expected = mutual_matches(query, candidate).tolist()
        monkeypatch.setattr(packed_product.platform, "machine", lambda: "aarch64")
        assert mutual_matches(query, candidate).tolist() == expected

    @pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
    def test_autocast_does_not_make_similarities_coarser(self, machine, monkeypatch):
        monkeypatch.setattr(packed_product.platform, "machine", lambda: machine)
        query, candidate = random_map(9, 8, 16), random_map(9, 8, 16, seed=1)
        expected = mutual_matches(query, candidate).tolist()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert (query.flatten(0, 1) @ candidate.flatten(0, 1).T).dtype is torch.bfloat16
            assert mutual_matches(query, candidate).tolist() == expected

    def test_a_map_matches_itself_everywhere_when_all_features_differ(self):
        features = random_map(9, 11, 32)
        assert mutual_matches(features, features).tolist() == [[i, i] for i in range(99)]

    def test_a_list_of_locations_is_matched_as_the_map_it_came_from(self):
        query, candidate = random_map(5, 7, 16), random_map(6, 3, 16, seed=1)
        as_lists = mutual_matches(query.flatten(0, 1), candidate.flatten(0, 1))
        assert len(as_lists) > 1
        assert mutual_matches(query, candidate).tolist() == as_lists.tolist()

    def test_maps_that_are_not_contiguous_are_matched_by_their_values(self):
        query, candidate = random_map(5, 7, 16), random_map(6, 3, 16, seed=1)
        strided = query.permute(2, 1, 0).contiguous().permute(2, 1, 0)
        assert not strided.is_contiguous()
        assert mutual_matches(strided, candidate).tolist() == mutual_matches(query, candidate).tolist()

    def test_of_equal_database_locations_the_first_counts(self):
        feature = torch.tensor([[1.0, 0.0]])
        assert mutual_matches(feature, feature.repeat(3, 1)).tolist() == [[0, 0]]

    @pytest.mark.parametrize("tile_rows", [1, 2, 512])
    def test_of_equal_query_locations_the_first_counts_also_across_tiles(self, tile_rows, monkeypatch):
        monkeypatch.setattr(tiled, "TILE_ROWS", tile_rows)
        feature = torch.tensor([[1.0, 0.0]])
        assert mutual_matches(feature.repeat(3, 1), feature).tolist() == [[0, 0]]

    @pytest.mark.parametrize("shapes", [((0, 4), (3, 4)), ((3, 4), (0, 4)), ((0, 4), (0, 4)), ((0, 5, 4), (2, 2, 4))])
    def test_an_empty_map_has_no_matches(self, shapes):
        matches = mutual_matches(*(random_map(*shape) for shape in shapes))
        assert (tuple(matches.shape), matches.dtype) == ((0, 2), torch.int64)

    @pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
    @pytest.mark.parametrize(("position", "name"), [(0, "query"), (1, "database image")])
    def test_features_that_are_no_numbers_are_refused(self, value, position, name):
        maps = [random_map(3, 4), random_map(2, 4)]
        maps[position][1, 2] = value
        with pytest.raises(ValueError, match=f"features of the {name} hold NaN or infinity; check"):
            mutual_matches(*maps)

    def test_features_too_large_to_be_compared_are_refused(self):
        with pytest.raises(ValueError, match="too large for float32; features must be unit vectors"):
            mutual_matches(torch.full((2, 4), 1e30), torch.full((3, 4), 1e30))

    def test_different_numbers_of_channels_are_refused(self):
        with pytest.raises(
            ValueError, match=r"same number of channels.* got 4 .* for the query and 5 .* same adapter"
        ):
            unchecked(mutual_matches)(random_map(3, 4), random_map(3, 5))

    def test_batches_are_refused(self):
        with pytest.raises(ValueError, match=r"\(H, W, C\) or a list \(N, C\), got shape \(1, 2, 2, 4\); take one"):
            mutual_matches(random_map(2, 2, 4), random_map(1, 2, 2, 4))

    def test_different_types_are_refused(self):
        with pytest.raises(ValueError, match=r"same type or .*, got 4 torch\.float32 .* and 4 torch\.int8"):
            mutual_matches(random_map(3, 4), torch.ones(3, 4, dtype=torch.int8))

    @quick
    @given(st.data())
    def test_quantised_features_are_compared_as_whole_numbers(self, data):
        channels = data.draw(st.integers(1, 5))
        query, candidate = (data.draw(hnp.arrays(np.int8, (data.draw(sizes), channels))) for _ in range(2))
        expected = plain_loops.mutual_matches(plain_loops.inner_products(query.tolist(), candidate.tolist()))
        assert mutual_matches(torch.from_numpy(query), torch.from_numpy(candidate)).tolist() == expected

    def test_quantised_features_of_1040_channels_are_told_apart_by_the_last_unit(self):
        query = torch.full((1, 1040), 127, dtype=torch.int8)
        query[0, -1] = 1
        candidate = torch.full((2, 1040), 127, dtype=torch.int8)
        candidate[0, -1] = 126  # 1039 * 127 * 127 + 126 = 16 758 157, one less than the other row
        assert mutual_matches(query, candidate).tolist() == [[0, 1]]

    @quick
    @given(st.data())
    def test_packed_bits_are_compared_by_hamming_distance(self, data):
        num_bits = 8 * data.draw(st.integers(1, 3))
        query, candidate = (
            data.draw(hnp.arrays(np.uint8, (data.draw(sizes), num_bits), elements=st.integers(0, 1))) for _ in range(2)
        )
        expected = plain_loops.mutual_matches(
            plain_loops.negative_hamming_distances(query.tolist(), candidate.tolist())
        )
        packed = [torch.from_numpy(np.packbits(bits, axis=1)) for bits in (query, candidate)]
        assert mutual_matches(*packed).tolist() == expected

    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
    def test_half_precision_features_are_multiplied_in_float32(self, dtype):
        query = torch.tensor([[1, 2**-6]], dtype=dtype)
        candidate = torch.tensor([[1, 0], [1, 2**-6]], dtype=dtype)  # similarities 1 and 1 + 2^-12
        assert (query @ candidate.T).unique().tolist() == [1]  # in half precision a tie, which the first would win
        assert mutual_matches(query, candidate).tolist() == [[0, 1]]


class TestCountMutualMatches:
    def test_every_candidate_is_counted(self):
        query = torch.eye(4).view(2, 2, 4)
        same, rotated = query, query.flip(0)
        nothing_alike = torch.zeros(2, 2, 4)
        # all similarities of the last are 0: of ties the first counts both ways, which leaves one match
        counts = count_mutual_matches(query, torch.stack((same, rotated, nothing_alike)))
        assert (counts.tolist(), counts.dtype) == ([4, 4, 1], torch.int64)

    def test_a_single_match_counts_one(self):
        query, candidates = torch.tensor([[[1.0, 0.0], [0.8, 0.6]]]), torch.tensor([[[[1.0, 0.0]]]])
        assert count_mutual_matches(query, candidates).tolist() == [1]  # the official squeeze() makes it 0

    def test_counts_are_those_of_each_pair(self):
        query, candidates = random_map(6, 5, 16), random_map(4, 3, 7, 16, seed=1)
        expected = [len(mutual_matches(query, candidate)) for candidate in candidates]
        assert len(set(expected)) > 1
        assert count_mutual_matches(query, candidates).tolist() == expected

    @settings(deadline=None, max_examples=10)
    @given(st.permutations(range(5)))
    def test_permuting_the_candidates_permutes_the_counts(self, order):
        query, candidates = random_map(4, 5, 8), random_map(5, 3, 4, 8, seed=1)
        counts = count_mutual_matches(query, candidates)
        assert count_mutual_matches(query, candidates[order]).tolist() == counts[order].tolist()

    def test_no_candidates_give_no_counts(self):
        counts = count_mutual_matches(random_map(2, 2, 4), torch.empty(0, 2, 2, 4))
        assert (tuple(counts.shape), counts.dtype) == ((0,), torch.int64)

    @pytest.mark.parametrize("shapes", [((0, 3, 4), (2, 3, 3, 4)), ((3, 3, 4), (2, 0, 3, 4))])
    def test_empty_maps_count_zero(self, shapes):
        assert count_mutual_matches(*(random_map(*shape) for shape in shapes)).tolist() == [0, 0]

    @pytest.mark.parametrize("dtype", [torch.int8, torch.uint8, torch.bfloat16, torch.float16])
    def test_every_stored_type_is_counted(self, dtype):
        features = (40 * random_map(3, 3, 8)).to(torch.int8 if dtype is torch.uint8 else dtype)
        features = features.view(torch.uint8) if dtype is torch.uint8 else features
        assert count_mutual_matches(features, features[None]).tolist() == [9]

    def test_a_single_map_in_the_place_of_candidates_is_refused(self):
        with pytest.raises(
            ValueError, match=r"must have shape \(K, H, W, C\), got \(3, 2, 4\); a single map .* \[None\]"
        ):
            unchecked(count_mutual_matches)(random_map(3, 2, 4), random_map(3, 2, 4))

    def test_an_unusable_candidate_is_refused(self):
        candidates = random_map(3, 2, 2, 4)
        candidates[2, 0, 0, 0] = torch.nan
        with pytest.raises(ValueError, match="of the database image hold NaN"):
            count_mutual_matches(random_map(2, 2, 4), candidates)


class TestThreads:
    """Candidates are divided among threads."""

    @pytest.fixture(autouse=True)
    def three_threads(self):
        number = torch.get_num_threads()
        torch.set_num_threads(3)
        yield
        torch.set_num_threads(number)

    @pytest.mark.parametrize("num_candidates", [1, 2, 3, 8])
    @pytest.mark.parametrize("dtype", ["float32", "int8", "binary"])
    def test_counts_are_those_of_each_pair(self, num_candidates, dtype):
        query, candidates = random_map(6, 5, 16), random_map(num_candidates, 3, 7, 16, seed=1)
        query, candidates = (quantize_local_features(features, dtype) for features in (query, candidates))
        expected = [len(mutual_matches(query, candidate)) for candidate in candidates]
        assert count_mutual_matches(query, candidates).tolist() == expected

    def test_features_made_in_inference_mode_are_counted_in_it(self):
        query, candidates = random_map(6, 5, 16), random_map(8, 3, 7, 16, seed=1)
        expected = count_mutual_matches(query, candidates).tolist()
        with torch.inference_mode():
            assert count_mutual_matches(query.clone(), candidates.clone()).tolist() == expected

    def test_a_damaged_candidate_is_named_from_any_thread(self):
        candidates = random_map(8, 2, 2, 4)
        candidates[5] = torch.nan
        with pytest.raises(ValueError, match="of the database image hold NaN"):
            count_mutual_matches(random_map(2, 2, 4), candidates)

    def test_every_item_runs_in_a_single_thread_and_the_number_is_as_before(self):
        assert map_in_threads(lambda item: (item, torch.get_num_threads()), range(5)) == [(i, 1) for i in range(5)]
        assert torch.get_num_threads() == 3
        with ThreadPoolExecutor(1) as pool:  # a thread of others that starts later
            assert pool.submit(torch.get_num_threads).result() == 3

    def test_fewer_items_than_threads_have_all_threads_each(self):
        assert map_in_threads(lambda item: (item, torch.get_num_threads()), range(2)) == [(0, 3), (1, 3)]


class AllocationSpy(TorchDispatchMode):
    """Follow the bytes of all tensors that operations return and that are still referred to."""

    def __init__(self):
        super().__init__()
        self.live_bytes, self.peak_bytes, self.largest_bytes = 0, 0, 0
        self._known = weakref.WeakSet()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, tuple | list) else (result,):
            if isinstance(tensor, torch.Tensor) and tensor.layout is torch.strided:  # not packed weights
                self._follow(tensor.untyped_storage())
        return result

    def _follow(self, storage):
        if storage in self._known:
            return
        self._known.add(storage)
        self.live_bytes += storage.nbytes()
        self.peak_bytes = max(self.peak_bytes, self.live_bytes)
        self.largest_bytes = max(self.largest_bytes, storage.nbytes())
        weakref.finalize(storage, self._forget, storage.nbytes())

    def _forget(self, nbytes):
        self.live_bytes -= nbytes


class TestMemory:
    def test_the_similarity_of_all_pairs_is_never_held(self):
        query, candidates = random_map(61, 61, 128), random_map(1, 61, 61, 128, seed=1)
        with AllocationSpy() as spy:
            count_mutual_matches(query, candidates)
        assert spy.largest_bytes <= tiled.TILE_ROWS * (61**2 + tiled.GROUP_COLUMNS) * 4
        assert spy.peak_bytes < FULL_MATRIX_BYTES / 2

    def test_the_spy_would_see_it(self):
        query, candidate = random_map(61**2, 8), random_map(61**2, 8, seed=1)
        with AllocationSpy() as spy:
            (query @ candidate.T).argmax(dim=0)
        assert spy.largest_bytes == FULL_MATRIX_BYTES

    def test_the_process_does_not_grow_by_the_size_of_the_matrix(self):
        run = subprocess.run(
            [sys.executable, "-c", MEASURE_GROWTH],
            env=os.environ | {"PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
            check=True,
        )
        if not run.stdout.strip():
            pytest.skip("this system has no /proc/self/clear_refs to reset the peak of the memory in use")
        assert int(run.stdout) * 1024 < 0.8 * FULL_MATRIX_BYTES  # about 20 MB


MEASURE_GROWTH = """
import pathlib, torch
from selavpr_peft.matching import count_mutual_matches

def in_use_kb(field):
    lines = pathlib.Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field))

count_mutual_matches(torch.ones(9, 9, 128), torch.ones(1, 9, 9, 128))  # libraries set up their own buffers
query, candidates = torch.randn(61, 61, 128), torch.randn(1, 61, 61, 128)
try:
    pathlib.Path("/proc/self/clear_refs").write_text("5")
    before = in_use_kb("VmRSS")
except OSError:
    raise SystemExit
count_mutual_matches(query, candidates)
print(in_use_kb("VmHWM") - before)
"""
