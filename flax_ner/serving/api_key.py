"""Read the API key, and compare the key of a request with it."""

import hmac
import os
import re
from pathlib import Path

from flax_ner.errors import UserError

VARIABLE = "FLAX_NER_API_KEY"
# Bearer tokens of RFC 6750, section 2.1.
TOKEN = re.compile(r"[A-Za-z0-9._~+/-]+=*")


def read_api_key(file: str | None) -> str | None:
    """Return the key in a file or in the environment variable, or None if there is neither.

    Args:
        file: path of the file, or None for the environment variable.

    Raises:
        UserError: there are two keys, or the key is empty or has characters that a header cannot hold.
    """
    value = os.environ.get(VARIABLE)
    if file is not None and value is not None:
        raise UserError(f"--api-key-file: {VARIABLE} is set too. Use only one of them.")
    if file is None and value is None:
        return None
    name = VARIABLE if file is None else f"--api-key-file {file}"
    key = (value if file is None else Path(file).read_text("utf-8", "replace")) or ""
    key = key.strip()
    if not TOKEN.fullmatch(key):
        raise UserError(
            f"{name}: {'the key has unsuitable characters' if key else 'is empty'}. Use a key of letters, "
            "digits and -._~+/, such as the output of `openssl rand -hex 32`."
        )
    return key


def has_key(authorization: str, key: str) -> bool:
    """Return whether the header `Authorization` has the key, in time that does not depend on the key."""
    scheme, _, token = authorization.partition(" ")
    # Bytes, as strings must be ASCII.
    same = hmac.compare_digest(token.strip().encode(), key.encode())
    return same and scheme.lower() == "bearer"
