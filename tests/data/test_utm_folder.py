"""Folders of images whose names hold their coordinates: what is read from a name, and which names are refused."""

import pytest
from PIL import Image

from selavpr_peft.data.schema import positions
from selavpr_peft.data.utm_folder import is_utm_folder, read_utm_folder
from selavpr_peft.errors import DatasetFormatError

# Fields as VPR-datasets-downloader writes them: easting, northing, zone number and letter, latitude, longitude,
# panorama, tile, heading, pitch, roll, height, time, note, and the extension behind the last sign.
FULL_NAME = "@584555.45@4476781.50@17@T@040.43778@-079.99648@pano7@12@270@0@0@10.5@20190814@night_sideways@.jpg"


def make_images(folder, *names):
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (4, 3), (10, 20, 30)).save(path)
    return folder


class TestReadUtmFolder:
    def test_every_field_of_a_full_name_is_read(self, tmp_path):
        (row,) = read_utm_folder(make_images(tmp_path, FULL_NAME))
        assert row.pop("image").size == (4, 3)
        assert row == {
            "key": FULL_NAME,
            "easting_m": 584555.45,
            "northing_m": 4476781.5,
            "latitude": 40.43778,
            "longitude": -79.99648,
            "heading_deg": 270.0,
            "time": "20190814",
            "note": "night_sideways",
        }

    def test_a_short_name_has_coordinates_only(self, tmp_path):
        places = read_utm_folder(make_images(tmp_path, "@1.5@-2@.jpg"))
        assert places.column_names == ["image", "key", "easting_m", "northing_m"]
        assert positions(places).tolist() == [[1.5, -2.0]]

    def test_a_field_that_some_names_lack_is_left_out(self, tmp_path):
        empty_note = FULL_NAME.replace("night_sideways", "").replace("584555", "584556")
        places = read_utm_folder(make_images(tmp_path, FULL_NAME, empty_note))
        assert "note" not in places.column_names
        assert places["time"][:] == ["20190814", "20190814"]

    def test_sub_folders_are_searched_and_rows_come_by_name(self, tmp_path):
        names = ("b/@3@0@.jpg", "a/@2@0@.jpg", "@1@0@.jpg", "a/@9@0@.jpg")
        places = read_utm_folder(make_images(tmp_path, *names))
        assert places["key"][:] == ["@1@0@.jpg", "a/@2@0@.jpg", "a/@9@0@.jpg", "b/@3@0@.jpg"]
        assert places["easting_m"][:] == [1, 2, 9, 3]

    @pytest.mark.parametrize("suffix", [".jpg", ".JPG", ".jpeg", ".png", ".webp"])
    def test_images_of_the_usual_kinds_are_read(self, tmp_path, suffix):
        assert len(read_utm_folder(make_images(tmp_path, f"@1@2@{suffix}"))) == 1

    def test_other_files_are_passed_over(self, tmp_path):
        make_images(tmp_path, "@1@2@.jpg")
        (tmp_path / "readme.txt").write_text("no image")
        assert len(read_utm_folder(str(tmp_path))) == 1

    def test_a_sign_in_the_name_of_a_folder_does_no_harm(self, tmp_path):
        places = read_utm_folder(make_images(tmp_path / "me@home", "@1@2@.jpg"))
        assert positions(places).tolist() == [[1, 2]]


class TestErrors:
    @pytest.mark.parametrize("name", ["img_001.jpg", "@1.jpg", "@one@2@.jpg", "@1@@.jpg"])
    def test_a_name_without_coordinates_is_shown_with_the_pattern(self, tmp_path, name):
        make_images(tmp_path, "@1@2@.jpg", name)
        with pytest.raises(DatasetFormatError, match=f"@utm_easting@utm_northing@.*got '{name}' in .*docs/datasets"):
            read_utm_folder(tmp_path)

    def test_a_latitude_that_is_no_number_is_shown_too(self, tmp_path):
        name = FULL_NAME.replace("040.43778", "north")
        with pytest.raises(DatasetFormatError, match="a number as field 5, got '@584555.*@north@"):
            read_utm_folder(make_images(tmp_path, name))

    def test_an_impossible_longitude_is_refused_with_its_file(self, tmp_path):
        name = FULL_NAME.replace("-079.99648", "-799964800")
        with pytest.raises(DatasetFormatError, match=r"impossible longitude, .* row 0 \(@584555.*\): -799964800; "):
            read_utm_folder(make_images(tmp_path, name))

    def test_a_coordinate_that_is_not_finite_is_refused(self, tmp_path):
        with pytest.raises(DatasetFormatError, match="1 rows without a valid position"):
            read_utm_folder(make_images(tmp_path, "@nan@2@.jpg"))

    def test_a_folder_without_images_is_refused(self, tmp_path):
        with pytest.raises(DatasetFormatError, match=r"Expected images \(\.jpg, .*\) in .*, but found none"):
            read_utm_folder(tmp_path)


class TestIsUtmFolder:
    def test_it_has_both_splits(self, tmp_path):
        make_images(tmp_path, "database/@1@2@.jpg")
        assert not is_utm_folder(tmp_path)
        make_images(tmp_path, "queries/@1@2@.jpg")
        assert is_utm_folder(tmp_path)
        assert not is_utm_folder(tmp_path / "nothing")
