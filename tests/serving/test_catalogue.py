"""What is told of places: public keys, and no more points than a map can show."""

from datasets import Dataset

from selavpr_peft.retrieval import PlaceDatabase
from selavpr_peft.serving import catalogue
from selavpr_peft.serving.catalogue import PlaceCatalogue, public_keys
from tests.retrieval.conftest import make_model


class TestPublicKeys:
    def test_a_single_absolute_path_keeps_its_name_only(self):
        assert public_keys(["/home/me/walk/1.jpg"]) == ["1.jpg"]

    def test_names_stay_different(self):
        keys = ["/data/a/1.jpg", "/data/b/1.jpg", "2.jpg"]
        assert public_keys(keys) == ["a/1.jpg", "b/1.jpg", "2.jpg"]


class TestPlaceCatalogue:
    def test_of_a_large_database_some_points_are_drawn_evenly(self, recognizer, monkeypatch):
        monkeypatch.setattr(catalogue, "MAX_DRAWN", 3)
        assert PlaceCatalogue(recognizer.database).points() == [(0, 0), (3, 0), (6, 0)]  # of 8 places

    def test_a_place_without_a_position_has_no_point(self, city, tmp_path):
        columns = {
            "image": [str(city / "day" / f"000{number}.jpg") for number in range(2)],
            "key": ["known", "unknown"],
            "frame": [0, 1],
            "latitude": [60.0, None],
            "longitude": [24.0, None],
        }
        database = PlaceDatabase.build(make_model(), Dataset.from_dict(columns), tmp_path / "db")
        places = PlaceCatalogue(database)
        assert (places.point(0), places.point(1)) == ((0, 0), None)
        assert places.points() == [(0, 0)]
