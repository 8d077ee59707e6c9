"""Place databases: what is stored, what is removed, how an interrupted build goes on, and what is refused."""

import json
import re

import numpy as np
import pytest
import torch
from datasets import Dataset
from filelock import FileLock
from peft import LoraConfig, get_peft_model

from selavpr_peft.errors import PlaceDatabaseError
from selavpr_peft.hub.loading import adapt_freshly
from selavpr_peft.matching import quantize_local_features
from selavpr_peft.modeling.preprocessing import Preprocessing
from selavpr_peft.modeling.toy_backbone import toy_backbone
from selavpr_peft.retrieval import PlaceDatabase, PlaceRecognizer, building
from selavpr_peft.retrieval.description_form import STORED_DTYPES
from selavpr_peft.retrieval.descriptor_index import DescriptorIndex
from selavpr_peft.retrieval.encoding import encode_places
from selavpr_peft.retrieval.manifest import Manifest
from selavpr_peft.retrieval.sharded_array import ShardedArray
from selavpr_peft.tuner.model import check_adapted
from tests.retrieval.conftest import make_model


@pytest.fixture(autouse=True)
def _small_steps(monkeypatch):
    monkeypatch.setattr(building, "STEP_IMAGES", 4)


def described(model, places):
    """Descriptors and local features of all places, made at once."""
    batches = list(encode_places(model, places, Preprocessing(image_size=(56, 70)), batch_size=4))
    return (
        torch.cat([batch.global_descriptors for batch in batches]),
        torch.cat([batch.local_features for batch in batches]),
    )


def edit_manifest(database, **entries):
    """Write what could not be made."""
    content = database.manifest.model_dump(mode="json") | entries
    (database.folder / "manifest.json").write_text(json.dumps(content))


def flip_a_byte(path, position):
    data = bytearray(path.read_bytes())
    data[position] ^= 1
    path.write_bytes(data)


def damage(photographs, number):
    (photographs / f"{number}.png").write_bytes(b"no picture")


class TestBuild:
    @pytest.mark.parametrize("local_dtype", STORED_DTYPES)
    def test_what_is_stored_is_what_the_model_says(self, model, places, tmp_path, local_dtype):
        database = PlaceDatabase.build(model, places, tmp_path / "db", local_dtype=local_dtype, batch_size=4)
        descriptors, features = described(model, places)
        assert len(database) == 10
        assert np.array_equal(ShardedArray(tmp_path / "db" / "descriptors").read_all(), descriptors.numpy())
        rows = np.array([9, 0, 5])
        expected = quantize_local_features(features[rows], local_dtype)
        assert torch.equal(database.local_features(rows), expected)
        assert database.local_dtype == local_dtype

    def test_every_column_is_kept_and_the_image_is_a_path(self, model, places, photographs, tmp_path):
        database = PlaceDatabase.build(model, places, tmp_path / "db")
        assert database.places[3] == {
            "image": str(photographs / "3.png"),
            "key": "place 3",
            "frame": 3,
            "latitude": 66.003,
            "longitude": -18.0,
            "street": "Aðalgata",
        }

    def test_a_folder_of_places_is_built_from(self, model, photographs, tmp_path):
        lines = [f"{number}.png,{'day' if number < 6 else 'night'},{number}" for number in range(10)]
        (photographs / "places.csv").write_text("\n".join(["image,traverse,frame", *lines]) + "\n")
        database = PlaceDatabase.build(model, f"{photographs}:day", tmp_path / "db")
        assert database.places["key"][:] == [f"{number}.png" for number in range(6)]

    def test_images_that_cannot_be_read_are_left_out_and_named(self, model, places, photographs, tmp_path):
        for number in (2, 4, 5, 6, 7):  # a whole step among them
            damage(photographs, number)
        database = PlaceDatabase.build(model, places, tmp_path / "db")
        assert database.places["frame"][:] == [0, 1, 3, 8, 9]
        assert database.manifest.unreadable_images == [f"place {n}" for n in (2, 4, 5, 6, 7)]
        assert len(database.local_features(np.arange(5))) == 5

    def test_without_a_readable_image_there_is_no_database(self, model, places, photographs, tmp_path):
        for number in range(10):
            damage(photographs, number)
        with pytest.raises(PlaceDatabaseError, match="None of the 10 images can be read"):
            PlaceDatabase.build(model, places, tmp_path / "db")

    def test_an_empty_table_is_refused(self, model, places, tmp_path):
        with pytest.raises(ValueError, match="At least one image is needed, got none"):
            PlaceDatabase.build(model, places.select([]), tmp_path / "db")
        assert not (tmp_path / "db").exists()

    def test_a_model_without_local_head_gives_a_database_for_retrieval_alone(self, places, tmp_path):
        database = PlaceDatabase.build(make_model(use_local_head=False), places, tmp_path / "db")
        assert len(database) == 10
        assert not database.has_local_features

    def test_an_index_that_cannot_be_built_is_refused_before_anything_is_described(self, model, places, tmp_path):
        for kind, message in {"lsh": "must be one of", "ivf-fastscan": "needs 16 rows or more, got 10"}.items():
            with pytest.raises(ValueError, match=message):
                PlaceDatabase.build(model, places, tmp_path / "db", index_kind=kind)
        assert not (tmp_path / "db").exists()

    def test_an_unknown_form_is_refused(self, model, places, tmp_path):
        with pytest.raises(ValueError, match="local_dtype must be one of 'float32', .* got 'bfloat16'"):
            PlaceDatabase.build(model, places, tmp_path / "db", local_dtype="bfloat16")


def keys_found(model, database, image):
    return {place.key for place in PlaceRecognizer(model, database).recognize(image, top_k=99)}


class TestKeepLocations:
    @pytest.mark.parametrize("local_dtype", ["float16", "int8", "binary"])
    def test_what_is_stored_is_the_grid_of_the_whole_map(self, model, places, tmp_path, local_dtype):
        database = PlaceDatabase.build(
            model, places, tmp_path / "db", local_dtype=local_dtype, keep_locations=50, batch_size=4
        )
        _, features = described(model, places)  # 13 x 17 locations; 6 x 8 is the grid of at most 50
        stored = database.local_features(np.array([9, 0]))
        assert stored.shape[:3] == (2, 6, 8)
        expected = quantize_local_features(features[[9, 0]].flatten(1, 2)[:, database.local_locations], local_dtype)
        assert torch.equal(stored.flatten(1, 2), expected)

    def test_a_query_is_compared_at_the_locations_of_the_same_kind(self, model, places, tmp_path):
        database = PlaceDatabase.build(model, places, tmp_path / "db", local_dtype="binary", keep_locations=12)
        assert database.local_features(np.array([0])).shape == (1, 3, 4, 1)
        _, features = described(model, places)
        assert torch.equal(database.query_form(features[0]), quantize_local_features(features[0, 1::2, 1::2], "int8"))

    def test_places_are_recognised_and_matches_counted_among_them(self, model, places, photographs, tmp_path):
        database = PlaceDatabase.build(model, places, tmp_path / "db", keep_locations=50)
        best = PlaceRecognizer(model, database).recognize(photographs / "7.png")[0]
        assert best.key == "place 7"
        assert 24 < best.num_matches <= 48

    def test_matched_points_are_those_of_all_locations(self, model, places, photographs, tmp_path):
        thin = PlaceDatabase.build(model, places, tmp_path / "thin", keep_locations=50)
        whole = PlaceDatabase.build(model, places, tmp_path / "whole")
        found = [
            PlaceRecognizer(model, database).match(
                photographs / "3.png", PlaceRecognizer(model, database).recognize(photographs / "7.png")[0]
            )
            for database in (thin, whole)
        ]
        assert np.array_equal(found[0].database_points_px, found[1].database_points_px)

    def test_all_are_kept_unless_asked(self, model, places, tmp_path):
        database = PlaceDatabase.build(model, places, tmp_path / "db")
        assert database.local_locations is None
        assert database.local_features(np.array([0])).shape == (1, 13, 17, 8)

    def test_another_number_is_another_database(self, model, places, tmp_path):
        PlaceDatabase.build(model, places, tmp_path / "db", keep_locations=50)
        with pytest.raises(PlaceDatabaseError, match="differs in kept_locations"):
            PlaceDatabase.build(model, places, tmp_path / "db")

    def test_fewer_than_one_is_refused(self, model, places, tmp_path):
        with pytest.raises(ValueError, match="must be at least 1, got 0"):
            PlaceDatabase.build(model, places, tmp_path / "db", keep_locations=0)
        assert not (tmp_path / "db").exists()

    def test_without_local_head_there_is_nothing_to_keep(self, places, tmp_path):
        model = make_model(use_local_head=False)
        database = PlaceDatabase.build(model, places, tmp_path / "db", keep_locations=50)
        assert database.local_locations is None


class TestRemove:
    @pytest.mark.parametrize("index_kind", ["flat", "hnsw", "ivf-sq"])
    def test_a_removed_place_is_never_given_again(self, model, places, photographs, tmp_path, index_kind):
        database = PlaceDatabase.build(model, places, tmp_path / "db", index_kind=index_kind)
        database.remove(["place 7", "place 0"])
        for opened in (database, PlaceDatabase.open(tmp_path / "db")):
            assert len(opened) == 8
            assert keys_found(model, opened, photographs / "7.png") == {f"place {n}" for n in (1, 2, 3, 4, 5, 6, 8, 9)}

    def test_the_others_keep_their_rows(self, model, places, photographs, tmp_path):
        database = PlaceDatabase.build(model, places, tmp_path / "db")
        database.remove(["place 2"])
        best = PlaceRecognizer(model, database).recognize(photographs / "7.png")[0]
        assert (best.key, best.row, database.places[best.row]["key"]) == ("place 7", 7, "place 7")
        assert best.num_matches > 200  # with its own local features

    def test_nearness_and_removal_go_together(self, model, places, photographs, tmp_path):
        database = PlaceDatabase.build(model, places, tmp_path / "db")
        database.remove(["place 2"])
        found = PlaceRecognizer(model, database).recognize(photographs / "7.png", near=(66.002, -18.0), radius_m=120)
        assert sorted(place.row for place in found) == [1, 3]

    def test_what_is_open_elsewhere_sees_it_when_it_looks(self, model, places, photographs, tmp_path):
        database = PlaceDatabase.build(model, places, tmp_path / "db")
        elsewhere = PlaceDatabase.open(tmp_path / "db")
        database.remove(["place 7"])
        assert "place 7" in keys_found(model, elsewhere, photographs / "7.png")
        elsewhere.refresh()
        assert "place 7" not in keys_found(model, elsewhere, photographs / "7.png")

    def test_an_index_of_another_kind_is_seen_too(self, model, places, tmp_path):
        elsewhere = PlaceDatabase.build(model, places, tmp_path / "db")
        PlaceDatabase.rebuild_index(tmp_path / "db", "hnsw")
        elsewhere.refresh()
        assert elsewhere.index.kind == "hnsw"

    def test_another_database_in_its_place_is_refused(self, model, places, tmp_path):
        database = PlaceDatabase.build(model, places, tmp_path / "db")
        before = database.manifest
        other = PlaceDatabase.build(make_model(seed=1), places, tmp_path / "other", local_dtype="int8")
        (database.folder / "manifest.json").write_text((other.folder / "manifest.json").read_text())
        with pytest.raises(PlaceDatabaseError, match="built anew with another local dtype and adapter; open it again"):
            database.refresh()
        assert database.manifest == before

    def test_removals_by_two_add_up(self, model, places, tmp_path):
        first = PlaceDatabase.build(model, places, tmp_path / "db")
        second = PlaceDatabase.open(tmp_path / "db")
        first.remove(["place 1"])
        second.remove(["place 2"])
        assert PlaceDatabase.open(tmp_path / "db").manifest.removed_rows == [1, 2]

    @pytest.mark.parametrize("key", ["place 77", "place 1"])
    def test_a_place_that_is_not_there_or_not_any_more_removes_nothing(self, model, places, tmp_path, key):
        database = PlaceDatabase.build(model, places, tmp_path / "db")
        database.remove(["place 1"])
        with pytest.raises(PlaceDatabaseError, match=f"has no place '{key}'; keys are those of its table"):
            database.remove(["place 2", key])
        assert len(database) == len(PlaceDatabase.open(tmp_path / "db")) == 9

    def test_a_full_disk_removes_nothing(self, model, places, tmp_path, monkeypatch):
        database = PlaceDatabase.build(model, places, tmp_path / "db")

        def full(*arguments, **options):
            raise OSError(28, "No space left on device")

        with monkeypatch.context() as context:
            context.setattr("selavpr_peft.files.Path.write_text", full)
            with pytest.raises(OSError, match="No space left"):
                database.remove(["place 2"])
        assert len(database) == len(PlaceDatabase.open(tmp_path / "db")) == 10

    def test_a_second_writer_is_refused(self, model, places, tmp_path):
        database = PlaceDatabase.build(model, places, tmp_path / "db")
        with FileLock(tmp_path / "db" / ".lock"), pytest.raises(PlaceDatabaseError, match="by another process"):
            database.remove(["place 2"])

    def test_an_empty_database_finds_nothing(self, model, places, photographs, tmp_path):
        database = PlaceDatabase.build(model, places, tmp_path / "db")
        database.remove(places["key"][:])
        assert len(database) == 0
        assert keys_found(model, PlaceDatabase.open(tmp_path / "db"), photographs / "7.png") == set()


class TestCompact:
    @pytest.fixture
    def database(self, model, places, tmp_path):
        database = PlaceDatabase.build(model, places, tmp_path / "db")
        database.remove(["place 2", "place 5"])
        return database

    def test_the_new_database_is_one_that_never_had_the_removed_places(self, model, places, database, tmp_path):
        compact = database.compact(tmp_path / "compact")
        kept = [0, 1, 3, 4, 6, 7, 8, 9]
        built = PlaceDatabase.build(model, places.select(kept), tmp_path / "built")
        assert compact.places[:] == built.places[:]
        is_other = {"places", "places_crc32"}
        assert compact.manifest.model_dump(exclude=is_other) == built.manifest.model_dump(exclude=is_other)
        found, expected = ({n: d for n, d in content(x.folder).items() if is_array(n)} for x in (compact, built))
        assert found == expected
        assert not any(b"place 2" in data for data in content(compact.folder).values())

    def test_the_old_one_stays_as_it_is(self, database, tmp_path):
        before = content(database.folder)
        database.compact(tmp_path / "compact")
        assert content(database.folder) == before

    def test_too_few_places_for_the_codes_of_an_index_get_one_without(self, model, photographs, tmp_path):
        paths = 2 * [str(path) for path in sorted(photographs.iterdir())]
        places = Dataset.from_dict({"image": paths, "key": [f"place {row}" for row in range(20)]})
        database = PlaceDatabase.build(model, places, tmp_path / "many", index_kind="ivf-fastscan")
        assert database.compact(tmp_path / "as many").index.kind == "ivf-fastscan"
        database.remove([f"place {row}" for row in range(5)])
        assert database.compact(tmp_path / "fewer").index.kind == "flat"

    def test_only_a_new_folder_is_written(self, database, photographs):
        with pytest.raises(PlaceDatabaseError, match="is there already; name a new folder"):
            database.compact(photographs)

    def test_nothing_is_left_when_it_fails(self, database, tmp_path):
        flip_a_byte(database.folder / "descriptors" / "00002.npy", -1)
        with pytest.raises(PlaceDatabaseError, match="00002.npy is damaged"):
            database.compact(tmp_path / "compact")
        assert not [path for path in tmp_path.iterdir() if "compact" in path.name]

    def test_a_database_without_places_is_refused(self, database, places, tmp_path):
        database.remove([key for key in places["key"] if key not in ("place 2", "place 5")])
        with pytest.raises(PlaceDatabaseError, match="All places of .* were removed"):
            database.compact(tmp_path / "compact")


def is_array(name):
    return name.startswith(("descriptors", "local_features", "index"))


def content(folder):
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != ".lock")
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


class TestInterruption:
    @pytest.mark.parametrize("at_image", [1, 5, 9])
    def test_a_build_goes_on_after_its_last_step_and_ends_the_same(
        self, model, places, tmp_path, monkeypatch, at_image, capsys
    ):
        PlaceDatabase.build(model, places, tmp_path / "whole", batch_size=4)
        encode, described_rows = building.encode_places, []

        def fail(model, part, preprocessing, **options):
            if at_image in part["frame"][:]:
                raise KeyboardInterrupt
            return encode(model, part, preprocessing, **options)

        with monkeypatch.context() as context:
            context.setattr(building, "encode_places", fail)
            with pytest.raises(KeyboardInterrupt):
                PlaceDatabase.build(model, places, tmp_path / "db", batch_size=4)
        with pytest.raises(PlaceDatabaseError, match="is not complete; run the same build again"):
            PlaceDatabase.open(tmp_path / "db")

        def note(model, part, preprocessing, **options):
            described_rows.extend(part["frame"][:])
            return encode(model, part, preprocessing, **options)

        monkeypatch.setattr(building, "encode_places", note)
        capsys.readouterr()
        PlaceDatabase.build(model, places, tmp_path / "db", batch_size=4)
        assert described_rows == list(range(at_image // 4 * 4, 10))
        counts = re.findall(r"building:[^\r]*? (\d+)/10 \[", capsys.readouterr().err)  # one bar, in images
        assert (int(counts[0]), int(counts[-1])) == (at_image // 4 * 4, 10)
        assert content(tmp_path / "db") == content(tmp_path / "whole")

    @pytest.mark.parametrize("missing", ["rows", "local_features"])
    def test_a_step_that_was_half_written_is_done_again(self, model, places, tmp_path, missing):
        PlaceDatabase.build(model, places, tmp_path / "whole", batch_size=4)
        database = PlaceDatabase.build(model, places, tmp_path / "db", batch_size=4)
        edit_manifest(database, is_complete=False)
        for name in {"rows", missing}:  # rows are written last, so they are missing in any case
            (database.folder / name / "00002.crc.npy").unlink()
        PlaceDatabase.build(model, places, tmp_path / "db", batch_size=4)
        assert content(tmp_path / "db") == content(tmp_path / "whole")

    def test_a_full_disk_stops_the_build_and_room_lets_it_go_on(self, model, places, tmp_path, monkeypatch):
        append, appended = ShardedArray.append, []

        def fill(self, rows):
            appended.append(len(rows))
            if len(appended) == 5:
                raise OSError(28, "No space left on device")
            append(self, rows)

        with monkeypatch.context() as context:
            context.setattr(ShardedArray, "append", fill)
            with pytest.raises(OSError, match="No space left"):
                PlaceDatabase.build(model, places, tmp_path / "db")
        assert len(PlaceDatabase.build(model, places, tmp_path / "db")) == 10

    def test_building_a_complete_database_again_does_nothing(self, model, places, tmp_path, monkeypatch):
        PlaceDatabase.build(model, places, tmp_path / "db")
        monkeypatch.setattr(building, "encode_places", None)
        assert len(PlaceDatabase.build(model, places, tmp_path / "db")) == 10


class TestRepr:
    def test_tells_folder_size_and_form(self, model, places, tmp_path):
        database = PlaceDatabase.build(model, places, tmp_path / "db", local_dtype="int8")
        database.remove(["place 3"])
        folder = repr(str(tmp_path / "db"))
        assert repr(database) == f"PlaceDatabase({folder}: 9 places, int8 local features 13x17x8, index flat)"
        expected = f"PlaceRecognizer(adapter 'default', not calibrated, {database!r})"
        assert repr(PlaceRecognizer(model, database)) == expected

    def test_without_local_head_there_are_no_local_features(self, places, tmp_path):
        database = PlaceDatabase.build(make_model(use_local_head=False), places, tmp_path / "db")
        assert "10 places, no local features, index flat" in repr(database)


class TestRefusals:
    @pytest.fixture
    def database(self, model, places, tmp_path):
        return PlaceDatabase.build(model, places, tmp_path / "db")

    def test_another_adapter_is_refused(self, database):
        other = make_model(seed=1)
        with pytest.raises(PlaceDatabaseError, match="was built with another adapter; load the model"):
            database.check_model(other)

    def test_another_backbone_is_refused(self, database, model):
        with torch.no_grad():
            next(p for name, p in model.named_parameters() if "sela_" not in name and "vpr_head" not in name).add_(1)
        with pytest.raises(PlaceDatabaseError, match="was built with another backbone;"):
            database.check_model(model)

    def test_where_the_backbone_differs_its_type_is_told(self, database):
        rounded = adapt_freshly(toy_backbone(seed=0).bfloat16(), make_model().active_peft_config, seed=0)
        with pytest.raises(PlaceDatabaseError, match="another backbone;.* counts, too; here it is bfloat16"):
            database.check_model(rounded)

    def test_a_model_without_adapter_is_refused_with_how_to_make_one(self, database):
        lora = get_peft_model(toy_backbone(), LoraConfig(target_modules=["query", "q_proj"]))
        with pytest.raises(TypeError, match="a SelaVPR adapter, got PeftModel with LoraConfig; load one by"):
            database.check_model(lora)
        with pytest.raises(TypeError, match=r"got Dinov2Model; .* get_peft_model\(backbone, SelaConfig\(\)\)"):
            check_adapted(toy_backbone())

    @pytest.mark.parametrize(
        ("settings", "name"),
        [
            ({"image_size": (56, 84)}, "preprocessing"),
            ({"resize": "official"}, "preprocessing"),
            ({"position_interpolation": "official"}, "position interpolation"),
        ],
    )
    def test_other_settings_are_refused(self, database, settings, name):
        with pytest.raises(PlaceDatabaseError, match=f"was built with another {name};"):
            database.check_model(make_model(**settings))

    def test_the_model_it_was_built_with_is_taken(self, database, model, tmp_path):
        database.check_model(model)
        model.save_pretrained(tmp_path / "adapter")
        again = make_model(seed=1)
        again.load_adapter(tmp_path / "adapter", adapter_name="again")
        again.set_adapter("again")
        database.check_model(again.eval())

    def test_a_folder_with_other_places_is_not_built_into(self, database, model, places):
        with pytest.raises(
            PlaceDatabaseError,
            match="holds a database that differs in places; name .* added to it by PlaceDatabase.add",
        ):
            PlaceDatabase.build(model, places.select(range(9)), database.folder)
        with pytest.raises(PlaceDatabaseError, match="differs in local_dtype"):
            PlaceDatabase.build(model, places, database.folder, local_dtype="int8")

    def test_a_folder_of_other_things_is_not_built_into(self, model, places, photographs):
        with pytest.raises(PlaceDatabaseError, match=r"is no place database but holds \['0.png'"):
            PlaceDatabase.build(model, places, photographs)

    def test_a_second_builder_is_refused(self, model, places, tmp_path):
        (tmp_path / "db").mkdir()
        with (
            FileLock(tmp_path / "db" / ".lock"),
            pytest.raises(PlaceDatabaseError, match="is being built or changed by another process"),
        ):
            PlaceDatabase.build(model, places, tmp_path / "db")

    def test_a_folder_without_a_database_is_named(self, tmp_path):
        with pytest.raises(PlaceDatabaseError, match="is no place database: it has no manifest.json"):
            PlaceDatabase.open(tmp_path)

    @pytest.mark.parametrize("text", ["", "{", "[]", "{}"])
    def test_a_damaged_manifest_is_named(self, database, text):
        (database.folder / "manifest.json").write_text(text)
        with pytest.raises(PlaceDatabaseError, match=r"manifest\.json cannot be read"):
            PlaceDatabase.open(database.folder)

    @pytest.mark.parametrize("name", [name for name, field in Manifest.model_fields.items() if field.is_required()])
    def test_an_entry_that_the_manifest_lacks_is_named(self, database, name):
        (database.folder / "manifest.json").write_text(database.manifest.model_dump_json(exclude={name}))
        with pytest.raises(PlaceDatabaseError, match=f"json cannot be used: it lacks {name}; fetch or build"):
            PlaceDatabase.open(database.folder)

    @pytest.mark.parametrize(
        ("name", "value", "message"),
        [
            ("num_places", "10", "num_places must be a valid integer, got '10'"),
            ("adapter", "../..", "adapter must match pattern .*, got '../..'"),
            ("index", "tree", "index must be one of 'flat', .*, got 'tree'"),
            ("local_dtype", "bfloat16", "local_dtype must be one of 'float32', .*, got 'bfloat16'"),
            ("removed_rows", [-1], "removed_rows.0 must be greater than or equal to 0, got -1"),
            ("removed_rows", [3, 10], "it must have removed_rows below num_places, which is 10, got 10"),
            (
                "preprocessing",
                {"image_size": [56, 0], "resize": "official"},
                "preprocessing.image_size.1 must be .*",
            ),
            ("kept_locations", {"map_size": [61, 61]}, "it lacks kept_locations.grid"),
        ],
    )
    def test_an_entry_that_cannot_be_is_named(self, database, name, value, message):
        edit_manifest(database, **{name: value})
        with pytest.raises(PlaceDatabaseError, match=rf"manifest\.json cannot be used: {message}.*; fetch or build"):
            PlaceDatabase.open(database.folder)

    def test_entries_of_a_later_release_stay(self, database):
        edit_manifest(database, weather="rain")
        PlaceDatabase.open(database.folder).remove(["place 2"])
        assert json.loads((database.folder / "manifest.json").read_text())["weather"] == "rain"

    def test_an_index_is_not_made_of_a_build_that_was_interrupted(self, database):
        edit_manifest(database, is_complete=False)
        with pytest.raises(PlaceDatabaseError, match="is not complete; run the same build again"):
            PlaceDatabase.rebuild_index(database.folder)

    def test_a_later_version_is_refused(self, database):
        edit_manifest(database, schema_version=2)
        with pytest.raises(PlaceDatabaseError, match="schema version 2, and this release reads 1"):
            PlaceDatabase.open(database.folder)

    def test_an_index_of_another_size_is_refused(self, database):
        edit_manifest(database, num_places=11)
        with pytest.raises(PlaceDatabaseError, match="index.faiss belongs .*: number of places 10, expected 11"):
            PlaceDatabase.open(database.folder)

    def test_the_index_of_another_adapter_is_refused(self, database, places, tmp_path):
        other = PlaceDatabase.build(make_model(seed=1), places, tmp_path / "other")
        for name in ("index.faiss", "index.json"):
            (database.folder / name).write_bytes((other.folder / name).read_bytes())
        with pytest.raises(PlaceDatabaseError, match="index.faiss belongs to another database: adapter"):
            PlaceDatabase.open(database.folder)

    def test_an_index_of_another_feature_size_is_refused(self, database):
        index = DescriptorIndex.build(np.eye(10, 16, dtype=np.float32), model=database.manifest.adapter)
        index.save(database.folder / "index.faiss")
        with pytest.raises(PlaceDatabaseError, match="feature size 16, expected 64"):
            PlaceDatabase.open(database.folder)

    @pytest.mark.parametrize("name", ["index.faiss", "index.json"])
    def test_a_damaged_index_is_named_and_made_anew_from_the_rest(self, model, photographs, database, name):
        database.remove(["place 3"])
        flip_a_byte(database.folder / name, 3)
        with pytest.raises(PlaceDatabaseError, match=r"index\.faiss .*PlaceDatabase\.rebuild_index\("):
            PlaceDatabase.open(database.folder)
        PlaceDatabase.rebuild_index(database.folder)
        again = PlaceDatabase.open(database.folder)
        assert PlaceRecognizer(model, again).recognize(photographs / "7.png")[0].key == "place 7"
        assert len(again) == 9  # what was removed stays removed

    def test_an_index_may_be_made_of_another_kind(self, database):
        PlaceDatabase.rebuild_index(database.folder, "hnsw")
        again = PlaceDatabase.open(database.folder)
        assert again.index.kind == again.manifest.index == "hnsw"
        with pytest.raises(ValueError, match="'ivf-pq' needs 256 rows or more, got 10"):
            PlaceDatabase.rebuild_index(database.folder, "ivf-pq")

    @pytest.mark.parametrize("is_missing", [False, True])
    def test_a_damaged_table_of_places_is_named(self, database, is_missing):
        path = database.folder / "places.parquet"
        path.unlink() if is_missing else flip_a_byte(path, 40)
        with pytest.raises(PlaceDatabaseError, match=r"places\.parquet is missing or damaged"):
            PlaceDatabase.open(database.folder)

    def test_missing_local_features_are_named(self, database):
        (database.folder / "local_features" / "00002.crc.npy").unlink()
        with pytest.raises(PlaceDatabaseError, match="local_features holds 8 places, but the manifest says 10"):
            PlaceDatabase.open(database.folder)

    def test_missing_descriptors_are_named_and_leave_the_index(self, database):
        (database.folder / "descriptors" / "00002.crc.npy").unlink()
        assert [key for key, _ in PlaceDatabase.open(database.folder).damaged_places()] == ["place 8", "place 9"]
        with pytest.raises(PlaceDatabaseError, match="descriptors holds 8 places, but the manifest says 10"):
            PlaceDatabase.rebuild_index(database.folder)
        assert len(PlaceDatabase.open(database.folder)) == 10

    def test_damaged_descriptors_are_named_by_place(self, database):
        flip_a_byte(database.folder / "descriptors" / "00001.npy", -1)
        assert [key for key, _ in database.damaged_places()] == ["place 7"]

    def test_damaged_features_are_named_by_place(self, database):
        path = database.folder / "local_features" / "00000.npy"
        path.write_bytes(path.read_bytes()[:-1] + b"\xff")
        found = list(PlaceDatabase.open(database.folder).damaged_places())
        assert [key for key, _ in found] == ["place 3" if building.STEP_IMAGES == 4 else "place 9"]
        assert "00000.npy is damaged" in found[0][1]
