"""Which folders count as checkpoints, which are deleted, and that a run is told from another."""

import json

import numpy as np
import pytest

from selavpr_peft.data.loading import load_places
from selavpr_peft.training import checkpoints
from selavpr_peft.training.places import training_places
from tests.training.tables import line, splits


def make_checkpoint(output, step, *, is_complete=True):
    folder = output / f"checkpoint-{step}"
    folder.mkdir(parents=True)
    (folder / "adapter_model.safetensors").write_text("weights")
    if is_complete:
        checkpoints.write_mining_state(folder, {"fingerprint": "this run", "step": step})
    return folder


def steps(output):
    return [int(path.name.rpartition("-")[2]) for path in checkpoints.complete_checkpoints(output)]


class TestCompleteCheckpoints:
    def test_they_come_oldest_first_by_their_number(self, tmp_path):
        for step in (1000, 20, 300):
            make_checkpoint(tmp_path, step)
        assert steps(tmp_path) == [20, 300, 1000]

    def test_a_half_written_one_is_passed_over(self, tmp_path):
        make_checkpoint(tmp_path, 20)
        make_checkpoint(tmp_path, 40, is_complete=False)
        assert steps(tmp_path) == [20]

    def test_writing_over_a_complete_one_makes_it_incomplete_first(self, tmp_path):
        folder = make_checkpoint(tmp_path, 20)
        checkpoints.mark_incomplete(folder)
        assert steps(tmp_path) == []
        checkpoints.mark_incomplete(tmp_path / "checkpoint-40")  # nothing there yet

    def test_a_copy_under_another_name_is_none(self, tmp_path):
        make_checkpoint(tmp_path, 20)
        make_checkpoint(tmp_path, "best")
        assert steps(tmp_path) == [20]

    def test_a_folder_that_is_not_there_has_none(self, tmp_path):
        assert steps(tmp_path / "nothing") == []


class TestDeleteOldCheckpoints:
    @pytest.mark.parametrize(
        ("limit", "best", "expected"),
        [
            (None, None, [1, 2, 3, 4]),
            (0, None, [1, 2, 3, 4]),
            (2, None, [3, 4]),
            (9, None, [1, 2, 3, 4]),
            (2, 1, [1, 4]),
            (1, 2, [2, 4]),  # the newest always stays, or nothing could be resumed
            (2, 4, [3, 4]),
            (1, 4, [4]),
        ],
    )
    def test_golden_cases(self, tmp_path, limit, best, expected):
        for step in (1, 2, 3, 4):
            make_checkpoint(tmp_path, step)
        best_folder = None if best is None else str(tmp_path / f"checkpoint-{best}")
        checkpoints.delete_old_checkpoints(tmp_path, limit, best_folder)
        assert steps(tmp_path) == expected
        assert sorted(path.name for path in tmp_path.iterdir()) == [f"checkpoint-{step}" for step in expected]

    def test_incomplete_ones_do_not_count(self, tmp_path):
        for step in (1, 2):
            make_checkpoint(tmp_path, step)
        make_checkpoint(tmp_path, 3, is_complete=False)
        checkpoints.delete_old_checkpoints(tmp_path, 1, None)
        assert steps(tmp_path) == [2]


class TestMiningState:
    def test_it_comes_back_as_it_was(self, tmp_path):
        folder = make_checkpoint(tmp_path, 5)
        assert checkpoints.read_mining_state(folder, "this run") == {"fingerprint": "this run", "step": 5}

    def test_of_another_run_it_is_refused(self, tmp_path):
        with pytest.raises(ValueError, match="other places, mining or adapter settings"):
            checkpoints.read_mining_state(make_checkpoint(tmp_path, 5), "another run")

    def test_a_folder_without_it_is_refused(self, tmp_path):
        with pytest.raises(ValueError, match=r"checkpoint-5 is no complete checkpoint .* no mining_state.json"):
            checkpoints.read_mining_state(make_checkpoint(tmp_path, 5, is_complete=False), "this run")

    def test_what_cannot_be_written_leaves_no_state(self, tmp_path):
        folder = make_checkpoint(tmp_path, 5, is_complete=False)
        with pytest.raises(TypeError):
            checkpoints.write_mining_state(folder, {"rows": np.arange(3)})
        assert [path.name for path in folder.iterdir()] == ["adapter_model.safetensors"]

    def test_it_is_plain_json(self, tmp_path):
        text = (make_checkpoint(tmp_path, 5) / checkpoints.STATE_NAME).read_text()
        assert json.loads(text)["step"] == 5


class TestFingerprint:
    def places(self, *, shift=0.0, prefix="q", radius=10, negative_radius=25, traverse=None):
        queries = line([0, 100 + shift], prefix)
        database = line([1, 101, 103], "d", traverse=traverse)
        return training_places(splits(queries, database), positive_radius=radius, negative_radius=negative_radius)

    def test_equal_data_and_settings_have_the_same(self):
        found = [checkpoints.fingerprint_of(self.places(), {"seed": 1, "mode": "full"}) for _ in range(2)]
        found.append(checkpoints.fingerprint_of(self.places(), {"mode": "full", "seed": 1}))
        assert len(set(found)) == 1

    def test_everything_that_matters_changes_it(self):
        places = [
            self.places(),
            self.places(shift=0.5),
            self.places(radius=2),  # one positive less
            self.places(negative_radius=200),  # no negative left
        ]
        found = [checkpoints.fingerprint_of(one, {"seed": 1}) for one in places]
        found.append(checkpoints.fingerprint_of(places[0], {"seed": 2}))
        assert len(set(found)) == len(found)

    def test_a_key_changes_it(self, city):
        whole, day = load_places(city), load_places(f"{city}:day")
        whole["database"] = whole["database"].select(range(12))  # as many and equal positions, by other names
        whole["queries"] = day["queries"] = load_places(f"{city}:night")["queries"]
        found = [
            checkpoints.fingerprint_of(training_places(one, positive_radius=0, negative_radius=1), {})
            for one in (whole, day)
        ]
        renamed = day["database"].remove_columns("key").add_column("key", [f"other {row}" for row in range(12)])
        day["database"] = renamed
        found.append(checkpoints.fingerprint_of(training_places(day, positive_radius=0, negative_radius=1), {}))
        assert found[0] == found[1] != found[2]
