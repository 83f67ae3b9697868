"""The component for spaCy: the same entities as the tagger, in saved pipelines and other processes too."""

import os
import pickle
import shutil
import subprocess
import sys
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flax_ner import Entity, Tagger, load
from flax_ner.data.cluener import read_cluener
from flax_ner.errors import UserError
from flax_ner.model.tagging_model import init_params
from flax_ner.text.labels import LabelSet, SpanLabels
from flax_ner.text.vocab import read_vocab
from flax_ner.weights.model_dir import ModelDir, load_model, save_model
from flax_ner.weights.onnx_export import export_onnx
from flax_ner.weights.params_reader import stored_arrays
from tests.inference.helpers import CONFIG, LABELS, VOCAB, hand_made_params

spacy = pytest.importorskip("spacy")

from spacy.tokens import Doc, DocBin, Span  # noqa: E402
from spacy.training import Example  # noqa: E402

Nlp = Callable[..., Any]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model") / "best"
    save_model(folder, ModelDir(CONFIG, LABELS, VOCAB, 64, hand_made_params()))
    return folder


@pytest.fixture
def make(model: Path) -> Nlp:
    """Return a function that makes a pipeline with the component."""

    def make(language: str = "en", **config: object) -> Any:
        nlp = spacy.blank(language)
        nlp.add_pipe("flax_ner", config={"model": str(model), **config})
        return nlp

    return make


def entities(doc: Doc, key: str = "flax_ner") -> list[Entity]:
    """Return the entities of `doc.spans` with their scores."""
    scores = doc.spans[key].attrs["scores"]
    return [
        Entity(span.label_, span.start_char, span.end_char, span.text, score)
        for span, score in zip(doc.spans[key], scores.tolist(), strict=True)
    ]


@pytest.mark.parametrize(
    ("language", "text"), [("en", "o bi o b, Bi o"), ("zh", "中bii中b 中o bi")]
)
def test_entities_and_scores_are_those_of_the_tagger(
    make: Nlp, model: Path, language: str, text: str
) -> None:
    doc = make(language)(text)
    assert entities(doc) == load(model)(text) and len(doc.ents) == 3
    assert [(e.label_, e.start_char, e.end_char) for e in doc.ents] == [
        entity[:3] for entity in entities(doc)
    ]
    assert doc.has_annotation("ENT_IOB")


def test_a_document_without_text_or_entities_is_annotated(make: Nlp) -> None:
    for text in ("", "o", "   "):
        doc = make()(text)
        assert doc.ents == () and entities(doc) == []
    assert make()("o").has_annotation("ENT_IOB")


def test_pipe_calls_the_tagger_once_per_batch(make: Nlp, monkeypatch: pytest.MonkeyPatch) -> None:
    nlp, texts = make(), ["b o", "", "o bi", "o", "bi b"]
    expected = [entities(nlp(text)) for text in texts]
    sizes, call = [], Tagger.__call__
    monkeypatch.setattr(
        Tagger, "__call__", lambda self, texts, *more: (sizes.append(len(texts)), call(self, texts, *more))[1]
    )  # fmt: skip
    assert [entities(doc) for doc in nlp.pipe(texts, batch_size=2)] == expected
    assert sizes == [2, 2, 1]
    assert nlp.get_pipe("flax_ner").tagger.batch_size == 32


def test_settings_reach_the_tagger(make: Nlp, model: Path) -> None:
    text, tagger = "i o biii o b", load(model)
    assert entities(make(scoring="lenient")(text)) == tagger(text, "lenient") != tagger(text)
    assert entities(make(threshold=0.8)(text)) == tagger(text, threshold=0.8) != tagger(text)
    nlp = make(batch_size=2, spans_key="mine")
    assert entities(nlp(text), "mine") == tagger(text)
    assert nlp.get_pipe("flax_ner").tagger.batch_size == 2


def test_invalid_settings_are_errors(make: Nlp, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"threshold: 2\.0, but a probability"):
        make(threshold=2.0)
    with pytest.raises(Exception, match="alignment_mode"):
        make(alignment_mode="nearest")
    with pytest.raises(UserError, match="'seqeval' is unknown"):
        make(scoring="seqeval")("b")
    with pytest.raises(UserError, match="nowhere"):
        make(model=str(tmp_path / "nowhere"))("b")


@pytest.mark.parametrize(
    ("mode", "found", "message"),
    [
        ("expand", ["oobi", "b", "bio"], "3 of 4 .* tokens: 3. Dropped: 0 .*'expand'\\)\\.$"),
        ("contract", ["b"], "3 of 4 .* tokens: 0. Dropped: 3 .* Set alignment_mode to"),
        ("strict", ["b"], "3 of 4 .* tokens: 0. Dropped: 3 .* Set alignment_mode to"),
    ],
)  # fmt: skip
def test_entities_inside_a_token_are_aligned_and_counted(
    make: Nlp, mode: str, found: list[str], message: str
) -> None:
    nlp = make(alignment_mode=mode)
    texts = ["oobi b", "", "o biob"]  # "biob" has two entities
    with pytest.warns(UserWarning, match=f"^flax_ner: {message}") as caught:
        docs = list(nlp.pipe(texts))
    assert len(caught) == 1  # for all documents together
    spans = [span.text for doc in docs for span in doc.spans["flax_ner"]]
    assert spans == {"expand": ["oobi", "b", "biob", "biob"]}.get(mode, found)
    assert [e.text for e in docs[-1].ents] == (["biob"] if mode == "expand" else [])
    with pytest.warns(UserWarning, match="1 of 2"):
        nlp("oobi b")


def test_an_entity_between_tokens_is_counted_as_dropped(model: Path, tmp_path: Path) -> None:
    # The character model can tag a space, which is not a token of spaCy.
    vocab = [" " if token == "i" else token for token in VOCAB]
    params = hand_made_params()
    kernel = params["head"]["classifier"]["kernel"]
    head = {"classifier": {**params["head"]["classifier"], "kernel": kernel[:, [0, 2, 1]]}}
    save_model(tmp_path / "m", ModelDir(CONFIG, LABELS, vocab, 64, {**params, "head": head}))
    nlp = spacy.blank("en")
    nlp.add_pipe("flax_ner", config={"model": str(tmp_path / "m")})
    assert [e.text for e in load(tmp_path / "m")("o o")] == [" "]
    with pytest.warns(UserWarning, match="1 of 1 .* Dropped: 1"):
        assert entities(nlp("o o")) == []


def test_an_entity_that_ends_past_the_text_is_cut(
    make: Nlp, monkeypatch: pytest.MonkeyPatch
) -> None:
    # As the convention "mmocr" gives if the final [SEP] is tagged.
    past = [Entity("name", 2, 5, "bi", 0.5)]
    monkeypatch.setattr(Tagger, "__call__", lambda self, texts, *_: [past for _ in texts])
    assert entities(make()("o bi")) == [Entity("name", 2, 4, "bi", 0.5)]


def test_nested_entities_are_all_in_spans_and_the_longest_in_ents(
    make: Nlp, monkeypatch: pytest.MonkeyPatch
) -> None:
    nested = [
        Entity("place", 0, 6, "a b中 c", 0.6), Entity("name", 0, 1, "a", 0.9),
        Entity("name", 2, 3, "b", 0.8), Entity("name", 5, 9, "c ab", 0.7),
    ]  # fmt: skip
    monkeypatch.setattr(Tagger, "__call__", lambda self, texts, *_: [nested for _ in texts])
    nlp = make()
    nlp.tokenizer = spacy.blank("zh").tokenizer
    doc = nlp("a b中 c ab")
    assert [e[:3] for e in entities(doc)] == [e[:3] for e in nested]
    assert [(e.label_, e.start_char, e.end_char) for e in doc.ents] == [("place", 0, 6)]


def test_a_global_pointer_model_sets_nested_spans(tmp_path: Path) -> None:
    config = replace(CONFIG, head="global_pointer", num_labels=2)
    params = init_params(config, jax.random.key(0))
    params["encoder"]["embeddings"]["word"] *= 50
    for part in params["head"].values():
        part["kernel"] = jax.random.normal(jax.random.key(0), part["kernel"].shape) / 3
    # The initial bias is too low for nested spans.
    params["head"]["edges"]["bias"] = jnp.array([[-4.0, -4.0], [0.0, 0.0]])
    save_model(tmp_path / "m", ModelDir(config, SpanLabels(["name", "place"]), VOCAB, 64, params))
    nlp = spacy.blank("zh")
    nlp.add_pipe("flax_ner", config={"model": str(tmp_path / "m")})
    doc = nlp("bobib中")
    assert entities(doc) == load(tmp_path / "m")("bobib中")
    assert 0 < len(doc.ents) < len(doc.spans["flax_ner"])


@pytest.mark.parametrize("overwrite", [False, True])
def test_entities_of_earlier_components_stay_unless_overwritten(make: Nlp, overwrite: bool) -> None:
    nlp = make(overwrite_ents=overwrite)
    ruler = nlp.add_pipe("entity_ruler", first=True)
    ruler.add_patterns([{"label": "X", "pattern": "bi o"}, {"label": "X", "pattern": "中"}])
    doc = nlp("b bi o 中")
    expected = {"b": "name", "中": "X"} | ({"bi": "name"} if overwrite else {"bi o": "X"})
    assert {e.text: e.label_ for e in doc.ents} == expected
    assert [e.text for e in entities(doc)] == ["b", "bi"]


def test_labels_are_those_of_the_model_once_it_is_loaded(make: Nlp) -> None:
    nlp = make()
    assert nlp.pipe_labels == {}
    assert nlp.get_pipe("flax_ner").labels == ("name",)
    assert nlp.pipe_labels == {"flax_ner": ["name"]}


def test_evaluate_scores_the_entities(make: Nlp) -> None:
    nlp = make()
    reference = nlp.make_doc("b o bi")
    reference.ents = [Span(reference, 0, 1, "name"), Span(reference, 1, 2, "name")]
    scores = nlp.evaluate([Example(nlp.make_doc("b o bi"), reference)])
    assert scores["ents_f"] == 0.5 and set(scores["ents_per_type"]) == {"name"}


def test_a_failing_batch_goes_to_the_error_handler(
    make: Nlp, monkeypatch: pytest.MonkeyPatch
) -> None:
    nlp, failed, call = make(), list[str](), Tagger.__call__

    def fail(self: Tagger, texts: list[str], *more: Any) -> Any:
        if "中" in texts:
            raise RuntimeError("broken")
        return call(self, texts, *more)

    monkeypatch.setattr(Tagger, "__call__", fail)
    with pytest.raises(RuntimeError, match="broken"):
        list(nlp.pipe(["b", "中", "bi"]))
    nlp.set_error_handler(lambda name, proc, docs, error: failed.extend(doc.text for doc in docs))
    assert [doc.text for doc in nlp.pipe(["b", "中", "bi"], batch_size=1)] == ["b", "bi"]
    assert failed == ["中"]


@pytest.mark.parametrize("compute_dtype", ["float32", "bfloat16"])
def test_a_saved_pipeline_contains_the_model(tmp_path: Path, compute_dtype: str) -> None:
    labels = LabelSet(["name", "place"], "bioes")
    config = replace(CONFIG, num_labels=len(labels), head="crf", compute_dtype=compute_dtype)
    params = init_params(config, jax.random.key(0))
    params["encoder"]["embeddings"]["word"] *= 50
    params["head"]["classifier"]["kernel"] *= 50
    save_model(tmp_path / "best", ModelDir(config, labels, VOCAB, 32, params, lower_case=False))
    nlp = spacy.blank("zh")
    nlp.add_pipe("flax_ner", config={"model": str(tmp_path / "best")})
    texts = ["bobi", "", "中Bib" * 20]
    expected = [entities(doc) for doc in nlp.pipe(texts)]
    assert sum(map(len, expected)) > 3
    data = nlp.to_bytes()
    for _ in range(2):  # a pipeline may be saved over an older one
        nlp.to_disk(tmp_path / "pipeline")
    shutil.rmtree(tmp_path / "best")

    loaded = spacy.load(tmp_path / "pipeline")
    assert [entities(doc) for doc in loaded.pipe(texts)] == expected
    assert loaded.config == nlp.config
    assert loaded.pipe_labels == {"flax_ner": ["name", "place"]}
    assert loaded.meta["labels"] == nlp.meta["labels"]
    assert load(tmp_path / "pipeline" / "flax_ner")(texts) == expected
    stored = stored_arrays(tmp_path / "pipeline" / "flax_ner" / "params")
    assert {array.dtype.numpy_dtype for array in stored.values()} == {np.dtype(np.float32)}
    again = spacy.util.get_lang_class("zh").from_config(nlp.config)
    again.from_bytes(data)
    assert [entities(doc) for doc in again.pipe(texts)] == expected
    # The old path is needed again only by a pipeline that was made, but not loaded.
    with pytest.raises(UserError, match="best"):
        spacy.util.get_lang_class("zh").from_config(nlp.config)("b")


def test_a_saved_pipeline_contains_an_onnx_export(make: Nlp, model: Path, tmp_path: Path) -> None:
    pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    export_onnx(load_model(model), tmp_path / "onnx")
    nlp = spacy.blank("en")
    nlp.add_pipe("flax_ner", config={"model": str(tmp_path / "onnx")})
    expected = entities(nlp("b o bi"))
    assert expected
    os.utime(tmp_path / "onnx" / "labels.json", (0, 0))  # as in reproducible archives
    data = nlp.to_bytes()
    other = make()  # with a model directory
    for pipeline in (nlp, nlp, other, nlp):  # a pipeline may be saved over an older one
        pipeline.to_disk(tmp_path / "pipeline")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").touch()
    for pipeline in (nlp, other):
        with pytest.raises(UserError, match="mine: exists and is not a model directory"):
            pipeline.get_pipe("flax_ner").to_disk(tmp_path / "mine")
    shutil.rmtree(tmp_path / "onnx")
    assert entities(spacy.load(tmp_path / "pipeline")("b o bi")) == expected
    again = spacy.util.get_lang_class("en").from_config(nlp.config)
    again.from_bytes(data)
    for pipeline in (again, pickle.loads(pickle.dumps(again))):
        assert entities(pipeline("b o bi")) == expected


def test_documents_keep_scores_when_they_are_serialized(make: Nlp) -> None:
    nlp = make()
    doc = nlp("b o bi")
    copied = next(iter(DocBin().from_bytes(DocBin(docs=[doc]).to_bytes()).get_docs(nlp.vocab)))
    for other in (Doc(nlp.vocab).from_bytes(doc.to_bytes()), copied):
        assert entities(other) == entities(doc)
        np.testing.assert_array_equal([e.text for e in other.ents], ["b", "bi"])


def test_a_pickled_pipeline_predicts_the_same(make: Nlp) -> None:
    fresh, used = make(), make()
    expected = entities(used("b o bi"))
    for nlp in (fresh, used):
        assert entities(pickle.loads(pickle.dumps(nlp))("b o bi")) == expected


PROCESSES = """
import multiprocessing, sys, warnings, spacy
if __name__ == "__main__":
    model, method, used = sys.argv[1:]
    multiprocessing.set_start_method(method)
    nlp = spacy.blank("en")
    nlp.add_pipe("flax_ner", config={"model": model})
    assert "jax" not in sys.modules
    if used == "used":
        nlp("b")
        warnings.simplefilter("ignore")  # jax warns of every fork
    texts = ["bi o", "", "b b"] * 3
    docs = nlp.pipe(texts, n_process=2, batch_size=2)
    print([[e.text for e in doc.ents] for doc in docs])
"""


@pytest.mark.slow
@pytest.mark.parametrize("arguments", ["spawn used", "spawn fresh", "fork fresh", "fork used"])
def test_n_process_works_with_spawn_and_before_the_first_text(
    model: Path, tmp_path: Path, arguments: str
) -> None:
    (tmp_path / "run.py").write_text(PROCESSES)
    result = subprocess.run(
        [sys.executable, "run.py", model, *arguments.split()], cwd=tmp_path, capture_output=True,
        text=True, check=False, timeout=300,
    )  # fmt: skip
    if arguments == "fork used":
        assert (
            result.returncode and "this process was forked from one that uses jax" in result.stderr
        )
    else:
        assert result.stdout.strip() == str([["bi"], [], ["b", "b"]] * 3), result.stderr


@pytest.mark.slow
def test_real_chinese_texts_give_the_entities_of_the_tagger(cluener: Path, tmp_path: Path) -> None:
    texts = [example.text for example in read_cluener(cluener / "dev.json")[:200]]
    texts += [f"{text} {text.upper()}\n" for text in texts[:20]]
    vocab = read_vocab(cluener / "vocab.txt")
    labels = LabelSet(["name", "place"])
    config = replace(CONFIG, vocab_size=len(vocab), num_labels=len(labels))
    params = init_params(config, jax.random.key(0))
    params["encoder"]["embeddings"]["word"] *= 50
    params["head"]["classifier"]["kernel"] *= 50
    save_model(tmp_path / "m", ModelDir(config, labels, vocab, 64, params))
    expected = load(tmp_path / "m")(texts)
    assert sum(map(len, expected)) > 200
    nlp = spacy.blank("zh")
    nlp.add_pipe("flax_ner", config={"model": str(tmp_path / "m")})
    with warnings.catch_warnings(record=True):
        warnings.simplefilter("always")
        docs = list(nlp.pipe(texts))
    for doc, row in zip(docs, expected, strict=True):
        # An entity that starts or ends with a space is one of whole tokens without it.
        stripped = [e for e in row if e.text.strip() == e.text]
        assert set(stripped) <= set(entities(doc))
