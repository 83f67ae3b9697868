"""The one exception for faults a user can mend; command lines print its message and no traceback."""

from importlib import import_module
from typing import Any


class UserError(ValueError):
    """A wrong file, field or argument. The message says what, where and how to mend it."""


def reason(error: Exception) -> str:
    """What another library's error says in the end, short and on one line, for a message of ours."""
    first = (str(error) or type(error).__name__).splitlines()[0]
    return first.rsplit(": ", 1)[-1][:200]


def need(module: str, wanted_by: str, requirement: str) -> Any:
    """A module that the core installation does not have.

    Args:
        module: as `import` names it.
        wanted_by: the command or field that needs it, for the message.
        requirement: what pip is to be asked for.

    Raises:
        UserError: it is not installed.
    """
    try:
        return import_module(module)
    except ImportError as error:
        raise UserError(
            f"{wanted_by}: needs {module.partition('.')[0]}. Run pip install '{requirement}' ({error})."
        ) from None
