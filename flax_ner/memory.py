"""Turn jax errors that a user can fix into one-line messages: no usable device, out of memory."""

import errno
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager

from flax_ner.errors import UserError

# Environment variables that select devices.
DEVICE_VARIABLES = ("JAX_PLATFORMS", "JAX_PLATFORM_NAME", "JAX_NUM_CPU_DEVICES")
MEMORY_ADVICE = (
    "Close other programs that use its memory, use a smaller model, or set JAX_PLATFORMS=cpu if it is a "
    "GPU or TPU."
)


@contextmanager
def explain_jax_errors(advice: str = MEMORY_ADVICE) -> Iterator[None]:
    """Raise a `UserError` if jax has no usable device or if memory runs out.

    Use it around the first use of a device, as jax looks for devices only then.

    Args:
        advice: see `explain_out_of_memory`.
    """
    try:
        with explain_out_of_memory(advice):
            yield
    except (RuntimeError, AssertionError) as error:
        message = _device_error()
        if message is None:
            raise
        raise UserError(message) from error


@contextmanager
def explain_out_of_memory(advice: str) -> Iterator[None]:
    """Raise a `UserError` if a device or the machine runs out of memory.

    Args:
        advice: how to use less memory. It is the end of the message.
    """
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        cause = _find_memory_error(error)
        if cause is None:
            raise
        requested = re.search(r"(\d+) bytes|[\d.]+ ?[KMGT]i?B", str(cause))
        size = ""
        if requested:
            amount = f"{int(requested[1]) / 1e6:,.0f} MB" if requested[1] else requested[0]
            size = f" (allocating {amount})"
        where = "this machine" if isinstance(cause, MemoryError | OSError) else "the device"
        raise UserError(f"{where} is out of memory{size}. {advice}") from error


def _find_memory_error(error: BaseException | None) -> BaseException | None:
    """Return the out-of-memory error among an error and its causes, or None.

    Orbax, for example, raises a plain `Exception` from it.
    """
    import jax  # only after an error, so that commands that need no jax start without it

    while error is not None:
        if isinstance(error, MemoryError) or getattr(error, "errno", None) == errno.ENOMEM:
            return error
        if isinstance(error, jax.errors.JaxRuntimeError) and re.search(
            "RESOURCE_EXHAUSTED|OUT_OF_MEMORY", str(error)
        ):
            return error
        # The context is followed only for errors of jax and Orbax; other errors may be unrelated to theirs.
        follow_context = isinstance(error, jax.errors.JaxRuntimeError) or type(error) is Exception
        error = error.__cause__ or (error.__context__ if follow_context else None)
    return None


def _device_error() -> str | None:
    """Return a message that says why jax has no device and how to fix it, or None if it has one."""
    import jax

    try:
        jax.devices()
        return None
    except (RuntimeError, AssertionError) as error:
        # Drop the advice in jax's message, as the messages below give their own.
        cause = re.split(r"\.? \((?:set|you may)|\.?\n|\.$", str(error), maxsplit=1)[0]
    cause = cause or "there is no NVIDIA GPU"  # jax then raises an error without a message
    variables = [
        f"{name} (now {os.environ[name]!r})" for name in DEVICE_VARIABLES if os.environ.get(name)
    ]
    if not variables:
        return f"jax has no usable device: {cause}. Set JAX_PLATFORMS=cpu to run on the CPU."
    return (
        f"jax has no usable device: {cause}. Unset {' and '.join(variables)}, so that jax chooses the "
        "best device it finds. For a GPU, run pip install 'jax[cuda13]'; for a TPU, pip install 'jax[tpu]'."
    )
