"""What a build keeps of the table of places."""

import tracemalloc

import pytest
from datasets import Dataset, Image

from selavpr_peft.retrieval.building import with_paths


class TestWithPaths:
    @pytest.mark.parametrize("rows", [[0, 1, 2], [2, 0]])
    def test_pictures_are_replaced_by_their_paths(self, rows):
        entries = [{"path": "a.jpg", "bytes": None}, {"path": "b.jpg", "bytes": b"x"}, {"path": None, "bytes": b"x"}]
        places = Dataset.from_dict({"image": entries, "key": list("abc")}).cast_column("image", Image())
        expected = [("a", "a.jpg"), ("b", "b.jpg"), ("c", None)]
        found = with_paths(places.select(rows)).to_pydict()
        assert list(zip(found["key"], found["image"], strict=True)) == [expected[row] for row in rows]

    def test_pictures_inside_the_table_are_not_read(self):
        entries = [{"path": f"{number}.jpg", "bytes": bytes(1_000_000)} for number in range(30)]
        places = Dataset.from_dict({"image": entries, "key": list(map(str, range(30)))}).cast_column("image", Image())
        tracemalloc.start()
        with_paths(places)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert peak < 5_000_000
