"""The settings of the HTTP server: limits, time-outs, the API key."""

import math
from dataclasses import dataclass, fields

from flax_ner.errors import UserError


@dataclass(frozen=True)
class ServerSettings:
    """Settings of the HTTP server. Options of the command have the same names.

    Attributes:
        max_delay: maximum time in milliseconds that a request waits for others to share its batch.
        max_batch: maximum number of texts per batch.
        max_queue: maximum number of texts that wait to be tagged.
        max_texts: maximum number of texts per request.
        max_text_characters: maximum number of characters per text.
        max_characters: maximum number of characters per request.
        max_body: maximum number of bytes of a request's body.
        timeout: maximum time in seconds until a request is answered, after its body was read.
        body_timeout: maximum time in seconds to receive a request's headers, then its body, and to send the
            answer.
        api_key: key that requests must have, or None.
        log_texts: whether to log the texts, and why requests are refused.

    Raises:
        UserError: a number is too small, or infinite.
    """

    max_delay: float = 5.0
    max_batch: int = 32
    max_queue: int = 1024
    max_texts: int = 128
    max_text_characters: int = 10_000
    max_characters: int = 50_000
    max_body: int = 1 << 20
    timeout: float = 30.0
    body_timeout: float = 10.0
    api_key: str | None = None
    log_texts: bool = False

    def __post_init__(self) -> None:
        for field in fields(self):
            value, option = getattr(self, field.name), f"--{field.name.replace('_', '-')}"
            if field.type is int and value < 1:
                raise UserError(f"{option} {value}: must be at least 1.")
            if field.type is float and not (
                0 < value < math.inf or (value == 0 and field.name == "max_delay")
            ):
                raise UserError(f"{option} {value}: must be a finite number greater than 0.")
        if self.max_queue < self.max_texts:
            raise UserError(
                f"--max-queue {self.max_queue}: is less than --max-texts {self.max_texts}, so the largest "
                "request would never fit. Raise it, or lower --max-texts."
            )
