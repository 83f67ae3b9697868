"""Validate the arguments of public functions. Each check raises a `UserError` that names the parameter."""

import os
import reprlib
from collections.abc import Iterable, Mapping, Sequence
from numbers import Real
from operator import itemgetter
from typing import Any

import numpy as np

from flax_ner.errors import UserError


def check_text(text: Any, name: str) -> str:
    """Return a text. Raise `UserError` for anything but a string."""
    if not isinstance(text, str):
        remedy = _text_expression(text, name)
        raise UserError(
            f"{name}: {_type_name(text)}, but a text is a string.{f' Use {remedy}.' if remedy else ''}"
        )
    return text


def check_texts(texts: Any, name: str) -> Iterable[Any]:
    """Return an iterable of texts. Its elements are not checked.

    Raises:
        UserError: the value is not iterable, or iterating it does not give texts: a string gives characters, a
            mapping keys, a table column names, and a file lines with line breaks.
    """
    if isinstance(texts, str):
        raise UserError(f"{name}: one string, but this takes many texts. Use [{name}].")
    if isinstance(texts, Mapping) or _columns(texts) is not None:
        problem, remedy = (
            "whose keys or columns are not texts",
            _text_column_expression(texts, name),
        )
    elif hasattr(texts, "readline"):
        problem = "whose lines end in line breaks"
        remedy = f"[line.rstrip('\\n') for line in {name}] on a file opened as text"
    else:
        expression = _text_expression(texts, name)
        problem, remedy = "but expected an iterable of strings", expression and f"[{expression}]"
        if not remedy and _is_iterable(texts):
            return texts
    raise UserError(f"{name}: {_type_name(texts)}, {problem}. Use {remedy or 'a list of strings'}.")


def check_list(values: Any, name: str, what: str) -> list[Any]:
    """Return an iterable as a list. Its elements are not checked.

    Args:
        values: value to check.
        name: name of the parameter.
        what: description of the elements, for the message.

    Raises:
        UserError: the value is not iterable, or is a string, bytes, a mapping or a table.
    """
    not_a_list = (
        isinstance(values, str | bytes | bytearray | Mapping) or _columns(values) is not None
    )
    if not_a_list or not _is_iterable(values):
        raise UserError(f"{name}: {_type_name(values)}, but expected a list of {what}.")
    return list(values)


def check_strings(values: Any, name: str, what: str) -> list[str]:
    """Return an ordered iterable of strings as a list. Raise `UserError` for anything else."""
    if isinstance(values, set | frozenset):
        raise UserError(
            f"{name}: a set has no order, but the order determines the ids. Use sorted({name})."
        )
    if isinstance(values, Mapping):
        raise UserError(
            f"{name}: {_type_name(values)}, whose order may differ from that of the ids. Use a list; for a "
            f"mapping to ids, sorted({name}, key={name}.get)."
        )
    values = check_list(values, name, what)
    for i, value in enumerate(values):
        if not isinstance(value, str):
            raise UserError(f"{name}[{i}]: {value!r}, but expected a string.")
    return values


def check_choice(value: Any, name: str, choices: Sequence[str]) -> str:
    """Return a value that is one of the choices. Raise `UserError` for anything else."""
    if not isinstance(value, str) or value not in choices:
        raise UserError(f"{name}: {value!r} is unknown. Choose one of {', '.join(choices)}.")
    return value


def check_integer(value: Any, name: str, minimum: int) -> int:
    """Return an integer of at least `minimum`. Raise `UserError` for anything else, including a bool."""
    if not _is_integer(value) or value < minimum:
        raise UserError(f"{name}: {value!r}, but expected an integer of at least {minimum}.")
    return int(value)


def check_probability(value: Any, name: str) -> float:
    """Return a number in [0, 1]. Raise `UserError` for anything else, including a bool."""
    is_number = isinstance(value, Real) and not isinstance(value, bool)
    if not is_number or not 0 <= value <= 1:
        raise UserError(
            f"{name}: {reprlib.repr(value)}, but a probability is a number in [0, 1]. Use a number such as 0.5."
        )
    return float(value)


def check_instance(value: Any, name: str, expected: type) -> None:
    """Raise `UserError` if a value is not an instance of the expected type."""
    if not isinstance(value, expected):
        raise UserError(f"{name}: {_type_name(value)}, but expected {expected.__name__}.")


def check_path(path: Any, name: str) -> None:
    """Raise `UserError` if a value is not a non-empty string or `pathlib.Path`."""
    if not isinstance(path, str | os.PathLike) or not isinstance(os.fspath(path), str):
        raise UserError(f"{name}: {_type_name(path)}, but expected a string or a pathlib.Path.")
    if not os.fspath(path):
        raise UserError(f"{name}: is empty. Give the path of a file or folder.")


def check_ids(values: Any, name: str) -> np.ndarray:
    """Return integers [B, T] as an array. Raise `UserError` for another dtype or shape."""
    return _check_2d(values, name, "iub", "integers")


def check_mask(values: Any, name: str) -> np.ndarray:
    """Return a mask [B, T] as an array of bool. Raise `UserError` for values other than 0 and 1."""
    mask = _check_2d(values, name, "iubf", "0 and 1")
    if mask.dtype != bool and not ((mask == 0) | (mask == 1)).all():
        raise UserError(f"{name}: values other than 0 and 1. Give a mask of bool or 0 and 1.")
    return mask.astype(bool, copy=False)


def check_entities(values: Any, name: str) -> list[Any]:
    """Return entities as a list.

    Raises:
        UserError: the value is not iterable, or an element does not start with a string and two integers.
    """
    entities = check_list(values, name, "entities (type, start, end)")
    for i, entity in enumerate(entities):
        try:
            category, start, end = entity[:3]
            valid = isinstance(category, str) and _is_integer(start) and _is_integer(end)
        except (TypeError, ValueError, LookupError):
            valid = False
        if not valid:
            raise UserError(
                f"{name}[{i}]: {entity!r}, but an entity starts with (type, start, end), a string and two "
                "integers."
            )
    return entities


def _check_2d(values: Any, name: str, dtype_kinds: str, what: str) -> np.ndarray:
    try:
        array = np.asarray(values)
    except (TypeError, ValueError):
        raise UserError(
            f"{name}: rows have different lengths. Give an array of shape [B, T]."
        ) from None
    if array.ndim != 2 or array.dtype.kind not in dtype_kinds:
        raise UserError(
            f"{name}: {array.dtype} of shape {array.shape}, but expected {what} of shape [B, T]."
        )
    return array


def are_plain_entities(entities: Sequence[Any]) -> bool:
    """Return whether all entities are lists or tuples (str, int, int, ...).

    `check_entities` accepts these. This check is faster when there are many entities.
    """
    if not all(issubclass(cls, list | tuple) for cls in set(map(type, entities))):
        return False
    if min(map(len, entities), default=3) < 3:
        return False
    columns = [set(map(type, map(itemgetter(i), entities))) for i in range(3)]
    return columns[0] <= {str} and columns[1] | columns[2] <= {int}


def _is_integer(value: Any) -> bool:
    return isinstance(value, int | np.integer) and not isinstance(value, bool)


def _is_iterable(value: Any) -> bool:
    try:
        iter(value)
    except TypeError:  # also raised by a 0-d array, which has __iter__
        return False
    return True


def _type_name(value: Any) -> str:
    return "None" if value is None else type(value).__name__


def _text_expression(value: Any, name: str) -> str:
    """Return the expression that converts a value to a text, or "" if there is none."""
    if isinstance(value, bytes | bytearray):
        return f'{name}.decode("utf-8")'
    if isinstance(value, os.PathLike) and hasattr(value, "read_text"):
        return f'{name}.read_text("utf-8")'
    if isinstance(value, Mapping):
        return next((f"{name}[{k!r}]" for k, text in value.items() if isinstance(text, str)), "")
    return ""


def _columns(value: Any) -> Iterable[Any] | None:
    """Return the column names of a pandas, polars, pyarrow or datasets table; None for anything else."""
    columns = getattr(value, "columns", getattr(value, "column_names", None))
    return columns if _is_iterable(columns) else None


def _text_column_expression(table: Any, name: str) -> str:
    """Return the expression for the first column that contains texts, or "" if there is none."""
    keys = table if isinstance(table, Mapping) else _columns(table)
    for key in keys if keys is not None else ():
        try:
            column = table[key]
        except (LookupError, TypeError, ValueError):  # `columns` of pyarrow are not names
            continue
        if isinstance(column, str):
            return f"[{name}[{key!r}]]"
        if _is_iterable(column) and isinstance(next(iter(column), None), str):
            return f"{name}[{key!r}]"
    return ""
