"""Pictures of candidates: in rank order, with a verdict that does not depend on colour alone."""

import subprocess
import sys

import numpy as np
import pytest
from matplotlib.figure import Figure

from selavpr_peft.retrieval.matched_points import MatchedPoints
from selavpr_peft.visualization import draw_candidates, draw_recognition
from tests.visualization.drawings import all_axes, blank, points, rendered


class TestDrawCandidates:
    def test_candidates_follow_the_query_in_rank_order(self):
        images = [blank(8, 6, (10 * rank, 0, 0)) for rank in range(1, 4)]
        axes = draw_candidates(blank(8, 6, (255, 255, 255)), images, ["a", "b", "c"]).child_axes
        assert [ax.get_title() for ax in axes] == ["query", "a", "b", "c"]
        assert [int(ax.images[0].get_array()[0, 0, 0]) for ax in axes] == [255, 10, 20, 30]
        rendered(axes[0].figure)
        edges = [edge for ax in axes for edge in (ax.get_window_extent().x0, ax.get_window_extent().x1)]
        assert edges == sorted(edges)

    def test_verdicts_are_told_by_words_colour_and_style_of_the_frame(self):
        axes = draw_candidates(blank(8, 6), [blank(8, 6), blank(8, 6)], ["a", "b"], [False, True]).child_axes
        words = [[text.get_text() for text in ax.texts] for ax in axes]
        assert words == [[], ["✗ wrong"], ["✓ correct"]]
        frames = [(ax.spines["left"].get_edgecolor(), ax.spines["left"].get_linestyle()) for ax in axes[1:]]
        (wrong_colour, wrong_style), (correct_colour, correct_style) = frames
        assert wrong_colour[0] > wrong_colour[1]  # more red than green
        assert abs(wrong_colour[0] - correct_colour[0]) > 0.5  # also to an eye that sees no green
        assert correct_colour[1] > correct_colour[0]
        assert wrong_style != correct_style == "-"

    def test_unknown_verdicts_leave_grey_frames_without_words(self):
        ax = draw_candidates(blank(8, 6), [blank(8, 6)], ["a"]).child_axes[1]
        red, green, blue, _ = ax.spines["left"].get_edgecolor()
        assert red == green == blue
        assert not ax.texts

    def test_no_candidates_are_said_beside_the_query(self):
        (ax,) = draw_candidates(blank(8, 6), [], [], []).child_axes
        assert ax.get_title() == "query: no candidates"
        rendered(ax.figure)

    def test_given_axes_are_used(self):
        given, other = Figure().subplots(1, 2)
        assert draw_candidates(blank(8, 6), [blank(8, 6)], ["a"], ax=given) is given
        assert (len(given.child_axes), other.child_axes) == (2, [])

    @pytest.mark.parametrize(
        ("name", "arguments"),
        [
            ("labels", {"labels": ["a"]}),
            ("are_correct", {"labels": ["a", "b"], "are_correct": [True]}),
        ],
    )
    def test_unequal_numbers_are_refused(self, name, arguments):
        with pytest.raises(ValueError, match=f"{name} must have . entries.* got 1"):
            draw_candidates(blank(8, 6), [blank(8, 6), blank(8, 6)], **arguments)


class TestDrawRecognition:
    matches = MatchedPoints(
        query_points_px=points((1.5, 2.5)), database_points_px=points((3.5, 4.5)), similarities=np.array([0.9])
    )

    def test_matches_of_the_best_candidate_stand_under_the_candidates(self):
        best, second = blank(8, 6, (200, 0, 0)), blank(8, 6)
        figure = draw_recognition(blank(8, 6), [best, second], ["a", "b"], [True, False], self.matches)
        rendered(figure)
        pair = next(ax for ax in all_axes(figure) if len(ax.images) == 2)
        rows = [ax for ax in all_axes(figure) if len(ax.images) == 1]
        assert [ax.get_title() for ax in rows] == ["query", "a", "b"]
        assert pair.get_title(loc="left") == "1 match"
        assert int(pair.images[1].get_array()[0, 0, 0]) == 200
        assert pair.get_window_extent().y1 < min(ax.get_window_extent().y0 for ax in rows)

    @pytest.mark.parametrize("candidates", [[], [blank(8, 6)]])
    def test_without_candidates_or_matches_only_the_upper_row_is_drawn(self, candidates):
        matches = None if candidates else self.matches
        figure = draw_recognition(blank(8, 6), candidates, ["a"] * len(candidates), None, matches)
        rendered(figure)
        assert [len(ax.images) for ax in all_axes(figure)] == [0] + [1] * (len(candidates) + 1)

    def test_no_window_system_or_global_state_is_touched(self):
        code = (
            "import sys; sys.path[:] = {!r}; from PIL import Image; from selavpr_peft.visualization import "
            "draw_recognition; draw_recognition(Image.new('RGB', (8, 6)), [], [], None, None); "
            "print('matplotlib.pyplot' in sys.modules)"
        )
        run = subprocess.run([sys.executable, "-c", code.format(sys.path)], capture_output=True, text=True, check=True)
        assert run.stdout.strip() == "False"
