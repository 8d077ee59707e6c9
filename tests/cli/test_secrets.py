"""No command shows the token that it asks the Hub with, also where the Hub repeats it; nor one from a file."""

import pytest

from selavpr_peft.hub import save_adapter
from tests.hub.hub_client import TOKEN
from tests.hub.published import adapted


@pytest.mark.parametrize("status", [400, 401, 403, 500])
@pytest.mark.parametrize(
    "command",
    [
        "push {tmp}/city me/city",
        "index {walk}:day --backbone {models}/backbone --output {tmp}/db --push-to me/walk",
        "index {walk}:day --backbone {models}/backbone --adapter me/city --output {tmp}/db",
        "query me/walk {walk}/day/2.png --backbone {models}/backbone",
        "query {indexed} {walk}/day/2.png --backbone me/backbone",
        "evaluate --database {walk}:day --queries {walk}:night --positive-radius 1 --backbone {models}/backbone"
        " --adapter me/city",
    ],
)
def test_a_refusal_does_not_show_the_token(selavpr, server, indexed, walk, models, tmp_path, command, status):
    save_adapter(adapted(), tmp_path / "city")
    server.failures += [(".*", (status, {"X-Error-Message": f"Authorization: Bearer {TOKEN}"}))] * 200
    places = {"tmp": tmp_path, "walk": walk, "models": models, "indexed": indexed[0]}
    run = selavpr(*command.format(**places).split())
    assert run.code == 2
    assert f"Bearer {TOKEN}" in server.tokens
    assert TOKEN not in run.out + run.err


def test_a_token_in_a_file_of_settings_is_not_shown(selavpr, tmp_path):
    (tmp_path / "train.yaml").write_text(f"training: hub_token={TOKEN}\n")
    run = selavpr("train", "--config", tmp_path / "train.yaml")
    assert run.code == 2
    assert "must hold fields as `name: value`, got 'hub_token=hf_...'" in run.err
