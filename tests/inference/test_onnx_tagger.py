"""Taggers of ONNX exports give what the taggers of their models give."""

import json
import pickle
import shutil
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import jax
import numpy as np
import pytest

from convert.flax_to_torch import main as flax_to_torch
from flax_ner import Tagger, load
from flax_ner.cli.main import main
from flax_ner.data.cluener import write_cluener
from flax_ner.errors import UserError
from flax_ner.inference.onnx_tagger import OnnxTagger
from flax_ner.text.examples import Entity, Example
from flax_ner.weights.model_dir import ModelDir, save_model
from flax_ner.weights.onnx_export import export_onnx
from flax_ner.weights.onnx_graph import build_onnx_model
from flax_ner.weights.stablehlo_export import export_stablehlo
from tests.exports import FAMILIES, HEADS, LABELS, random_model
from tests.subwords import TEXTS

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")

# Short and long texts, line breaks, spaces, unknown characters; `max_length` is 40.
MIXED = [
    *TEXTS,
    "",
    " ",
    "王",
    "☃王建国☃",
    "王建国\n" * 12,
    TEXTS[2] * 5,
    f"{TEXTS[1]}\n\n{TEXTS[2]}" * 3,
]


def pair(folder: Path, model: ModelDir) -> tuple[Tagger, Tagger]:
    """Return the tagger of a model and that of its ONNX export."""
    assert model.labels is not None
    export_onnx(model, folder / "onnx")
    return (
        Tagger(model.config, model.params, model.build_tokenizer(), model.labels, model.max_length),
        load(folder / "onnx"),
    )


def assert_same_entities(one: list[list[Entity]], other: list[list[Entity]]) -> None:
    """Assert equal entities, and scores within 1e-4."""
    for a, b in zip(one, other, strict=True):
        assert [entity[:4] for entity in a] == [entity[:4] for entity in b]
        np.testing.assert_allclose([e.score for e in a], [e.score for e in b], atol=1e-4)


@pytest.mark.parametrize(
    ("family", "head"),
    [*((family, "crf") for family in FAMILIES), *(("bert", head) for head in HEADS[:2])],
)
def test_entities_equal_those_of_jax(tmp_path: Path, family: str, head: str) -> None:
    ours, theirs = pair(tmp_path, random_model(family, head))
    assert isinstance(theirs, OnnxTagger)
    conventions = LABELS.conventions()
    expected = ours.by_convention(MIXED, conventions)
    predicted = theirs.by_convention(MIXED, conventions)
    for convention in conventions:
        assert_same_entities(predicted[convention], expected[convention])
    assert len({entity.type for entities in expected["strict"] for entity in entities}) == 2
    assert_same_entities(list(theirs.stream(MIXED)), expected["strict"])
    for one, other in zip(
        theirs.sequence_log_probs(MIXED), ours.sequence_log_probs(MIXED), strict=True
    ):
        assert one[1] == other[1]
        assert one[0] == pytest.approx(other[0], abs=1e-3)


@pytest.fixture(scope="module")
def taggers(tmp_path_factory: pytest.TempPathFactory) -> tuple[Tagger, Tagger]:
    return pair(tmp_path_factory.mktemp("crf"), random_model())


@pytest.fixture
def folder(taggers: tuple[Tagger, Tagger], tmp_path: Path) -> Path:
    """Return a folder with an export, which the test may change."""
    export_onnx(random_model(), tmp_path / "export")
    return tmp_path / "export"


def test_probabilities_and_thresholds_equal_those_of_jax(taggers: tuple[Tagger, Tagger]) -> None:
    ours, theirs = taggers
    for one, other in zip(
        theirs.predict_proba_each(MIXED), ours.predict_proba_each(MIXED), strict=True
    ):
        np.testing.assert_allclose(one, other, atol=1e-4)
    scores = sorted(entity.score for entities in ours(MIXED) for entity in entities)
    threshold = (scores[len(scores) // 2 - 1] + scores[len(scores) // 2]) / 2
    expected = ours(MIXED, threshold=threshold)
    assert_same_entities(theirs(MIXED, threshold=threshold), expected)
    assert 0 < sum(map(len, expected)) < len(scores)


def test_logits_of_padded_rows_equal_those_of_jax(taggers: tuple[Tagger, Tagger]) -> None:
    ours, theirs = taggers
    mask = np.array([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]])
    ids = np.where(mask, 7, 0)
    expected = np.asarray(ours.logits(ids, mask))
    np.testing.assert_allclose(theirs.logits(ids, mask), expected, atol=1e-4)
    with pytest.raises(UserError, match="both must be"):
        theirs.logits(np.zeros((1, 41), int), np.ones((1, 41), int))


def test_windows_share_batches_of_similar_length(
    taggers: tuple[Tagger, Tagger], monkeypatch: pytest.MonkeyPatch
) -> None:
    tagger, shapes = taggers[1], []
    assert isinstance(tagger, OnnxTagger)
    run = tagger._run_session
    monkeypatch.setattr(
        tagger, "_run_session", lambda ids, mask: (shapes.append(mask.shape), run(ids, mask))[1]
    )
    tagger(["王建国在东海市工作。" * n for n in (1, 2, 3)] * 40)
    assert sum(rows for rows, _ in shapes) == 120
    assert all(rows * width <= 1024 for rows, width in shapes)
    assert sum(rows * width for rows, width in shapes) < 0.85 * 120 * 32


@pytest.mark.parametrize("dtype", ["float16", "int8"])
def test_other_dtypes_predict_almost_the_same_entities(tmp_path: Path, dtype: str) -> None:
    model = random_model(head="softmax")
    ours, _ = pair(tmp_path, model)
    export_onnx(model, tmp_path / dtype, dtype)
    # `expected` and `predicted` are compared as (text, type, start, end).
    expected, predicted = (
        {(i, *e[:3]) for i, entities in enumerate(tagger(MIXED)) for e in entities}
        for tagger in (ours, load(tmp_path / dtype))
    )
    assert len(expected & predicted) > 0.7 * len(expected | predicted) > 20


def test_compile_covers_every_shape(tmp_path: Path) -> None:
    export_onnx(random_model(head="softmax"), tmp_path / "out")
    tagger = load(tmp_path / "out", batch_size=1)
    tagger.compile()
    compiled = tagger._predict._cache_size()  # type: ignore[attr-defined]
    tagger(MIXED)
    assert tagger._predict._cache_size() == compiled  # type: ignore[attr-defined]


def test_a_tagger_can_be_pickled_and_describes_itself(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder.parent)
    tagger = load(folder.name)
    assert repr(tagger) == (
        f"<OnnxTagger {folder.name!r}: 2 layers x 16, head crf; 2 categories: name, place; max_length 40; "
        "model.onnx, 0.0 MB, onnxruntime on CPU>"
    )
    data = pickle.dumps(tagger)
    monkeypatch.chdir(folder)  # a pickle may be read in another working directory
    duplicate = pickle.loads(data)
    assert repr(duplicate) == repr(tagger) and duplicate(MIXED) == tagger(MIXED)


def test_one_of_several_files_is_read(folder: Path) -> None:
    other = folder.with_name("other")
    export_onnx(random_model(), other, "int8")
    shutil.copy(other / "onnx" / "model_quantized.onnx", folder / "onnx")
    expected = load(folder)(TEXTS)
    assert load(other)(TEXTS) != expected
    (folder / "onnx" / "model_quantized.onnx").unlink()
    assert load(folder)(TEXTS) == expected  # model.onnx was read before too


def test_commands_read_an_export(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = random_model()
    save_model(tmp_path / "model", model)
    main(["export", str(tmp_path / "model"), str(tmp_path / "onnx"), "--to", "onnx"])
    gold = load(tmp_path / "model")(TEXTS[1:])
    write_cluener(
        tmp_path / "data.json",
        [
            Example(text, tuple(entities[::2]))
            for text, entities in zip(TEXTS[1:], gold, strict=True)
        ],
    )
    capsys.readouterr()
    metrics, printed = [], []
    for name in ("model", "onnx"):
        data, out = str(tmp_path / "data.json"), tmp_path / f"{name}.json"
        main(["evaluate", str(tmp_path / name), data, "--json", str(out)])
        row = json.loads(out.read_text())
        # Scores, from which the reliability is computed, differ by rounding.
        metrics.append({key: row[key] for key in row.keys() - {"model", "title", "reliability"}})
        capsys.readouterr()
        main(["predict", str(tmp_path / name), data])
        printed.append(capsys.readouterr().out)
    assert metrics[0] == metrics[1] and printed[0] == printed[1]
    with pytest.raises(SystemExit, match=r"MODEL comes first, .* predict \S*onnx \S*data\.json"):
        main(["predict", str(tmp_path / "data.json"), str(tmp_path / "onnx")])


def test_compute_dtype_does_not_apply(folder: Path) -> None:
    with pytest.raises(UserError, match=r"compute_dtype 'bfloat16': does not apply to .*Omit it"):
        load(folder, "bfloat16")
    with pytest.raises(SystemExit, match="compute_dtype 'float32': does not apply"):
        main(["predict", str(folder), "--compute-dtype", "float32"])


def replace_model(folder: Path) -> None:
    """Put the ONNX file of a model with fewer tags into the folder."""
    model = random_model()
    config = replace(model.config, num_labels=3)
    params = {
        **model.params,
        "head": {"classifier": {"kernel": np.zeros((16, 3)), "bias": np.zeros(3)}},
    }
    params = jax.tree.map(lambda x: np.asarray(x, np.float32), params)
    onnx.save(build_onnx_model(config, params), folder / "onnx" / "model.onnx")


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda f: (f / "onnx" / "model.onnx").write_bytes(b"\x08"), r"model\.onnx: cannot be read"),
        (lambda f: (f / "onnx" / "model.onnx").unlink(), r"has none of onnx/model\.onnx, .*Export"),
        (replace_model, r"model\.onnx: does not compute the scores of the 9 tags in labels\.json"),
        (lambda f: (f / "transitions.json").unlink(), r"transitions\.json: is missing"),
        (lambda f: (f / "transitions.json").write_text("[["), r"transitions\.json: is damaged"),
        (lambda f: (f / "transitions.json").write_text("[[0, 1], [0]]"), "transitions.json: is damaged"),
        (lambda f: (f / "transitions.json").write_text("[[0]]"), "is not a matrix of 9 x 9 scores"),
        (lambda f: (f / "labels.json").unlink(), r"labels\.json is missing"),
        (lambda f: (f / "labels.json").write_text("{}"), r"labels\.json: labels: expected"),
        (lambda f: (f / "flax_ner.json").write_text("{"), r"flax_ner\.json or labels\.json is damaged"),
        (lambda f: [(f / name).unlink() for name in ("vocab.txt", "tokenizer.json")], "vocabulary: no file"),
        (lambda f: (f / "vocab.txt").write_text("a\n"), r"vocab\.txt has 1 entries, but flax_ner\.json"),
    ],
)  # fmt: skip
def test_a_damaged_export_is_an_error(
    folder: Path, damage: Callable[[Path], None], reason: str
) -> None:
    damage(folder)
    with pytest.raises(UserError, match=reason):
        load(folder)


def test_an_export_has_no_parameters_for_jax(folder: Path, tmp_path: Path) -> None:
    for arguments in (
        ["inspect", str(folder)],
        ["ensemble", str(tmp_path / "out"), str(folder), str(folder)],
        ["export", str(folder), str(tmp_path / "out"), "--to", "onnx"],
    ):
        with pytest.raises(SystemExit, match="is an ONNX or StableHLO export, which has no param"):
            main(arguments)
    with pytest.raises(SystemExit, match="Name the model directory that it was exported from"):
        flax_to_torch([str(folder), str(tmp_path / "out"), "--layout", "hf"])
    export_stablehlo(random_model(), tmp_path / "stablehlo")
    with pytest.raises(UserError, match=r"is a StableHLO export, which only jax\.export\.deser"):
        load(tmp_path / "stablehlo")


def test_a_missing_package_is_named(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(UserError, match=r"needs onnxruntime\. Run pip install 'onnxruntime>="):
        load(folder)
