"""Fitting a calibration: the fit is that of plain loops, and what cannot be fitted is refused."""

from pathlib import Path

import numpy as np
import pytest
from datasets import Dataset, Image
from hypothesis import assume, given
from hypothesis import strategies as st

from selavpr_peft.data.place_table import read_place_table
from selavpr_peft.evaluation.calibration import (
    fit_calibration,
    fit_logistic,
    left_out_probabilities,
    measured_quality,
)
from selavpr_peft.retrieval import PlaceDatabase, PlaceRecognizer
from selavpr_peft.retrieval.calibration import logistic
from tests.evaluation.noisy_walk import NUM_SEEN, write_noisy_walk
from tests.retrieval.conftest import make_model


@pytest.fixture(scope="module")
def walk(tmp_path_factory):
    return write_noisy_walk(tmp_path_factory.mktemp("walk"))


@pytest.fixture(scope="module")
def recognizer(walk, tmp_path_factory):
    model = make_model()
    folder = tmp_path_factory.mktemp("databases") / "walk.placedb"
    return PlaceRecognizer(model, PlaceDatabase.build(model, f"{walk}:day", folder))


@pytest.fixture(scope="module")
def queries(walk):
    return read_place_table(f"{walk}:night")


samples = st.lists(st.tuples(st.integers(0, 500), st.booleans()), min_size=4, max_size=60)


def arrays(pairs):
    evidence, is_right = zip(*pairs, strict=True)
    return np.array(evidence, dtype=np.float64), np.array(is_right)


def probabilities(evidence, is_right):
    return logistic(*fit_logistic(evidence, is_right), evidence)


class TestFitLogistic:
    @given(samples)
    def test_no_other_numbers_fit_better(self, pairs):
        evidence, is_right = arrays(pairs)
        assume(len(set(evidence)) > 1)
        num_right, num_wrong = int(is_right.sum()), int((~is_right).sum())

        def loss(intercept, slope):
            total = 0.0
            for value, right in zip(evidence, is_right, strict=True):
                target = (num_right + 1) / (num_right + 2) if right else 1 / (num_wrong + 2)
                log_odds = intercept + slope * value
                total += np.logaddexp(0, log_odds) - target * log_odds
            return total

        intercept, slope = fit_logistic(evidence, is_right)
        best = loss(intercept, slope)
        for turn in ((0.1, 0), (-0.1, 0), (0, 0.001), (0, -0.001), (0.1, -0.0005), (-0.1, 0.0005)):
            assert best < loss(intercept + turn[0], slope + turn[1])

    @given(samples)
    def test_wrong_for_right_gives_the_other_probability(self, pairs):
        evidence, is_right = arrays(pairs)
        assert probabilities(evidence, ~is_right) == pytest.approx(1 - probabilities(evidence, is_right), abs=1e-6)

    @given(samples, st.sampled_from([0.001, 0.5, 1000.0]), st.integers(-1000, 1000))
    def test_the_unit_of_the_evidence_does_not_matter(self, pairs, scale, offset):
        evidence, is_right = arrays(pairs)
        moved = probabilities(scale * evidence + offset, is_right)
        assert moved == pytest.approx(probabilities(evidence, is_right), abs=1e-5)

    def test_separated_answers_do_not_become_certain(self):
        evidence, is_right = np.arange(20.0), np.arange(20) >= 10
        intercept, slope = fit_logistic(evidence, is_right)
        assert np.isfinite([intercept, slope]).all()
        least, most = logistic(intercept, slope, evidence[[0, -1]])
        assert 0 < least < 0.1
        assert 0.9 < most < 1

    @pytest.mark.parametrize("evidence", [7.0, 51.215])  # the second is not quite its own mean
    def test_equal_evidence_tells_the_share_only(self, evidence):
        is_right = np.array([True, True, True, False, False])
        intercept, slope = fit_logistic(np.full(5, evidence), is_right)
        assert slope == 0
        # targets are three times 4/5 and twice 1/4
        assert logistic(intercept, slope, np.array([evidence])) == pytest.approx((3 * 4 / 5 + 2 / 4) / 5)

    def test_finds_the_curve_that_outcomes_were_drawn_from(self):
        rng = np.random.default_rng(0)
        evidence = rng.normal(300, 100, size=20_000)
        is_right = rng.random(20_000) < logistic(-6.0, 0.02, evidence)
        intercept, slope = fit_logistic(evidence, is_right)
        assert (intercept, slope) == (pytest.approx(-6, rel=0.05), pytest.approx(0.02, rel=0.05))


class TestLeftOutProbabilities:
    def test_every_block_is_judged_by_a_fit_without_it(self):
        rng = np.random.default_rng(1)
        evidence = rng.normal(size=10)
        is_right = evidence + rng.normal(size=10) > 0
        expected = []
        for start, stop in ((0, 4), (4, 7), (7, 10)):
            others = [number for number in range(10) if not start <= number < stop]
            intercept, slope = fit_logistic(evidence[others], is_right[others])
            expected += [1 / (1 + np.exp(-intercept - slope * value)) for value in evidence[start:stop]]
        assert left_out_probabilities(evidence, is_right, num_folds=3) == pytest.approx(expected)

    def test_evidence_that_means_nothing_scores_no_better_than_the_share(self):
        rng = np.random.default_rng(2)
        evidence, is_right = rng.normal(size=300), rng.random(300) < 0.6
        quality = measured_quality(left_out_probabilities(evidence, is_right), is_right)
        assert quality["brier_score"] > 0.98 * quality["brier_score_of_share"]
        assert quality["expected_calibration_error"] < 0.1
        assert quality["threshold"] is None or quality["threshold"]["precision_at_least"] < 0.5  # a fluke says so


class TestFitCalibration:
    def test_known_places_are_told_from_others(self, recognizer, queries):
        calibration = fit_calibration(recognizer, queries, positive_radius=0, rerank_num=5, data="by night")
        assert calibration.fitted_on == {
            "data": "by night",
            "num_queries": 60,
            "num_right": NUM_SEEN,
            "num_database": 10,
            "positive_radius": 0,
            "radius_unit": "frames",
        }
        assert calibration.adapter == recognizer.database.manifest.adapter
        assert calibration.quality["brier_score"] < 0.1 < calibration.quality["brier_score_of_share"]
        answered = PlaceRecognizer(recognizer.model, recognizer.database, calibration=calibration)
        found = answered.recognize(queries.select(range(3))["image"], rerank_num=5, top_k=1)
        seen, also_seen, elsewhere = (places[0].probability for places in found)
        assert min(seen, also_seen) > 0.8 > 0.4 > elsewhere

    def test_it_can_be_fitted_for_retrieval_alone(self, recognizer, queries):
        calibration = fit_calibration(recognizer, queries, positive_radius=0, rerank_num=0)
        assert calibration.form["rerank_num"] == 0
        assert calibration.slope > 10  # a similarity, not a number of matches

    def test_pictures_inside_the_table_are_read_too(self, recognizer, queries):
        paths = [Path(image["path"]) for image in queries.cast_column("image", Image(decode=False))["image"]]
        columns = {"image": [{"bytes": path.read_bytes(), "path": None} for path in paths]}
        inside = Dataset.from_dict(columns | {name: queries[name][:] for name in ("key", "frame")})
        by_path = fit_calibration(recognizer, queries, positive_radius=0, rerank_num=5)
        stored = inside.cast_column("image", Image())
        assert fit_calibration(recognizer, stored, positive_radius=0, rerank_num=5) == by_path

    def test_few_queries_are_refused(self, recognizer, queries):
        with pytest.raises(ValueError, match="at least 50 queries, got 49"):
            fit_calibration(recognizer, queries.select(range(49)), positive_radius=0)

    def test_pictures_of_the_database_are_refused(self, recognizer, walk):
        with pytest.raises(ValueError, match=r"other pictures than those of the database, got 10 .*day/0\.png"):
            fit_calibration(recognizer, read_place_table(walk), positive_radius=0)

    def test_a_radius_that_cannot_be_is_refused_before_anything_is_located(self, recognizer, queries, monkeypatch):
        monkeypatch.setattr(PlaceRecognizer, "recognize", None)
        with pytest.raises(ValueError, match="radius must be a number of at least 0, got -1"):
            fit_calibration(recognizer, queries, positive_radius=-1)

    @pytest.mark.parametrize(
        ("radius", "message"),
        [(10**6, "got 60 and 0; add queries that are harder"), (0.5, "got 0 and 60; add queries that are easier")],
    )
    def test_only_right_or_only_wrong_answers_are_refused(self, recognizer, queries, radius, message):
        moved = queries.map(lambda row: {"frame": row["frame"] + 1})
        with pytest.raises(ValueError, match=message):
            fit_calibration(recognizer, moved, positive_radius=radius, rerank_num=5)

    def test_evidence_against_right_answers_is_refused(self, recognizer, queries):
        frames = [0 if frame == 10_000 else 20_000 for frame in queries["frame"]]
        swapped = queries.remove_columns("frame").add_column("frame", frames)
        with pytest.raises(ValueError, match="More evidence must speak for a right answer"):
            fit_calibration(recognizer, swapped, positive_radius=1000, rerank_num=5)
