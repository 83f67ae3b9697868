"""Errors of jax that a user can fix, as one line: no usable device, out of memory."""

import errno
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager

import jax

from flax_ner.errors import UserError

# Environment variables that choose devices.
VARIABLES = ("JAX_PLATFORMS", "JAX_PLATFORM_NAME", "JAX_NUM_CPU_DEVICES")
LESS_MEMORY = (
    "Close other programs that use its memory, use a smaller model, or set JAX_PLATFORMS=cpu if it is a "
    "GPU or TPU."
)


@contextmanager
def explain_jax_errors(advice: str = LESS_MEMORY) -> Iterator[None]:
    """Raise a `UserError` where jax has no usable device, or where memory runs out.

    For whatever may be the first to use a device: jax looks for devices only then.

    Args:
        advice: as in `shortage_told`.
    """
    try:
        with shortage_told(advice):
            yield
    except (RuntimeError, AssertionError) as error:
        fault = _device_fault()
        if fault is None:
            raise
        raise UserError(fault) from error


@contextmanager
def shortage_told(advice: str) -> Iterator[None]:
    """Raise a `UserError` that ends in `advice` where memory runs out, of a device or of the machine."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        shortage = _shortage(error)
        if shortage is None:
            raise
        text = str(shortage)
        wanted = re.search(r"(\d+) bytes|[\d.]+ ?[KMGT]i?B", text)
        size = ""
        if wanted:
            bytes_ = wanted[1]
            size = f", {int(bytes_) / 1e6:,.0f} MB in one piece" if bytes_ else f", {wanted[0]}"
        where = "this machine" if isinstance(shortage, MemoryError | OSError) else "the device"
        raise UserError(f"{where} is out of memory{size}. {advice}") from error


def _shortage(error: BaseException | None) -> BaseException | None:
    """Return the error that says that memory ran out, which Orbax raises others from, or None."""
    while error is not None:
        if isinstance(error, MemoryError) or getattr(error, "errno", None) == errno.ENOMEM:
            return error
        if isinstance(error, jax.errors.JaxRuntimeError) and re.search(
            "RESOURCE_EXHAUSTED|OUT_OF_MEMORY", str(error)
        ):
            return error
        of_jax = (
            isinstance(error, jax.errors.JaxRuntimeError) or type(error) is Exception
        )  # Orbax's
        error = error.__cause__ or (error.__context__ if of_jax else None)
    return None


def _device_fault() -> str | None:
    """Say why jax has no device and what to do about it, or return None if it has one."""
    try:
        jax.devices()
        return None
    except (RuntimeError, AssertionError) as error:
        # Without what jax recommends: the remedy below says it.
        why = re.split(r"\.? \((?:set|you may)|\.?\n|\.$", str(error), maxsplit=1)[0]
    why = why or "there is no NVIDIA GPU"  # jax says nothing then
    given = [f"{name} (now {os.environ[name]!r})" for name in VARIABLES if os.environ.get(name)]
    if not given:
        return f"jax has no usable device: {why}. Set JAX_PLATFORMS=cpu to run on the CPU."
    return (
        f"jax has no usable device: {why}. Unset {' and '.join(given)}: jax then takes the best device it "
        "finds. It finds a GPU with pip install 'jax[cuda13]', a TPU with pip install 'jax[tpu]'."
    )
