"""Recall curves: every point of every report is where its N and its percentage are."""

import json

import numpy as np
import pytest
from matplotlib.figure import Figure

from selavpr_peft.visualization import draw_recall_curves
from selavpr_peft.visualization.recall_curves import read_report
from tests.visualization.drawings import is_inside, rendered

UNTRAINED = {"retrieval": {"1": 0.25, "5": 0.75, "10": 0.8}, "reranked": {"1": 0.5, "5": 0.85, "10": 0.9}}
TRAINED = {"retrieval": {1: 0.7, 5: 0.9, 10: 1.0}}


class TestDrawRecallCurves:
    def test_points_are_where_the_reports_say(self):
        ax = draw_recall_curves({"before": UNTRAINED, "after": TRAINED})
        curves = {line.get_label(): line.get_xydata() for line in ax.lines}
        assert list(curves) == ["before, retrieval", "before, re-ranked", "after, retrieval"]
        np.testing.assert_allclose(curves["before, re-ranked"], [(1, 50), (5, 85), (10, 90)])
        np.testing.assert_allclose(curves["after, retrieval"], [(1, 70), (5, 90), (10, 100)])
        assert [tick.get_text() for tick in ax.get_xticklabels()] == ["1", "5", "10"]

    def test_a_report_has_its_colour_and_marker_and_a_stage_its_line(self):
        ax = draw_recall_curves({"before": UNTRAINED, "after": TRAINED})
        first, second, third = ax.lines
        assert (first.get_color(), first.get_marker()) == (second.get_color(), second.get_marker())
        assert first.get_color() != third.get_color()
        assert first.get_marker() != third.get_marker()
        assert first.get_linestyle() == third.get_linestyle() != second.get_linestyle()

    def test_points_of_different_reports_share_the_axis(self):
        ax = draw_recall_curves({"a": {"retrieval": {1: 0.1, 100: 0.5}}, "b": {"retrieval": {20: 0.4}}})
        assert [tick.get_text() for tick in ax.get_xticklabels()] == ["1", "20", "100"]

    def test_everything_lies_on_the_page(self):
        ax = draw_recall_curves({f"report {number}": UNTRAINED for number in range(9)})
        rendered(ax.figure)
        assert is_inside(ax.figure, ax)

    def test_given_axes_are_used(self):
        given = Figure().subplots()
        assert draw_recall_curves({"a": TRAINED}, ax=given) is given


class TestReadReport:
    def test_it_is_what_was_written(self, tmp_path):
        path = tmp_path / "result.json"
        path.write_text(json.dumps(UNTRAINED | {"num_queries": 4}))
        assert read_report(path) == UNTRAINED | {"num_queries": 4}

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("places", "result.json is no JSON file"),
            ("[1, 2]", "result.json has no recalls .retrieval.; give a report by selavpr evaluate --json"),
            ('{"protocol": {}}', "result.json has no recalls .retrieval."),
            ('{"retrieval": {}}', "result.json has no recalls .retrieval."),
            ('{"retrieval": {"first": 0.5}}', "result.json has no recalls .retrieval."),
            ('{"retrieval": {"1": 0.5}, "reranked": {"1": "much"}}', "result.json has no recalls .re-ranked."),
        ],
    )
    def test_another_file_is_refused(self, tmp_path, text, message):
        path = tmp_path / "result.json"
        path.write_text(text)
        with pytest.raises(ValueError, match=message):
            read_report(path)
