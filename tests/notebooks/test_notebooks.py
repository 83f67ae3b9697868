"""The notebooks run from top to bottom, and their output is correct.

Settings are replaced as in papermill: by a cell after the one with the tag `parameters`.
"""

import json
import os
import re
import shutil
from collections.abc import Iterator
from dataclasses import replace
from html import unescape
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

from flax_ner import load
from flax_ner.data.formats import read_examples, write_examples
from flax_ner.data.synthetic import synthetic
from flax_ner.inference.selection import select_texts
from flax_ner.inference.tagger import Tagger
from flax_ner.model.bert import BertConfig
from flax_ner.model.tagging_model import abstract_params
from flax_ner.text.examples import Example
from flax_ner.text.vocab import build_vocab, write_vocab
from flax_ner.weights.export import export
from flax_ner.weights.model_dir import ModelDir
from flax_ner.weights.open_model import open_model

nbformat = pytest.importorskip("nbformat", reason="nbformat is not installed")
nbclient = pytest.importorskip("nbclient", reason="nbclient is not installed")

ROOT = Path(__file__).resolve().parents[2]
NAMES = ("evaluate", "finetune", "convert", "annotate")
CONFIG = BertConfig(
    vocab_size=1, num_labels=1, hidden_size=64, num_hidden_layers=1, num_attention_heads=1,
    intermediate_size=128, max_position_embeddings=64, hidden_act="gelu_new",
)  # fmt: skip
MORE = {
    "model.hidden_dropout_prob": 0.0,
    "optimizer.learning_rate": 1e-2,
    "data.batch_size": 8,
}
TEXT = "王建国在东海市工作。"


def read(name: str) -> Any:
    return nbformat.read(ROOT / "notebooks" / f"{name}.ipynb", as_version=4)


@pytest.mark.parametrize("name", NAMES)
def test_notebook_is_short_and_has_no_output(name: str) -> None:
    notebook = read(name)
    nbformat.validate(notebook)
    assert notebook.nbformat == 4 and len(notebook.cells) <= 15
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert all(not cell.outputs and cell.execution_count is None for cell in code)
    (settings,) = [cell for cell in code if "parameters" in cell.metadata.get("tags", [])]
    # One setting per line, with its Colab form.
    lines = settings.source.splitlines()
    assert lines[0] == "# @title Settings"
    assert all(re.match(r"[A-Z_]+ = .*  # @param [\[{]", line) for line in lines[1:])
    words = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")
    assert all(f"`{line.split()[0]}" in words for line in lines[1:])
    assert not re.search(r"^\s*(class|def) ", "\n".join(cell.source for cell in code), re.MULTILINE)


def test_notebooks_start_with_the_same_install_cell() -> None:
    cells = {read(name).cells[2].source for name in NAMES}
    (cell,) = cells
    assert cell.startswith('# @title Install\nREPOSITORY = ""  # @param')


def test_install_cell_without_a_checkout_says_how_to_fix_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cell = read("convert").cells[2].source
    cell = re.sub(r"^if REPOSITORY.*\n    !git.*\n", "", cell, flags=re.MULTILINE)  # not Python
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError, match="Set REPOSITORY"):
        exec(cell, {})


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """Return a folder for all files that kernels write."""
    variables = ("IPYTHONDIR", "JUPYTER_RUNTIME_DIR", "JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR")
    with pytest.MonkeyPatch.context() as patch:
        for name in (*variables, "TMPDIR", "JAX_COMPILATION_CACHE_DIR"):
            (tmp_path / name).mkdir()
            patch.setenv(name, str(tmp_path / name))
        # Notebooks share a compilation cache, to save time.
        patch.setenv("JAX_ENABLE_COMPILATION_CACHE", "true")
        patch.setenv("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.1")
        patch.setenv("PYTHONPATH", str(ROOT))
        patch.delenv("XLA_FLAGS")  # one device, as most users have
        yield tmp_path


def execute(name: str, expression: str, **settings: Any) -> tuple[str, Any]:
    """Run a notebook.

    Args:
        name: file name without .ipynb.
        expression: Python code that the kernel evaluates after the last cell.
        settings: parameters of the notebook to replace.

    Returns:
        The output of all cells (HTML if there is some) with the final state of widgets, and the value of
        the expression.
    """
    notebook = read(name)
    (position,) = (
        i for i, c in enumerate(notebook.cells) if "parameters" in c.metadata.get("tags", [])
    )
    known = dict(
        re.findall(r"^([A-Z_]+) = (.*?)  #", notebook.cells[position].source, re.MULTILINE)
    )
    assert settings.keys() <= known.keys()
    replaced = "\n".join(f"{name} = {value!r}" for name, value in settings.items())
    notebook.cells.insert(position + 1, nbformat.v4.new_code_cell(replaced))
    notebook.cells.append(
        nbformat.v4.new_code_cell(f"import json\nprint(json.dumps({expression}))")
    )
    resources = {"metadata": {"path": str(ROOT / "notebooks")}}
    client = nbclient.NotebookClient(notebook, timeout=300, resources=resources)
    client.execute(env=dict(os.environ))
    *shown, value = (
        "".join(
            output.get("text") or output["data"].get("text/html") or ""
            for output in cell.get("outputs", [])
        )
        for cell in notebook.cells
    )
    widgets = json.dumps(notebook.metadata.get("widgets", {}), ensure_ascii=False)
    return "\n".join([*shown, widgets]), json.loads(value)


@pytest.fixture
def pretrained(folder: Path) -> Path:
    """Write a tiny bert_pretrain.pth with vocab.txt in the same folder, and return its path."""
    vocab = build_vocab(example.text for example in synthetic("train", 600))
    config = replace(CONFIG, vocab_size=len(vocab))
    random = np.random.default_rng(0)

    def random_values(path: Any, x: jax.ShapeDtypeStruct) -> np.ndarray:
        if path[-1].key == "scale":
            return np.ones(x.shape, np.float32)
        return random.normal(0, 0.02, x.shape).astype(np.float32)

    shapes = {"encoder": abstract_params(config)["encoder"]}
    params = jax.tree_util.tree_map_with_path(random_values, shapes)
    (source := folder / "pretrained").mkdir()
    export(ModelDir(config, None, vocab, 64, params), source / "bert_pretrain.pth", "mmocr")
    write_vocab(source / "vocab.txt", vocab)
    return source / "bert_pretrain.pth"


def unpack(archive: Path) -> Path:
    folder = archive.with_suffix("")
    shutil.unpack_archive(archive, folder)
    return folder


def assert_bit_identical(one: Path, other: Path) -> None:
    """Check that both models can be opened and have identical parameters."""
    first, second = (
        flatten_dict(open_model(path, "path")[0].params, sep="/") for path in (one, other)
    )
    assert first.keys() == second.keys()
    for name, array in first.items():
        assert np.asarray(array).tobytes() == np.asarray(second[name]).tobytes(), name


@pytest.mark.slow
def test_notebooks_accept_the_output_of_one_another(folder: Path, pretrained: Path) -> None:
    train, dev = folder / "train.json", folder / "dev.bmes"
    write_examples(train, synthetic("train", 600), "cluener")
    write_examples(dev, synthetic("dev", 60), "conll", "BMES")
    check_finetune(folder, pretrained, train, dev)
    tagger, examples = load(folder / "run" / "best"), read_examples(str(dev), "auto")
    check_evaluate(folder, train, dev, tagger, examples)
    check_convert(folder, tagger)


def check_finetune(folder: Path, pretrained: Path, train: Path, dev: Path) -> None:
    outputs, result = execute(
        "finetune",
        "{'f1': scores.f1, 'report': report.scores.f1, 'own': [e[:3] for e in tagger(TEXT)]}",
        TRAIN=str(train),
        DEV=str(dev),
        WEIGHTS=str(pretrained),
        EPOCHS=3,
        MORE=MORE,
        WORKDIR=str(folder / "run"),
        TEXT=TEXT,
        SAVE_TO=str(folder / "saved"),
    )
    shown = unescape(outputs)
    assert f"{train} is read as CLUENER JSON lines." in shown
    assert f"{dev} is read as CoNLL columns of characters" in shown
    assert "errors: 0, warnings:" in shown and "<details>" in shown  # the data check's report
    assert "The head is freshly initialised" in shown
    assert all(f"epoch {epoch}, step" in shown for epoch in (1, 2, 3))
    bar = r"epoch 3/3, .* parameters, on .* sentences/s, loss \d.* elapsed \d+:\d\d, remaining"
    assert re.search(bar, shown, re.DOTALL)
    assert "\nNext:" not in shown  # the hints are shell commands
    assert f"{result['f1']:.4f}" in shown and "not seen" in shown
    assert len(outputs) < 100_000

    run, saved = folder / "run", folder / "saved"
    tagger = load(run / "best")
    scores = tagger.score(read_examples(str(dev), "auto"))
    assert 0.1 < scores.f1 < 1  # it learns
    assert result["f1"] == result["report"] == scores.f1
    assert result["own"] == [list(entity[:3]) for entity in tagger(TEXT)]
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [row["epoch"] for row in rows if row["split"] == "dev"] == [1, 2, 3]
    assert list((run / "tensorboard").glob("events.*"))
    assert {path.name for path in saved.iterdir()} == {"model.zip", "hf.zip"}
    for name in ("model", "hf"):
        assert_bit_identical(unpack(saved / f"{name}.zip"), run / "best")


def check_evaluate(
    folder: Path, train: Path, dev: Path, tagger: Tagger, examples: list[Example]
) -> None:
    outputs, f1 = execute(
        "evaluate",
        "report.scores.f1",
        MODEL=str(folder / "saved" / "model.zip"),
        DATA=str(dev),
        TRAIN=str(train),
        REPORT=str(folder / "report.html"),
        SAVE_TO=str(folder / "evaluated"),
    )
    assert f1 == tagger.score(examples).f1 and f"{f1:.4f}" in outputs
    page = (folder / "evaluated" / "report.html").read_text("utf-8")
    sentences = re.findall(r"<article.*?</article>", page, re.DOTALL)
    for example, sentence in zip(examples, sentences, strict=True):
        words = re.sub(r"<(sub|small)>.*?</\1>|<[^>]*>", "", sentence)
        assert example.text in unescape(words) and example.source in sentence
    predicted = tagger([example.text for example in examples])
    wrong = sum(
        {entity[:3] for entity in example.entities or ()} != {entity[:3] for entity in entities}
        for example, entities in zip(examples, predicted, strict=True)
    )
    (frame,) = re.findall(r'<iframe srcdoc="([^"]*)"', outputs)
    assert unescape(frame).count("<article") == wrong > 5
    assert len(outputs) < 150_000


def check_convert(folder: Path, tagger: Tagger) -> None:
    outputs, entities = execute(
        "convert",
        "[entity[:3] for entity in tagger(TEXT)]",
        SOURCE=str(folder / "saved" / "hf.zip"),
        OUT=str(folder / "tagger"),
        LAYOUT="hf",
        TEXT=TEXT,
        SAVE_TO=str(folder / "converted"),
    )
    assert entities == [list(entity[:3]) for entity in tagger(TEXT)]
    assert "Hugging Face BertForTokenClassification" in outputs and "B-address" in outputs
    assert "Round trip: all parameters are identical." in outputs
    assert_bit_identical(unpack(folder / "converted" / "model.zip"), folder / "run" / "best")
    back = unpack(folder / "converted" / "hf.zip") / "hf"
    assert_bit_identical(back, folder / "run" / "best")
    assert len(outputs) < 20_000


@pytest.mark.slow
def test_convert_round_trips_pretrained_weights(folder: Path, pretrained: Path) -> None:
    outputs, labels = execute(
        "convert",
        "model.labels",
        SOURCE=shutil.make_archive(str(folder / "upload"), "zip", pretrained.parent),
        OUT=str(folder / "encoder"),
        LAYOUT="mmocr",
        SAVE_TO=str(folder / "encoders"),
    )
    assert labels is None and "An encoder without a head" in outputs
    assert "Round trip: all parameters are identical." in outputs
    assert_bit_identical(folder / "encoder" / "model", pretrained)
    back = unpack(folder / "encoders" / "mmocr.zip") / "mmocr.pth"
    assert back.read_bytes() == pretrained.read_bytes()


@pytest.mark.slow
def test_picked_texts_are_corrected_and_trained_on(folder: Path, pretrained: Path) -> None:
    train, dev, pool = (folder / name for name in ("train.json", "dev.json", "pool.txt"))
    write_examples(train, synthetic("train", 200), "cluener")
    write_examples(dev, synthetic("dev", 60), "cluener")
    gold = {example.text: example for example in synthetic("train", 400)[200:]}
    pool.write_text("".join(f"{text}\n" for text in gold), "utf-8")
    execute(
        "finetune", "scores.f1", TRAIN=str(train), DEV=str(dev), WEIGHTS=str(pretrained), EPOCHS=2,
        MORE=MORE, WORKDIR=str(folder / "run"), SAVE_TO=str(folder / "saved"),
    )  # fmt: skip
    model = folder / "run" / "best"
    # What annotators would export: the picked texts with three corrections.
    tagger = load(model)
    picked = [list(gold)[i] for i in select_texts(tagger, list(gold), 20)]
    predicted = dict(zip(picked, tagger(picked), strict=True))
    wrong = [
        text for text in picked
        if {e[:3] for e in predicted[text]} != {e[:3] for e in gold[text].entities or ()}
    ][:3]  # fmt: skip
    corrected = [gold[t] if t in wrong else Example(t, tuple(predicted[t])) for t in picked]
    write_examples(folder / "corrected.jsonl", corrected, "doccano")
    outputs, counts = execute(
        "annotate", "[before.f1, scores.f1, len(picked), len(changed)]",
        MODEL=str(model), TRAIN=str(train), DEV=str(dev), POOL=str(pool), PICK=20,
        CORRECTED=str(folder / "corrected.jsonl"), EPOCHS=1, MORE=MORE,
        WORKDIR=str(folder / "more"), SAVE_TO=str(folder / "saved"),
    )  # fmt: skip
    assert counts[2:] == [20, 3] and "3 of 20 texts were corrected." in outputs
    pre_annotated = read_examples(str(folder / "saved" / "pre_annotated.json"), "doccano")
    assert {e.text: [x[:3] for x in e.entities or ()] for e in pre_annotated} == {
        text: [x[:3] for x in entities] for text, entities in predicted.items()
    }
    assert len(read_examples(str(folder / "more" / "train.json"), "cluener")) == 220
    dev_examples = read_examples(str(dev), "auto")
    after = load(folder / "more" / "run" / "best").score(dev_examples)
    assert counts[:2] == [tagger.score(dev_examples).f1, after.f1]
