"""Keep secrets out of messages: what a server answers may repeat the token it was asked with, or a signed address."""

import re

_BEARER = re.compile(r"(?i)(\bbearer\s+)[^\s'\",;]+")
_TOKEN = re.compile(r"\b(hf|api)_(?:\w+_)?[A-Za-z0-9-]{16,}(?:\.[\w-]{16,})*")  # long, unlike the name of a folder
_SIGNED = re.compile(r"(https?://[^\s?]+\?)\S+")


def without_secrets(text: str) -> str:
    """Leave access tokens, and what follows the question mark of an address, out of a text.

    Args:
        text: What is to be shown.

    Example:
        >>> without_secrets("403 for https://host/file?sig=4f2a of hf_0123456789abcdef: Bearer eyJh.bGci may not")
        '403 for https://host/file?... of hf_...: Bearer ... may not'
    """
    return _TOKEN.sub(r"\1_...", _BEARER.sub(r"\1...", _SIGNED.sub(r"\1...", text)))
