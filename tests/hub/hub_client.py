"""Let what this process asks of the Hugging Face Hub be answered by the server of tests/hub/hub_server.py."""

import huggingface_hub
from huggingface_hub import file_download, repocard
from huggingface_hub.utils import _http
from transformers.utils import hub as transformers_hub

TOKEN = "hf_atokenthatnobodymaysee"
"""The token that this process is logged in with."""


def use_the_hub(monkeypatch, url, folder, *, is_offline=False):
    """Let the clients in this process ask a server on this machine, with a cache of its own."""
    constants = huggingface_hub.constants
    template = url + "/{repo_id}/resolve/{revision}/{filename}"
    for module in (constants, file_download, repocard):  # huggingface_hub 0.36 has copies of the names
        monkeypatch.setattr(module, "ENDPOINT", url, raising=module is constants)
        monkeypatch.setattr(module, "HUGGINGFACE_CO_URL_TEMPLATE", template, raising=module is constants)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(folder))
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", is_offline)
    monkeypatch.setattr(transformers_hub, "_is_offline_mode", is_offline, raising=False)  # a copy in transformers 4
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    forget = getattr(_http, "close_session", None) or _http.reset_sessions
    forget()  # huggingface_hub 0.36 decides when a session is opened whether it is offline
