"""The data types of texts and entities."""

import json

import numpy as np
import pytest

from flax_ner import Entity
from flax_ner.text.examples import offset_type_error


def test_as_dict_has_the_fields_in_order_as_plain_python_values() -> None:
    entity = Entity(np.str_("name"), np.int64(0), np.int32(1), np.str_("王"), np.float32(0.5))  # type: ignore[arg-type]
    fields = entity.as_dict()
    assert list(fields.items()) == [
        ("type", "name"), ("start", 0), ("end", 1), ("text", "王"), ("score", 0.5),
    ]  # fmt: skip
    assert [type(value) for value in fields.values()] == [str, int, int, str, float]
    assert Entity(**json.loads(json.dumps(fields))) == entity


@pytest.mark.parametrize("offset", [0, np.int64(3), 10**30])
def test_whole_numbers_are_offsets(offset: int) -> None:
    assert offset_type_error(offset, offset) is None


@pytest.mark.parametrize("offset", [True, np.bool_(True), 1.0, "1", None])
def test_other_types_are_not_offsets(offset: object) -> None:
    assert "start" in str(offset_type_error(offset, 1))
    assert "end" in str(offset_type_error(0, offset))
