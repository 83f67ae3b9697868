"""The exception for errors that the user can fix. Command lines print its message without a traceback."""

from importlib import import_module
from typing import Any


class UserError(ValueError):
    """A file, configuration field or argument is invalid. The message says what, where and how to fix it."""


def error_summary(error: Exception) -> str:
    """Return the last part of an error's first line, at most 200 characters, to quote in a message."""
    first_line = (str(error) or type(error).__name__).splitlines()[0]
    return first_line.rsplit(": ", 1)[-1][:200]


def import_optional(module: str, wanted_by: str, requirement: str) -> Any:
    """Import and return an optional dependency.

    Args:
        module: name of the module.
        wanted_by: command or field that needs it, for the message.
        requirement: pip requirement that installs it.

    Raises:
        UserError: the module is not installed.
    """
    try:
        return import_module(module)
    except ImportError as error:
        raise UserError(
            f"{wanted_by}: needs {module.partition('.')[0]}. Run pip install '{requirement}' ({error})."
        ) from None
