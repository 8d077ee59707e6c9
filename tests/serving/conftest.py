"""What the tests of the server share: a toy city on disk, and the application over a database of it."""

import io

import numpy as np
import pytest
from fastapi.testclient import TestClient
from scipy.special import logit

from selavpr_peft.data.place_table import read_place_table
from selavpr_peft.data.toy_city import write_toy_city
from selavpr_peft.retrieval import PlaceDatabase, PlaceRecognizer
from selavpr_peft.retrieval.calibration import Calibration, answer_form
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
    database = PlaceDatabase.build(
        model, some_places(city, 0, NUM_PLACES), tmp_path_factory.mktemp("databases") / "city.placedb"
    )
    return PlaceRecognizer(model, database)


def some_places(city, start, stop):
    """Places of the city by day, known by frame numbers only."""
    places = read_place_table(f"{city}:day").remove_columns(["latitude", "longitude"])
    return places.select(range(start, stop))


@pytest.fixture
def growing(city, tmp_path):
    """A recogniser over the first six places, which a test may change."""
    model = make_model()
    return PlaceRecognizer(model, PlaceDatabase.build(model, some_places(city, 0, 6), tmp_path / "city.placedb"))


@pytest.fixture
def client(recognizer):
    with TestClient(create_app(recognizer)) as client:
        yield client


@pytest.fixture(scope="session")
def photograph(city):
    """The file of place 3 by day."""
    return (city / "day" / "0003.jpg").read_bytes()


def calibration_of(database, *, probability, evidence, rerank_num=5):
    """A calibration that gives some evidence a probability, and half the odds for each unit less."""
    return Calibration(
        adapter=database.manifest.adapter,
        form=answer_form(database.manifest, rerank_num),
        intercept=float(logit(probability) - np.log(2) * evidence),
        slope=float(np.log(2)),
        fitted_on={},
        quality={},
    )


def encoded(image, kind="PNG", **options):
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()
