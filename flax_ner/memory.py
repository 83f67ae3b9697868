"""A device that is out of memory says which setting to change."""

import re
from collections.abc import Iterator
from contextlib import contextmanager

import jax

from flax_ner.errors import UserError


@contextmanager
def shortage_told(advice: str) -> Iterator[None]:
    """While this lasts, XLA's failure to allocate is a `UserError` that ends in `advice`."""
    try:
        yield
    except jax.errors.JaxRuntimeError as error:
        text = str(error)
        if "RESOURCE_EXHAUSTED" not in text:
            raise
        wanted = re.search(r"(\d+) bytes|[\d.]+ ?[KMGT]i?B", text)
        size = ""
        if wanted:
            bytes_ = wanted[1]
            size = f", {int(bytes_) / 1e6:,.0f} MB in one piece" if bytes_ else f", {wanted[0]}"
        raise UserError(f"the device is out of memory{size}. {advice}") from error
