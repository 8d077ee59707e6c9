"""What the tests of the server share: a toy city on disk, and the application over a database of it."""

import io

import pytest
import torch
from fastapi.testclient import TestClient

from selavpr_peft.data.toy_city import write_toy_city
from selavpr_peft.retrieval import PlaceDatabase, PlaceRecognizer
from selavpr_peft.serving import create_app
from tests.retrieval.conftest import make_model

NUM_PLACES = 8


@pytest.fixture(autouse=True, scope="session")
def _one_thread():
    """Models this small only wait for one another's threads."""
    num_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(num_threads)


@pytest.fixture(scope="session")
def city(tmp_path_factory):
    return write_toy_city(tmp_path_factory.mktemp("city"), num_places=NUM_PLACES, size=(84, 112))


@pytest.fixture(scope="session")
def recognizer(city, tmp_path_factory):
    """The city by day, described by a random network, which recognises the very pictures of the database."""
    model = make_model()
    database = PlaceDatabase.build(model, f"{city}:day", tmp_path_factory.mktemp("databases") / "city.placedb")
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
