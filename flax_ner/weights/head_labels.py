"""The labels of a head's outputs: from a `config.json`, from a file, or those of MMOCR."""

import json
from pathlib import Path

from flax_ner.data.cluener import CATEGORIES
from flax_ner.errors import UserError
from flax_ner.text.labels import LabelSet
from flax_ner.text.utf8 import read_text
from flax_ner.weights.layouts import MMOCR, Layout
from flax_ner.weights.source import Source


def make_labels(
    source: Source, num_outputs: int | None, layout: Layout, labels: LabelSet | None
) -> LabelSet | None:
    """Return the labels of the head's outputs; None for an encoder.

    Args:
        source: the weights, with their `config.json`.
        num_outputs: number of outputs of the head; None for an encoder without a head.
        layout: layout of the source.
        labels: labels that the user gives. None means those of `config.json`; without them, a file of MMOCR
            gets MMOCR's tags over the categories of CLUENER.

    Raises:
        UserError: the labels are unknown, or their number differs from the number of outputs.
    """
    if num_outputs is None:
        if labels is not None:
            raise UserError(
                f"--labels: {source.path} has no head for tagging. Omit --labels; fine-tuning adds a head."
            )
        return None
    if labels is None:
        names = _id2label(source, num_outputs)
        if names is not None:
            try:
                labels = LabelSet.from_names(names)
            except UserError as error:
                raise UserError(
                    f"{source.config_path}: {error} To name the tags yourself, use convert/torch_to_flax.py "
                    "--labels FILE. To convert only the encoder, use --drop-head."
                ) from None
        elif layout is MMOCR:
            labels = LabelSet.mmocr(CATEGORIES)
        else:
            raise UserError(
                f"{source.path}: the head has {num_outputs} outputs, but no config.json beside it names "
                "them in id2label. Name them with convert/torch_to_flax.py --labels FILE."
            )
    if len(labels) != num_outputs:
        raise UserError(
            f"{source.path}: the head has {num_outputs} outputs, but there are {len(labels)} labels "
            f"({labels.scheme} over {', '.join(labels.categories)}). "
            "Name the outputs with convert/torch_to_flax.py --labels FILE."
        )
    return labels


def _id2label(source: Source, outputs: int) -> list[str] | None:
    """Return the names of the head's outputs; None if `config.json` has none or only LABEL_0, LABEL_1, ..."""
    table = (source.config or {}).get("id2label")
    if table is None or table == {str(i): f"LABEL_{i}" for i in range(outputs)}:
        return None
    rows = table if isinstance(table, dict) else {}
    names = [name for i in range(outputs) if isinstance(name := rows.get(str(i)), str)]
    if not len(names) == len(rows) == outputs:
        raise UserError(
            f"{source.config_path}: id2label does not name the {outputs} outputs 0, 1, 2, ... of the head. "
            "Correct it, or use convert/torch_to_flax.py --labels FILE."
        )
    return names


def read_labels(path: str | Path) -> LabelSet:
    """Read a label set from a file.

    Args:
        path: a `.json` file like the `labels.json` of a model directory, or a text file with one item per line.
            The items are the tags in the order of the outputs (O, B-name, ...), or MMOCR's categories.

    Raises:
        UserError: the file is missing or has another form.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"--labels: no file {str(path)!r}.")
    text = read_text(path).removeprefix("\ufeff")
    try:
        if path.suffix != ".json":
            lines = [line.strip() for line in text.split("\n") if line.strip()]
            return LabelSet.from_names(lines) if "O" in lines else LabelSet.mmocr(lines)
        return LabelSet.from_json(json.loads(text))
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
    except (ValueError, RecursionError):
        raise UserError(
            f"{path}: is not valid JSON. If it has one tag per line, rename it to {path.stem}.txt."
        ) from None
