"""Which query of an evaluation is drawn, and what the drawing says about it."""

from types import SimpleNamespace

import numpy as np
import pytest
from datasets import Dataset
from datasets import Image as ImageColumn
from peft import get_peft_model
from PIL import Image

from selavpr_peft import SelaConfig
from selavpr_peft.modeling.preprocessing import Preprocessing
from selavpr_peft.visualization.recognition import NUM_CANDIDATES, draw_query_result
from tests.visualization.drawings import all_axes


def grey_levels(*levels, size=(40, 30)):
    """A table of one-coloured pictures, by which a drawing shows what it was made from."""
    columns = {
        "image": [Image.new("RGB", size, (level,) * 3) for level in levels],
        "key": [f"key-{level}" for level in levels],
    }
    return Dataset.from_dict(columns).cast_column("image", ImageColumn())


QUERIES = (10, 20, 30)
DATABASE = (110, 120, 130, 140, 150)


def evaluation(retrieved, predictions, positives):
    """What an evaluation of three queries and five database images found."""
    return SimpleNamespace(
        retrieved=np.array(retrieved),
        predictions=np.array(predictions),
        positives=[np.array(p, int) for p in positives],
    )


@pytest.fixture
def draw(tiny_backbone):
    """Draw a result with a tiny model; gives the axes as (title, grey level shown, words on it)."""
    model = get_peft_model(tiny_backbone, SelaConfig(local_channels=(8, 4))).eval()
    preprocessing = Preprocessing(image_size=(28, 42))

    def run(result, query=None, queries=QUERIES):
        figure = draw_query_result(model, preprocessing, grey_levels(*queries), grey_levels(*DATABASE), result, query)
        shown = [ax for ax in all_axes(figure) if ax.images]
        return [
            (
                ax.get_title() or ax.get_title(loc="left"),
                [int(np.asarray(image.get_array()).flat[0]) for image in ax.images],
                [text.get_text() for text in ax.texts],
            )
            for ax in shown
        ]

    return run


def query_shown(axes):
    ((_, (level,), _),) = [ax for ax in axes if ax[0].startswith("query")]
    return QUERIES.index(level)


class TestDrawQueryResult:
    def test_the_query_that_re_ranking_repaired_is_drawn(self, draw):
        result = evaluation(
            retrieved=[[0, 1, 2], [0, 1, 2], [3, 4, 0]],  # right, wrong, wrong
            predictions=[[0, 1, 2], [1, 0, 2], [3, 4, 0]],  # right, right, wrong
            positives=[[0], [1], [0]],
        )
        assert query_shown(draw(result)) == 1

    def test_otherwise_one_that_was_found_is_drawn(self, draw):
        result = evaluation([[0, 1], [3, 1], [4, 0]], [[0, 1], [3, 1], [4, 0]], [[2], [3], [4]])
        assert query_shown(draw(result)) == 1

    def test_otherwise_the_first_is_drawn(self, draw):
        result = evaluation([[0, 1]] * 3, [[0, 1]] * 3, [[2], [], [3]])
        assert query_shown(draw(result)) == 0

    def test_the_query_can_be_chosen(self, draw):
        result = evaluation([[0, 1]] * 3, [[0, 1]] * 3, [[0], [2], [2]])
        assert query_shown(draw(result, query=2)) == 2

    def test_candidates_are_drawn_in_the_order_after_re_ranking_with_their_verdicts(self, draw):
        result = evaluation([[0, 1, 2, 3, 4]], [[2, 0, 1, 4, 3]], [[1, 2]])
        candidates = [ax for ax in draw(result, queries=QUERIES[:1]) if "key-" in ax[0]]
        assert len(candidates) == NUM_CANDIDATES
        assert [title for title, _, _ in candidates] == ["1. key-130", "2. key-110", "3. key-120", "4. key-150"]
        assert [levels for _, levels, _ in candidates] == [[130], [110], [120], [150]]
        is_correct = ["correct" in " ".join(words) for _, _, words in candidates]
        assert is_correct == [True, False, True, False]

    def test_the_matches_are_those_of_the_first_candidate(self, draw):
        result = evaluation([[0, 1, 2]], [[2, 0, 1]], [[1]])
        ((title, levels, _),) = [ax for ax in draw(result, queries=QUERIES[:1]) if "match" in ax[0]]
        assert levels == [10, 130]
        assert int(title.split()[0]) >= 1

    def test_a_query_without_positives_is_drawn_with_wrong_candidates(self, draw):
        result = evaluation([[0, 1, 2]], [[2, 0, 1]], [[]])
        candidates = [ax for ax in draw(result, queries=QUERIES[:1]) if "key-" in ax[0]]
        assert ["wrong" in " ".join(words) for _, _, words in candidates] == [True] * 3

    def test_a_single_candidate_is_drawn(self, draw):
        axes = draw(evaluation([[4]], [[4]], [[4]]), queries=QUERIES[:1])
        assert [title for title, _, _ in axes if "key-" in title] == ["1. key-150"]

    def test_a_query_that_could_not_be_read_is_passed_over(self, draw):
        result = evaluation([[-1, -1], [0, 1], [3, 4]], [[-1, -1], [0, 1], [3, 4]], [[0], [4], [0]])
        assert query_shown(draw(result)) == 1

    def test_a_query_without_candidates_is_drawn_alone(self, draw):
        axes = draw(evaluation([[-1, -1]], [[-1, -1]], [[0]]), queries=QUERIES[:1])
        assert [title for title, _, _ in axes] == ["query: no candidates"]

    def test_without_a_local_head_candidates_are_drawn_without_matches(self, tiny_backbone):
        model = get_peft_model(tiny_backbone, SelaConfig(use_local_head=False)).eval()
        result = evaluation([[0, 1]], [[0, 1]], [[0]])
        figure = draw_query_result(
            model, Preprocessing(image_size=(28, 42)), grey_levels(10), grey_levels(*DATABASE), result
        )
        assert [ax.get_title() for ax in all_axes(figure) if ax.images] == ["query", "1. key-110", "2. key-120"]
