"""Describing the images of a round: every picture once, global descriptors only, and the model left as it was."""

import numpy as np
import pytest
import torch
from datasets import Dataset, DatasetDict, Image

from selavpr_peft.data.loading import load_places
from selavpr_peft.modeling.preprocessing import Preprocessing, read_image
from selavpr_peft.training.mining import MiningSettings, RoundPlan, plan_round
from selavpr_peft.training.mining_pass import describe_round, evaluation_mode
from selavpr_peft.training.places import training_places
from tests.training.tiny import tiny_model

PREPROCESSING = Preprocessing(image_size=(56, 56))


@pytest.fixture
def model():
    return tiny_model().train()


@pytest.fixture
def places(city):
    return training_places(load_places(city), positive_radius=0, negative_radius=1)


def whole_round(places, **settings):
    return plan_round(places, MiningSettings(**settings), np.random.default_rng(0))


class Spy:
    """Count the images that a model describes, and note what it gives and in which state it is."""

    def __init__(self, model):
        self.num_images = 0
        self.outputs = []
        self.modes = []
        model.register_forward_hook(self._note, with_kwargs=True)

    def _note(self, module, args, kwargs, output):
        self.num_images += len(kwargs["pixel_values"])
        self.outputs.append(output)
        self.modes.append((module.training, torch.is_inference_mode_enabled()))


def descriptor(model, picture):
    with torch.no_grad(), evaluation_mode(model):
        pixels = PREPROCESSING(read_image(picture))[None]
        return model(pixel_values=pixels).global_descriptors[0].numpy()


class TestSimilarity:
    def test_it_is_the_cosine_of_the_descriptors_of_the_pictures(self, model, places):
        plan = RoundPlan(queries=np.array([3, 20]), pool=np.array([], int), database_rows=np.array([1, 7, 15]))
        similarity = describe_round(model, places, plan, PREPROCESSING, batch_size=2)
        files = [row["path"] for row in places.database.cast_column("image", Image(decode=False))["image"]]
        for query in (3, 20):
            expected = [descriptor(model, files[query]) @ descriptor(model, files[row]) for row in (1, 7, 15)]
            np.testing.assert_allclose(similarity(query, np.array([1, 7, 15])), expected, atol=1e-5)
            np.testing.assert_allclose(similarity(query, np.array([15, 1])), [expected[2], expected[0]], atol=1e-5)

    def test_an_unreadable_picture_has_none(self, model, own_city):
        (own_city / "day" / "0005.jpg").write_bytes(b"no picture")
        places = training_places(load_places(own_city), positive_radius=0, negative_radius=1)
        damaged = next(row for row, key in enumerate(places.database["key"]) if key == "day/0005.jpg")
        plan = whole_round(places, queries_per_round=24, negative_pool=24)
        similarity = describe_round(model, places, plan, PREPROCESSING)
        is_unknown = np.isnan(similarity(0, np.arange(24)))
        assert np.flatnonzero(is_unknown).tolist() == [damaged]
        assert np.isnan(similarity(damaged, np.arange(24))).all()

    def test_whole_batches_of_unreadable_pictures_are_passed_over(self, model, own_city):
        for number in range(6):
            (own_city / "day" / f"{number:04}.jpg").unlink()
        places = training_places(load_places(own_city), positive_radius=0, negative_radius=1)
        plan = whole_round(places, queries_per_round=24, negative_pool=24)
        similarity = describe_round(model, places, plan, PREPROCESSING, batch_size=3)
        assert np.isnan(similarity(23, np.arange(24))).sum() == 6

    def test_no_readable_picture_at_all_is_an_error(self, model, own_city):
        for path in own_city.rglob("*.jpg"):
            path.write_bytes(b"")
        places = training_places(load_places(own_city), positive_radius=0, negative_radius=1)
        with pytest.raises(ValueError, match="None of the 24 images of the mining round can be read"):
            describe_round(model, places, whole_round(places, negative_pool=24), PREPROCESSING)

    def test_any_number_of_workers_gives_the_same(self, model, places):
        plan = whole_round(places, queries_per_round=6, negative_pool=6)
        everything = [
            describe_round(model, places, plan, PREPROCESSING, batch_size=4, num_workers=number)(
                int(plan.queries[0]), plan.database_rows
            )
            for number in (0, 1, 2)
        ]
        assert np.array_equal(everything[0], everything[1])
        assert np.array_equal(everything[0], everything[2])


class TestWork:
    def test_a_picture_that_is_query_and_database_image_is_described_once(self, model, places):
        spy = Spy(model)
        plan = whole_round(places, queries_per_round=24, negative_pool=24)  # every image is both
        describe_round(model, places, plan, PREPROCESSING)
        assert spy.num_images == 24

    def test_only_pictures_of_the_plan_are_described(self, model, places):
        spy = Spy(model)
        plan = whole_round(places, queries_per_round=3, negative_pool=4)
        describe_round(model, places, plan, PREPROCESSING)
        assert spy.num_images == len({*plan.queries.tolist(), *plan.database_rows.tolist()}) < 12

    def test_pictures_inside_the_tables_are_told_apart_by_what_they_hold(self, model, city):
        table = load_places(city)["database"]
        bare = Dataset.from_dict(
            {
                "image": [{"bytes": (city / key).read_bytes(), "path": None} for key in table["key"]],
                "frame": table["frame"][:],
            }
        ).cast_column("image", Image())
        places = training_places(
            load_places(DatasetDict({"queries": bare, "database": bare})), positive_radius=0, negative_radius=1
        )
        spy = Spy(model)
        plan = whole_round(places, queries_per_round=24, negative_pool=24)
        similarity = describe_round(model, places, plan, PREPROCESSING)
        assert spy.num_images == 24
        assert similarity(3, np.array([3]))[0] == pytest.approx(1, abs=1e-5)

    def test_no_local_features_are_made_and_nothing_is_kept_for_a_backward_pass(self, model, places):
        spy = Spy(model)
        describe_round(model, places, whole_round(places, queries_per_round=3, negative_pool=4), PREPROCESSING)
        assert spy.modes == [(False, True)] * len(spy.modes)
        assert spy.outputs
        assert all(output.local_features is None for output in spy.outputs)

    def test_the_precision_is_that_of_the_context(self, model, places):
        types = []
        model.base_model.model.encoder.layer[0].norm1.register_forward_hook(
            lambda module, args, output: types.append(torch.is_autocast_enabled("cpu"))
        )
        plan = whole_round(places, queries_per_round=2, negative_pool=2)
        describe_round(model, places, plan, PREPROCESSING, precision=torch.autocast("cpu", dtype=torch.bfloat16))
        describe_round(model, places, plan, PREPROCESSING)
        assert types == [True] * (len(types) // 2) + [False] * (len(types) // 2)


class TestTheModelIsLeftAsItWas:
    @pytest.mark.parametrize("is_training", [True, False])
    def test_after_mining(self, model, places, is_training):
        model.train(is_training)
        describe_round(model, places, whole_round(places, queries_per_round=2, negative_pool=2), PREPROCESSING)
        assert model.training is is_training
        assert model(pixel_values=torch.zeros(1, 3, 56, 56)).local_features is not None

    def test_after_an_error_while_mining(self, model, places):
        def fail(*_):
            raise RuntimeError("out of memory")

        handle = model.register_forward_hook(fail)
        with pytest.raises(RuntimeError, match="out of memory"):
            describe_round(model, places, whole_round(places, queries_per_round=2, negative_pool=2), PREPROCESSING)
        handle.remove()
        assert model.training
        assert model(pixel_values=torch.zeros(1, 3, 56, 56)).local_features is not None

    def test_the_images_it_describes_can_be_trained_on_afterwards(self, model, places):
        # Tensors made in inference mode, such as resized positions, must not reach autograd.
        describe_round(model, places, whole_round(places, queries_per_round=2, negative_pool=2), PREPROCESSING)
        model(pixel_values=torch.ones(1, 3, 56, 56)).local_features.sum().backward()
        assert any(p.grad is not None and p.grad.any() for p in model.parameters())
