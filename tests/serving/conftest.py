"""What the tests of the server share: a toy city on disk, and the application over a database of it."""

import io

import pytest
from fastapi.testclient import TestClient

from selavpr_peft.data.place_table import read_place_table
from selavpr_peft.data.toy_city import write_toy_city
from selavpr_peft.retrieval import PlaceDatabase, PlaceRecognizer
from selavpr_peft.serving import create_app
from tests.retrieval.conftest import make_model

NUM_PLACES = 8


@pytest.fixture(scope="session")
def city(tmp_path_factory):
    return write_toy_city(tmp_path_factory.mktemp("city"), num_places=NUM_PLACES, size=(84, 112))


@pytest.fixture(scope="session")
def recognizer(city, tmp_path_factory):
    """The city by day, known by frame numbers only, described by a random network: it recognises the very pictures."""
    model = make_model()
    places = read_place_table(f"{city}:day").remove_columns(["latitude", "longitude"])
    database = PlaceDatabase.build(model, places, tmp_path_factory.mktemp("databases") / "city.placedb")
    return PlaceRecognizer(model, database)


@pytest.fixture
def client(recognizer):
    with TestClient(create_app(recognizer)) as client:
        yield client


@pytest.fixture(scope="session")
def photograph(city):
    """The file of place 3 by day."""
    return (city / "day" / "0003.jpg").read_bytes()


def encoded(image, kind="PNG", **options):
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()
