"""Entities as a pandas DataFrame."""

import re

import pytest

from flax_ner import Tagger
from flax_ner.errors import UserError

pd = pytest.importorskip("pandas")

COLUMNS = ["type", "start", "end", "text", "score"]


def test_a_row_per_entity_with_the_position_of_its_text(tagger: Tagger) -> None:
    texts = ["obiib", "", "o", "中b"]
    frame = tagger.to_frame(text for text in texts)
    assert list(frame.columns) == COLUMNS
    assert frame.index.name == "text_index" and frame.index.tolist() == [0, 0, 3]
    entities = [entity for row in tagger(texts) for entity in row]
    assert [tuple(row) for row in frame.itertuples(index=False)] == entities
    assert frame.dtypes[["start", "end", "score"]].tolist() == ["int64", "int64", "float64"]


def test_the_index_of_a_series_is_kept(tagger: Tagger) -> None:
    posts = pd.DataFrame({"text": ["bo", "o", "b b"], "likes": [5, 6, 7]}, index=["x", "y", "z"])
    frame = tagger.to_frame(posts["text"])
    assert frame.index.tolist() == ["x", "z", "z"] and frame.index.name is None
    joined = posts.join(frame[["type", "start"]])
    assert joined["likes"].tolist() == [5, 6, 7, 7]
    assert joined["start"].fillna(-1).tolist() == [0, -1, 0, 2]
    dates = pd.MultiIndex.from_tuples([("a", 1), ("a", 2)], names=["user", "post"])
    frame = tagger.to_frame(pd.Series(["o", "b"], index=dates))
    assert frame.index.tolist() == [("a", 2)] and frame.index.names == ["user", "post"]


@pytest.mark.parametrize("texts", [[], ["o"], pd.Series([], dtype=object), pd.Series(["o", ""])])
def test_a_frame_without_entities_has_the_same_dtypes(tagger: Tagger, texts: list[str]) -> None:
    frame = tagger.to_frame(texts)
    assert len(frame) == 0
    assert frame.dtypes.equals(tagger.to_frame(["b"]).dtypes)


def test_convention_and_threshold_are_those_of_a_call(tagger: Tagger) -> None:
    texts = ["ib", "biii"]
    frame = tagger.to_frame(texts, convention="lenient", threshold=0.8)
    rows = tagger(texts, "lenient", 0.8)
    assert frame["start"].tolist() == [e.start for row in rows for e in row]
    assert 0 < len(frame) < len(tagger.to_frame(texts, convention="lenient"))


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (["b", None], "texts[1]: None, a missing text. Use [text for text in texts if"),
        (["b", float("nan")], "texts[1]: nan, a missing text"),
        (pd.Series(["b", None], index=[7, 8]), "texts[8]: nan, a missing text. Use texts.dropna()"),
        (pd.Series([pd.NA, "b"], ["x", "y"], object), "texts['x']: <NA>, a missing text"),
        (["b", 3], "texts[1]: int, but a text is a string"),
        (pd.DataFrame({"body": ["b"]}), "texts: DataFrame, whose keys or columns are not texts"),
        ("b", "texts: one string, but this takes many texts"),
    ],
    ids=str,
)
def test_invalid_texts_are_named(tagger: Tagger, texts: list[str], message: str) -> None:
    # pandas 2 keeps None, and pandas 3 converts it to NaN.
    message = re.escape(message).replace("nan", "(nan|None)")
    with pytest.raises(UserError, match=f"^{message}"):
        tagger.to_frame(texts)


def test_without_pandas_the_error_names_the_package(
    tagger: Tagger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "pandas", None)
    with pytest.raises(UserError, match=r"needs pandas\. Run pip install 'pandas>=2\.2'"):
        tagger.to_frame(["b"])


def test_the_remedies_work(tagger: Tagger) -> None:
    texts = ["b", None, float("nan"), "o b"]
    assert len(tagger.to_frame([text for text in texts if isinstance(text, str)])) == 2
    frame = tagger.to_frame(pd.Series(texts, dtype=object).dropna())
    assert frame.index.tolist() == [0, 3]
