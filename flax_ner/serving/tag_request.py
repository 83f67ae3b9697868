"""Read the body of a request to `POST /tag`, and refuse what is invalid or too large."""

import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from email.message import Message
from typing import Any, NoReturn

from flax_ner.arguments import check_probability
from flax_ner.errors import UserError
from flax_ner.serving.server_settings import ServerSettings
from flax_ner.text.labels import LabelSet
from flax_ner.text.utf8 import SURROGATES

EXAMPLE = '{"texts": ["王建国在东海市工作。"]}'
FIELDS = ("texts", "threshold", "scoring")
JSON_NAMES = {
    type(None): "null", bool: "a boolean", float: "a number", str: "a string", list: "a list",
    dict: "an object",
}  # fmt: skip


class RequestError(UserError):
    """A request is refused. The message says why, and how to correct the request.

    Args:
        status: HTTP status of the answer.
        message: the message.
        headers: further headers of the answer.
    """

    def __init__(self, status: int, message: str, headers: dict[str, str] | None = None):
        super().__init__(message)
        self.status, self.headers = status, headers


@dataclass(frozen=True)
class TagRequest:
    """A valid request: texts to tag, and how.

    Attributes:
        texts: the texts.
        convention: how tags are read as entities, see `LabelSet.decode`.
        threshold: minimum score of the entities.
    """

    texts: list[str]
    convention: str
    threshold: float


def check_headers(content_type: str, content_encoding: str) -> None:
    """Raise `RequestError` if the headers say that the body is not plain JSON."""
    message = Message()
    message["Content-Type"] = content_type
    charset = str(message.get_param("charset", "utf-8")).lower()
    if message.get_content_type() != "application/json" or charset not in ("utf-8", "utf8"):
        raise RequestError(
            415,
            f"Content-Type is {_quote(content_type) if content_type else 'missing'}. Send application/json "
            "in UTF-8.",
        )
    if content_encoding.lower() not in ("", "identity"):
        raise RequestError(
            415,
            f"Content-Encoding is {_quote(content_encoding)}. Send the body without compression.",
        )


async def read_body(chunks: AsyncIterator[bytes], content_length: str, max_body: int) -> bytes:
    """Read a body, and stop as soon as it is too large.

    Args:
        chunks: the pieces of the body.
        content_length: the header, "" if there is none. It is checked first, as it needs no reading.
        max_body: maximum number of bytes.

    Raises:
        RequestError: the body is too large.
    """
    if content_length.isdecimal() and int(content_length) > max_body:
        raise _body_too_large(max_body)
    body = bytearray()
    async for chunk in chunks:
        body += chunk
        if len(body) > max_body:
            raise _body_too_large(max_body)
    return bytes(body)


def _body_too_large(max_body: int) -> RequestError:
    return RequestError(
        413, f"The body has more than {max_body:,} bytes. Divide the texts into several requests."
    )


def parse_request(body: bytes, labels: LabelSet, settings: ServerSettings) -> TagRequest:
    """Parse and check a body.

    Args:
        body: the body.
        labels: labels of the model, which may not support every scoring convention.
        settings: the limits.

    Raises:
        UserError: the body is not JSON, or a field is missing, unknown or invalid.
        RequestError: there are too many texts or characters.
    """
    fields = _parse_json(body)
    if not isinstance(fields, dict):
        raise UserError(f"The body is {_kind(fields)}. Send an object such as {EXAMPLE}.")
    for name in fields:
        if name not in FIELDS:
            raise UserError(f"{_quote(name)}: unknown field. The fields are {', '.join(FIELDS)}.")
    if "texts" not in fields:
        raise UserError(f"texts: is missing. Send an object such as {EXAMPLE}.")
    texts = _check_texts(fields["texts"], settings)
    threshold = fields.get("threshold", 0.0)
    if not isinstance(threshold, float):
        raise UserError(f"threshold: is {_kind(threshold)}. Send a number such as 0.5.")
    check_probability(threshold, "threshold")
    convention = fields.get("scoring", "strict")
    if not isinstance(convention, str):
        raise UserError(f'scoring: is {_kind(convention)}. Send a string such as "strict".')
    labels.check(_quote(convention)[1:-1], "scoring")
    return TagRequest(texts, convention, threshold)


def _parse_json(body: bytes) -> Any:
    try:
        # Integers become floats too, so that one with thousands of digits is only infinite.
        return json.loads(body.decode("utf-8"), parse_int=float, parse_constant=_refuse_constant)
    except UnicodeDecodeError as error:
        why = f"not UTF-8 ({error.reason} at byte {error.start})"
    except json.JSONDecodeError as error:
        why = f"not JSON ({error.msg} at line {error.lineno}, column {error.colno})"
    except RecursionError:
        why = "nested too deeply"
    except ValueError as error:
        why = f"not JSON ({error})"
    raise UserError(f"The body is {why}. Send an object such as {EXAMPLE}.")


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a number of JSON")


def _check_texts(texts: Any, settings: ServerSettings) -> list[str]:
    if not isinstance(texts, list):
        raise UserError(f"texts: is {_kind(texts)}. Send a list of strings.")
    if not texts:
        raise UserError("texts: is empty. Send at least one text.")
    if len(texts) > settings.max_texts:
        raise RequestError(
            413,
            f"texts: {len(texts):,} texts, but at most {settings.max_texts:,} are allowed per request. "
            "Divide them into several requests.",
        )
    for i, text in enumerate(texts):
        if not isinstance(text, str):
            raise UserError(f"texts[{i}]: is {_kind(text)}. Send a string.")
        if len(text) > settings.max_text_characters:
            raise RequestError(
                413,
                f"texts[{i}]: {len(text):,} characters, but a text may have at most "
                f"{settings.max_text_characters:,}. Divide the text.",
            )
        if match := SURROGATES.search(text):
            raise UserError(
                f"texts[{i}]: character {match.start()} is half of a surrogate pair. Send both halves, or "
                "remove it."
            )
    characters = sum(map(len, texts))
    if characters > settings.max_characters:
        raise RequestError(
            413,
            f"texts: {characters:,} characters, but at most {settings.max_characters:,} are allowed per "
            "request. Divide the texts into several requests.",
        )
    return texts


def _kind(value: Any) -> str:
    return JSON_NAMES[type(value)]


def _quote(name: str) -> str:
    """Return a client's string for a message: short, and in ASCII, as it may have lone surrogates."""
    return ascii(name if len(name) <= 40 else f"{name[:40]}...")
