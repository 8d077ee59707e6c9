"""The synthetic city: places keep their structure between traverses, and the files say where each view belongs."""

import csv
import os
import subprocess
import sys
from hashlib import sha256

import numpy as np
import pytest
from PIL import Image

from selavpr_peft.data import toy_city
from selavpr_peft.data.toy_city import draw_view, street_position, write_toy_city

NUM_PLACES = 40


@pytest.fixture(scope="module")
def city():
    """Draw all views of a small city once: traverse -> images in the order of their places."""
    return {name: [draw_view(place, name) for place in range(NUM_PLACES)] for name in ("day", "night", "rain")}


def recall_at_1(queries, database):
    """Share of rows whose nearest database row is the same place's."""
    distances = np.linalg.norm(queries[:, None] - database[None], axis=-1)
    return np.mean(distances.argmin(axis=1) == np.arange(len(queries)))


def mean_colours(images):
    return np.stack([np.asarray(image, dtype=float).mean(axis=(0, 1)) for image in images])


def grey_thumbnails(images):
    thumbnails = [image.convert("L").resize((16, 16), Image.Resampling.BOX) for image in images]
    return np.stack([np.asarray(thumbnail, dtype=float).ravel() for thumbnail in thumbnails])


def edge_histograms(images):
    """Describe each cell of 14 x 14 pixels by its edges' directions, whatever its brightness."""
    descriptors = []
    for image in images:
        along_y, along_x = np.gradient(np.asarray(image.convert("L"), dtype=float))
        direction = (np.arctan2(along_y, along_x) % np.pi / np.pi * 8).astype(int) % 8
        strength = np.where(np.arange(8) == direction[..., None], np.hypot(along_y, along_x)[..., None], 0)
        cells = strength.reshape(12, 14, 16, 14, 8).sum(axis=(1, 3))
        descriptors.append((cells / np.linalg.norm(cells, axis=-1, keepdims=True)).ravel())
    return np.stack(descriptors)


def pixels(image):
    return np.asarray(image, dtype=float)


class TestDrawView:
    def test_equal_arguments_give_equal_pixels(self):
        first = draw_view(3, "night", seed=5)
        draw_view(4, "day")  # nothing is remembered between calls
        assert draw_view(3, "night", seed=5).tobytes() == first.tobytes()

    def test_pixels_are_the_same_in_another_process(self):
        code = (
            "from hashlib import sha256; from selavpr_peft.data.toy_view import draw_view; "
            "print(sha256(draw_view(3, 'autumn').tobytes()).hexdigest())"
        )
        environment = os.environ | {"PYTHONHASHSEED": "123", "PYTHONPATH": os.pathsep.join(sys.path)}
        run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True)
        assert run.stdout.strip() == sha256(draw_view(3, "autumn").tobytes()).hexdigest()

    @pytest.mark.parametrize("size", [(168, 224), (56, 56), (100, 30), (1, 1)])
    @pytest.mark.parametrize("traverse", ["day", "night"])
    def test_size_is_height_then_width(self, size, traverse):
        image = draw_view(0, traverse, size=size)
        assert (image.height, image.width, image.mode) == (*size, "RGB")

    def test_another_size_shows_the_same_scene(self):
        small, large = draw_view(2, "day", size=(42, 56)), draw_view(2, "day", size=(168, 224))
        shrunk = large.resize(small.size, Image.Resampling.BOX)
        other = draw_view(3, "day", size=(42, 56))
        assert np.abs(pixels(small) - pixels(shrunk)).mean() < 0.5 * np.abs(pixels(small) - pixels(other)).mean()

    @pytest.mark.parametrize("change", [{"place": 8}, {"seed": 1}, {"traverse": "night"}, {"traverse": "rain"}])
    def test_every_argument_changes_the_picture(self, change):
        base = {"place": 7, "traverse": "day", "seed": 0}
        assert np.abs(pixels(draw_view(**base)) - pixels(draw_view(**(base | change)))).mean() > 5

    @pytest.mark.parametrize("traverse", ["night", "rain"])
    def test_a_place_keeps_its_structure_between_traverses(self, city, traverse):
        queries, database = edge_histograms(city[traverse]), edge_histograms(city["day"])
        assert recall_at_1(queries, database) >= 0.85  # 0.45 when a house's draws depend on the traverse

    def test_mean_colour_does_not_tell_the_place(self, city):
        assert recall_at_1(mean_colours(city["night"]), mean_colours(city["day"])) <= 0.1

    def test_grey_thumbnails_tell_some_places_but_not_most(self, city):
        recall = recall_at_1(grey_thumbnails(city["night"]), grey_thumbnails(city["day"]))
        assert 4 / NUM_PLACES <= recall <= 0.6  # chance is 1 / NUM_PLACES

    def test_night_is_darker_than_day_and_other_names_lie_between(self, city):
        day, night, rain = (mean_colours(city[name]).mean() for name in ("day", "night", "rain"))
        assert night < rain < day

    @pytest.mark.parametrize("arguments", [{"place": -1}, {"place": 0, "seed": -1}])
    def test_negative_numbers_are_refused(self, arguments):
        with pytest.raises(ValueError, match="place and seed must be 0 or greater"):
            draw_view(traverse="day", **arguments)

    def test_an_empty_size_is_refused(self):
        with pytest.raises(ValueError, match=r"size must be .* got \(0, 224\)"):
            draw_view(0, "day", size=(0, 224))


class TestStreetPosition:
    positions = np.array([street_position(place) for place in range(200)]) * 111_195  # in metres

    def test_places_that_follow_one_another_are_12_m_apart(self):
        np.testing.assert_allclose(np.linalg.norm(np.diff(self.positions, axis=0), axis=1), 12)

    def test_no_two_places_are_at_one_spot(self):
        assert len({tuple(position) for position in self.positions.round(3)}) == 200


class TestWriteToyCity:
    def test_table_lists_every_image_with_its_traverse_and_frame(self, tmp_path):
        folder = write_toy_city(tmp_path / "city", num_places=2, traverses=("day", "rain"), size=(42, 56))
        assert folder == tmp_path / "city"
        with (folder / "places.csv").open(newline="") as file:
            rows = list(csv.reader(file))
        assert rows == [
            ["image", "traverse", "frame", "latitude", "longitude"],
            ["day/0000.jpg", "day", "0", "0.000000", "0.000000"],
            ["day/0001.jpg", "day", "1", "0.000000", "0.000108"],
            ["rain/0000.jpg", "rain", "0", "0.000000", "0.000000"],
            ["rain/0001.jpg", "rain", "1", "0.000000", "0.000108"],
        ]
        assert {str(path.relative_to(folder)) for path in folder.rglob("*.*")} == {"places.csv"} | {
            row[0] for row in rows[1:]
        }

    def test_each_file_shows_the_view_its_row_names(self, tmp_path):
        write_toy_city(tmp_path, num_places=3, seed=4, size=(84, 112))
        with Image.open(tmp_path / "night" / "0002.jpg") as file:
            written = pixels(file)
        assert np.abs(written - pixels(draw_view(2, "night", seed=4, size=(84, 112)))).mean() < 6  # JPEG's loss

    def test_writing_twice_gives_the_same_files(self, tmp_path):
        first, second = (write_toy_city(tmp_path / name, num_places=1, size=(42, 56)) for name in ("a", "b"))
        for file in ("places.csv", "day/0000.jpg", "night/0000.jpg"):
            assert (first / file).read_bytes() == (second / file).read_bytes()

    def test_an_interrupted_write_leaves_no_table_not_even_an_old_one(self, tmp_path, monkeypatch):
        write_toy_city(tmp_path, num_places=1, size=(42, 56))

        def fail_at_place_one(place, *args, **kwargs):
            if place == 1:
                raise KeyboardInterrupt
            return draw_view(place, *args, **kwargs)

        monkeypatch.setattr(toy_city, "draw_view", fail_at_place_one)
        with pytest.raises(KeyboardInterrupt):
            write_toy_city(tmp_path, num_places=2, size=(42, 56))
        assert sorted(path.name for path in tmp_path.iterdir()) == ["day", "night"]

    def test_no_places_are_refused(self, tmp_path):
        with pytest.raises(ValueError, match="num_places must be at least 1, got 0"):
            write_toy_city(tmp_path, num_places=0)

    @pytest.mark.parametrize("traverses", [(), ("day", "day"), "day"])
    def test_traverses_must_be_a_sequence_of_different_names(self, tmp_path, traverses):
        with pytest.raises(ValueError, match="sequence of different names"):
            write_toy_city(tmp_path, traverses=traverses)

    @pytest.mark.parametrize("name", ["", "..", "a/b", "a\\b"])
    def test_traverses_must_be_fit_for_folder_names(self, tmp_path, name):
        with pytest.raises(ValueError, match="fit for folder names"):
            write_toy_city(tmp_path, traverses=(name, "day"))
        assert not list(tmp_path.iterdir())
