"""The one exception for faults a user can mend; command lines print its message and no traceback."""


class UserError(ValueError):
    """A wrong file, field or argument. The message says what, where and how to mend it."""


def reason(error: Exception) -> str:
    """What another library's error says in the end, short and on one line, for a message of ours."""
    first = (str(error) or type(error).__name__).splitlines()[0]
    return first.rsplit(": ", 1)[-1][:200]
