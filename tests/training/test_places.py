"""Which images may be positives and negatives of a training query, and which queries are left out."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from selavpr_peft.data.positives import positives_within
from selavpr_peft.training.places import training_places
from tests.training import plain_loops
from tests.training.tables import line, place, splits

coordinates = st.integers(-6, 6)  # whole numbers: what lies exactly on a radius is the same to everybody


@st.composite
def cities(draw):
    """Queries and database over a few pictures, some of them in both, with or without traverses."""
    dims, has_traverses = draw(st.sampled_from([1, 2])), draw(st.booleans())
    position = st.tuples(*[coordinates] * dims)
    traverse = st.sampled_from(["day", "night", "dusk"]) if has_traverses else st.none()
    pictures = [
        place(*draw(position), picture=f"{number}.jpg", traverse=draw(traverse))
        for number in range(draw(st.integers(2, 9)))
    ]
    chosen = st.lists(st.sampled_from(pictures), min_size=1, unique_by=lambda picture: picture["picture"])
    radii = sorted(draw(st.tuples(st.integers(0, 6), st.integers(0, 6))))
    return draw(chosen), draw(chosen), *radii


class TestAgainstPlainLoops:
    @settings(deadline=None, max_examples=25)
    @given(cities())
    def test_positives_negatives_and_dropped_queries_are_those_of_plain_loops(self, city):
        queries, database, positive_radius, negative_radius = city
        expected = [plain_loops.positives(query, database, positive_radius) for query in queries]
        kept = [number for number, rows in enumerate(expected) if rows]
        if not kept:
            with pytest.raises(ValueError, match="has a positive within"):
                training_places(
                    splits(queries, database), positive_radius=positive_radius, negative_radius=negative_radius
                )
            return
        found = training_places(
            splits(queries, database), positive_radius=positive_radius, negative_radius=negative_radius
        )
        assert found.query_rows.tolist() == kept
        assert found.num_queries_without_positive == len(queries) - len(kept)
        assert found.queries["key"][:] == [f"row {number}" for number in kept]
        assert [rows.tolist() for rows in found.positives] == [expected[number] for number in kept]
        everything = np.arange(len(database))
        for number, query in enumerate(kept):
            negatives = plain_loops.negatives(queries[query], database, negative_radius)
            assert found.negatives_among(number, everything).tolist() == negatives
            assert found.num_possible_negatives()[number] == len(negatives)


class TestPositives:
    def test_an_image_is_never_its_own_positive(self):
        places = line([0, 4, 50], "a")
        found = training_places(splits(places, places), positive_radius=10, negative_radius=25)
        assert [rows.tolist() for rows in found.positives] == [[1], [0]]

    def test_the_same_picture_has_one_number_in_both_tables(self):
        database = line([0, 4, 50], "a")
        queries = [database[1], *line([1], "b")]
        found = training_places(splits(queries, database), positive_radius=10, negative_radius=25)
        assert found.query_images[0] == found.database_images[1]
        assert found.query_images[1] not in found.database_images

    def test_positives_and_negatives_come_from_another_traverse(self):
        database = [*line([0, 50], "a", traverse="day"), *line([1, 51], "b", traverse="night")]
        found = training_places(
            splits(line([0], "q", traverse="day"), database), positive_radius=10, negative_radius=25
        )
        assert found.positives[0].tolist() == [2]
        assert found.negatives_among(0, np.arange(4)).tolist() == [3]
        assert found.num_possible_negatives().tolist() == [1]

    def test_a_traverse_that_is_missing_counts_as_one_of_its_own(self):
        database = [*line([0, 50], "a", traverse="day")]
        database[1]["traverse"] = None
        found = training_places(
            splits(line([0], "q", traverse="night"), database), positive_radius=10, negative_radius=25
        )
        assert found.negatives_among(0, np.arange(2)).tolist() == [1]

    def test_a_traverse_in_one_table_only_is_not_used(self):
        database = line([0, 50], "a", traverse="day")
        found = training_places(splits(line([0], "q"), database), positive_radius=10, negative_radius=25)
        assert found.query_traverses is None
        assert found.positives[0].tolist() == [0]


class TestRadii:
    def test_the_positive_radius_belongs_to_the_positives_and_the_negative_one_to_no_negative(self):
        database = line([10, 10.01, 25, 25.01], "a")
        found = training_places(splits(line([0], "q"), database), positive_radius=10, negative_radius=25)
        assert found.positives[0].tolist() == [0]
        assert found.near[0].tolist() == [0, 1, 2]
        assert found.negatives_among(0, np.arange(4)).tolist() == [3]

    def test_equal_radii_are_allowed(self):
        found = training_places(splits(line([0], "q"), line([1, 9], "a")), positive_radius=5, negative_radius=5)
        assert (found.positives[0].tolist(), found.num_possible_negatives().tolist()) == ([0], [1])

    def test_reversed_radii_are_an_error(self):
        with pytest.raises(ValueError, match="not exceed negative_radius, got 25 and 10"):
            training_places(splits(line([0], "q"), line([1], "a")), positive_radius=25, negative_radius=10)

    @pytest.mark.parametrize("radius", [-1.0, float("nan")])
    def test_a_radius_that_is_no_distance_is_an_error(self, radius):
        with pytest.raises(ValueError, match="positive_radius must be at least 0"):
            training_places(splits(line([0], "q"), line([1], "a")), positive_radius=radius, negative_radius=10)

    def test_metres_and_frames_do_not_mix(self, monkeypatch):
        unchecked = getattr(positives_within, "__wrapped__", positives_within)  # the shape checker comes first
        monkeypatch.setattr("selavpr_peft.training.places.positives_within", unchecked)
        frames = [place(3, picture="f.jpg")]
        with pytest.raises(ValueError, match="both have metres or both have frames"):
            training_places(splits(frames, line([1], "a")), positive_radius=1, negative_radius=2)


class TestQueriesWithoutPositive:
    def test_they_are_dropped_with_their_lists_of_near_images(self):
        # Regression of the official datasets_ws.py: it drops the query but not its list of images within 25 m, so that
        # each later query is given the list of the one before it, and its own true positives become negatives.
        database = line([0, 20, 1000, 1020], "a")
        queries = line([500, 2, 1002], "q")  # the first has nothing near
        found = training_places(splits(queries, database), positive_radius=10, negative_radius=25)
        assert found.num_queries_without_positive == 1
        assert [rows.tolist() for rows in found.near] == [[0, 1], [2, 3]]
        assert found.negatives_among(0, np.arange(4)).tolist() == [2, 3]
        assert found.negatives_among(1, np.arange(4)).tolist() == [0, 1]

    def test_an_image_between_the_radii_makes_no_positive(self):
        found = training_places(splits(line([0, 40], "q"), line([1, 55], "a")), positive_radius=10, negative_radius=25)
        assert found.query_rows.tolist() == [0]

    def test_no_positive_at_all_is_an_error(self):
        with pytest.raises(ValueError, match=r"None of the 2 training queries has a positive within 10 m"):
            training_places(splits(line([0, 100], "q"), line([50], "a")), positive_radius=10, negative_radius=25)

    def test_a_single_traverse_is_told_to_have_none(self):
        walk = line([0, 1], "a", traverse="day")
        with pytest.raises(ValueError, match="in another traverse than its own: .* more than one traverse"):
            training_places(splits(walk, walk), positive_radius=10, negative_radius=25)

    def test_a_single_place_with_itself_has_no_positive(self):
        one = line([0], "a")
        with pytest.raises(ValueError, match="None of the 1 training queries"):
            training_places(splits(one, one), positive_radius=10, negative_radius=25)


class TestPictures:
    @pytest.mark.parametrize("split", ["queries", "database"])
    def test_a_picture_that_stands_twice_is_an_error(self, split):
        twice = [place(0.0, 0.0, picture="same.jpg"), place(1.0, 0.0, picture="same.jpg")]
        once = line([0, 1], "b")
        both = splits(twice, once) if split == "queries" else splits(once, twice)
        with pytest.raises(ValueError, match=f"same.jpg stands twice in the {split}"):
            training_places(both, positive_radius=10, negative_radius=25)
