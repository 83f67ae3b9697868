"""Read texts from a pandas Series, and write their entities as a pandas DataFrame."""

from collections.abc import Iterable, Sequence
from itertools import chain
from typing import TYPE_CHECKING, Any

import numpy as np

from flax_ner.arguments import check_text, check_texts
from flax_ner.errors import UserError, import_optional
from flax_ner.text.examples import Entity

if TYPE_CHECKING:
    import pandas as pd

PANDAS_REQUIREMENT = "pandas>=2.2"


def read_texts(texts: "Iterable[str] | pd.Series") -> "tuple[list[str], pd.Index]":
    """Return texts as a list, and the index of a Series, or of positions for anything else.

    Args:
        texts: an iterable of strings, or a pandas Series of strings.

    Raises:
        UserError: `texts` is not iterable, or a text is missing (None or NaN) or not a string. The message
            names its row.
    """
    pd = _import_pandas()
    values: list[Any] = list(check_texts(texts, "texts"))
    series: Any = texts if isinstance(texts, pd.Series) else None
    index = pd.RangeIndex(len(values), name="text_index") if series is None else series.index
    for label, value in zip(index.tolist(), values, strict=True):
        if isinstance(value, str):
            continue
        if pd.api.types.is_scalar(value) and pd.isna(value):
            only_texts = "[text for text in texts if isinstance(text, str)]"
            remedy = only_texts if series is None else "texts.dropna()"
            raise UserError(f"texts[{label!r}]: {value}, a missing text. Use {remedy}.")
        check_text(value, f"texts[{label!r}]")
    return values, index


def to_frame(entities: Sequence[Sequence[Entity]], index: "pd.Index") -> "pd.DataFrame":
    """Return the entities of each text as a DataFrame, see `Tagger.to_frame`.

    Args:
        entities: the entities of each text.
        index: labels of the texts.
    """
    pd = _import_pandas()
    rows = index.take(np.repeat(np.arange(len(entities)), [*map(len, entities)]))
    frame = pd.DataFrame(chain.from_iterable(entities), columns=list(Entity._fields), index=rows)
    # Without entities all columns would have the dtype object.
    return frame if len(frame) else frame.astype(Entity.__annotations__)


def _import_pandas() -> Any:
    return import_optional("pandas", "Tagger.to_frame", PANDAS_REQUIREMENT)
