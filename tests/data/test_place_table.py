"""Tables of places beside their images: how they are addressed, read and refused."""

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from selavpr_peft.data.place_table import parse_frames, read_place_table, split_location
from selavpr_peft.data.schema import positions
from selavpr_peft.errors import DatasetFormatError

WALK = """image,traverse,frame,weather
a0.png,day,10,sun
b0.png,night,10,rain
a1.png,day,11,fog
b1.png,night,11,
a2.png,day,12,sun
"""


def write_csv(folder, text):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "places.csv").write_bytes(text if isinstance(text, bytes) else text.encode())
    return folder


def write_parquet(folder, **columns):
    folder.mkdir(exist_ok=True)
    pq.write_table(pa.table(columns), folder / "places.parquet")
    return folder


@pytest.fixture
def walk(tmp_path):
    """A folder whose table lists two traverses in turn."""
    return write_csv(tmp_path / "walk", WALK)


class TestReadPlaceTable:
    def test_all_rows_are_read_in_the_order_of_the_file(self, walk):
        places = read_place_table(walk)
        assert places["key"][:] == ["a0.png", "b0.png", "a1.png", "b1.png", "a2.png"]
        assert places["frame"][:] == [10, 10, 11, 11, 12]

    def test_a_traverse_is_taken_also_where_its_rows_are_scattered(self, walk):
        places = read_place_table(f"{walk}:day")
        assert places["key"][:] == ["a0.png", "a1.png", "a2.png"]
        assert positions(places).tolist() == [[10.0], [11.0], [12.0]]
        assert places["weather"][:] == ["sun", "fog", "sun"]

    def test_frames_are_taken_with_both_ends(self, walk):
        assert read_place_table(f"{walk}:day", frames=(11, 12))["key"][:] == ["a1.png", "a2.png"]
        assert read_place_table(walk, frames=(11, 11))["key"][:] == ["a1.png", "b1.png"]

    def test_further_columns_are_kept_in_their_place(self, walk):
        assert read_place_table(walk).column_names == ["image", "traverse", "frame", "weather", "key"]

    def test_keys_of_the_file_are_kept(self, tmp_path):
        write_csv(tmp_path, "key,image,frame\n7,a.png,1\n07,b.png,2\n")
        assert read_place_table(tmp_path)["key"][:] == ["7", "07"]

    def test_images_are_decoded_when_they_are_looked_at(self, tmp_path):
        write_csv(tmp_path, "image,frame\nsub/red.png,1\nmissing.png,2\n")
        (tmp_path / "sub").mkdir()
        Image.new("RGB", (4, 3), (200, 0, 0)).save(tmp_path / "sub" / "red.png")
        places = read_place_table(tmp_path)  # the missing file does no harm yet
        image = places[0]["image"]
        assert isinstance(image, Image.Image)
        assert (image.size, image.getpixel((0, 0))) == ((4, 3), (200, 0, 0))
        with pytest.raises(FileNotFoundError):
            places[1]

    def test_an_absolute_path_stays_as_it_is(self, tmp_path):
        elsewhere = tmp_path / "elsewhere.png"
        Image.new("RGB", (4, 3)).save(elsewhere)
        folder = write_csv(tmp_path / "walk", f"image,frame\n{elsewhere},1\n")
        assert read_place_table(folder)[0]["image"].size == (4, 3)

    def test_metres_are_read_as_numbers_with_a_fraction(self, tmp_path):
        write_csv(tmp_path, "image,easting_m,northing_m\na.png,3,4\nb.png,3.5,-1e3\n")
        assert positions(read_place_table(tmp_path)).tolist() == [[3.0, 4.0], [3.5, -1000.0]]

    def test_numeric_names_stay_text(self, tmp_path):
        write_csv(tmp_path, "image,traverse,frame\n001,01,1\n002,1,2\n")
        assert read_place_table(f"{tmp_path}:01")["key"][:] == ["001"]

    def test_parquet_is_read_like_csv(self, tmp_path):
        write_parquet(
            tmp_path, image=["a.png", "b.png", "c.png"], traverse=[1, 2, 1], frame=[5, 6, 7], note=[None, 1, 2]
        )
        places = read_place_table(f"{tmp_path}:1", frames=(6, 9))
        assert (places["key"][:], places["frame"][:], places["note"][:]) == (["c.png"], [7], [2])

    def test_the_csv_comes_before_the_parquet(self, walk):
        write_parquet(walk, image=["z.png"], frame=[1])
        assert len(read_place_table(walk)) == 5

    def test_the_table_itself_can_be_named(self, walk):
        renamed = (walk / "places.csv").rename(walk / "Other.CSV")
        assert read_place_table(f"{renamed}:night")["key"][:] == ["b0.png", "b1.png"]


@pytest.mark.parametrize("write", [write_csv, lambda path, text: write_parquet(path, image=["a"], frame=[7.0])])
def test_frames_that_pandas_made_fractional_are_whole_again(tmp_path, write):
    write(tmp_path, "image,frame\na,7.0\n")
    places = read_place_table(tmp_path)
    assert (places["frame"][:], places.features["frame"].dtype) == ([7], "int64")


class TestRefusals:
    """Each says where, what was expected or found, and so what to do."""

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("picture,frame\na,1\n", r"places\.csv must have a column 'image', got \['picture', 'frame'\]"),
            ("image;frame\na;1\n", r"must have a column 'image', got \['image;frame'\]"),
            ("image,image,frame\na,b,1\n", r"must name every column once, got \['image', 'image', 'frame'\]"),
            ("image\na\n", r"must have either the columns 'easting_m' and .*, got \['image', 'key'\]"),
            ("image,frame,easting_m,northing_m\na,1,2,3\n", "must have either the columns"),
            ("image,easting_m\na,1\n", "must have either the columns"),
            ("image,latitude,longitude\na,1,2\n", "must have either .* 'key'.\\. Add metres to the degrees"),
            ("image,frame\na,1\nb,\n", r"1 rows without a valid position, the first in row 1 \(b\)"),
            ("image,easting_m,northing_m\na,1,nan\n", r"1 rows without a valid position, the first in row 0 \(a\)"),
            ("image,frame\na,1\na,2\n", "must name every image once, got 1 .* the first is a"),
            ("image,frame\na,1\n,2\n", "must name an image in every row, got none in row 1"),
            ("image,frame\n", r"has no rows; expected one per image"),
            ("", r"cannot be read as a table; expected CSV or parquet: Empty"),
            ("image,frame\na,1\nb\n", r"cannot be read .* Row #3: Expected 2 columns, got 1"),
            ("image,frame\na,1\nb,two\n", r"cannot be read .* Row #3: .* invalid value 'two'"),
            (
                "image,frame\na,1\nb,1.5\n",
                r"1 rows without a valid position, the first in row 1 \(b\); expected whole",
            ),
            (
                "image,frame,latitude,longitude\na,1,,\nb,2,153.02,-27.47\n",
                r"places\.csv has 1 rows with an impossible latitude, the first in row 1 \(b\): 153\.02; .* Swap",
            ),
            ("image,easting_m,northing_m\na,1,here\n", r"cannot be read .* Row #2: .* invalid value 'here'"),
            ("image,frame\n\xe4,1\n".encode("latin-1"), "cannot be read .* invalid UTF8"),
        ],
    )
    def test_a_table_that_cannot_be_right_is_refused(self, tmp_path, text, message):
        write_csv(tmp_path, text)
        with pytest.raises(DatasetFormatError, match=message) as error:
            read_place_table(tmp_path)
        assert str(tmp_path / "places.csv") in str(error.value)

    @pytest.mark.parametrize(
        ("columns", "message"),
        [
            ({"image": [None, "b"], "frame": [1, 2]}, "must name an image in every row, got none in row 0"),
            (
                {"image": [{"path": "a"}], "frame": [1]},
                r"must have text in the column 'image', got struct<path: string>",
            ),
            ({"image": ["a"], "frame": ["1"]}, "must have numbers in the column 'frame', got the type string"),
            ({"image": ["a"], "frame": [float("nan")]}, r"1 rows without a valid position, the first in row 0 \(a\)"),
        ],
    )
    def test_parquet_is_refused_like_csv(self, tmp_path, columns, message):
        write_parquet(tmp_path, **columns)
        with pytest.raises(DatasetFormatError, match=message) as error:
            read_place_table(tmp_path)
        assert str(tmp_path / "places.parquet") in str(error.value)

    @pytest.mark.parametrize("content", [b"", b"nonsense" * 9, b"PAR1" + b"nonsense" * 9 + b"PAR1"])
    def test_a_damaged_parquet_file_is_refused(self, tmp_path, content):
        (tmp_path / "places.parquet").write_bytes(content)
        with pytest.raises(DatasetFormatError, match=r"places\.parquet cannot be read as a table; expected CSV or"):
            read_place_table(tmp_path)

    def test_an_unknown_traverse_is_answered_with_those_there_are(self, walk):
        with pytest.raises(DatasetFormatError, match=r"places\.csv has no traverse 'dusk'; it has \['day', 'night'\]"):
            read_place_table(f"{walk}:dusk")

    def test_a_traverse_needs_its_column(self, tmp_path):
        write_csv(tmp_path, "image,frame\na,1\n")
        with pytest.raises(
            DatasetFormatError, match=r"places\.csv has no column 'traverse', so 'day' cannot be taken"
        ):
            read_place_table(f"{tmp_path}:day")

    def test_a_range_without_a_frame_is_answered_with_the_frames_there_are(self, walk):
        with pytest.raises(DatasetFormatError, match=r"places\.csv has no frame in 50-60; it has 10-11\."):
            read_place_table(f"{walk}:night", frames=(50, 60))

    def test_frames_need_their_column(self, tmp_path):
        write_csv(tmp_path, "image,easting_m,northing_m\na,1,2\n")
        with pytest.raises(DatasetFormatError, match=r"no column 'frame', so frames \(1, 2\) cannot be taken"):
            read_place_table(tmp_path, frames=(1, 2))

    @pytest.mark.parametrize("suffix", ["", ":day"])
    def test_a_missing_folder_is_named(self, tmp_path, suffix):
        with pytest.raises(DatasetFormatError, match=r"Expected places\.csv .*/nowhere, but there is no folder\."):
            read_place_table(f"{tmp_path}/nowhere{suffix}")

    def test_a_folder_without_a_table_is_listed(self, tmp_path):
        for name in "bca":
            (tmp_path / f"{name}.jpg").touch()
        with pytest.raises(DatasetFormatError, match=r"columns image, .*\['a\.jpg', 'b\.jpg', 'c\.jpg'\]"):
            read_place_table(tmp_path)

    def test_an_empty_folder_is_listed_as_empty(self, tmp_path):
        with pytest.raises(DatasetFormatError, match=r"but the folder has \[\]"):
            read_place_table(f"{tmp_path}:day")


class TestSplitLocation:
    def test_the_last_colon_separates_the_traverse(self, tmp_path):
        folder = write_csv(tmp_path / "10:30", WALK)
        assert split_location(f"{folder}:day") == (folder / "places.csv", "day")

    def test_a_traverse_may_have_colons(self, tmp_path):
        folder = write_csv(tmp_path / "10:30", WALK)
        assert split_location(f"{folder}:2020-05-17 12:30") == (folder / "places.csv", "2020-05-17 12:30")

    def test_a_folder_whose_name_has_a_colon_is_taken_whole(self, tmp_path):
        folder = write_csv(tmp_path / "walk:day", WALK)
        write_csv(tmp_path / "walk", WALK)
        assert split_location(f"{tmp_path}/walk:day") == (folder / "places.csv", None)

    def test_a_colon_at_the_end_names_no_traverse(self, walk):
        with pytest.raises(DatasetFormatError, match="walk:, but there is no folder"):
            split_location(f"{walk}:")


class TestParseFrames:
    @pytest.mark.parametrize(("text", "frames"), [("103-139", (103, 139)), ("5-5", (5, 5)), (" 0-7\n", (0, 7))])
    def test_a_range_has_two_ends(self, text, frames):
        assert parse_frames(text) == frames

    @pytest.mark.parametrize("text", ["", "5", "5-", "-5", "9-5", "1-2-3", "a-b", "1.5-2", "1:2", "5--9"])
    def test_anything_else_is_refused_with_an_example(self, text):
        with pytest.raises(ValueError, match=rf"form A-B with A <= B, for example 103-139, got '{text}'"):
            parse_frames(text)
