"""Lists of image pairs: what hloc and COLMAP read from them is what was retrieved."""

import pytest

from selavpr_peft.retrieval.image_pairs import image_pairs, name_within, write_image_pairs


def read_as_hloc(path):
    """Read a list as hloc's parse_retrieval does: two words a line, candidates in the order of the file."""
    found = {}
    for line in path.read_text().rstrip("\n").split("\n"):
        query, candidate = line.split()
        found.setdefault(query, []).append(candidate)
    return found


def read_as_colmap(path):
    """Read a list as COLMAP's ReadImagePairsText does: comments and empty lines left out, words between spaces."""
    lines = [line.strip() for line in path.read_text().splitlines()]
    return [tuple(line.split(" ")[:2]) for line in lines if line and not line.startswith("#")]


class TestImagePairs:
    def test_every_query_is_paired_with_its_candidates_best_first(self):
        pairs = image_pairs(["q1", "q2"], [["b", "a"], ["c"]])
        assert pairs == [("q1", "b"), ("q1", "a"), ("q2", "c")]

    def test_top_k_candidates_are_taken_of_each_query(self):
        assert image_pairs(["q1", "q2"], [["b", "a"], ["c", "d"]], top_k=1) == [("q1", "b"), ("q2", "c")]

    def test_an_image_is_not_paired_with_itself_and_does_not_count(self):
        assert image_pairs(["a"], [["a", "b", "c"]], top_k=2) == [("a", "b"), ("a", "c")]

    def test_a_pair_is_listed_once(self):
        assert image_pairs(["q", "q"], [["a", "a", "b"], ["a"]], top_k=2) == [("q", "a"), ("q", "b")]

    def test_nothing_retrieved_gives_no_pairs(self):
        assert image_pairs(["q"], [[]]) == image_pairs([], []) == []

    def test_wrong_numbers_are_refused(self):
        with pytest.raises(ValueError, match="candidates for 2 queries, got 1"):
            image_pairs(["q1", "q2"], [["a"]])
        with pytest.raises(ValueError, match="top_k must be at least 1, got 0"):
            image_pairs(["q1"], [["a"]], top_k=0)


class TestWriteImagePairs:
    pairs = (("night/1.jpg", "day/7.jpg"), ("night/1.jpg", "day/3.jpg"), ("night/2.jpg", "day/7.jpg"))

    def test_one_pair_stands_on_a_line(self, tmp_path):
        write_image_pairs(self.pairs, tmp_path / "new" / "pairs.txt")
        text = (tmp_path / "new" / "pairs.txt").read_bytes()
        assert text == b"night/1.jpg day/7.jpg\nnight/1.jpg day/3.jpg\nnight/2.jpg day/7.jpg\n"

    def test_hloc_and_colmap_read_what_was_written(self, tmp_path):
        write_image_pairs(self.pairs, tmp_path / "pairs.txt")
        assert read_as_hloc(tmp_path / "pairs.txt") == {
            "night/1.jpg": ["day/7.jpg", "day/3.jpg"],
            "night/2.jpg": ["day/7.jpg"],
        }
        assert read_as_colmap(tmp_path / "pairs.txt") == list(self.pairs)

    @pytest.mark.parametrize("name", ["my photo.jpg", "#1.jpg", "", "a\tb.jpg", "a.jpg\n"])
    def test_a_name_they_would_misread_is_refused_and_the_old_list_kept(self, tmp_path, name):
        path = tmp_path / "pairs.txt"
        path.write_text("old")
        with pytest.raises(ValueError, match=r"without white space .* got '.*'; rename"):
            write_image_pairs([("q.jpg", "a.jpg"), ("q.jpg", name)], path)
        assert path.read_text() == "old"


class TestNameWithin:
    def test_names_are_relative_with_forward_slashes(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        assert name_within(tmp_path / "walk" / "day" / "1.jpg", "walk") == "day/1.jpg"
        assert name_within("walk/x/../day/1.jpg", tmp_path) == "walk/day/1.jpg"

    def test_a_link_keeps_its_name(self, tmp_path):
        (tmp_path / "elsewhere").mkdir()
        (tmp_path / "walk").mkdir()
        (tmp_path / "walk" / "day").symlink_to(tmp_path / "elsewhere")
        assert name_within(tmp_path / "walk" / "day" / "1.jpg", tmp_path / "walk") == "day/1.jpg"

    def test_a_picture_elsewhere_is_refused(self, tmp_path):
        with pytest.raises(ValueError, match=r"other/1\.jpg is not in the image folder .*walk; name a folder"):
            name_within(tmp_path / "other" / "1.jpg", tmp_path / "walk")
