"""`python -m flax_ner evaluate --compare`: which models can be compared."""

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import jax
import pytest

from flax_ner.cli.main import main
from flax_ner.model.tagging_model import init_params
from flax_ner.text.labels import LabelSet
from flax_ner.weights.model_dir import ModelDir, save_model
from tests.inference.helpers import CONFIG, VOCAB

ROWS = [
    {"text": "biob", "label": {"name": {"bi": [[0, 1]]}, "book": {"b": [[3, 3]]}}},
    {"text": "oob", "label": {"name": {"b": [[2, 2]]}}},
]


@pytest.fixture
def data(tmp_path: Path) -> str:
    path = tmp_path / "data.json"
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    return str(path)


@pytest.fixture
def save(tmp_path: Path) -> Callable[..., str]:
    """Save a model with random weights and these categories; return its path."""

    def save(*categories: str, scheme: str = "bio") -> str:
        labels = LabelSet(categories, scheme)
        config = replace(CONFIG, num_labels=len(labels))
        params = init_params(config, jax.random.key(0))
        path = tmp_path / "_".join((*categories, scheme))
        save_model(path, ModelDir(config, labels, VOCAB, 64, params))
        return str(path)

    return save


@pytest.mark.parametrize(
    ("one", "other", "message"),
    [
        (("name",), ("name", "book"), r"knows 'book' \(1 entities\)"),
        (("name", "book"), ("book", "movie"), r"knows 'name' \(2 entities\)"),
        (("name", "scene"), ("book",), r"knows 'book' \(1 entities\), 'name' \(2 entities\)"),
    ],
)
def test_compare_rejects_models_if_only_one_has_a_category_of_the_data(
    data: str,
    save: Callable[..., str],
    capsys: pytest.CaptureFixture[str],
    one: tuple[str, ...],
    other: tuple[str, ...],
    message: str,
) -> None:
    with pytest.raises(SystemExit, match=rf"flax_ner: --compare: only one .* {message}, so"):
        main(["evaluate", save(*one), data, "--compare", save(*other)])
    assert "p = " not in capsys.readouterr().out


def test_compare_tests_models_with_the_same_categories(
    data: str, save: Callable[..., str], capsys: pytest.CaptureFixture[str]
) -> None:
    # The order and scheme differ. Both models lack the category "book" of the data.
    one, other = save("name", "x"), save("x", "name", scheme="bioes")
    main(["evaluate", other, data])
    f1 = re.search(r"F1 (0\.\d{4}) \[", " ".join(capsys.readouterr().out.split()))
    main(["evaluate", one, data, "--compare", other])
    printed = capsys.readouterr()
    assert f1 and f"F1 of the other model: {f1[1]}. Difference: " in " ".join(printed.out.split())
    assert re.search(f"comparing {one} \\(.* float32 on .*\\) with {other} \\(", printed.err)
    assert "--compare" not in printed.err


@pytest.mark.filterwarnings("default:--compare")
def test_compare_warns_about_a_category_that_only_one_model_has(
    data: str, save: Callable[..., str], capsys: pytest.CaptureFixture[str]
) -> None:
    main(["evaluate", save("name", "book"), data, "--compare", save("name", "book", "scene")])
    printed = capsys.readouterr()
    assert "p = " in printed.out
    assert "flax_ner: --compare: only one of the two models knows 'scene'." in printed.err


def test_compare_reports_which_model_does_not_support_the_scoring(
    data: str, save: Callable[..., str]
) -> None:
    other = save("name", "book", scheme="bioes")
    command = ["evaluate", save("name", "book"), data, "--scoring", "mmocr", "--compare", other]
    with pytest.raises(SystemExit, match=rf"flax_ner: --compare {other}: --scoring: 'mmocr'"):
        main(command)
