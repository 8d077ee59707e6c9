"""`selavpr visualize`: each action writes its picture, and a mistake is one line that comes before the long work."""

import json
import re
import sys

import pytest
from PIL import Image

from selavpr_peft import visualization
from selavpr_peft.cli import visualize
from selavpr_peft.retrieval import PlaceDatabase

ACTIONS = ("candidates", "matches", "attention", "descriptor", "features", "recall", "map")


@pytest.fixture
def located(walk):
    """The walk with coordinates beside the frame numbers."""
    table = walk / "places.csv"
    header, *rows = table.read_text().splitlines()
    degrees = [f"{row},60.17,{24.94 + 0.0002 * int(row.split(',')[2])}" for row in rows]
    table.write_text("\n".join([f"{header},latitude,longitude", *degrees]) + "\n")
    return walk


@pytest.fixture
def model(models):
    return ("--backbone", models / "backbone", "--adapter", models / "adapter")


@pytest.fixture
def indexed(selavpr, located, model, tmp_path):
    """A database of the walk by day."""
    folder = tmp_path / "walk.placedb"
    assert selavpr("index", f"{located}:day", *model, "--output", folder).code == 0
    return folder


@pytest.fixture
def report(tmp_path):
    path = tmp_path / "trained.json"
    path.write_text(json.dumps({"retrieval": {"1": 0.5, "5": 0.8}, "reranked": {"1": 0.7, "5": 0.9}}))
    return path


def check_picture(path):
    with Image.open(path) as picture:
        picture.load()
        assert picture.format == "PNG"
        assert min(picture.size) > 150
        assert len(picture.convert("RGB").getcolors(maxcolors=1 << 24)) > 50  # something is on it


def note_calls(monkeypatch, name, calls):
    """Let a drawing function note what it is called with."""
    draw = getattr(visualization, name)
    monkeypatch.setattr(
        visualization, name, lambda *args, **settings: calls.append((args, settings)) or draw(*args, **settings)
    )


class TestHelp:
    def test_every_action_is_listed(self, selavpr):
        listing = selavpr("visualize", "--help").out.partition("Commands:")[2]
        assert tuple(line.split()[0] for line in listing.strip().splitlines()) == ACTIONS
        assert tuple(command.name for command in visualize.app.registered_commands) == ACTIONS

    @pytest.mark.parametrize("action", ACTIONS)
    def test_every_action_has_a_summary_and_an_example(self, selavpr, action):
        run = selavpr("visualize", action, "--help")
        assert run.code == 0
        assert f"\n  Example:\n      selavpr visualize {action} " in run.out
        assert "\n\n  Draw " in run.out, "no summary"


class TestPictures:
    def test_candidates(self, selavpr, indexed, located, model, tmp_path):
        image, output = located / "night" / "2.png", tmp_path / "new" / "c.png"
        run = selavpr("visualize", "candidates", indexed, image, *model, "--output", output, "--top-k", 3)
        assert (run.code, run.out) == (0, f"{output}\n"), run.err
        check_picture(output)

    def test_candidates_are_judged_by_the_table_of_queries(
        self, selavpr, indexed, located, model, tmp_path, monkeypatch
    ):
        judged = []
        note_calls(monkeypatch, "draw_candidates", judged)
        arguments = (
            "--queries",
            f"{located}:night",
            "--positive-radius",
            1,
            "--top-k",
            6,
            "--output",
            tmp_path / "c.png",
        )
        assert selavpr("visualize", "candidates", indexed, located / "night" / "2.png", *model, *arguments).code == 0
        (_, images, labels, are_correct), _ = judged[0]
        keys = [re.match(r"\d\. (day/\d\.png)\n\d+ matches", label)[1] for label in labels]
        assert [key for key, is_correct in zip(keys, are_correct, strict=True) if is_correct] == [
            key for key in keys if key in ("day/1.png", "day/2.png", "day/3.png")
        ]
        assert len(images) == 6

    def test_matches(self, selavpr, located, model, tmp_path):
        pictures = (located / "day" / "0.png", located / "night" / "0.png")
        run = selavpr("visualize", "matches", *pictures, *model, "--output", tmp_path / "m.png")
        assert re.fullmatch(rf"{tmp_path}/m\.png: [1-9]\d* matches\n", run.out), run.err
        check_picture(tmp_path / "m.png")

    def test_attention(self, selavpr, located, model, tmp_path):
        image = located / "day" / "0.png"
        run = selavpr("visualize", "attention", image, *model, "--layer", 0, "--output", tmp_path / "a.png")
        assert (run.code, run.out) == (0, f"{tmp_path}/a.png\n"), run.err
        check_picture(tmp_path / "a.png")

    def test_descriptor(self, selavpr, located, model, tmp_path):
        run = selavpr("visualize", "descriptor", located / "day" / "0.png", *model, "--output", tmp_path / "d.png")
        assert (run.code, run.out) == (0, f"{tmp_path}/d.png\n"), run.err
        check_picture(tmp_path / "d.png")

    def test_descriptor_of_two_photographs(self, selavpr, located, model, tmp_path):
        pictures = (located / "day" / "0.png", "--other", located / "day" / "0.png")
        run = selavpr("visualize", "descriptor", *pictures, *model, "--output", tmp_path / "d.png")
        assert run.out == f"{tmp_path}/d.png: cosine similarity 1.000\n", run.err
        check_picture(tmp_path / "d.png")

    def test_features(self, selavpr, located, model, tmp_path):
        pictures = (located / "day" / "0.png", located / "night" / "0.png")
        run = selavpr("visualize", "features", *pictures, *model, "--output", tmp_path / "f.png")
        assert (run.code, run.out) == (0, f"{tmp_path}/f.png\n"), run.err
        check_picture(tmp_path / "f.png")

    def test_recall(self, selavpr, report, tmp_path):
        run = selavpr("visualize", "recall", report, "--label", "my city", "--output", tmp_path / "r.png", "--dpi", 60)
        assert (run.code, run.out) == (0, f"{tmp_path}/r.png\n"), run.err
        with Image.open(tmp_path / "r.png") as picture:
            assert picture.size == (360, 252)  # 6.0 x 4.2 inches

    def test_map_of_a_database(self, selavpr, indexed, tmp_path):
        run = selavpr("visualize", "map", indexed, "--output", tmp_path / "m.png")
        assert (run.code, run.out) == (0, f"{tmp_path}/m.png\n"), run.err
        check_picture(tmp_path / "m.png")

    def test_map_of_a_recognition(self, selavpr, indexed, located, model, tmp_path, monkeypatch):
        drawn = []
        note_calls(monkeypatch, "draw_place_map", drawn)
        arguments = ("--queries", f"{located}:night", "--positive-radius", 1, "--output", tmp_path / "m.png")
        run = selavpr("visualize", "map", indexed, located / "night" / "2.png", *model, *arguments)
        assert run.code == 0, run.err
        (database,), settings = drawn[0]
        assert settings["is_degrees"]
        assert database[2].tolist() == settings["query"].tolist() == [pytest.approx(24.9424), 60.17]  # frame 12
        assert settings["positives"] == [1, 2, 3]
        assert sorted(settings["candidates"])[0] >= 0
        assert len(settings["candidates"]) == 5
        check_picture(tmp_path / "m.png")


class TestDatabaseOnTheHub:
    @pytest.fixture
    def repo_id(self, server, indexed, located):
        """The database, published with paths of images relative to the walk."""
        PlaceDatabase.open(indexed).push_to_hub("me/walk", image_root=located)
        return "me/walk"

    def test_its_map_is_drawn(self, selavpr, repo_id, tmp_path):
        run = selavpr("visualize", "map", repo_id, "--output", tmp_path / "m.png")
        assert (run.code, run.out) == (0, f"{tmp_path}/m.png\n"), run.err
        check_picture(tmp_path / "m.png")

    def test_its_candidates_are_drawn_in_the_folder_that_has_their_images(
        self, selavpr, repo_id, located, model, tmp_path, monkeypatch
    ):
        monkeypatch.chdir(located)
        run = selavpr("visualize", "candidates", repo_id, "night/2.png", *model, "--output", tmp_path / "c.png")
        assert (run.code, run.out) == (0, f"{tmp_path}/c.png\n"), run.err
        check_picture(tmp_path / "c.png")


class TestMistakes:
    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (
                ["matches", "{walk}/day/0.png", "{walk}/x.png"],
                r"The image .*x\.png cannot be read .*; replace or remove",
            ),
            (["matches", "a.png", "b.png", "--output", "m.pdf"], r"path must end in \.png, got m\.pdf"),
            (["matches", "a.png", "b.png", "--dtype", "half"], "--dtype must be one of float32"),
            (["attention", "{walk}/day/0.png", "--layer", "2"], "layer must be one of the backbone's 2 blocks"),
            (["candidates", "{walk}", "a.png"], "walk is no place database"),
            (["candidates", "db", "a.png", "--queries", "w"], "--queries and --positive-radius belong together"),
            (
                ["candidates", "db", "a.png", "--positive-radius", "1"],
                "--queries and --positive-radius belong together",
            ),
            (["map", "db", "a.png", "--positive-radius", "1"], "--positive-radius is measured from where"),
            (["map", "db"], "A photograph and --backbone belong together"),
        ],
    )
    def test_a_mistake_is_one_line_and_leaves_no_picture(
        self, selavpr, located, model, tmp_path, monkeypatch, arguments, message
    ):
        monkeypatch.chdir(tmp_path)
        action, *others = (argument.format(walk=located) for argument in arguments)
        run = selavpr("visualize", action, *others, *model)
        assert (run.code, run.out) == (2, "")
        assert len(run.err.splitlines()) == 1, run.err
        assert re.match(f"Error: .*{message}", run.err)
        assert not list(tmp_path.glob("*.p[nd][gf]"))

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (
                ["recall", "{report}", "--label", "a", "--label", "b"],
                "Each of the 1 reports needs a --label of its own",
            ),
            (["recall", "{report}", "{report}"], "Each of the 2 reports needs a --label of its own"),
            (["recall", "{walk}/places.csv"], r"places\.csv is no JSON file"),
            (["recall", "nowhere.json"], r"nowhere\.json"),
            (["map", "db", "--queries", "w"], "--queries says where the photograph was taken, and none is given"),
            (["recall", "{report}", "--dpi", "5"], "Invalid value for '--dpi'"),
        ],
    )
    def test_so_it_is_without_a_model(self, selavpr, located, report, arguments, message):
        run = selavpr("visualize", *(argument.format(walk=located, report=report) for argument in arguments))
        assert (run.code, run.out) == (2, "")
        assert re.match(f"Error: .*{message}", run.err.splitlines()[-1])

    def test_a_photograph_that_the_table_lacks_is_named(self, selavpr, indexed, located, model):
        image = located / "day" / "0.png"
        arguments = ("--queries", f"{located}:night", "--positive-radius", 1)
        run = selavpr("visualize", "candidates", indexed, image, *model, *arguments)
        assert (run.code, run.out) == (2, "")
        assert re.fullmatch(r"Error: .*day/0\.png is none of the 6 images of the table, so where .*\n", run.err)

    def test_a_map_needs_coordinates(self, selavpr, walk, model, tmp_path):
        assert selavpr("index", f"{walk}:day", *model, "--output", tmp_path / "db").code == 0
        run = selavpr("visualize", "map", tmp_path / "db", "--output", tmp_path / "m.png")
        assert run.code == 2
        assert run.err.startswith("Error: A map of these places needs the columns 'easting_m' and 'northing_m' or")

    def test_an_adapter_without_local_head_has_no_matches(self, selavpr, located, models):
        pictures = (located / "day" / "0.png", located / "night" / "0.png")
        run = selavpr(
            *("visualize", "matches", *pictures, "--backbone", models / "backbone"),
            *("--adapter", models / "no-local-head"),
        )
        assert (run.code, run.err) == (2, "Error: The adapter has no local head, so there is nothing to match.\n")

    def test_missing_matplotlib_is_told_before_a_model_is_loaded(self, selavpr, located, monkeypatch):
        monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
        run = selavpr("visualize", "attention", located / "day" / "0.png", "--backbone", "nowhere")
        assert run.code == 2
        assert 'pip install "selavpr_peft[viz]"' in run.err
