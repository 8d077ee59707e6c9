"""`selavpr index` and `selavpr query`: a database is built once and answers in sentences and in JSON."""

import datetime
import json
import re
import shutil

import pyarrow as pa
import pytest
from PIL import Image
from pyarrow import parquet

from selavpr_peft.data import place_table
from selavpr_peft.retrieval import PlaceDatabase
from tests.hub.hub_client import use_the_hub


class TestIndex:
    def test_a_database_is_built_and_its_size_is_told(self, indexed):
        folder, _, run = indexed
        assert re.fullmatch(rf"{folder}: 6 places, \d+\.\d\d MB each\n", run.out)
        assert PlaceDatabase.open(folder).places["key"][:] == [f"day/{number}.png" for number in range(6)]

    def test_the_table_of_places_is_read_once(self, selavpr, walk, models, tmp_path, monkeypatch):
        read, read_csv = [], place_table.csv.read_csv
        monkeypatch.setattr(
            place_table.csv, "read_csv", lambda path, **how: read.append(path) or read_csv(path, **how)
        )
        run = selavpr("index", f"{walk}:day", "--backbone", models / "backbone", "--output", tmp_path / "db")
        assert (run.code, read) == (0, [walk / "places.csv"])

    def test_unreadable_images_are_told(self, selavpr, walk, models, tmp_path):
        (walk / "day" / "3.png").write_bytes(b"")
        run = selavpr("index", f"{walk}:day", "--backbone", models / "backbone", "--output", tmp_path / "db")
        assert run.out.splitlines()[-1] == "1 images could not be read, the first: day/3.png"

    def test_json_says_how_it_was_made(self, selavpr, walk, models, tmp_path):
        run = selavpr(
            *("index", f"{walk}:day", "--backbone", models / "backbone", "--output", tmp_path / "db"),
            *("--local-dtype", "int8", "--kind", "hnsw", "--json", "-"),
        )
        assert {"num_places": 6, "local_dtype": "int8", "index": "hnsw"}.items() <= run.report.items()
        assert run.report["num_bytes"] > 0

    def test_fewer_local_features_take_less(self, selavpr, walk, models, tmp_path):
        run = selavpr(
            *("index", f"{walk}:day", "--backbone", models / "backbone", "--adapter", models / "adapter"),
            *("--output", tmp_path / "db", "--keep-locations", 12, "--json", "-"),
        )
        # patches of 56 in 112x168 are 2x3, local features 5x9
        assert run.report["kept_locations"] == {"map_size": [5, 9], "grid": [2, 4]}

    def test_a_database_is_pushed_with_paths_relative_to_its_places(
        self, selavpr, walk, models, tmp_path, monkeypatch
    ):
        pushed = []

        def note(self, repo_id, *, image_root):
            pushed.append((repo_id, image_root))
            return "https://hub/commit/1"

        monkeypatch.setattr(PlaceDatabase, "push_to_hub", note)
        model = ("--backbone", models / "backbone", "--output", tmp_path / "db", "--push-to", "me/walk")
        for location in (f"{walk}:day", walk / "places.csv", walk):
            run = selavpr("index", location, *model)
            shutil.rmtree(tmp_path / "db")
            assert run.out.splitlines()[-1] == "pushed to https://hub/commit/1", run.err
        assert pushed == [("me/walk", walk)] * 3

    def test_degrees_that_cannot_be_right_are_told_before_a_model_is_fetched(self, selavpr, walk, tmp_path):
        header, *rows = (walk / "places.csv").read_text().splitlines()
        swapped = [f"{header},latitude,longitude", *(f"{row},153.021072,-27.470125" for row in rows)]
        (walk / "places.csv").write_text("\n".join(swapped) + "\n")
        run = selavpr("index", walk, "--backbone", "nowhere", "--output", tmp_path / "db")
        assert (run.code, run.out) == (2, "")
        assert run.err == (
            f"Error: {walk}/places.csv has 12 rows with an impossible latitude, the first in row 0 (day/0.png):"
            " 153.021072; expected a latitude in [-90, 90] and a longitude in [-360, 360], in degrees. Swap the two"
            " columns if they are the wrong way round; divide them by 1e7 if they are whole numbers.\n"
        )
        assert not (tmp_path / "db").exists()

    def test_a_folder_with_another_database_is_not_overwritten(self, selavpr, indexed, walk):
        folder, model, _ = indexed
        run = selavpr("index", f"{walk}:night", *model, "--output", folder)
        assert (run.code, run.out) == (2, "")
        assert "holds a database that differs in places" in run.err


class TestAddTo:
    def test_places_are_added_and_found(self, selavpr, indexed, walk):
        folder, model, _ = indexed
        run = selavpr("index", f"{walk}:night", *model, "--add-to", folder)
        assert run.code == 0, run.err
        assert re.fullmatch(rf"{folder}: 12 places, \d+\.\d\d MB each\n", run.out)
        keys = [f"{traverse}/{number}.png" for traverse in ("day", "night") for number in range(6)]
        assert PlaceDatabase.open(folder).places["key"][:] == keys
        answer = selavpr("query", folder, walk / "night" / "2.png", *model)
        assert "shows the place of night/2.png (frame 12)" in answer.out

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (["{walk}:day", "--add-to", "{folder}"], "has a place 'day/0.png' already (6 of the 6 keys are there)"),
            (["{walk}:night", "--add-to", "{walk}"], "is no place database"),
            (["{walk}:night", "--add-to", "{folder}", "--local-dtype", "int8"], "stay those of the database; leave"),
            (["{walk}:night", "--add-to", "{folder}", "--output", "{walk}/db"], "Give either --output"),
            (["{walk}:night"], "Give either --output, the folder of a new database, or --add-to"),
        ],
    )
    def test_a_mistake_is_one_line_and_changes_nothing(self, selavpr, indexed, walk, arguments, message):
        folder, model, _ = indexed
        run = selavpr("index", *[argument.format(walk=walk, folder=folder) for argument in arguments], *model)
        assert (run.code, run.out) == (2, "")
        assert message in run.err.splitlines()[-1]
        assert len(PlaceDatabase.open(folder)) == 6

    def test_another_model_is_refused(self, selavpr, indexed, walk, models):
        folder, _, _ = indexed
        run = selavpr("index", f"{walk}:night", "--backbone", models / "backbone", "--add-to", folder)
        assert run.code == 2
        assert "was built with another adapter" in run.err


class TestPhotographsAlone:
    """The way of somebody who has a folder of photographs, and neither a table nor an adapter yet."""

    @pytest.fixture
    def photographs(self, walk):
        (walk / "places.csv").unlink()
        return walk / "day"

    def test_they_are_indexed_and_one_of_them_is_found_by_name(self, selavpr, photographs, models, tmp_path):
        model = ("--backbone", models / "backbone")
        built = selavpr("index", photographs, *model, "--output", tmp_path / "db")
        assert built.out.splitlines()[1:] == [
            f"{photographs} has no places.csv, so answers name photographs without a position",
            "without --adapter an untrained one is used; selavpr train makes one for your places",
        ]
        found = selavpr("query", tmp_path / "db", photographs / "2.png", *model)
        assert re.match(
            rf"{photographs}/2\.png shows the place of 2\.png: \d+ matches, similarity 1\.000\.\n", found.out
        )

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (
                ["train", "--data", "{photographs}", "--output", "{tmp}/out", "--set", "positive_radius=1.0"],
                "database must have either the columns 'easting_m' and 'northing_m' or the column 'frame'",
            ),
            (
                ["evaluate", "--database", "{photographs}", "--queries", "{photographs}", "--positive-radius", "1"],
                "Expected places.csv in {photographs}, or images named @utm_easting@",
            ),
        ],
    )
    def test_what_needs_positions_asks_for_them(self, selavpr, photographs, models, tmp_path, arguments, message):
        arguments = [argument.format(photographs=photographs, tmp=tmp_path) for argument in arguments]
        run = selavpr(*arguments, "--backbone", models / "backbone")
        assert run.code == 2
        message = message.format(photographs=photographs)
        assert run.err.splitlines()[-1].startswith(f"Error: {message}")

    def test_a_folder_without_photographs_is_told_before_a_model_is_fetched(self, selavpr, tmp_path):
        run = selavpr("index", tmp_path, "--backbone", "nobody/nothing", "--output", tmp_path / "db")
        assert run.code == 2
        assert run.err.startswith("Error: Expected places.csv")


class TestQuery:
    def test_the_answer_is_a_sentence_and_the_other_candidates(self, selavpr, indexed, walk):
        folder, model, _ = indexed
        image = walk / "day" / "2.png"
        run = selavpr("query", folder, image, *model, "--top-k", 3)
        assert run.code == 0, run.err
        first, *others = run.out.splitlines()
        number = r"similarity -?\d\.\d{3}"
        assert re.fullmatch(rf"{image} shows the place of day/2\.png \(frame 12\): \d+ matches, {number}\.", first)
        assert [line[:4] for line in others] == ["  2.", "  3."]

    def test_several_photographs_are_answered_in_json(self, selavpr, indexed, walk, tmp_path):
        folder, model, _ = indexed
        images = [walk / "night" / "5.png", walk / "day" / "0.png"]
        report = tmp_path / "answer.json"
        assert selavpr("query", folder, *images, *model, "--json", report).code == 0
        queries = json.loads(report.read_text())["queries"]
        assert [query["image"] for query in queries] == [str(image) for image in images]
        best = queries[1]["places"][0]
        assert (best["key"], best["frame"], best["traverse"]) == ("day/0.png", 10, "day")
        assert best["num_matches"] > 0
        assert len(queries[0]["places"]) == 5

    def test_whatever_a_table_holds_is_valid_json(self, selavpr, walk, models, tmp_path):
        day = datetime.datetime(2020, 5, 17, 12, 30)
        columns = {
            "image": ["day/0.png"],
            "frame": [0],
            "seen": [[day]],
            "weather": [{"since": day, "rain_mm": float("nan")}],
            "speed": [float("inf")],
        }
        (walk / "places.csv").unlink()
        parquet.write_table(pa.table(columns), walk / "places.parquet")
        model = ("--backbone", models / "backbone", "--adapter", models / "adapter")
        assert selavpr("index", walk, *model, "--output", tmp_path / "db").code == 0
        run = selavpr("query", tmp_path / "db", walk / "day" / "0.png", *model, "--json", "-")
        assert run.code == 0, run.err
        (place,) = run.report["queries"][0]["places"]
        assert place["seen"] == [str(day)]
        assert (place["weather"], place["speed"]) == ({"since": str(day), "rain_mm": None}, None)

    def test_a_position_is_told_to_less_than_a_metre(self, selavpr, walk, models, tmp_path):
        places = (
            "image,easting_m,northing_m,latitude,longitude\nday/0.png,500123.25,6961234.75,-27.470125,153.021072\n"
        )
        (walk / "places.csv").write_text(places)
        model = ("--backbone", models / "backbone", "--adapter", models / "adapter")
        assert selavpr("index", walk, *model, "--output", tmp_path / "db").code == 0
        run = selavpr("query", tmp_path / "db", walk / "day" / "0.png", *model)
        assert "(latitude -27.470125, longitude 153.021072, easting_m 500123.25, northing_m 6961234.75)" in run.out

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (["--near", "1", "2"], "near and radius_m must be given together"),
            (["--near", "153", "-27", "--radius-m", "3"], "near must be a latitude in [-90, 90] and a longitude"),
            (["--near", "1", "2", "--radius-m", "3"], "needs a database with the columns 'latitude' and 'longitude'"),
            (["--dtype", "int3"], "--dtype must be one of"),
        ],
    )
    def test_a_mistake_is_one_line(self, selavpr, indexed, walk, arguments, message):
        folder, model, _ = indexed
        run = selavpr("query", folder, walk / "day" / "2.png", *model, *arguments)
        assert (run.code, run.out) == (2, "")
        assert run.err.startswith("Error: ")
        assert message in run.err

    def test_another_model_is_refused(self, selavpr, indexed, walk, models):
        folder, _, _ = indexed
        run = selavpr("query", folder, walk / "day" / "2.png", "--backbone", models / "backbone")
        assert run.code == 2
        assert "was built with another adapter" in run.err

    def test_what_is_no_picture_is_named(self, selavpr, indexed, walk):
        folder, model, _ = indexed
        run = selavpr("query", folder, walk / "places.csv", *model)
        assert run.code == 2
        assert "places.csv cannot be read" in run.err

    def test_photographs_that_cannot_be_read_do_not_keep_the_others_from_being_answered(
        self, selavpr, indexed, walk, tmp_path
    ):
        folder, model, _ = indexed
        images = [walk / "none.png", walk / "day" / "0.png", walk / "places.csv"]
        out = ("--json", tmp_path / "answer.json", "--pairs", tmp_path / "pairs.txt", "--top-k", 1)
        run = selavpr("query", folder, *images, *model, *out)
        assert run.code == 0, run.err
        assert run.out.startswith(f"{images[1]} shows the place of day/0.png")
        assert run.out.splitlines()[-1] == f"2 photographs could not be read, the first: {images[0]}"
        report = json.loads((tmp_path / "answer.json").read_text())
        assert [query["image"] for query in report["queries"]] == [str(images[1])]
        assert all(str(path) in text for path, text in zip(images[::2], report["unreadable_images"], strict=True))
        assert (tmp_path / "pairs.txt").read_text() == f"{images[1]} day/0.png\n"
        for refused in ([*images, "--strict"], images[::2]):
            run = selavpr("query", folder, *refused, *model)
            assert (run.code, run.out) == (2, "")
            assert "cannot be read" in run.err.splitlines()[-1]

    @pytest.mark.parametrize(
        ("name", "message"),
        [
            ("walk.placedb", "walk.placedb is no place database: neither a folder nor a Hub id"),
            ("me/walk", r"The place database me/walk on the Hub \(revision main\) is not in the cache"),
        ],
    )
    def test_what_is_neither_folder_nor_on_the_hub_is_one_line(
        self, selavpr, walk, models, tmp_path, name, message, monkeypatch
    ):
        use_the_hub(monkeypatch, "http://127.0.0.1:9", tmp_path / "cache", is_offline=True)
        run = selavpr("query", name, walk / "day" / "2.png", "--backbone", models / "backbone")
        assert (run.code, run.out) == (2, "")
        assert re.match(f"Error: {message}", run.err)
        assert len(run.err.splitlines()) == 1

    def test_a_folder_is_not_taken_for_a_photograph(self, selavpr, indexed, walk):
        folder, model, _ = indexed
        run = selavpr("query", folder, walk / "day", *model)
        expected = f"Error: {walk}/day is a folder; name the photographs in it, for example {walk}/day/*.jpg.\n"
        assert (run.code, run.err) == (2, expected)

    def test_what_is_no_database_is_named(self, selavpr, models, tmp_path):
        Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
        run = selavpr("query", tmp_path, tmp_path / "a.png", "--backbone", models / "backbone")
        assert run.code == 2
        assert "is no place database" in run.err


class TestPairs:
    def test_photographs_are_paired_with_their_places_in_rank_order(self, selavpr, indexed, walk, tmp_path):
        folder, model, _ = indexed
        images = [walk / "night" / "5.png", walk / "day" / "0.png"]
        pairs, report = tmp_path / "new" / "pairs.txt", tmp_path / "answer.json"
        run = selavpr(
            *("query", folder, *images, *model, "--top-k", 3, "--json", report),
            *("--pairs", pairs, "--image-folder", walk),
        )
        assert run.code == 0, run.err
        first, second = ([place["key"] for place in q["places"]] for q in json.loads(report.read_text())["queries"])
        assert second[0] == "day/0.png"  # the photograph itself, which is not matched with itself
        expected = [f"night/5.png {key}" for key in first] + [f"day/0.png {key}" for key in second[1:]]
        assert pairs.read_text().splitlines() == expected

    def test_without_a_folder_paths_and_keys_stay_as_they_are(self, selavpr, indexed, walk, tmp_path):
        folder, model, _ = indexed
        image = walk / "night" / "5.png"
        assert selavpr("query", folder, image, *model, "--top-k", 1, "--pairs", tmp_path / "pairs.txt").code == 0
        assert re.fullmatch(rf"{image} day/\d\.png\n", (tmp_path / "pairs.txt").read_text())

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (["--image-folder", "."], "--image-folder is for the names in --pairs, which is not given."),
            (["--pairs", "{tmp}/p.txt", "--image-folder", "{tmp}/x"], r"night/5\.png is not in the image folder .*x;"),
        ],
    )
    def test_a_mistake_is_one_line_and_leaves_no_list(self, selavpr, indexed, walk, tmp_path, arguments, message):
        folder, model, _ = indexed
        arguments = [argument.format(tmp=tmp_path) for argument in arguments]
        run = selavpr("query", folder, walk / "night" / "5.png", *model, *arguments)
        assert run.code == 2
        assert re.match(f"Error: .*{message}", run.err.splitlines()[-1])
        assert run.out == ""
        assert not (tmp_path / "p.txt").exists()
