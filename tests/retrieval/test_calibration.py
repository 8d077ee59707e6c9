"""Calibrated answers: more evidence never makes an answer less likely, and unfitted ones are not guessed."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from selavpr_peft.retrieval import PlaceDatabase, PlaceRecognizer
from selavpr_peft.retrieval.calibration import Calibration, answer_form, calibration_of, carry_calibration
from selavpr_peft.retrieval.fingerprint import adapter_fingerprint
from tests.retrieval.conftest import make_model

FORM = {"local_dtype": "float16", "rerank_num": 100}
CALIBRATION = Calibration(adapter="0f", form=FORM, intercept=-2.0, slope=0.5, fitted_on={}, quality={})


@pytest.fixture
def database(model, places, tmp_path):
    return PlaceDatabase.build(model, places, tmp_path / "db")


@pytest.fixture
def query(photographs):
    return photographs / "7.png"


def calibration_for(database, rerank_num=5):
    """One that gives 1/2 for 100 matches."""
    return replace(
        CALIBRATION,
        adapter=database.manifest.adapter,
        form=answer_form(database.manifest, rerank_num),
        intercept=-1.0,
        slope=0.01,
    )


class TestProbability:
    def test_is_the_logistic_function_of_the_evidence(self):
        assert CALIBRATION.probability(4) == 0.5
        assert CALIBRATION.probability(10) == pytest.approx(0.952574, abs=1e-6)  # 1 / (1 + exp(-3))
        assert CALIBRATION.probability(10**6) == 1

    @given(st.floats(-50, 50), st.floats(1e-6, 50), st.floats(0, 1e4), st.floats(0, 1e4))
    def test_more_evidence_is_never_less_likely(self, intercept, slope, first, second):
        calibration = replace(CALIBRATION, intercept=intercept, slope=slope)
        low, high = sorted((first, second))
        assert 0 <= calibration.probability(low) <= calibration.probability(high) <= 1


class TestDiffering:
    def test_names_what_is_otherwise(self):
        assert CALIBRATION.differing(FORM) == []
        assert CALIBRATION.differing(FORM | {"rerank_num": 20}) == ["rerank_num"]
        assert CALIBRATION.differing({"local_dtype": "int8", "rerank_num": 20}) == ["local_dtype", "rerank_num"]


class TestRecognize:
    def test_only_the_first_place_has_a_probability(self, model, database, query):
        calibration = calibration_for(database)
        found = PlaceRecognizer(model, database, calibration=calibration).recognize(query, rerank_num=5)
        assert found[0].probability == calibration.probability(found[0].num_matches) > 0.5
        assert [place.probability for place in found[1:]] == [None] * 9
        plain = PlaceRecognizer(model, database).recognize(query, rerank_num=5)
        assert [replace(place, probability=None) for place in found] == plain

    def test_the_calibration_that_the_model_carries_is_used(self, model, database, query):
        carry_calibration(model, calibration_for(database))
        assert PlaceRecognizer(model, database).recognize(query, rerank_num=5)[0].probability > 0.5

    def test_without_re_ranking_the_evidence_is_the_similarity(self, model, database, query):
        calibration = replace(calibration_for(database, rerank_num=0), intercept=-10.0, slope=11.0)
        best = PlaceRecognizer(model, database, calibration=calibration).recognize(query, rerank_num=0)[0]
        assert best.probability == calibration.probability(best.score)
        assert best.probability == pytest.approx(0.731, abs=1e-3)  # 1 / (1 + exp(-1)): the query is the place

    @pytest.mark.parametrize(
        "question",
        [{"rerank_num": 4}, {"rerank_num": 5, "rerank_window": 2.0}, {"near": (66.0, -18.0), "radius_m": 10**6}],
    )
    def test_answers_found_otherwise_have_none(self, model, database, query, question):
        recognizer = PlaceRecognizer(model, database, calibration=calibration_for(database))
        assert recognizer.recognize(query, **{"rerank_num": 5} | question)[0].probability is None

    @pytest.mark.parametrize(
        ("form", "differing"),
        [({"local_dtype": "int8"}, ["local_dtype"]), ({"keep_locations": 20}, ["kept_locations"])],
    )
    def test_nor_have_those_of_a_database_of_another_form(
        self, model, places, database, query, tmp_path, form, differing
    ):
        other = PlaceDatabase.build(model, places, tmp_path / "other", **form)
        recognizer = PlaceRecognizer(model, other, calibration=calibration_for(database))
        assert recognizer.uncalibrated(5) == differing
        assert recognizer.recognize(query, rerank_num=5)[0].probability is None

    def test_a_model_without_local_head_is_calibrated_for_retrieval(self, places, query, tmp_path):
        model = make_model(use_local_head=False)
        database = PlaceDatabase.build(model, places, tmp_path / "db")
        assert answer_form(database.manifest, 100)["rerank_num"] == 0
        recognizer = PlaceRecognizer(model, database, calibration=calibration_for(database))
        assert recognizer.recognize(query)[0].probability is not None

    def test_a_calibration_of_another_adapter_is_refused(self, model, database):
        with pytest.raises(ValueError, match=r"got one of 0f; fit it anew"):
            PlaceRecognizer(model, database, calibration=CALIBRATION)


class TestCarryCalibration:
    def test_it_is_given_only_for_the_weights_it_belongs_to(self, model, database):
        carry_calibration(model, calibration_for(database))
        assert calibration_of(model, adapter_fingerprint(model)) == calibration_for(database)
        with torch.no_grad():
            next(parameter for name, parameter in model.named_parameters() if "sela_gem_p" in name).add_(1)
        assert calibration_of(model, adapter_fingerprint(model)) is None
        assert calibration_of(make_model(), adapter_fingerprint(make_model())) is None
