"""Of several adapters over one backbone, a place database finds the one it was described with."""

import pytest

from selavpr_peft import SelaConfig
from selavpr_peft.errors import PlaceDatabaseError
from selavpr_peft.retrieval import PlaceDatabase, PlaceRecognizer, activate_adapter_for
from tests.retrieval.conftest import make_model


@pytest.fixture
def databases(places, tmp_path):
    """Databases of the same places, described with the adapters of two cities."""
    return [PlaceDatabase.build(make_model(seed), places, tmp_path / f"{seed}.placedb") for seed in (1, 2)]


@pytest.fixture
def model(tmp_path):
    """A model with the adapters of both cities and one more."""
    model = make_model(seed=0)
    for seed in (1, 2):
        make_model(seed).save_pretrained(tmp_path / f"city-{seed}")
        model.load_adapter(tmp_path / f"city-{seed}", adapter_name=f"city-{seed}")
    return model.eval()


class TestActivateAdapterFor:
    def test_each_database_gets_its_own(self, model, databases, photographs):
        for number, database in enumerate(databases, 1):
            with pytest.raises(PlaceDatabaseError, match="another adapter"):
                PlaceRecognizer(model, database)
            assert activate_adapter_for(model, database) == model.active_adapter == f"city-{number}"
            (best, *_) = PlaceRecognizer(model, database).recognize(photographs / "3.png")
            assert best.key == "place 3"

    def test_a_database_of_an_adapter_that_is_not_loaded_is_refused(self, databases):
        model = make_model(seed=0)
        model.add_adapter("other", SelaConfig(local_channels=(16, 8)))
        with pytest.raises(PlaceDatabaseError, match=r"is none of \['default', 'other'\]; load that adapter too"):
            activate_adapter_for(model, databases[0])
        assert model.active_adapter == "default"
