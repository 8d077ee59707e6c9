"""The commands with which the README begins lead to a first place, given as they are printed."""

import re
import shlex
import shutil

from selavpr_peft.data.toy_city import write_toy_city
from tests.conftest import REPOSITORY


def test_five_commands_from_a_clone_to_the_first_place(selavpr, models, tmp_path, monkeypatch):
    blocks = re.findall(r"```bash\n(.*?)```", (REPOSITORY / "README.md").read_text(), re.DOTALL)
    (block,) = (block for block in blocks if "make install" in block)
    commands = [shlex.split(line, comments=True) for line in block.splitlines()]
    assert [words[:2] for words in commands] == [
        ["make", "install"],
        ["source", ".venv/bin/activate"],
        ["selavpr", "index"],
        ["selavpr", "query"],
    ]  # the fifth is git clone

    photos = write_toy_city(tmp_path / "city", num_places=4, traverses=["day"]) / "day"
    shutil.move(photos, tmp_path / "photos")
    shutil.copy(tmp_path / "photos" / "0002.jpg", tmp_path / "photo.jpg")
    monkeypatch.chdir(tmp_path)
    for words in commands[2:]:
        run = selavpr(*(str(models / "backbone") if word.startswith("facebook/") else word for word in words[1:]))
        assert run.code == 0, run.err
    assert re.match(r"photo\.jpg shows the place of 0002\.jpg: \d+ matches, similarity 1\.000\.\n", run.out)
