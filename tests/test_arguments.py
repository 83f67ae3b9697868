"""An invalid argument of a public function raises a `UserError` that names the parameter."""

import importlib.util
import math
import re
import warnings
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import flax_ner
from flax_ner import CharTokenizer, LabelSet, Tagger, load, score
from flax_ner.errors import UserError
from flax_ner.text.examples import Entity, Example
from tests.inference.helpers import CONFIG, LABELS, VOCAB, hand_made_params, hand_made_tagger

tagger = cache(hand_made_tagger)


class Table:
    """A minimal data frame: iterating it gives the names of its columns."""

    def __init__(self, **columns: Any):
        self._columns, self.columns = columns, list(columns)

    def __iter__(self) -> Iterator[str]:
        return iter(self.columns)

    def __getitem__(self, name: str) -> Any:
        return self._columns[name]


def make_tagger(**changes: Any) -> Tagger:
    """Construct a tagger with some arguments changed."""
    arguments = {
        "config": CONFIG, "params": hand_made_params(), "tokenizer": CharTokenizer(VOCAB), "labels": LABELS,
        "max_length": 64,
    }  # fmt: skip
    return Tagger(**(arguments | changes))


def decode(tags: Any = ((0, 1, 0),), mask: Any = ((1, 1, 1),), convention: Any = "strict") -> Any:
    return LABELS.decode(tags, mask, convention)


def logits_with_mask(mask: Any) -> Any:
    return tagger().logits(np.ones((1, 3), np.int32), mask)


INVALID_TEXT = [None, 3, 1.5, True, b"b", Path("a"), ["b"], {"text": "b"}, object()]
INVALID_TEXTS = [
    None, 3, 1.5, True, b"b", bytearray(b"b"), Path("a"), object(), np.array("b"), {"text": "b"}, {},
    {"text": ["b"]}, Table(text=["b"]), ["b", None], ["b", math.nan], [b"b"], ["b", ["b"]], [{"text": "b"}],
    [Path("a")], ("b", 3), np.array([1, 2]), np.array(["b", None]), range(3),
]  # fmt: skip
INVALID_STRINGS = [None, 3, "name", b"name", {"name": 0}, {"name"}, [3], [None], ["name", b"x"]]
INVALID_CHOICE = [None, 3, "", "loose", b"strict", ["strict"], {}, np.array(["strict", "lenient"])]
INVALID_PROBABILITY = [None, "0.8", b"1", math.nan, math.inf, -0.1, 1.5, 10**400, True, [0.5], 1j]
INVALID_COUNT = [None, 0, -1, True, 1.0, "32", b"3", math.nan, [3]]
INVALID_IDS = [
    None, 3, "abc", b"abc", {}, [1, 2], [["a"]], [[1.0, 2.0]], [[1], [1, 2]], [[[1]]], [[-1, 2]], [[1, 9]],
    [[]], np.ones((1, 65), np.int32), [[2**40]],
]  # fmt: skip
INVALID_MASK = [
    None, 1, "111", [1, 1, 1], [["1", "1", "1"]], [[1, 1]], [[2, 1, 1]], [[-1, 1, 1]], [[0.5, 1, 1]],
    [[math.nan, 1, 1]], {},
]  # fmt: skip
INVALID_ENTITIES = [
    None, 3, "abc", b"abc", {"a": 1}, [None], [3], ["abc"], [("name", 0)], [("name", "0", "1")],
    [("name", 0, 1.0)], [(None, 0, 1)], [(b"name", 0, 1)], [("name", True, 2)], [{"type": "name"}], [()],
]  # fmt: skip
INVALID_ROWS = [
    None,
    3,
    "abc",
    b"abc",
    {"a": []},
    Table(a=[[]]),
    *([row] for row in INVALID_ENTITIES),
]

# Function, name of the parameter in the message, invalid values.
CASES: list[tuple[Callable[..., Any], str, list[Any]]] = [
    (lambda x: tagger()(x), "texts", INVALID_TEXTS),
    (lambda x: tagger().stream(x), "texts", ["b"]),
    (lambda x: list(tagger().stream(x)), "texts", INVALID_TEXTS),
    (lambda x: tagger().by_convention(x, ["strict"]), "texts", ["b", *INVALID_TEXTS]),
    (lambda x: list(tagger().predict_proba_each(x)), "texts", ["b", *INVALID_TEXTS]),
    (lambda x: list(tagger().predict_word_proba(x)), "texts", ["b", *INVALID_TEXTS]),
    (lambda x: tagger().predict_proba(x), "text", INVALID_TEXT),
    (lambda x: CharTokenizer(VOCAB).encode(x), "text", INVALID_TEXT),
    (lambda x: tagger()("b", x), "convention", INVALID_CHOICE),
    (lambda x: tagger().stream(["b"], x), "convention", INVALID_CHOICE),
    (lambda x: tagger().score([], x), "convention", INVALID_CHOICE),
    (lambda x: decode(convention=x), "convention", INVALID_CHOICE),
    (lambda x: score([], [], x), "convention", INVALID_CHOICE),
    (lambda x: tagger().by_convention(["b"], [x]), "conventions", INVALID_CHOICE),
    (lambda x: tagger().by_convention(["b"], x), "conventions", [None, 3, "strict", b"x", {"strict": 1}]),
    (lambda x: tagger()("b", threshold=x), "threshold", INVALID_PROBABILITY),
    (lambda x: tagger().stream(["b"], threshold=x), "threshold", INVALID_PROBABILITY),
    (lambda x: load(x), "path", [None, 123, b"model", "", ["model"], True]),
    (lambda x: load("model", x), "compute_dtype", ["float16", "", 32, np.float32, b"float32"]),
    (lambda x: load("model", batch_size=x), "batch_size", INVALID_COUNT),
    (lambda x: make_tagger(batch_size=x), "batch_size", INVALID_COUNT),
    (lambda x: make_tagger(max_length=x), "max_length", [*INVALID_COUNT, 2]),
    (lambda x: make_tagger(config=x), "config", [None, {}, "config.json"]),
    (lambda x: make_tagger(params=x), "params", [None, 3, [1]]),
    (lambda x: make_tagger(tokenizer=x), "tokenizer", [None, "vocab.txt"]),
    (lambda x: make_tagger(labels=x), "labels", [None, ["O"]]),
    (lambda x: make_tagger(sharding=x), "sharding", [3, "cpu"]),
    (lambda x: tagger().logits(x, np.ones((1, 2), np.int32)), "input_ids", INVALID_IDS),
    (logits_with_mask, "attention_mask", INVALID_MASK),
    (lambda x: tagger().score(x), "examples", [None, 3, "b", b"b", {"b": 1}, ["b"], [None], [("b", ())]]),
    (CharTokenizer, "vocab", [*INVALID_STRINGS, dict.fromkeys(VOCAB), set(VOCAB), "no file"]),
    (lambda x: CharTokenizer(VOCAB, x), "lower_case", [None, "false", 0, 1]),
    (LabelSet.mmocr, "categories", [*INVALID_STRINGS, [], ["a", "a"], [""]]),
    (lambda x: LabelSet(["name"], x), "scheme", INVALID_CHOICE),
    (LabelSet.from_names, "labels", [*INVALID_STRINGS, []]),
    (lambda x: LABELS.encode([], x), "length", [None, -1, True, 1.0, "3", [3]]),
    (lambda x: LABELS.encode(x, 3), "entities", INVALID_ENTITIES),
    (lambda x: decode(tags=x), "tags", [
        None, 3, "abc", [0, 1, 0], [["0", "1", "0"]], [[0.0, 1.0, 0.0]], [[0, 3, 0]], [[0, -1, 0]],
        [[[0, 1, 0]]], [[0, 1, 0], [0]], {}, [[0, 1]],
    ]),
    (lambda x: decode(mask=x), "mask", [*INVALID_MASK, [[1, 0, 1]]]),
    (lambda x: score(x, [[]]), "gold", INVALID_ROWS),
    (lambda x: score([[]], x), "predicted", INVALID_ROWS),
]  # fmt: skip


@pytest.mark.parametrize("case", range(len(CASES)), ids=lambda i: f"{i}-{CASES[i][1]}")
def test_an_invalid_argument_raises_one_line_that_names_the_parameter(case: int) -> None:
    function, parameter, values = CASES[case]
    for value in values:
        try:
            result = function(value)
        except UserError as error:
            message = str(error)
            assert re.search(rf"\b{parameter}\b", message), (value, message)
            assert "\n" not in message and len(message) < 300, (value, message)
        else:
            pytest.fail(f"{parameter}={value!r} returned {result!r}")


def remedy(error: UserError) -> str:
    match = re.search(r"Use (.*?)( on a file opened as text)?\.$", str(error))
    assert match, error
    return match[1]


@pytest.mark.parametrize("function", ["__call__", "stream", "by_convention", "predict_proba_each"])
def test_the_suggestion_for_other_containers_works(function: str, tmp_path: Path) -> None:
    """The expression in the message gives the same result as a list of the texts."""
    (tmp_path / "obi").write_text("obi")
    more = [["strict"]] if function == "by_convention" else []

    def run(texts: Any) -> Any:
        result = getattr(tagger(), function)(texts, *more)
        return result["strict"] if more else [np.asarray(x).tolist() for x in result]

    texts = ["obi", "b"]
    cases: list[tuple[Any, list[str]]] = [
        ({"text": "obi"}, ["obi"]),
        ({"id": 3, "text": "obi"}, ["obi"]),
        ({"id": [1, 2], "text": texts}, texts),
        (Table(id=[1, 2], text=texts), texts),
        (b"obi", ["obi"]),
        (tmp_path / "obi", ["obi"]),
    ]
    with warnings.catch_warnings():  # pandas is installed with Ray, which is optional
        warnings.simplefilter("ignore")
        if importlib.util.find_spec("pandas"):
            import pandas

            cases.append((pandas.DataFrame({"id": [1, 2], "text": texts}), texts))
            assert run(pandas.Series(texts)) == run(texts)
        if importlib.util.find_spec("pyarrow"):
            import pyarrow

            with pytest.raises(UserError, match=r"^texts: Table, .*Use a list of strings\.$"):
                run(pyarrow.table({"text": texts}))
    if function != "__call__":
        cases.append(("obi", ["obi"]))
    for value, expected in cases:
        with pytest.raises(UserError, match=r"^texts: ") as caught:
            run(value)
        assert run(eval(remedy(caught.value), {"texts": value})) == run(expected)

    (tmp_path / "lines").write_text("obi\nb\n")
    with open(tmp_path / "lines") as file:
        with pytest.raises(UserError, match="whose lines end in line breaks") as caught:
            run(file)
        assert run(eval(remedy(caught.value), {"texts": file})) == run(texts)


@pytest.mark.parametrize("wrong", [b"obi", {"id": 3, "text": "obi"}])
def test_the_suggestion_for_one_text_works(wrong: Any) -> None:
    with pytest.raises(UserError, match=r"^text: ") as caught:
        tagger().predict_proba(wrong)
    table = tagger().predict_proba(eval(remedy(caught.value), {"text": wrong}))
    np.testing.assert_array_equal(table, tagger().predict_proba("obi"))
    with pytest.raises(UserError, match=r"^texts\[1\]: ") as caught:
        tagger()(["b", wrong])
    assert eval(remedy(caught.value), {"texts": ["b", wrong]}) == "obi"


def test_the_suggestion_for_a_vocabulary_mapping_works() -> None:
    by_id = {token: i for i, token in reversed(list(enumerate(VOCAB)))}
    with pytest.raises(UserError, match=r"^vocab: dict") as caught:
        CharTokenizer(by_id)  # type: ignore[arg-type]
    expression = str(caught.value).partition("mapping to ids, ")[2].removesuffix(".")
    assert CharTokenizer(eval(expression, {"vocab": by_id})).tokens == VOCAB


def test_any_iterable_of_strings_is_accepted() -> None:
    texts = ["obi", "b"]
    expected = tagger()(texts)
    array, objects = np.array(texts), np.array(texts, object)
    for given in (
        tuple(texts),
        iter(texts),
        (t for t in texts),
        array,
        objects,
        dict.fromkeys(texts).keys(),
    ):
        assert tagger()(given) == expected
    assert tagger()(np.str_("obi")) == tagger()("obi") == tagger()(array[0])
    assert tagger()(texts, threshold=np.float32(0)) == tagger()(texts, threshold=0) == expected
    ids = np.array([[2, 5, 3]])
    one = tagger().logits(ids, np.ones((1, 3)))
    for mask in (np.ones((1, 3), bool), [[1, 1, 1]]):
        np.testing.assert_array_equal(tagger().logits(ids.tolist(), mask), one)  # type: ignore[arg-type]


def test_entities_of_any_sequence_type_are_accepted() -> None:
    rows = [
        [("name", 0, 2)],
        {("name", 0, 2)},
        [["name", np.int64(0), 2]],
        [Entity("name", 0, 2, "bi")],
    ]
    for row in rows:
        assert score([row], (iter([("name", 0, 2)]),)).f1 == 1
        assert LABELS.encode(row, 2).tolist() == [0, 1, 2, 0]
    assert score((row for row in rows), rows).correct == 4
    examples = (Example("bi", (Entity("name", 0, 2),)) for _ in range(3))
    assert tagger().score(examples).correct == 3  # type: ignore[arg-type]


def test_masked_tags_may_be_out_of_range() -> None:
    tags = np.array([[0, 1, 2, 0, -100]])
    assert LABELS.decode(tags, np.array([[1, 1, 1, 1, 0]])) == [[("name", 0, 2)]]


def test_the_package_exports_its_public_names() -> None:
    for name in flax_ner.__all__:
        assert getattr(flax_ner, name).__name__ == name
    with pytest.raises(AttributeError, match="has no attribute 'Tager'"):
        flax_ner.Tager  # noqa: B018
