"""The one exception for faults a user can mend; command lines print its message and no traceback."""


class UserError(ValueError):
    """A wrong file, field or argument. The message says what, where and how to mend it."""
