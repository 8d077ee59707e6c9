"""Indexes of descriptors: exact where they promise it, close where not, the same after saving and loading."""

import json

import faiss
import numpy as np
import pytest

from selavpr_peft.errors import PlaceDatabaseError
from selavpr_peft.files import crc32_of
from selavpr_peft.retrieval.descriptor_index import DescriptorIndex
from selavpr_peft.retrieval.index_kinds import KINDS, choose_kind, inverted_file


def unit_rows(num_rows, num_channels=32, seed=0):
    rows = np.random.default_rng(seed).normal(size=(num_rows, num_channels)).astype(np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def brute_force(queries, database, number):
    return np.argsort(-(queries @ database.T), axis=1, kind="stable")[:, :number]


def clusters(num_rows, spread=0.02):
    """Thirty rows around each of some centres."""
    return np.repeat(unit_rows(num_rows // 30 + 1), 30, axis=0)[:num_rows] + spread * unit_rows(num_rows, seed=1)


def serialized(index):
    return faiss.serialize_index(index._index)


@pytest.fixture(scope="module")
def database():
    return unit_rows(1000)


@pytest.fixture(scope="module")
def queries(database):
    noisy = database[::50] + 0.05 * unit_rows(20, seed=1)
    return noisy / np.linalg.norm(noisy, axis=1, keepdims=True)


@pytest.fixture(scope="module", params=KINDS)
def index(request, database):
    """An index of each kind."""
    return DescriptorIndex.build(database, request.param)


class TestSearch:
    def test_flat_is_brute_force(self, database, queries):
        scores, rows = DescriptorIndex.build(database).search(queries, 10)
        assert np.array_equal(rows, brute_force(queries, database, 10))
        assert np.allclose(scores, np.take_along_axis(queries @ database.T, rows, axis=1), atol=1e-6)

    def test_every_kind_finds_the_row_a_query_was_made_from(self, index, queries):
        _, rows = index.search(queries, 5)
        assert (rows == np.arange(0, 1000, 50)[:, None]).any(axis=1).mean() >= 0.95

    def test_only_allowed_rows_are_found(self, index, queries):
        is_allowed = np.arange(1000) % 2 == 1
        _, rows = index.search(queries, 5, is_allowed)
        assert (rows[rows >= 0] % 2 == 1).all()
        assert (rows >= 0).mean() > 0.9

    @pytest.mark.parametrize("share", [0.01, 0.1, 0.5])
    @pytest.mark.parametrize("kind", ["flat", "ivf-fastscan", "hnsw", "ivf-sq"])
    def test_the_nearest_of_few_allowed_rows_are_found(self, kind, share):
        rows = clusters(6000, spread=0.3)
        queries = rows[::120] + 0.3 * unit_rows(50, seed=2)
        is_allowed = np.random.default_rng(3).random(6000) < share
        allowed = np.flatnonzero(is_allowed)
        exact = allowed[brute_force(queries, rows[allowed], 10)]
        _, found = DescriptorIndex.build(rows, kind).search(queries, 10, is_allowed)
        assert np.mean([len(np.intersect1d(*pair)) / 10 for pair in zip(found, exact, strict=True)]) > 0.9

    def test_no_allowed_row_gives_no_candidates(self, index, queries):
        scores, rows = index.search(queries, 5, np.zeros(1000, dtype=bool))
        assert scores.shape == rows.shape == (20, 0)

    def test_rows_are_told_apart_only_where_some_are_left_out(self, database, queries, monkeypatch):
        packed, packbits = [], np.packbits
        monkeypatch.setattr(np, "packbits", lambda *args, **options: packed.append(args) or packbits(*args, **options))
        index = DescriptorIndex.build(database)
        index.add(database[:1])
        index.search(queries, 5)
        index.search(queries, 5, np.ones(1001, dtype=bool))
        assert not packed
        index.remove(np.array([7, 7]))
        assert index.search(queries, 1001)[1].shape == (20, 1000)
        assert len(packed) == 1

    def test_more_than_there_are_gives_what_there_is(self, database, queries):
        assert DescriptorIndex.build(database[:3]).search(queries, 10)[1].shape == (20, 3)

    @pytest.mark.parametrize("kind", ["flat", "ivf-fastscan", "hnsw", "ivf-sq"])
    def test_added_rows_are_found(self, database, queries, kind):
        index = DescriptorIndex.build(database[:700], kind)
        index.add(database[700:])
        assert len(index) == 1000
        assert index.search(queries[-1:], 5)[1][0].tolist().count(950) == 1

    @pytest.mark.parametrize("value", [np.nan, np.inf])
    def test_what_is_no_number_is_refused(self, index, database, value):
        wrong = database[:3].copy()
        wrong[1, 5] = value
        for use in (lambda rows: index.search(rows, 5), index.add, DescriptorIndex.build):
            with pytest.raises(ValueError, match="must be finite, got NaN or infinity in row 1"):
                use(wrong)
        assert len(index) == 1000

    def test_another_length_is_refused(self, index, database):
        for use in (lambda rows: index.search(rows, 5), index.add):
            with pytest.raises(ValueError, match="must have 32 channels as those of the index, got 30"):
                use(database[:3, :30])

    @pytest.mark.parametrize(("kind", "least"), [("ivf-fastscan", 16), ("ivf-pq", 256)])
    def test_too_few_rows_to_learn_codes_from_are_refused(self, database, kind, least):
        with pytest.raises(ValueError, match=f"'{kind}' needs {least} rows or more, got {least - 1}; use 'flat'"):
            DescriptorIndex.build(database[: least - 1], kind)
        assert len(DescriptorIndex.build(database[:least], kind)) == least

    def test_a_query_alone_and_among_others_finds_the_same(self, index, queries):
        alone = np.concatenate([index.search(query[None], 5)[1] for query in queries])
        assert (alone == index.search(queries, 5)[1]).mean() > 0.98

    def test_an_unknown_kind_is_answered_with_those_there_are(self, database):
        with pytest.raises(ValueError, match="must be one of 'flat', 'ivf-fastscan', 'hnsw', 'ivf-sq', 'ivf-pq', got"):
            DescriptorIndex.build(database, "lsh")


class TestGrow:
    @pytest.mark.parametrize("kind", ["flat", "ivf-fastscan", "hnsw", "ivf-sq"])
    def test_old_and_new_rows_are_found_under_their_numbers(self, database, queries, kind):
        index = DescriptorIndex.build(database[:700], kind, "a model")
        index.remove(np.array([100]))
        index.grow(database[700:], lambda: database)
        rows = index.search(queries, 5)[1]
        assert (rows == np.arange(0, 1000, 50)[:, None]).any(axis=1).mean() >= 0.9
        assert not (rows == 100).any()
        assert (len(index), index.is_live.sum(), index.kind, index.model) == (1000, 999, kind, "a model")

    def test_a_flat_index_is_that_of_one_build(self, database):
        index = DescriptorIndex.build(database[:700])
        index.grow(database[700:], lambda: pytest.fail("an exact index has no use for all rows"))
        assert np.array_equal(serialized(index), serialized(DescriptorIndex.build(database)))

    def test_cells_are_placed_anew_once_the_rows_have_grown_by_a_quarter(self):
        rows = unit_rows(5100, 8)
        index = DescriptorIndex.build(rows[:4000], "ivf-sq")
        index.remove(np.array([7]))
        index.grow(rows[4000:4900], lambda: rows[:4900])
        assert index._index.nlist == 125  # 4000 / 32
        index.grow(rows[4900:], lambda: rows)
        assert index._index.nlist == 159
        assert np.flatnonzero(~index.is_live).tolist() == [7]
        assert index.search(rows[:1], 6000)[1].shape == (1, 5099)
        assert np.array_equal(serialized(index), serialized(DescriptorIndex.build(rows, "ivf-sq")))

    @pytest.mark.parametrize("kind", ["ivf-fastscan", "hnsw", "ivf-sq"])
    def test_more_of_what_lies_elsewhere_is_found_because_the_reach_is_measured_anew(self, kind):
        there = clusters(3000, spread=0.3)
        rows = np.concatenate([there, unit_rows(700, seed=3)])
        queries = unit_rows(150, seed=4)
        exact = brute_force(queries, rows, 10)
        shares = []
        for grow in (lambda index: index.grow(rows[3000:], lambda: rows), lambda index: index.add(rows[3000:])):
            index = DescriptorIndex.build(there, kind)
            grow(index)
            found = index.search(queries, 10)[1]
            shares.append(np.mean([len(np.intersect1d(*pair)) / 10 for pair in zip(found, exact, strict=True)]))
        assert shares[0] > max(0.85, shares[1] + 0.1)

    def test_another_length_is_refused(self, index, database):
        with pytest.raises(ValueError, match="must have 32 channels as those of the index, got 30"):
            index.grow(database[:3, :30], lambda: database)
        assert len(index) == 1000


class TestReach:
    """How far an approximate index looks is set by what it finds of the exact neighbours."""

    @pytest.mark.parametrize("kind", ["ivf-fastscan", "hnsw", "ivf-sq"])
    def test_nearly_all_true_neighbours_of_new_queries_are_found(self, kind):
        database, queries = unit_rows(3000, 16), unit_rows(50, 16, seed=1)
        _, rows = DescriptorIndex.build(database, kind).search(queries, 10)
        exact = brute_force(queries, database, 10)
        assert np.mean([len(np.intersect1d(*pair)) / 10 for pair in zip(rows, exact, strict=True)]) > 0.97

    def test_it_is_short_where_neighbours_lie_close_together(self):
        near, far = (DescriptorIndex.build(rows, "ivf-sq")._index.nprobe for rows in (clusters(3000), unit_rows(3000)))
        assert 4 * near <= far

    @pytest.mark.parametrize("kind", ["ivf-fastscan", "hnsw", "ivf-sq"])
    def test_it_is_kept_in_the_file(self, kind, tmp_path):
        index = DescriptorIndex.build(unit_rows(3000), kind)
        index.save(tmp_path / "index.faiss")
        loaded = DescriptorIndex.load(tmp_path / "index.faiss")

        def reach(index):
            return index._index.hnsw.efSearch if kind == "hnsw" else inverted_file(index._index).nprobe

        assert reach(loaded) == reach(index) > 1

    def test_short_codes_are_compared_again_more_often_where_neighbours_are_hard_to_tell_apart(self):
        near, far = (
            DescriptorIndex.build(rows, "ivf-fastscan")._index.k_factor for rows in (clusters(3000), unit_rows(3000))
        )
        assert 1 <= near < far

    def test_codes_too_coarse_for_it_do_not_make_the_search_exhaustive(self):
        index = DescriptorIndex.build(clusters(10_000), "ivf-pq")
        assert index._index.nprobe < index._index.nlist / 4

    def test_an_index_of_few_rows_has_one(self):
        index = DescriptorIndex.build(unit_rows(3), "hnsw")
        assert sorted(index.search(unit_rows(1), 3)[1][0]) == [0, 1, 2]


class TestRemove:
    @pytest.mark.parametrize("kind", KINDS)
    def test_removed_rows_are_never_found_and_the_others_keep_their_numbers(self, database, queries, kind, tmp_path):
        index = DescriptorIndex.build(database, kind)
        before = index.search(queries, 5)[1]
        index.remove(np.arange(0, 1000, 100))
        index.save(tmp_path / "index.faiss")
        for found in (index, DescriptorIndex.load(tmp_path / "index.faiss")):
            rows = found.search(queries, 5)[1]
            assert not set(range(0, 1000, 100)) & set(rows.flat)
            assert np.array_equal(rows[1::2, 0], before[1::2, 0])  # these queries were made from rows that stayed
            assert len(found) == 1000

    def test_added_rows_come_behind_removed_ones(self, database):
        index = DescriptorIndex.build(database[:10])
        index.remove(np.array([9]))
        index.add(database[10:12])
        assert index.search(database[10:11], 1)[1].tolist() == [[10]]
        assert index.is_live.tolist() == [True] * 9 + [False, True, True]

    def test_rows_that_are_not_there_are_refused(self, database):
        index = DescriptorIndex.build(database[:10])
        for row in (-1, 10):
            with pytest.raises(IndexError, match=r"must be in \[0, 10\)"):
                index.remove(np.array([3, row]))
        assert index.is_live.all()


class TestFiles:
    @pytest.mark.parametrize("is_mapped", [False, True])
    def test_a_loaded_index_finds_the_same(self, index, queries, is_mapped, tmp_path):
        index.save(tmp_path / "index.faiss")
        loaded = DescriptorIndex.load(tmp_path / "index.faiss", is_mapped=is_mapped)
        assert np.array_equal(loaded.search(queries, 5)[1], index.search(queries, 5)[1])

    def test_what_is_no_index_is_refused(self, tmp_path):
        text = b"no index at all, but long enough to be read as one"
        (tmp_path / "index.faiss").write_bytes(text)
        with pytest.raises(PlaceDatabaseError, match="cannot be used without index.json beside it"):
            DescriptorIndex.load(tmp_path / "index.faiss")
        DescriptorIndex.build(np.eye(2, dtype=np.float32)).save(tmp_path / "index.faiss")
        (tmp_path / "index.faiss").write_bytes(text)
        write_description(tmp_path, crc32=crc32_of(tmp_path / "index.faiss"))
        with pytest.raises(PlaceDatabaseError, match="cannot be read as a faiss index"):
            DescriptorIndex.load(tmp_path / "index.faiss")
        (tmp_path / "index.faiss").unlink()
        with pytest.raises(PlaceDatabaseError, match="cannot be read as a faiss index"):
            DescriptorIndex.load(tmp_path / "index.faiss")

    @pytest.mark.parametrize("is_mapped", [False, True])
    def test_a_damaged_index_is_told_from_its_checksum(self, database, is_mapped, tmp_path):
        path = tmp_path / "index.faiss"
        DescriptorIndex.build(database).save(path)
        content = bytearray(path.read_bytes())
        content[-5] ^= 1  # a descriptor, which faiss would read as well
        path.write_bytes(content)
        with pytest.raises(PlaceDatabaseError, match="index.faiss is damaged: its checksum"):
            DescriptorIndex.load(path, is_mapped=is_mapped)

    def test_what_made_it_is_kept_with_it(self, database, tmp_path):
        DescriptorIndex.build(database, "hnsw", model="abc").save(tmp_path / "index.faiss")
        description = json.loads((tmp_path / "index.json").read_text())
        expected = {"format_version": 1, "kind": "hnsw", "num_rows": 1000, "num_channels": 32, "model": "abc"}
        assert expected.items() <= description.items()
        assert description["faiss_version"] == faiss.__version__
        loaded = DescriptorIndex.load(tmp_path / "index.faiss")
        assert (loaded.kind, loaded.model, len(loaded), loaded.num_channels) == ("hnsw", "abc", 1000, 32)

    def test_a_later_format_is_refused(self, database, tmp_path):
        DescriptorIndex.build(database).save(tmp_path / "index.faiss")
        write_description(tmp_path, format_version=2)
        with pytest.raises(PlaceDatabaseError, match=r"format version 2 \(faiss 1.*and this release reads 1"):
            DescriptorIndex.load(tmp_path / "index.faiss")

    @pytest.mark.parametrize(
        ("name", "value", "message"),
        [
            ("kind", "tree", "of index.json, kind must be one of 'flat', .*, got 'tree'"),
            ("crc32", None, "of index.json, crc32 must be a valid string, got None"),
            ("removed_rows", [1000], r"is of other rows than those .*: Rows must be in \[0, 1000\)"),
        ],
    )
    def test_a_description_that_cannot_be_is_refused(self, database, tmp_path, name, value, message):
        DescriptorIndex.build(database).save(tmp_path / "index.faiss")
        write_description(tmp_path, **{name: value})
        with pytest.raises(PlaceDatabaseError, match=rf"index\.faiss .*{message}"):
            DescriptorIndex.load(tmp_path / "index.faiss")

    @pytest.mark.parametrize("text", ["", "[]", "{}"])
    def test_a_damaged_description_is_named(self, database, tmp_path, text):
        DescriptorIndex.build(database).save(tmp_path / "index.faiss")
        (tmp_path / "index.json").write_text(text)
        with pytest.raises(PlaceDatabaseError, match=r"index\.faiss cannot be used: of index\.json, it"):
            DescriptorIndex.load(tmp_path / "index.faiss")


def write_description(folder, **changes):
    path = folder / "index.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


class TestChooseKind:
    @pytest.mark.parametrize(
        ("num_rows", "memory_bytes", "kind"),
        [
            (100_000, None, "flat"),
            (100_001, None, "ivf-fastscan"),
            (10_000, 30_000_000, "ivf-fastscan"),  # 41 MB flat; 22 MB in two bytes with a bit, 13 in one with links
            (10_000, 20_000_000, "hnsw"),
            (10_000, 11_000_000, "ivf-sq"),
            (1_000_000, 1_200_000_000, "ivf-sq"),
            (1_000_000, 500_000_000, "ivf-pq"),
        ],
    )
    def test_the_most_exact_that_fits_is_chosen(self, num_rows, memory_bytes, kind):
        assert choose_kind(num_rows, 1024, memory_bytes) == kind
