"""The data types of texts and entities."""

import json

import numpy as np

from flax_ner import Entity


def test_as_dict_has_the_fields_in_order_as_plain_python_values() -> None:
    entity = Entity(np.str_("name"), np.int64(0), np.int32(1), np.str_("王"), np.float32(0.5))  # type: ignore[arg-type]
    fields = entity.as_dict()
    assert list(fields.items()) == [
        ("type", "name"), ("start", 0), ("end", 1), ("text", "王"), ("score", 0.5),
    ]  # fmt: skip
    assert [type(value) for value in fields.values()] == [str, int, int, str, float]
    assert Entity(**json.loads(json.dumps(fields))) == entity
