"""Ask the Hub: again after transient failures, and with errors that say what to do and nothing secret."""

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

from huggingface_hub import HfApi, RepoUrl, errors

from selavpr_peft.errors import HubError
from selavpr_peft.redaction import without_secrets

logger = logging.getLogger(__name__)
Answer = TypeVar("Answer")

NUM_ATTEMPTS = 5
LONGEST_WAIT_S = 60.0
TRANSIENT_STATUS = (408, 429, 500, 502, 503, 504)
LOG_IN = "Log in with `hf auth login`, or set HF_TOKEN"
_CONNECTION_ERRORS = ("TransportError", "ConnectionError", "Timeout", "ChunkedEncodingError")
"""What httpx and requests call their errors; huggingface_hub uses the one or the other."""
_TALKATIVE = ("huggingface_hub", "httpx", "httpx2", "httpcore", "httpcore2", "urllib3")


@dataclass(frozen=True, kw_only=True)
class HubAccess:
    """Access to one repository.

    Args:
        repo_id: Hub id.
        revision: Branch, tag or commit; None for the main branch.
        kind: What the repository holds, for messages.
        first_wait_s: Pause after the first failure, in seconds; doubled after every further one.
    """

    repo_id: str
    revision: str | None = None
    kind: str = "model"
    first_wait_s: float = 1.0

    def ask(self, request: Callable[[], Answer]) -> Answer:
        """Do what asks the Hub; again after a lost connection, 429 or a server's error.

        Args:
            request: What to do. Files that the Hub has already are not sent a second time.

        Raises:
            HubError: Saying what is wrong and what to do. It has no cause, as that may show a signed address.
        """
        attempt = 1
        while True:
            try:
                with quiet_hub():
                    return request()
            except Exception as error:
                message, wait_s = self._explain(error), self._wait_s(error, attempt)
                if message is None:
                    raise
            if wait_s is None:
                raise HubError(message)
            logger.warning("The Hub does not answer for %s; asking again in %.0f s.", self.repo_id, wait_s)
            time.sleep(wait_s)
            attempt += 1

    def make_repository(self, api: HfApi, *, private: bool | None, repo_type: str | None = None) -> RepoUrl:
        """Make the repository and the branch, where they are not there yet.

        Args:
            api: Client with the token.
            private: Whether a new repository is private; None leaves it to the account's settings.
            repo_type: "dataset", or None for a model.

        Returns:
            Address of the repository.

        Raises:
            HubError: If the Hub refuses or cannot be reached.
        """
        name, branch = self.repo_id, self.revision
        url = self.ask(lambda: api.create_repo(name, repo_type=repo_type, private=private, exist_ok=True))
        if branch is not None:
            self.ask(lambda: api.create_branch(name, repo_type=repo_type, branch=branch, exist_ok=True))
        return url

    def _wait_s(self, error: Exception, attempt: int) -> float | None:
        """Give the pause before the next attempt, None where another one is pointless."""
        if attempt == NUM_ATTEMPTS or not _is_transient(error):
            return None
        asked_for = _retry_after_s(error)
        return min(LONGEST_WAIT_S, self.first_wait_s * 2 ** (attempt - 1) if asked_for is None else asked_for)

    def _explain(self, error: Exception) -> str | None:
        """Say in a sentence or two what is wrong; None for errors that are not the Hub's."""
        name = f"{self.kind} {self.repo_id} on the Hub"
        status = _status(error)
        if isinstance(error, errors.HFValidationError):
            return f"{self.repo_id!r} is neither a folder on this machine nor a Hub id like 'me/city-adapter'."
        if isinstance(error, errors.GatedRepoError):
            return f"The {name} is gated: ask for access on its page, then load it with a token of that account."
        if isinstance(error, errors.RevisionNotFoundError):
            return f"The {name} has no revision {self.revision!r}; name one of its branches, tags or commits."
        if isinstance(error, errors.RepositoryNotFoundError):
            return f"There is no {name}, or it is private and the token does not reach it; check the name. {LOG_IN}."
        if _is_transient(error):
            reason = "cannot be reached" if status is None else f"answers {status}"
            return (
                f"The Hub {reason}, after {NUM_ATTEMPTS} attempts for {self.repo_id}; try again later. Files that were"
                " uploaded are not sent again."
            )
        if status is None and isinstance(error, errors.OfflineModeIsEnabled | errors.LocalEntryNotFoundError):
            return (
                f"The {name} (revision {self.revision or 'main'}) is not in the cache, or not all of it, and fetching"
                " it is forbidden by HF_HUB_OFFLINE or local_files_only. Fetch it once while online, or name a folder."
            )
        if status == 401:
            return f"The Hub does not accept the token for {self.repo_id}, or there is none. {LOG_IN}."
        if status == 403:
            return (
                f"The token may not do this with the {name}; use one that may read it, with write access where you"
                f" publish. {LOG_IN}."
            )
        if isinstance(error, UnicodeEncodeError):  # no header either, and the error holds it
            return f"The token for {self.repo_id} has characters that no token has. {LOG_IN}."
        if status is None:  # not sent, for example because the token is no header
            shown = without_secrets(str(error))
            return None if shown == str(error) else f"The {name} cannot be asked: {shown}"
        said = without_secrets(str(getattr(error, "server_message", None) or "no reason"))[:300]
        return f"The Hub refuses this for {self.repo_id} ({status}): {said}"


def _status(error: BaseException | None) -> int | None:
    """Find the status of the answer that an error, or its cause, reports."""
    while error is not None:
        response = getattr(error, "response", None)
        if response is not None:
            return int(response.status_code)
        error = error.__cause__
    return None


def _retry_after_s(error: Exception) -> float | None:
    response = getattr(error, "response", None)
    value = response.headers.get("Retry-After", "") if response is not None else ""
    return float(value) if value.isdecimal() else None


def _is_transient(error: BaseException | None) -> bool:
    """Tell whether the same request may succeed a little later."""
    status = _status(error)
    if status is not None:
        return status in TRANSIENT_STATUS
    while error is not None and not isinstance(error, errors.OfflineModeIsEnabled):
        if any(cls.__name__ in _CONNECTION_ERRORS for cls in type(error).__mro__):
            return True
        error = error.__cause__
    return False


@contextmanager
def quiet_hub() -> Iterator[None]:
    """Keep back what the clients log: it shows the addresses of requests, which may be signed."""
    loggers = [logging.getLogger(name) for name in _TALKATIVE]
    before = [client.level for client in loggers]
    for client in loggers:
        client.setLevel(logging.ERROR)
    try:
        yield
    finally:
        for client, level in zip(loggers, before, strict=True):
            client.setLevel(level)
