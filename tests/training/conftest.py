"""What the training tests share: a toy city of twelve places by day and by night, and trainers of a second."""

import shutil
from functools import partial
from pathlib import Path

import pytest

from selavpr_peft.data.toy_city import write_toy_city
from tests.training.tiny import tiny_trainer


@pytest.fixture(scope="session")
def city(tmp_path_factory) -> Path:
    """Twelve places, each by day and by night, as a folder with places.csv."""
    return write_toy_city(tmp_path_factory.mktemp("city"), num_places=12, size=(56, 56))


@pytest.fixture
def own_city(city, tmp_path) -> Path:
    """A copy of the city whose files a test may damage."""
    return Path(shutil.copytree(city, tmp_path / "city"))


@pytest.fixture
def make_trainer(city, tmp_path):
    """Give a function that makes a trainer of the city: `make_trainer(**settings)`."""
    return partial(tiny_trainer, city, tmp_path / "run")
