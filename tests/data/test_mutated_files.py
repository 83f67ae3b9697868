"""Damaged annotation files: each is read as the original, or refused."""

import json
import random
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from flax_ner.data.formats import WRITERS, read_examples, write_examples
from flax_ner.data.tagged import SCHEMES
from flax_ner.errors import UserError
from flax_ner.text.examples import Entity, Example
from tests.data.reading import spans

# Mutations of the lines of a good file. Each returns bytes.
Mutation = Callable[[str, random.Random], bytes]


def rename_field(data: str, rng: random.Random) -> bytes:
    names = [name for name in ("text", "label", "entities", "tokens", "ner_tags", "data", "result", "start",
                               "end", "spans", "annotations", "labels") if f'"{name}":' in data]  # fmt: skip
    if not names:
        return data.encode()
    name = rng.choice(names)
    return data.replace(
        f'"{name}":', f'"{rng.choice(["x", "ner", "content", "tag", "note"])}":'
    ).encode()


def change_line(data: str, rng: random.Random) -> bytes:
    lines = data.split("\n")
    i = rng.randrange(len(lines))
    lines[i] = rng.choice(
        ["", "x", "{", "[]", "null", lines[i] * 2, lines[i][:-1], lines[i] + " x"]
    )
    return "\n".join(lines).encode()


def change_line_ends(data: str, rng: random.Random) -> bytes:
    return data.replace("\n", rng.choice(["\r\n", "\n\n", "\n \n"])).encode()


def change_encoding(data: str, rng: random.Random) -> bytes:
    encoding = rng.choice(["gb18030", "utf-16", "utf-8-sig", "utf-16-le", "big5", "utf-32"])
    return data.encode(encoding, "replace")


def change_separator(data: str, rng: random.Random) -> bytes:
    return data.replace(" ", rng.choice(["\t", ",", ";", "  ", "\u3000", ""])).encode()


def change_tags(data: str, rng: random.Random) -> bytes:
    before, after = rng.choice(
        [
            ("B-", "b-"),
            ("I-", "I_"),
            ("-", "_"),
            ("B-", ""),
            (" O", " 0"),
            (" O", ""),
            ("I-", "M-"),
        ]
    )
    return data.replace(before, after).encode()


def add_column(data: str, rng: random.Random) -> bytes:
    front, value = rng.random() < 0.5, rng.choice(["1", "_", "NN", "O", "+"])
    rows = [
        (f"{value} {line}" if front else f"{line} {value}") if line else ""
        for line in data.split("\n")
    ]
    return "\n".join(rows).encode()


def wrap_json(data: str, rng: random.Random) -> bytes:
    try:
        rows = [json.loads(line) for line in data.split("\n") if line]
    except ValueError:
        return data.encode()
    forms: list[Any] = [
        rows,
        {"data": rows},
        {str(i): row for i, row in enumerate(rows)},
        {"a": rows, "b": rows},
    ]
    return json.dumps(rng.choice(forms), indent=rng.choice([None, 1]), ensure_ascii=False).encode()


def cut_bytes(data: str, rng: random.Random) -> bytes:
    raw = data.encode()
    return raw[: rng.randrange(len(raw))] + raw[len(raw) - rng.choice([0, 1]) :]


# Warnings that the entities may differ from those of the original file.
WARNING = re.compile("without labels|without a label|without an end tag|continue no entity")


def _is_cut(text: str, originals: list[Example]) -> bool:
    """Return whether a text is another text because characters are missing."""
    return all(example.text != text for example in originals) and any(
        text and (text in e.text or e.text.startswith(text[:1]) or e.text.endswith(text[-1:]))
        for e in originals
    )


MUTATIONS: list[Mutation] = [
    rename_field, change_line, change_line_ends, change_encoding, change_separator, change_tags, add_column,
    wrap_json, cut_bytes,
]  # fmt: skip


@pytest.mark.parametrize("data_format", [name for name in WRITERS if name != "brat"])
@pytest.mark.parametrize("count", [200, pytest.param(1700, marks=pytest.mark.slow)])
def test_a_mutated_file_is_read_as_the_original_or_refused(
    tmp_path: Path, data_format: str, count: int
) -> None:
    """No mutation gives other entities to a text of the original without a warning."""
    rng = random.Random(f"{data_format} {count}")
    originals = [
        Example("林月在苏州", (Entity("PER", 0, 2), Entity("LOC", 3, 5))),
        Example("好😀，赵一来过杭州湾", (Entity("PER", 3, 5), Entity("LOC", 7, 10))),
        Example("没有实体", ()),
        Example("周六去北京", (Entity("LOC", 3, 5),)),
        Example("他叫陈九", (Entity("PER", 2, 4),)),
    ]
    path, mutated = tmp_path / "good", tmp_path / "mutated"
    outcomes = {"same": 0, "refused": 0, "warned": 0}
    for _ in range(count):
        path.unlink(missing_ok=True)
        scheme = rng.choice(list(SCHEMES)) if data_format == "conll" else "BIO"
        write_examples(path, originals, data_format, scheme)
        data = path.read_text("utf-8")
        mutation = rng.choice(MUTATIONS)
        mutated.write_bytes(mutation(data, rng))
        notes: list[str] = []
        try:
            examples = read_examples(str(mutated), "auto", notes=notes)
        except UserError as error:
            assert str(mutated) in str(error)
            outcomes["refused"] += 1
            continue
        expected = dict(spans(originals))
        same = all(
            expected.get(text) == entities
            or (mutation in (cut_bytes, change_line) and _is_cut(text, originals))
            for text, entities in spans(examples)
        )
        same = same and all(e.entities is not None for e in examples)
        outcomes["same" if same else "warned"] += 1
        assert same or any(WARNING.search(note) for note in notes[1:]), (
            mutation.__name__,
            mutated.read_bytes(),
            spans(examples),
            notes,
        )
    assert min(outcomes["same"], outcomes["refused"]) > count / 20, outcomes
