"""Arrays of shards on disk: what is written is read, what is damaged is named, what is unfinished is not seen."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from selavpr_peft.errors import PlaceDatabaseError
from selavpr_peft.retrieval import sharded_array
from selavpr_peft.retrieval.sharded_array import ShardedArray


@pytest.fixture
def rows():
    return np.random.default_rng(0).normal(size=(11, 3, 4)).astype(np.float16)


@pytest.fixture
def folder(tmp_path, rows):
    array = ShardedArray(tmp_path / "array")
    for part in (rows[:4], rows[4:9], rows[9:]):
        array.append(part)
    return array.folder


def flip_a_byte(path, position):
    content = bytearray(path.read_bytes())
    content[position] ^= 1
    path.write_bytes(content)


class TestReading:
    def test_rows_come_in_the_order_asked_for(self, folder, rows):
        found = ShardedArray(folder).read([10, 0, 4, 4])
        assert np.array_equal(found, rows[[10, 0, 4, 4]])
        assert found.dtype == np.float16

    @settings(deadline=None, max_examples=10)
    @given(sizes=st.lists(st.integers(0, 5), max_size=5), dtype=st.sampled_from(["f4", "f2", "i1", "u1", "i8"]))
    def test_everything_that_was_appended_is_there(self, tmp_path_factory, sizes, dtype):
        array = ShardedArray(tmp_path_factory.mktemp("array"))
        parts = [np.arange(7 * size).reshape(size, 7).astype(dtype) + number for number, size in enumerate(sizes)]
        for part in parts:
            array.append(part)
        again = ShardedArray(array.folder)
        assert (len(again), again.shard_sizes) == (sum(sizes), sizes)
        if sum(sizes):
            assert np.array_equal(again.read_all(), np.concatenate(parts))

    def test_rows_of_whole_numbers_are_read(self, tmp_path):
        array = ShardedArray(tmp_path)
        array.append(np.array([3, 1, 2]))
        assert array.read([2, 0]).tolist() == [2, 3]

    @pytest.mark.parametrize("row", [-1, 11])
    def test_rows_that_are_not_there_are_refused(self, folder, row):
        with pytest.raises(IndexError, match=r"must be in \[0, 11\)"):
            ShardedArray(folder).read([row])

    def test_few_shards_are_open_at_a_time(self, folder, rows, monkeypatch):
        monkeypatch.setattr(sharded_array, "OPEN_SHARDS", 1)
        assert np.array_equal(ShardedArray(folder).read([0, 10, 1, 9]), rows[[0, 10, 1, 9]])

    def test_open_readers_see_new_shards_when_they_look(self, folder, rows):
        reader, writer = ShardedArray(folder), ShardedArray(folder)
        writer.append(rows[:2])
        assert len(reader) == 11
        reader.refresh()
        assert len(reader) == 13
        assert np.array_equal(reader.read([12]), rows[1:2])

    @pytest.mark.parametrize(("num_rows", "num_seen"), [(0, 0), (4, 4), (9, 9), (11, 11), (20, 11)])
    def test_shards_behind_those_that_are_counted_are_not_looked_at(self, folder, num_rows, num_seen):
        array = ShardedArray(folder, num_rows)
        assert len(array) == num_seen
        array.refresh()
        assert len(array) == num_seen

    def test_a_writer_behind_them_changes_nothing(self, folder, rows):
        reader, writer = ShardedArray(folder, 9), ShardedArray(folder)
        writer.truncate(2)
        writer.append(rows[:5])
        reader.refresh()
        assert (len(reader), len(writer)) == (9, 14)
        assert np.array_equal(reader.read_all(), rows[:9])

    def test_its_files_are_named(self, folder):
        (folder / ".00001.npy.abc").touch()
        names = ["00000.npy", "00000.crc.npy", "00001.npy", "00001.crc.npy"]
        assert ShardedArray(folder, 9).files == [folder / name for name in names]


class TestDamage:
    def test_a_flipped_bit_is_named_and_the_rest_stays_readable(self, folder, rows):
        flip_a_byte(folder / "00001.npy", -1)
        array = ShardedArray(folder)
        with pytest.raises(PlaceDatabaseError, match=r"Row 4 of .*00001\.npy is damaged"):
            array.read([8])
        assert np.array_equal(array.read([7, 9]), rows[[7, 9]])
        assert [row for row, _ in array.damaged_rows()] == [8]

    def test_a_cut_file_is_named(self, folder):
        path = folder / "00002.npy"
        path.write_bytes(path.read_bytes()[:-10])
        with pytest.raises(PlaceDatabaseError, match=r"00002\.npy cannot be read"):
            ShardedArray(folder).read([10])

    def test_a_shard_without_checksums_was_not_finished(self, folder, rows):
        (folder / "00002.crc.npy").unlink()
        array = ShardedArray(folder)
        assert len(array) == 9
        array.append(rows[:1])  # takes its place
        assert np.array_equal(ShardedArray(folder).read([9]), rows[:1])

    def test_pickles_are_not_read(self, folder):
        np.save(folder / "00000.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
        with pytest.raises(PlaceDatabaseError, match="cannot be read"):
            ShardedArray(folder).read([0])

    def test_a_full_disk_adds_nothing(self, folder, rows, monkeypatch):
        array = ShardedArray(folder)

        def full(*arguments, **options):
            raise OSError(28, "No space left on device")

        with monkeypatch.context() as context:
            context.setattr(np, "save", full)
            with pytest.raises(OSError, match="No space left"):
                array.append(rows)
        assert len(array) == len(ShardedArray(folder)) == 11
        array.append(rows)
        assert len(ShardedArray(folder)) == 22

    def test_last_shards_can_be_dropped(self, folder, rows):
        array = ShardedArray(folder)
        array.truncate(1)
        assert len(array) == len(ShardedArray(folder)) == 4
        array.append(rows[5:6])
        assert np.array_equal(array.read([3, 4]), rows[[3, 5]])
