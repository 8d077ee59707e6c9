"""The images of triplets: right pictures in the right order, any number of workers, damaged ones named."""

import dataclasses

import pytest
import torch
from torch.utils.data import DataLoader

from selavpr_peft.data.loading import load_places
from selavpr_peft.modeling.preprocessing import Preprocessing, read_image
from selavpr_peft.training.augmentation import Augmentation
from selavpr_peft.training.images import TripletDataset, TripletImages, TripletIndex, collate_triplets
from tests.training.tiny import tiny_model

PREPROCESSING = Preprocessing(image_size=(42, 56))
STRONG = Augmentation(colour_jitter=0.5, perspective=0.5, random_resized_crop=0.5, horizontal_flip=0.5)
BATCHES = [
    [TripletIndex(0, 0, (0, 12, 5, 6)), TripletIndex(0, 1, (3, 15, 20, 1))],
    [TripletIndex(0, 2, (7, 19, 2, 22)), TripletIndex(0, 3, (9, 21, 4, 17))],
]


def make_dataset(folder, augmentation=Augmentation(), seed=0):  # noqa: B008 - it is frozen
    places = load_places(folder)
    return TripletDataset(places["queries"], places["database"], PREPROCESSING, augmentation, seed)


class TestTripletDataset:
    def test_query_positive_and_negatives_stand_in_this_order(self, city):
        keys = load_places(city)["database"]["key"][:]
        found = make_dataset(city)[TripletIndex(0, 0, (1, 13, 4, 7))]
        expected = torch.stack([PREPROCESSING(read_image(city / keys[row])) for row in (1, 13, 4, 7)])
        assert torch.equal(found.pixel_values, expected)
        assert found.error == ""

    def test_there_are_as_many_as_queries(self, city):
        assert len(make_dataset(city)) == 24

    def test_rows_of_queries_and_database_are_those_of_their_own_tables(self, city):
        night, day = (load_places(f"{city}:{name}")["database"] for name in ("night", "day"))
        found = TripletDataset(night, day, PREPROCESSING, Augmentation(), 0)[TripletIndex(0, 0, (2, 2))]
        expected = [PREPROCESSING(read_image(city / name / "0002.jpg")) for name in ("night", "day")]
        assert torch.equal(found.pixel_values, torch.stack(expected))

    @pytest.mark.parametrize("bad", ["missing", "damaged"])
    def test_an_image_that_cannot_be_read_is_named(self, own_city, bad):
        path = own_city / "night" / "0003.jpg"
        path.unlink() if bad == "missing" else path.write_bytes(path.read_bytes()[:200])
        keys = load_places(own_city)["database"]["key"][:]
        found = make_dataset(own_city)[TripletIndex(0, 0, (0, 12, keys.index("night/0003.jpg"), 5))]
        assert found.pixel_values is None
        assert "night/0003.jpg cannot be read" in found.error


class TestAugmentedTriplets:
    def test_round_position_and_seed_decide(self, city):
        rows = (1, 13, 4, 7)
        first = make_dataset(city, STRONG)[TripletIndex(2, 5, rows)].pixel_values
        assert torch.equal(make_dataset(city, STRONG)[TripletIndex(2, 5, rows)].pixel_values, first)
        for seed, number, position in ((0, 2, 6), (0, 3, 5), (1, 2, 5)):
            other = make_dataset(city, STRONG, seed)[TripletIndex(number, position, rows)].pixel_values
            assert not torch.equal(other[0], first[0])

    def test_all_images_have_the_size_of_the_network(self, city):
        assert make_dataset(city, STRONG)[TripletIndex(0, 0, (1, 13, 4, 7))].pixel_values.shape == (4, 3, 42, 56)

    def test_any_number_of_workers_gives_the_same_batches(self, city):
        dataset = make_dataset(city, STRONG)
        runs = [
            [
                batch["pixel_values"]
                for batch in DataLoader(
                    dataset, batch_sampler=BATCHES, collate_fn=collate_triplets, num_workers=num_workers
                )
            ]
            for num_workers in (0, 1, 2)
        ]
        for run in runs[1:]:
            assert all(torch.equal(one, other) for one, other in zip(runs[0], run, strict=True))
        assert len(runs[0]) == 2

    def test_resizing_for_training_antialiases_whatever_the_evaluation_does(self, make_trainer):
        # as in the official code, whose evaluation alone resizes the tensor
        trainer = make_trainer(model=tiny_model(resize="official"))
        assert trainer.preprocessing.resize == "official"
        expected = dataclasses.replace(trainer.preprocessing, resize="antialias")
        assert trainer.train_dataset.preprocessing == expected


class TestCollateTriplets:
    def test_triplets_are_stacked(self):
        triplets = [TripletImages(torch.full((4, 3, 2, 2), float(value))) for value in (1, 2)]
        batch = collate_triplets(triplets)["pixel_values"]
        assert batch.shape == (2, 4, 3, 2, 2)
        assert batch[:, 0, 0, 0, 0].tolist() == [1, 2]

    def test_one_that_cannot_be_read_is_named_and_left_out(self, caplog):
        triplets = [TripletImages(None, "a.jpg is damaged"), TripletImages(torch.ones(4, 3, 2, 2))]
        assert collate_triplets(triplets)["pixel_values"].shape == (1, 4, 3, 2, 2)
        assert "triplet left out: a.jpg is damaged" in caplog.text

    def test_without_a_readable_triplet_there_are_no_pixels(self):
        assert collate_triplets([TripletImages(None, "a"), TripletImages(None, "b")])["pixel_values"].numel() == 0
