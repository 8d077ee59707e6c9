"""Changing pictures at random: sizes, strengths, and that the generator alone decides."""

import numpy as np
import pytest
from PIL import Image, ImageOps

from selavpr_peft.data.toy_city import draw_view
from selavpr_peft.training.augmentation import Augmentation, change_perspective, crop_at_random, jitter_colours

CHANGES = (jitter_colours, change_perspective, crop_at_random)


@pytest.fixture(scope="module")
def picture():
    return draw_view(3, "day", size=(60, 80))


def random_numbers(seed=0):
    return np.random.default_rng(seed)


def pixels(image):
    return np.asarray(image).astype(int)


def same(first, second):
    return first.size == second.size and np.array_equal(pixels(first), pixels(second))


class TestEveryChange:
    @pytest.mark.parametrize("change", CHANGES)
    def test_the_generator_alone_decides(self, picture, change):
        changed = [change(picture, 0.5, random_numbers(seed)) for seed in (1, 1, 2)]
        assert same(changed[0], changed[1])
        assert not same(changed[0], changed[2])

    @pytest.mark.parametrize("change", CHANGES)
    def test_the_given_picture_is_left_as_it_is(self, picture, change):
        before = picture.copy()
        change(picture, 0.5, random_numbers())
        assert same(picture, before)

    @pytest.mark.parametrize("change", [jitter_colours, change_perspective])
    def test_strength_zero_changes_nothing(self, picture, change):
        assert same(change(picture, 0.0, random_numbers()), picture)


class TestJitterColours:
    def test_the_size_stays(self, picture):
        assert jitter_colours(picture, 1.0, random_numbers()).size == picture.size

    def test_brightness_stays_within_the_strength(self):
        grey = Image.new("RGB", (8, 8), (100, 100, 100))  # contrast and saturation leave it as it is
        values = [pixels(jitter_colours(grey, 0.3, random_numbers(seed))).mean() for seed in range(50)]
        assert min(values) >= 69
        assert max(values) <= 131
        assert min(values) < 85 < 115 < max(values)


class TestChangePerspective:
    def test_the_size_stays(self, picture):
        assert change_perspective(picture, 0.8, random_numbers()).size == picture.size

    def test_every_pixel_comes_from_inside_the_picture(self):
        white = Image.new("RGB", (40, 30), (255, 255, 255))  # what lay outside would be black
        for seed in range(60):
            assert (pixels(change_perspective(white, 1.0, random_numbers(seed))) == 255).all()

    def test_corners_move_inwards_by_at_most_half_the_strength_of_the_size(self):
        # A picture whose red is its column and green its row shows where the corners of the result come from.
        columns, rows = np.meshgrid(np.arange(100), np.arange(100))
        map_of_itself = Image.fromarray(np.stack([columns, rows, 0 * rows], axis=-1).astype(np.uint8))
        shifts = []
        for seed in range(30):
            found = pixels(change_perspective(map_of_itself, 0.4, random_numbers(seed)))
            shifts += [found[0, 0, 0], found[0, 0, 1], 99 - found[-1, -1, 0], 99 - found[-1, -1, 1]]
        assert 0 <= min(shifts) <= 3
        assert 15 <= max(shifts) <= 21


class TestCropAtRandom:
    @pytest.mark.parametrize("loss", [0.2, 0.6, 1.0])
    def test_the_rectangle_lies_inside_and_keeps_the_area_and_aspect_announced(self, loss):
        columns, rows = np.meshgrid(np.arange(200), np.arange(150))
        map_of_itself = Image.fromarray(np.stack([columns, rows, 0 * rows], axis=-1).astype(np.uint8))
        for seed in range(40):
            crop = crop_at_random(map_of_itself, loss, random_numbers(seed))
            corner = pixels(crop)[0, 0]
            assert np.array_equal(  # a rectangle of the picture as it was
                pixels(crop),
                pixels(map_of_itself)[corner[1] : corner[1] + crop.height, corner[0] : corner[0] + crop.width],
            )
            share = crop.width * crop.height / (200 * 150)
            assert (1 - loss) * 0.85 - 0.01 <= share <= 1  # a side that would not fit is cut
            assert share <= 0.05 or 0.7 <= (crop.width / crop.height) / (200 / 150) <= 1.45

    def test_even_one_pixel_is_left(self):
        assert crop_at_random(Image.new("RGB", (1, 1)), 1.0, random_numbers()).size == (1, 1)


class TestAugmentation:
    def test_by_default_nothing_is_changed(self, picture):
        images = [picture, picture.rotate(90), picture.rotate(180)]
        changed = Augmentation().change_triplet(images, random_numbers())
        assert [image is given for image, given in zip(changed, images, strict=True)] == [True] * 3

    def test_only_the_query_is_changed_but_for_mirroring(self, picture):
        augmentation = Augmentation(colour_jitter=0.5, perspective=0.5, random_resized_crop=0.5)
        query, *others = augmentation.change_triplet([picture, picture, picture], random_numbers())
        assert not same(query, picture)
        assert all(same(other, picture) for other in others)

    def test_mirroring_concerns_all_images_or_none(self, picture):
        mirrored = ImageOps.mirror(picture)
        seen = set()
        for seed in range(20):
            changed = Augmentation(horizontal_flip=0.5).change_triplet([picture] * 4, random_numbers(seed))
            is_mirrored = [same(image, mirrored) for image in changed]
            assert is_mirrored in ([True] * 4, [False] * 4)
            assert is_mirrored[0] or all(same(image, picture) for image in changed)
            seen.add(is_mirrored[0])
        assert seen == {True, False}

    def test_certain_mirroring_always_happens(self, picture):
        changed = Augmentation(horizontal_flip=1.0).change_triplet([picture, picture], random_numbers())
        assert all(same(image, ImageOps.mirror(picture)) for image in changed)
