"""Whatever asks the Hub and however the Hub refuses: nobody is shown a token, not even by a server that repeats it."""

import logging
import traceback

import pytest

import selavpr_peft
from selavpr_peft.data.toy_city import write_toy_city
from selavpr_peft.errors import HubError
from selavpr_peft.hub import add_adapter, load_backbone, push_adapter, save_adapter
from selavpr_peft.modeling.toy_backbone import toy_backbone
from selavpr_peft.redaction import without_secrets
from selavpr_peft.retrieval import PlaceDatabase
from tests.hub.hub_client import TOKEN
from tests.hub.published import adapted

REFUSALS = [
    (status, {"X-Error-Message": f"You sent Authorization: Bearer {TOKEN}"}) for status in (400, 401, 403, 500)
]


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """An adapter and a place database to push."""
    folder = tmp_path_factory.mktemp("published")
    model = adapted()
    save_adapter(model, folder / "city")
    city = write_toy_city(folder / "toy", num_places=2, traverses=["day"], size=(56, 84))
    PlaceDatabase.build(model, city, folder / "city.placedb")
    return folder


REQUESTS = {
    "push an adapter": lambda folders: push_adapter(folders / "city", "me/city"),
    "load an adapter": lambda folders: selavpr_peft.load("me/city", backbone=toy_backbone(num_layers=2)),
    "add an adapter": lambda folders: add_adapter(adapted(), "me/city", "city"),
    "load a pipeline": lambda folders: selavpr_peft.pipeline("me/city", backbone=toy_backbone(num_layers=2)),
    "load a backbone": lambda folders: load_backbone("me/backbone"),
    "push a place database": lambda folders: PlaceDatabase.open(folders / "city.placedb").push_to_hub("me/city"),
    "fetch a place database": lambda folders: PlaceDatabase.from_pretrained("me/city"),
}


class TestRefusals:
    @pytest.mark.parametrize("refusal", REFUSALS, ids=lambda refusal: str(refusal[0]))
    @pytest.mark.parametrize("request_", REQUESTS)
    def test_neither_the_error_nor_its_traceback_nor_a_log_shows_the_token(
        self, server, folders, caplog, capfd, request_, refusal
    ):
        caplog.set_level(logging.DEBUG)
        server.failures += [(".*", refusal)] * 200
        with pytest.raises(OSError) as error:  # noqa: PT011 - HubError, or of transformers; what it says is checked
            REQUESTS[request_](folders)
        assert f"Bearer {TOKEN}" in server.tokens
        assert TOKEN not in "".join(traceback.format_exception(error.value))
        assert TOKEN not in caplog.text + "".join(capfd.readouterr())

    def test_a_token_that_is_no_header_is_not_shown_either(self, server, folders):
        with pytest.raises(HubError) as error:
            push_adapter(folders / "city", "me/city", token=f"{TOKEN}\n")
        assert TOKEN not in "".join(traceback.format_exception(error.value))

    def test_a_token_that_was_copied_with_an_ellipsis_is_named(self, server, folders):
        with pytest.raises(HubError, match="token for me/city has characters that no token has. Log in") as error:
            push_adapter(folders / "city", "me/city", token=f"{TOKEN}…")
        assert error.value.__cause__ is error.value.__context__ is None


class TestWithoutSecrets:
    @pytest.mark.parametrize(
        ("text", "expected"),
        [
            ("the token hf_aBcDeFgHiJkLmNoPqRsT.", "the token hf_...."),
            ("of an organisation: api_org_aBcDeFgHiJkLmNoP", "of an organisation: api_..."),
            ("hf_oauth_eyJhbGciOiJFZERTQSJ9.eyJzdWIiOiI2MzE0YzA5 is old", "hf_... is old"),
            ("{'Authorization': 'Bearer eyJhbGci.eyJz'}", "{'Authorization': 'Bearer ...'}"),
            ("GET http://host/a?X-Amz-Signature=1 failed", "GET http://host/a?... failed"),
            ("no places.csv in /hf_cache/my_api_photographs", "no places.csv in /hf_cache/my_api_photographs"),
        ],
    )
    def test_tokens_and_signatures_go_and_the_rest_stays(self, text, expected):
        assert without_secrets(text) == expected
