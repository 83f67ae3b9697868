"""The tagger, with a hand-made model whose predictions are known."""

import itertools
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from flax_ner import Entity, Tagger, load
from flax_ner.data.cluener import read_cluener
from flax_ner.errors import UserError
from flax_ner.model.tagging_model import init_params
from flax_ner.text.examples import Example
from flax_ner.text.labels import LabelSet
from flax_ner.text.tokenizer import CharTokenizer
from flax_ner.weights.model_dir import ModelDir, save_model
from tests.inference.helpers import CONFIG, LABELS, VOCAB, hand_made_tagger


@pytest.fixture(scope="module")
def make() -> Callable[..., Tagger]:
    """Return a function that makes taggers with a given row length."""
    return hand_made_tagger


def test_entities_have_the_callers_text_and_offsets(make: Callable[..., Tagger]) -> None:
    text = "o 中BIi İb"
    entities = make()(text)
    assert [entity[:4] for entity in entities] == [("name", 3, 6, "BIi"), ("name", 8, 9, "b")]
    assert all(0 < entity.score < 1 for entity in entities)
    assert entities[0].score < entities[1].score  # three tags are less certain than one
    assert isinstance(entities[0], Entity)


def test_the_score_is_the_probability_of_all_its_tags(make: Callable[..., Tagger]) -> None:
    tagger = make()
    encoding = tagger.tokenizer.encode("obio")
    mask = np.ones((1, len(encoding.ids)), np.int32)
    p = np.asarray(jax.nn.softmax(tagger.logits(np.array([encoding.ids]), mask)))[0]
    (entity,) = tagger("obio")
    assert entity.score == pytest.approx(p[2, 1] * p[3, 2], rel=1e-5)


def test_a_threshold_omits_entities_with_a_lower_score(make: Callable[..., Tagger]) -> None:
    tagger = make()
    entities = tagger("obiiiob")
    long, short = (entity.score for entity in entities)
    assert long < short  # four tags are less certain than one
    assert tagger("obiiiob", threshold=(long + short) / 2) == entities[1:]
    assert tagger(["obiiiob"], threshold=0.999) == [[]]
    assert tagger("obiiiob", threshold=long) == entities
    with pytest.raises(
        UserError, match=r"threshold: 1.5, but a probability is a number in \[0, 1\]"
    ):
        tagger("o", threshold=1.5)


def test_by_convention_equals_one_call_per_convention(make: Callable[..., Tagger]) -> None:
    tagger = make()
    texts = ["ob", "bii", "i", "", "oib" * 40, "b"]
    predicted = tagger.by_convention(iter(texts), ("strict", "lenient", "mmocr"))
    assert predicted == {name: tagger(texts, name) for name in ("strict", "lenient", "mmocr")}
    assert predicted["strict"] != predicted["lenient"] != predicted["mmocr"]


@pytest.mark.parametrize("text", ["obiİ", "", "b", "obiio" * 50])
def test_predict_proba_gives_every_tag_at_every_character(
    make: Callable[..., Tagger], text: str
) -> None:
    tagger = make(max_length=16)
    table = tagger.predict_proba(text)
    assert table.shape == (len(text), 3) and table.dtype == np.float32
    np.testing.assert_allclose(table.sum(1), 1, atol=1e-5)
    expected = [{"b": 1, "i": 2}.get(character, 0) for character in text]
    assert table.argmax(1).tolist() == expected
    for entity in tagger(text):
        tags = expected[entity.start : entity.end]
        p = np.prod([table[entity.start + i, tag] for i, tag in enumerate(tags)])
        assert entity.score == pytest.approx(float(p), rel=1e-5)


def test_predict_proba_each_joins_batches_in_order(
    make: Callable[..., Tagger], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("flax_ner.inference.tagger.TEXTS_PER_BATCH", 3)
    tagger = make(16)
    texts = ["", "bi", "o" * 40 + "bii", "中", "", "ooobi" * 7, ""]
    tables = list(tagger.predict_proba_each(iter(texts)))
    assert [len(table) for table in tables] == [len(text) for text in texts]
    for text, table in zip(texts, tables, strict=True):
        np.testing.assert_allclose(table, tagger.predict_proba(text), atol=1e-6)
    assert list(tagger.predict_proba_each([])) == []


def test_many_texts_are_tagged_like_each_alone(make: Callable[..., Tagger]) -> None:
    tagger = make()
    texts = ["", "bi", "o" * 40 + "bii", "中", "b", "", "o" * 61 + "b", "ooobi" * 7]
    predicted = tagger(texts)
    assert predicted == [tagger(text) for text in texts]
    assert predicted == tagger(text for text in texts)
    assert [len(entities) for entities in predicted] == [0, 1, 1, 0, 1, 0, 1, 7]
    assert tagger([]) == []


@pytest.mark.parametrize("max_length", [7, 16, 64])
def test_long_texts_have_exactly_the_expected_entities(
    make: Callable[..., Tagger], max_length: int
) -> None:
    tagger = make(max_length)
    unit = "obiiobo"
    predicted = tagger(unit * 200)
    expected = [
        span
        for i in range(0, len(unit) * 200, len(unit))
        for span in ((i + 1, i + 4), (i + 5, i + 6))
    ]
    assert [(entity.start, entity.end) for entity in predicted] == expected


def test_lines_of_a_document_are_tagged_like_each_alone() -> None:
    """The weights make each tag depend on all tokens of the row."""
    params = init_params(CONFIG, jax.random.key(0))
    keys = iter(jax.random.split(jax.random.key(1), 100))
    params = jax.tree.map(lambda x: x + 0.3 * jax.random.normal(next(keys), x.shape), params)
    tagger = Tagger(CONFIG, params, CharTokenizer(VOCAB), LABELS, 32, 4)
    random = np.random.default_rng(0)
    lines = ["".join(random.choice(list("bio中"), n)) for n in random.integers(0, 30, 200)]
    document, offset = tagger.predict_proba("\n".join(lines)), 0
    for line, table in zip(lines, tagger.predict_proba_each(lines), strict=True):
        np.testing.assert_allclose(document[offset : offset + len(line)], table, atol=1e-5)
        offset += len(line) + 1
        assert (document[offset - 1 : offset, 0] == 1).all()  # the line break
    one_line = tagger.predict_proba("o".join(lines))
    assert np.abs(one_line[: len(document)] - document).max() > 0.1  # context matters


@pytest.mark.slow
def test_a_document_of_100_000_characters_has_the_entities_of_its_sentences(cluener: Path) -> None:
    tokenizer = CharTokenizer(cluener / "vocab.txt")
    config = replace(CONFIG, vocab_size=len(tokenizer.tokens), num_labels=len(LABELS))
    params = init_params(config, jax.random.key(0))
    params["encoder"]["embeddings"]["word"] *= 50  # so that all tags are predicted
    params["head"]["classifier"]["kernel"] *= 50
    tagger = Tagger(config, params, tokenizer, LABELS, 52)
    lines = [example.text for example in read_cluener(cluener / "train.json")[:2700]]
    document = "\n".join(lines)
    assert len(document) > 100_000
    expected, offset = set(), 0
    for line, entities in zip(lines, tagger(lines), strict=True):
        expected |= {(offset + e.start, offset + e.end) for e in entities}
        offset += len(line) + 1
    predicted = tagger(document)
    assert all(document[e.start : e.end] == e.text for e in predicted)
    same = len(expected & {e[1:3] for e in predicted})
    assert len(expected) > 5000 and same >= 0.995 * max(len(expected), len(predicted))


@pytest.mark.parametrize("convention", ["strict", "lenient", "mmocr"])
def test_no_entity_contains_a_line_break_of_a_document(
    make: Callable[..., Tagger], convention: str
) -> None:
    tagger = make(8)
    predicted = tagger("obi\niio\n\nob\r\ni\nbi", convention)
    if convention == "lenient":  # an I- starts an entity
        spans = [(1, 3), (4, 6), (10, 11), (13, 14), (15, 17)]
    else:
        spans = [(1, 3), (10, 11), (15, 17)] if convention == "strict" else [(1, 3), (15, 17)]
    assert [entity[1:3] for entity in predicted] == spans


def test_results_do_not_depend_on_batches_of_texts(
    make: Callable[..., Tagger], monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = ["ob" * (i % 40) + "o" * (i % 7) for i in range(100)]
    tagger = make()
    expected = [tagger(text) for text in texts]
    monkeypatch.setattr("flax_ner.inference.tagger.TEXTS_PER_BATCH", 9)
    assert tagger(texts) == expected
    with pytest.raises(UserError, match=r"texts\[99\]: bytes"):
        tagger([*texts[:-1], b"o"])  # type: ignore[list-item]


def test_a_stream_reads_at_most_two_batches_ahead(
    make: Callable[..., Tagger], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("flax_ner.inference.tagger.TEXTS_PER_BATCH", 5)
    read = 0

    def texts() -> Iterator[str]:
        nonlocal read
        for i in range(23):
            read += 1
            yield "ob" * (i % 4)

    tagger = make()
    predicted = tagger.stream(texts())
    assert read == 0
    for number, entities in enumerate(predicted, 1):
        assert entities == tagger("ob" * ((number - 1) % 4))
        assert read <= number + 2 * 5
    assert read == number == 23
    endless = tagger.stream(itertools.cycle(["ob"]))
    assert [len(entities) for entities in itertools.islice(endless, 100)] == [1] * 100
    with pytest.raises(UserError, match="'loose' is unknown"):
        tagger.stream([], "loose")


@pytest.mark.parametrize("max_length", [7, 64])
def test_nothing_is_compiled_after_compile(make: Callable[..., Tagger], max_length: int) -> None:
    tagger = make(max_length)
    tagger.compile()
    shapes = tagger._predict._cache_size()
    assert shapes == len(tagger._shapes.all()) < 15
    for length in range(140):
        tagger("o" * length)
    for count in (2, 3, 5, 8, 13, 100):
        tagger(["ob" * i for i in range(count)])
    tagger.params = jax.tree.map(lambda x: x + 1, tagger.params)
    tagger(["obi"])
    assert tagger._predict._cache_size() == shapes


@pytest.mark.slow
@pytest.mark.every_python
def test_several_devices_give_the_same_entities(make: Callable[..., Tagger]) -> None:
    one = make()
    mesh = jax.make_mesh((8,), ("batch",), axis_types=(AxisType.Auto,))
    rows, replicated = NamedSharding(mesh, P("batch")), NamedSharding(mesh, P())
    params = jax.device_put(one.params, replicated)
    many = Tagger(one.config, params, one.tokenizer, LABELS, 64, 4, rows)
    many.compile()
    texts = ["ob" * i for i in range(90)]
    assert [[e[:4] for e in row] for row in many(texts)] == [
        [e[:4] for e in row] for row in one(texts)
    ]
    assert many._predict._cache_size() == len(many._shapes.all())


def test_conventions_differ_as_documented(make: Callable[..., Tagger]) -> None:
    tagger = make()
    assert [e[:3] for e in tagger("oiib", "strict")] == [("name", 3, 4)]
    assert [e[:3] for e in tagger("oiib", "lenient")] == [("name", 1, 3), ("name", 3, 4)]
    assert tagger("oiib", "mmocr") == []
    with pytest.raises(UserError, match="'exact' is unknown"):
        tagger("b", "exact")


def test_score_compares_with_the_gold_entities(make: Callable[..., Tagger]) -> None:
    examples = [Example("obi", (Entity("name", 1, 3),)), Example("bob", (Entity("name", 0, 2),))]
    scores = make().score(examples)
    assert (scores.gold, scores.predicted, scores.correct) == (2, 3, 1)
    with pytest.raises(UserError, match=r"test\.json:3: has no label"):
        make().score([Example("o", None, "test.json:3")])


def test_wrong_arguments_are_reported(make: Callable[..., Tagger]) -> None:
    with pytest.raises(UserError, match=r"texts\[1\]: int"):
        make()(["b", 3])  # type: ignore[list-item]
    with pytest.raises(UserError, match="T at most 64"):
        make().logits(np.zeros((1, 65), np.int32), np.ones((1, 65), np.int32))


def test_a_saved_and_loaded_model_gives_the_same_entities(
    make: Callable[..., Tagger], tmp_path: Path
) -> None:
    tagger = make()
    save_model(tmp_path / "model", ModelDir(tagger.config, LABELS, VOCAB, 64, tagger.params))
    loaded = load(tmp_path / "model")
    assert loaded("obiioo") == tagger("obiioo")


def test_only_a_model_directory_is_overwritten(make: Callable[..., Tagger], tmp_path: Path) -> None:
    tagger, folder = make(), tmp_path / "papers"
    model = ModelDir(tagger.config, LABELS, VOCAB, 64, tagger.params)
    folder.mkdir()
    (folder / "precious.txt").write_text("kept")
    with pytest.raises(UserError, match="exists and is not a model directory"):
        save_model(folder, model)
    assert (folder / "precious.txt").read_text() == "kept"
    for _ in range(2):
        save_model(tmp_path / "model", model)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model", "papers"]


def test_a_damaged_model_directory_is_an_error(make: Callable[..., Tagger], tmp_path: Path) -> None:
    tagger, path = make(), tmp_path / "model"
    save_model(path, ModelDir(tagger.config, LABELS, VOCAB, 64, tagger.params))
    (path / "checksums.json").unlink()
    for text in ("{", "{}", '{"model": {"depth": 3}, "max_length": 1}'):
        (path / "config.json").write_text(text)
        with pytest.raises(UserError, match="is damaged, or has another version"):
            load(path)


def test_a_row_length_that_is_not_a_multiple_of_8_works(make: Callable[..., Tagger]) -> None:
    tagger = make(50)
    assert [e[:3] for e in tagger("o" * 46 + "bi")] == [("name", 46, 48)]


def test_a_folder_without_a_model_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"not a model directory, it has no config\.json"):
        load(tmp_path)


def test_a_convention_is_checked_before_any_work(make: Callable[..., Tagger]) -> None:
    tagger = make()
    with pytest.raises(UserError, match="'loose' is unknown"):
        tagger(["ob"] * 10, "loose")
    assert tagger._predict._cache_size() == 0


def test_compute_dtype_bfloat16(make: Callable[..., Tagger], tmp_path: Path) -> None:
    made = make()
    params = jax.tree.map(lambda x: 5 * x, init_params(made.config, jax.random.key(1)))
    model = ModelDir(made.config, LABELS, made.tokenizer.tokens, 64, params)
    save_model(tmp_path / "model", model)
    exact, half = load(tmp_path / "model"), load(tmp_path / "model", compute_dtype="bfloat16")
    assert (exact.config.compute_dtype, half.config.compute_dtype) == ("float32", "bfloat16")
    ids = np.array([made.tokenizer.encode("obob").ids])
    one, other = (np.asarray(t.logits(ids, np.ones_like(ids))) for t in (exact, half))
    assert not np.array_equal(one, other)
    assert half.params["encoder"]["layers"]["0"]["mlp_in"]["kernel"].dtype == jnp.bfloat16
    half.params = exact.params  # not cast in advance, but in each product
    assert np.array_equal(half.logits(ids, np.ones_like(ids)), other)
    np.testing.assert_allclose(other, one, rtol=0, atol=0.05 * np.abs(one).max())
    with pytest.raises(UserError, match=r"^compute_dtype: 'half' is unknown"):
        load(tmp_path / "model", compute_dtype="half")


def test_repr_describes_model_labels_and_device(
    make: Callable[..., Tagger], tmp_path: Path
) -> None:
    assert repr(make()) == (
        "<Tagger: 1 layers x 8, head softmax; 1 category: name; max_length 64; 0.0M parameters; "
        "float32 on CPU>"
    )
    labels = LabelSet(["address", "book", "company", "game"], "bioes")
    config = replace(
        CONFIG, num_labels=len(labels), head="crf", num_hidden_layers=2, vocab_size=200_000
    )
    vocab = [*VOCAB, *(f"[unused{i}]" for i in range(config.vocab_size - len(VOCAB)))]
    model = ModelDir(config, labels, vocab, 32, init_params(config, jax.random.key(0)))
    save_model(tmp_path / "best", model)
    assert repr(load(tmp_path / "best", "bfloat16")) == (
        f"<Tagger '{tmp_path}/best': 2 layers x 8, head crf; 4 categories: address, book, company, ...; "
        "max_length 32; 1.6M parameters; bfloat16 on CPU>"
    )
