"""The two-stage evaluation, with a model whose descriptions are known beforehand.

An image is one colour; its red value is its name. The model looks up what it returns for that name, so that every
ranking below can be told without a computer.
"""

import json
import tempfile
from types import SimpleNamespace

import pytest
import torch
from datasets import Dataset, concatenate_datasets
from datasets import Image as ImageColumn
from PIL import Image

from selavpr_peft.data.positives import positives_within
from selavpr_peft.errors import UnreadableImageError
from selavpr_peft.evaluation import evaluator, ground_truth
from selavpr_peft.evaluation.evaluator import evaluate_two_stage
from selavpr_peft.modeling.preprocessing import IMAGENET_MEAN, IMAGENET_STD, Preprocessing

PREPROCESSING = Preprocessing(image_size=(2, 2))
DATABASE = (0, 1, 2, 3)  # names of the four database images; their frames are 0, 10, 20, 30
DESCRIPTORS = dict(enumerate(torch.eye(4)))  # of the database: one-hot

SAME_PLACE = torch.eye(4).view(2, 2, 4)  # against itself: 4 mutual matches
OTHER_PLACE = torch.tensor([1.0, 0.0, 0.0, 0.0]).expand(2, 2, 4)  # against SAME_PLACE or itself: 1


class LookUp(torch.nn.Module):
    """Give every image the descriptor and local features noted for its name."""

    def __init__(self, descriptors, features=None):
        super().__init__()
        self.anchor = torch.nn.Parameter(torch.zeros(1))
        self.descriptors, self.features = descriptors, features

    def forward(self, pixel_values):
        red = pixel_values[:, 0].mean(dim=(1, 2)) * IMAGENET_STD[0] + IMAGENET_MEAN[0]
        names = [round(float(value) * 255) for value in red]
        features = None if self.features is None else torch.stack([self.features[name] for name in names])
        return SimpleNamespace(
            global_descriptors=torch.stack([self.descriptors[name] for name in names]), local_features=features
        )


class Untouchable(LookUp):
    """A model that must not be asked."""

    def __init__(self):
        super().__init__({})

    def forward(self, pixel_values):
        raise AssertionError("the model was run before the settings were checked")


def ranking(*order):
    """Give a query descriptor by which retrieval ranks the database images in this order."""
    descriptor = torch.zeros(4)
    for place, weight in zip(order, (0.8, 0.5, 0.3, 0.1), strict=True):
        descriptor[place] = weight
    return torch.nn.functional.normalize(descriptor, dim=0)


@pytest.fixture
def take(tmp_path):
    """Write one image per name and list them with their frames; a name of None stands for a damaged file."""

    def write(role, names, frames):
        paths = [tmp_path / f"{role}-{row}.png" for row in range(len(names))]
        for path, name in zip(paths, names, strict=True):
            if name is None:
                path.write_bytes(b"damaged")
            else:
                Image.new("RGB", (5, 4), (name, 0, 0)).save(path)
        columns = {"image": [str(path) for path in paths], "key": [path.stem for path in paths], "frame": list(frames)}
        return Dataset.from_dict(columns).cast_column("image", ImageColumn())

    return write


@pytest.fixture
def database(take):
    return take("database", DATABASE, [0, 10, 20, 30])


def evaluate(model, queries, database, **settings):
    settings = {"positive_radius": 3.0, "n_values": (1, 2, 4)} | settings
    return evaluate_two_stage(model, queries, database, PREPROCESSING, **settings)


class TestRanking:
    def test_local_features_repair_what_retrieval_gets_wrong(self, take, database):
        # The first query shows place 2 but looks like place 1; the second is right at once.
        descriptors = DESCRIPTORS | {100: ranking(1, 3, 2, 0), 101: ranking(0, 1, 2, 3)}
        features = {0: OTHER_PLACE, 1: OTHER_PLACE, 2: SAME_PLACE, 3: OTHER_PLACE, 100: SAME_PLACE, 101: OTHER_PLACE}
        result = evaluate(LookUp(descriptors, features), take("queries", [100, 101], [20, 0]), database)
        assert result.retrieved.tolist() == [[1, 3, 2, 0], [0, 1, 2, 3]]
        assert result.predictions.tolist() == [[2, 1, 3, 0], [0, 1, 2, 3]]
        assert result.retrieval == {1: 0.5, 2: 0.5, 4: 1.0}
        assert result.reranked == {1: 1.0, 2: 1.0, 4: 1.0}

    def test_equal_counts_keep_the_order_of_retrieval(self, take, database):
        features = dict.fromkeys((*DATABASE, 100), SAME_PLACE)
        model = LookUp(DESCRIPTORS | {100: ranking(3, 1, 0, 2)}, features)
        result = evaluate(model, take("queries", [100], [0]), database)
        assert result.predictions.tolist() == result.retrieved.tolist() == [[3, 1, 0, 2]]

    def test_candidates_behind_those_re_ranked_keep_their_order(self, take, database):
        # Places 1 and 2 both look exactly like the query, but only the first two candidates are looked at.
        features = {0: OTHER_PLACE, 1: SAME_PLACE, 2: SAME_PLACE, 3: OTHER_PLACE, 100: SAME_PLACE}
        model = LookUp(DESCRIPTORS | {100: ranking(3, 1, 0, 2)}, features)
        result = evaluate(model, take("queries", [100], [0]), database, rerank_num=2)
        assert result.predictions.tolist() == [[1, 3, 0, 2]]

    def test_more_candidates_are_asked_for_than_there_are(self, take, database):
        model = LookUp(DESCRIPTORS | {100: ranking(3, 1, 0, 2)}, dict.fromkeys((*DATABASE, 100), SAME_PLACE))
        result = evaluate(model, take("queries", [100], [30]), database, rerank_num=100, n_values=(1, 50))
        assert (result.retrieved.shape, result.reranked) == ((1, 4), {1: 1.0, 50: 1.0})

    def test_fewer_candidates_re_ranked_than_n_still_give_recall_at_n(self, take, database):
        model = LookUp(DESCRIPTORS | {100: ranking(3, 1, 0, 2)}, dict.fromkeys((*DATABASE, 100), SAME_PLACE))
        result = evaluate(model, take("queries", [100], [20]), database, rerank_num=1, n_values=(1, 4))
        assert result.reranked == {1: 0.0, 4: 1.0}

    def test_a_model_without_local_features_is_evaluated_by_retrieval_alone(self, take, database):
        model = LookUp(DESCRIPTORS | {100: ranking(3, 1, 0, 2)})
        result = evaluate(model, take("queries", [100], [10]), database)
        assert (result.retrieval, result.reranked) == ({1: 0.0, 2: 1.0, 4: 1.0}, None)
        assert result.predictions.tolist() == result.retrieved.tolist()

    @pytest.mark.parametrize("batch_size", [1, 3])
    def test_the_batch_size_does_not_matter(self, take, database, batch_size):
        features = {0: OTHER_PLACE, 1: SAME_PLACE, 2: OTHER_PLACE, 3: OTHER_PLACE, 100: SAME_PLACE, 101: OTHER_PLACE}
        model = LookUp(DESCRIPTORS | {100: ranking(3, 0, 1, 2), 101: ranking(2, 1, 0, 3)}, features)
        queries = take("queries", [100, 101, 100], [0, 10, 20])
        result = evaluate(model, queries, database, batch_size=batch_size)
        assert result.predictions.tolist() == [[1, 3, 0, 2], [2, 1, 0, 3], [1, 3, 0, 2]]


class TestPositives:
    def test_the_radius_itself_counts(self, take, database):
        model = LookUp(DESCRIPTORS | {100: ranking(0, 1, 2, 3)})
        result = evaluate(model, take("queries", [100, 100], [3, 4]), database)
        assert [rows.tolist() for rows in result.positives] == [[0], []]
        assert result.retrieval[1] == 0.5

    def test_queries_without_positives_stay_in_the_denominator_and_are_counted(self, take, database):
        model = LookUp(DESCRIPTORS | {100: ranking(0, 1, 2, 3)}, dict.fromkeys((*DATABASE, 100), SAME_PLACE))
        result = evaluate(model, take("queries", [100] * 4, [0, 500, 600, 700]), database)
        assert (result.num_queries, result.num_queries_without_positive) == (4, 3)
        assert result.retrieval == result.reranked == {1: 0.25, 2: 0.25, 4: 0.25}

    def test_the_unit_of_the_radius_is_told(self, take, database):
        model = LookUp(DESCRIPTORS | {100: ranking(0, 1, 2, 3)})
        queries = take("queries", [100], [0])
        assert evaluate(model, queries, database).radius_unit == "frames"
        queries, database = (
            table.add_column("easting_m", table["frame"][:]).rename_column("frame", "northing_m")
            for table in (queries, database)
        )
        result = evaluate(model, queries, database, positive_radius=15)  # place 1 is 14.1 m away
        assert (result.radius_unit, result.positives[0].tolist()) == ("m", [0, 1])

    def test_metres_and_frames_are_not_compared(self, take, database, monkeypatch):
        unchecked = getattr(positives_within, "__wrapped__", positives_within)  # the shape checker comes before us
        monkeypatch.setattr(ground_truth, "positives_within", unchecked)
        queries = take("queries", [100], [0]).rename_column("frame", "northing_m").add_column("easting_m", [0])
        with pytest.raises(ValueError, match="must both have metres or both have frames"):
            evaluate(Untouchable(), queries, database)


class TestOwnPicture:
    """A query that stands in the database too is to be found by other pictures of its place."""

    def test_it_is_neither_found_nor_a_positive(self, database):
        descriptors = {0: ranking(0, 1, 2, 3), 1: ranking(1, 0, 3, 2), 2: ranking(2, 3, 0, 1), 3: ranking(3, 2, 1, 0)}
        result = evaluate(LookUp(descriptors), database, database, positive_radius=10, n_values=(1, 3))
        assert [rows.tolist() for rows in result.positives] == [[1], [0, 2], [1, 3], [2]]
        for row, found in enumerate(result.retrieved.tolist()):
            assert sorted([*found, row]) == [0, 1, 2, 3]

    def test_queries_of_their_own_keep_as_many_candidates(self, take, database):
        model = LookUp(DESCRIPTORS | {100: ranking(3, 1, 0, 2)})
        queries = concatenate_datasets([database.select([2]), take("queries", [100], [30])])
        result = evaluate(model, queries, database, positive_radius=0, n_values=(1, 2))
        assert 2 not in result.retrieved[0]
        assert result.retrieved[1].tolist() == [3, 1, 0]
        assert result.retrieval == {1: 0.5, 2: 0.5}

    def test_it_is_told_by_its_row_also_where_images_before_it_cannot_be_read(self, take):
        database = take("database", [None, 1, 2, 3], [0, 10, 20, 30])
        descriptors = {
            1: ranking(1, 2, 3, 0),
            2: ranking(2, 3, 1, 0),
            3: ranking(3, 2, 1, 0),
            100: ranking(3, 2, 1, 0),
        }
        result = evaluate(LookUp(descriptors), database, database, positive_radius=10)
        assert [sorted(found) for found in result.retrieved.tolist()] == [[-1, -1], [2, 3], [1, 3], [1, 2]]


class TestUnreadableImages:
    def test_an_unreadable_query_counts_as_missed(self, take, database):
        model = LookUp(DESCRIPTORS | {100: ranking(0, 1, 2, 3)}, dict.fromkeys((*DATABASE, 100), SAME_PLACE))
        queries = take("queries", [None, 100, None, 100], [0, 0, 0, 0])
        result = evaluate(model, queries, database, batch_size=1)
        assert result.retrieved[[0, 2]].tolist() == result.predictions[[0, 2]].tolist() == [[-1] * 4] * 2
        assert result.predictions[[1, 3]].tolist() == [[0, 1, 2, 3]] * 2
        assert (result.num_queries, result.retrieval[1], result.reranked[1]) == (4, 0.5, 0.5)
        assert ["queries-0.png" in result.unreadable[0], "queries-2.png" in result.unreadable[1]] == [True, True]

    def test_an_unreadable_database_image_is_left_out(self, take):
        database = take("database", [0, None, 2, 3], [0, 10, 20, 30])
        features = {0: OTHER_PLACE, 2: OTHER_PLACE, 3: SAME_PLACE, 100: SAME_PLACE}
        model = LookUp(DESCRIPTORS | {100: ranking(1, 2, 3, 0)}, features)
        queries = take("queries", [100, 100], [10, 20])
        result = evaluate(model, queries, database)
        assert result.retrieved.tolist() == [[2, 3, 0]] * 2  # rows of the table, not of what could be read
        assert result.predictions.tolist() == [[3, 2, 0]] * 2
        assert (result.num_database, len(result.unreadable)) == (3, 1)
        assert [rows.tolist() for rows in result.positives] == [[], [2]]
        assert result.num_queries_without_positive == 1
        assert result.retrieval == {1: 0.5, 2: 0.5, 4: 0.5}

    def test_strict_mode_stops(self, take, database):
        model = LookUp(DESCRIPTORS | {100: ranking(0, 1, 2, 3)})
        with pytest.raises(UnreadableImageError, match=r"queries-1\.png cannot be read"):
            evaluate(model, take("queries", [100, None], [0, 0]), database, is_strict=True)

    @pytest.mark.parametrize("role", ["queries", "database"])
    def test_a_table_of_nothing_else_is_refused(self, take, role):
        names = {"queries": [100, 100], "database": [0, 1]} | {role: [None, None]}
        tables = {name: take(name, names[name], [0, 10]) for name in names}
        model = LookUp(DESCRIPTORS | {100: ranking(0, 1, 2, 3)})
        with pytest.raises(UnreadableImageError, match=rf"None of the 2 images of the {role} .*{role}-0\.png"):
            evaluate(model, tables["queries"], tables["database"])


class TestSettings:
    """What would fail after an hour is refused at once."""

    @pytest.mark.parametrize(
        ("settings", "message"),
        [
            ({"rerank_num": 0}, "rerank_num must be at least 1, got 0"),
            ({"n_values": ()}, r"n_values must be whole numbers of at least 1, got \(\)"),
            ({"n_values": (1, 0)}, r"n_values must be whole numbers of at least 1, got \(1, 0\)"),
            ({"positive_radius": -1.0}, "radius must be a number of at least 0"),
        ],
    )
    def test_a_setting_out_of_range_is_refused(self, take, database, settings, message):
        with pytest.raises(ValueError, match=message):
            evaluate(Untouchable(), take("queries", [100], [0]), database, **settings)

    @pytest.mark.parametrize("role", ["queries", "database"])
    def test_an_empty_table_is_refused(self, take, role):
        tables = {name: take(name, [0], [0]).select([] if name == role else [0]) for name in ("queries", "database")}
        with pytest.raises(ValueError, match=f"The table of the {role} must have at least one image, got none"):
            evaluate(Untouchable(), tables["queries"], tables["database"])


class TestTemporaryFiles:
    @pytest.fixture
    def scratch(self, tmp_path, monkeypatch):
        folder = tmp_path / "scratch"
        folder.mkdir()
        monkeypatch.setattr(tempfile, "tempdir", str(folder))
        return folder

    def test_local_features_are_kept_in_a_file_that_is_removed_afterwards(self, take, database, scratch, monkeypatch):
        features = dict.fromkeys((*DATABASE, 100), SAME_PLACE)
        sizes = []

        def note_sizes(*args):
            sizes.extend(file.stat().st_size for file in sorted(scratch.rglob("*")) if file.is_file())
            return rerank_all(*args)

        rerank_all = evaluator._rerank_all
        monkeypatch.setattr(evaluator, "_rerank_all", note_sizes)
        evaluate(LookUp(DESCRIPTORS | {100: ranking(0, 1, 2, 3)}, features), take("queries", [100], [0]), database)
        assert sizes == [4 * 2 * 2 * 4 * 4, 1 * 2 * 2 * 4 * 4]  # images x 2 x 2 locations x 4 channels x 4 bytes
        assert list(scratch.iterdir()) == []

    def test_they_are_removed_when_the_evaluation_fails(self, take, database, scratch):
        features = dict.fromkeys(DATABASE, SAME_PLACE) | {100: SAME_PLACE * torch.nan}
        model = LookUp(DESCRIPTORS | {100: ranking(0, 1, 2, 3)}, features)
        with pytest.raises(ValueError, match="gives NaN, infinity or only zeros for queries-0"):
            evaluate(model, take("queries", [100], [0]), database)
        assert list(scratch.iterdir()) == []


class TestAsReport:
    def test_it_is_what_the_command_line_writes(self, take, database):
        model = LookUp(DESCRIPTORS | {100: ranking(3, 0, 1, 2)}, dict.fromkeys((*DATABASE, 100), SAME_PLACE))
        result = evaluate(model, take("queries", [100, None], [0, 0]), database)
        report = json.loads(json.dumps(result.as_report({"seed": 5})))
        assert report.pop("unreadable_images") == result.unreadable
        assert report == {
            "protocol": {"seed": 5, "radius_unit": "frames"},
            "num_queries": 2,
            "num_database": 4,
            "num_queries_without_positive": 0,
            "retrieval": {"1": 0.0, "2": 0.5, "4": 0.5},
            "reranked": {"1": 0.0, "2": 0.5, "4": 0.5},
        }

    def test_without_re_ranking_it_is_left_out(self, take, database):
        result = evaluate(LookUp(DESCRIPTORS | {100: ranking(0, 1, 2, 3)}), take("queries", [100], [0]), database)
        assert set(result.as_report({})) >= {"retrieval", "num_queries"}
        assert "reranked" not in result.as_report({})
