"""The evaluation of a place database: exact where the database is, and otherwise that of its form."""

import pytest
from datasets import concatenate_datasets

from selavpr_peft import SelaConfig
from selavpr_peft.data.place_table import read_place_table
from selavpr_peft.data.toy_city import write_toy_city
from selavpr_peft.errors import PlaceDatabaseError, UnreadableImageError
from selavpr_peft.evaluation.database_evaluator import evaluate_database
from selavpr_peft.evaluation.evaluator import evaluate_two_stage
from selavpr_peft.hub.loading import adapt_freshly
from selavpr_peft.modeling.preprocessing import Preprocessing
from selavpr_peft.modeling.toy_backbone import toy_backbone
from selavpr_peft.retrieval import PlaceDatabase, PlaceRecognizer

EXACT = {"local_dtype": "float32", "positive_radius": 1, "rerank_num": 4}


def make_model(**settings):
    settings = {"image_size": (56, 70), "local_channels": (16, 8)} | settings
    return adapt_freshly(toy_backbone(seed=0), SelaConfig(**settings), seed=0)


@pytest.fixture(scope="module")
def model():
    return make_model()


@pytest.fixture
def city(tmp_path):
    """A city of twelve places by day and by night, fit for being damaged."""
    return write_toy_city(tmp_path / "city", num_places=12, size=(56, 70))


def tables(city, queries="night"):
    return read_place_table(f"{city}:{queries}"), read_place_table(f"{city}:day")


def evaluate_exactly(model, queries, database, **settings):
    del settings["local_dtype"]
    return evaluate_two_stage(
        model, queries, database, Preprocessing.of(model.active_peft_config), batch_size=1, **settings
    )


def assert_same(found, expected):
    num_candidates = expected.retrieved.shape[1]
    assert found.retrieved[:, :num_candidates].tolist() == expected.retrieved.tolist()
    assert found.predictions[:, :num_candidates].tolist() == expected.predictions.tolist()
    assert [rows.tolist() for rows in found.positives] == [rows.tolist() for rows in expected.positives]
    for name in (
        "num_queries",
        "num_database",
        "radius_unit",
        "retrieval",
        "reranked",
        "num_queries_without_positive",
    ):
        assert getattr(found, name) == getattr(expected, name)


class TestExactForm:
    """With all local features in float32, it is the two-stage evaluation."""

    def test_recalls_and_rankings_are_those_of_the_two_stages(self, model, city):
        found = evaluate_database(model, *tables(city), **EXACT)
        assert_same(found, evaluate_exactly(model, *tables(city), **EXACT))
        assert found.retrieved.tolist() != found.predictions.tolist()

    def test_a_query_is_found_by_other_pictures_than_its_own(self, model, city):
        _, database = tables(city)
        queries = concatenate_datasets([database.select([2, 5]), tables(city)[0].select([3])])
        found = evaluate_database(model, queries, database, **EXACT)
        assert_same(found, evaluate_exactly(model, queries, database, **EXACT))
        assert all(row not in found.retrieved[number] for number, row in enumerate((2, 5)))

    def test_queries_without_positive_stay_in_the_denominator(self, model, city):
        queries, database = tables(city)
        settings = EXACT | {"positive_radius": 0}
        found = evaluate_database(model, queries, database.select(range(6)), **settings)
        assert_same(found, evaluate_exactly(model, queries, database.select(range(6)), **settings))
        assert (found.num_queries, found.num_queries_without_positive) == (12, 6)

    def test_images_that_cannot_be_read_are_missed(self, model, city):
        for name in ("day/0001.jpg", "night/0000.jpg", "night/0007.jpg"):
            (city / name).write_bytes(b"damaged")
        found = evaluate_database(model, *tables(city), **EXACT)
        assert_same(found, evaluate_exactly(model, *tables(city), **EXACT))
        assert (set(found.retrieved[7]), 1 in found.retrieved) == ({-1}, False)
        assert ["day/0001.jpg" in found.unreadable[0], "night/0000.jpg" in found.unreadable[1]] == [True, True]

    def test_without_local_head_there_is_no_re_ranking(self, city):
        model = make_model(use_local_head=False)
        found = evaluate_database(model, *tables(city), **EXACT)
        assert_same(found, evaluate_exactly(model, *tables(city), **EXACT))
        assert found.reranked is None


class TestOtherForms:
    @pytest.mark.parametrize("form", [{"local_dtype": "binary"}, {"local_dtype": "int8", "keep_locations": 12}])
    def test_the_ranking_is_that_of_a_database_of_the_form(self, model, city, tmp_path, form):
        queries, database = tables(city)
        found = evaluate_database(model, queries, database, positive_radius=1, rerank_num=6, **form)
        recognizer = PlaceRecognizer(model, PlaceDatabase.build(model, database, tmp_path / "db", **form))
        for number in range(len(queries)):
            places = recognizer.recognize(queries[number]["image"], rerank_num=6)
            assert found.predictions[number].tolist() == [place.row for place in places]
        exact = evaluate_exactly(model, queries, database, **EXACT | {"rerank_num": 6})
        assert found.retrieved.tolist() == exact.retrieved.tolist()
        assert found.predictions.tolist() != exact.predictions.tolist()


class TestMistakes:
    def test_an_empty_table_is_refused(self, model, city):
        queries, database = tables(city)
        with pytest.raises(ValueError, match="The table of the queries must have at least one image"):
            evaluate_database(model, queries.select([]), database, positive_radius=1)

    @pytest.mark.parametrize(
        ("traverse", "error", "message"),
        [
            ("night", UnreadableImageError, r"None of the 12 images of the queries .*night/0000\.jpg"),
            ("day", PlaceDatabaseError, "None of the 12 images can be read"),
        ],
    )
    def test_a_table_of_damaged_images_is_refused(self, model, city, traverse, error, message):
        for path in (city / traverse).iterdir():
            path.write_bytes(b"damaged")
        with pytest.raises(error, match=message):
            evaluate_database(model, *tables(city), positive_radius=1)

    def test_nothing_is_left_behind(self, model, city, tmp_path, monkeypatch):
        scratch = tmp_path / "scratch"
        scratch.mkdir()
        monkeypatch.setattr("tempfile.tempdir", str(scratch))
        evaluate_database(model, *tables(city), positive_radius=1)
        assert list(scratch.iterdir()) == []
