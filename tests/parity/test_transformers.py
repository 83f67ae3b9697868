"""BERT, its tokenizer and pipeline against transformers, in both directions.

Needs transformers and PyTorch.
"""

import itertools
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flax_ner import Tagger, load
from flax_ner.data.cluener import CATEGORIES, read_cluener
from flax_ner.model.bert import BertConfig
from flax_ner.model.tagging_model import init_params
from flax_ner.text.labels import LabelSet
from flax_ner.text.tokenizer import CharTokenizer, WordPieceTokenizer
from flax_ner.text.vocab import SPECIAL_TOKENS, read_vocab
from flax_ner.weights.convert import convert
from flax_ner.weights.export import export
from flax_ner.weights.model_dir import ModelDir
from flax_ner.weights.source import open_source
from tests.weights.helpers import assert_same

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

TAGS = LabelSet(["name", "place"], "bioes")
TINY = {
    "hidden_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 96,
    "max_position_embeddings": 64,
}
BASE: dict[str, int] = {}  # transformers' defaults: 12 layers of width 768
HEADS = ["BertForTokenClassification", "BertModel", "BertForMaskedLM", "BertForPreTraining"]


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    transformers.utils.logging.disable_progress_bar()
    with warnings.catch_warnings():
        # Raised inside transformers and torch.
        warnings.simplefilter("ignore", DeprecationWarning)
        yield


def make_theirs(
    head: str, vocab_size: int, hidden_act: str, shape: dict[str, int], std: float
) -> Any:
    """Return a random model of transformers in which no tensor has its initial value."""
    id2label = dict(enumerate(TAGS.names))
    config = transformers.BertConfig(
        vocab_size=vocab_size, hidden_act=hidden_act, id2label=id2label,
        label2id={name: i for i, name in id2label.items()}, **shape,
    )  # fmt: skip
    model = getattr(transformers, head)(config).eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += std * torch.randn(parameter.shape, generator=generator)
    return model


def write_vocab_of(folder: Path, size: int) -> list[str]:
    tokens = [*SPECIAL_TOKENS, *map(chr, range(0x4E00, 0x4E00 + size - len(SPECIAL_TOKENS)))]
    (folder / "vocab.txt").write_text("\n".join(tokens) + "\n", "utf-8")
    return tokens


def compare(model: Any, ours: ModelDir, width: int) -> None:
    """Assert that both models give the same logits, or without a head the same vectors, at every token."""
    size = ours.config.vocab_size
    ids = np.random.default_rng(0).integers(0, size, (3, width))
    mask = (np.arange(width) < np.array([[width], [width // 2], [5]])).astype(np.int64)
    params = ours.params
    if ours.labels is None:  # compare the encoder's vectors, with an identity matrix as head
        head = init_params(ours.config, jax.random.key(0))["head"]["classifier"]
        eye = jnp.eye(ours.config.hidden_size)[:, : head["kernel"].shape[1]]
        identity = {"classifier": {"kernel": eye, "bias": head["bias"] * 0}}
        params = {"encoder": params["encoder"], "head": identity}
    labels = ours.labels or LabelSet(["unused"])
    tokenizer = CharTokenizer(ours.vocab)
    tagger = Tagger(ours.config, params, tokenizer, labels, ours.max_length)
    logits = np.asarray(tagger.logits(ids, mask))
    with torch.no_grad():
        inputs = {"input_ids": torch.tensor(ids), "attention_mask": torch.tensor(mask)}
        if ours.labels is None:
            encoder = getattr(model, "bert", model)
            expected = encoder(**inputs).last_hidden_state.numpy()[..., : logits.shape[-1]]
        else:
            expected = model(**inputs).logits.numpy()
    np.testing.assert_allclose(logits[mask > 0], expected[mask > 0], rtol=0, atol=1e-4)


@pytest.mark.parametrize("hidden_act", ["gelu", "gelu_new"])
@pytest.mark.parametrize("head", HEADS)
def test_tiny_models_match_transformers(tmp_path: Path, head: str, hidden_act: str) -> None:
    model = make_theirs(head, 300, hidden_act, TINY, 0.1)
    tokens = write_vocab_of(tmp_path, 300)
    forms = {
        "safetensors": lambda folder: model.save_pretrained(folder),
        "sharded": lambda folder: model.save_pretrained(folder, max_shard_size="100KB"),
        "pickle": lambda folder: torch.save(model.state_dict(), folder / "pytorch_model.bin"),
    }
    converted: list[ModelDir] = []
    for name, save in forms.items():
        folder = tmp_path / name
        folder.mkdir()
        save(folder)
        model.config.architectures = [head]
        model.config.save_pretrained(folder)
        if name == "sharded":
            assert len(list(folder.glob("model-*.safetensors"))) > 3
        ours, report = convert(open_source(folder, tmp_path / "vocab.txt"))
        assert head in report.layout
        assert (ours.labels is not None) == (head == HEADS[0])
        if ours.labels is not None:
            assert ours.labels.names == TAGS.names and ours.labels.scheme == "bioes"
        assert ours.vocab == tokens
        converted.append(ours)
    compare(model, converted[0], 40)
    for other in converted[1:]:
        assert_same(other.params, converted[0].params)
        assert other.config == converted[0].config


@pytest.mark.slow
@pytest.mark.parametrize("hidden_act", ["gelu", "gelu_new"])
def test_base_size_models_match_transformers(tmp_path: Path, hidden_act: str) -> None:
    model = make_theirs(HEADS[0], 21128, hidden_act, BASE, 0.01)
    write_vocab_of(tmp_path, 21128)
    model.save_pretrained(tmp_path)
    ours, _ = convert(open_source(tmp_path))
    assert (ours.config.num_hidden_layers, ours.config.hidden_size) == (12, 768)
    compare(model, ours, 128)
    # The export has the same bits.
    export(ours, tmp_path / "back", "hf")
    back = transformers.AutoModelForTokenClassification.from_pretrained(tmp_path / "back")
    for name, tensor in model.state_dict().items():
        assert torch.equal(back.state_dict()[name], tensor), name


# --- Exports, loaded by transformers -------------------------------------------------------------


def make_ours(vocab: list[str], labels: LabelSet, lower_case: bool = True) -> ModelDir:
    """Return a random tagger that predicts many entities, also from invalid tag sequences."""
    config = BertConfig(vocab_size=len(vocab), num_labels=len(labels), **TINY)
    params = init_params(config, jax.random.key(0))
    keys = iter(jax.random.split(jax.random.key(1), 100))
    params = jax.tree.map(lambda x: x + 0.1 * jax.random.normal(next(keys), x.shape), params)
    return ModelDir(config, labels, vocab, 64, params, lower_case)


def tagger_of(model: ModelDir) -> Tagger:
    tokenizer = CharTokenizer(model.vocab, model.lower_case)
    assert model.labels is not None
    return Tagger(model.config, model.params, tokenizer, model.labels, model.max_length)


@pytest.mark.slow
@pytest.mark.every_python
@pytest.mark.parametrize("labels", [LabelSet(CATEGORIES), LabelSet.mmocr(CATEGORIES)])
def test_transformers_loads_the_complete_export(tmp_path: Path, labels: LabelSet) -> None:
    vocab = write_vocab_of(tmp_path, 300)
    export(make_ours(vocab, labels), tmp_path / "hf", "hf")
    model, info = transformers.AutoModelForTokenClassification.from_pretrained(
        tmp_path / "hf", output_loading_info=True
    )
    assert type(model).__name__ == "BertForTokenClassification"
    assert not any(info.values()), info
    assert [model.config.id2label[i] for i in range(len(labels))] == labels.names
    compare(model.eval(), convert(open_source(tmp_path / "hf"))[0], 40)


def test_transformers_loads_an_encoder_without_a_pooler(tmp_path: Path) -> None:
    encoder = make_ours(write_vocab_of(tmp_path, 300), LabelSet(["a"]))
    encoder.labels, encoder.params = None, {"encoder": encoder.params["encoder"]}
    export(encoder, tmp_path / "hf", "hf")
    model, info = transformers.AutoModel.from_pretrained(
        tmp_path / "hf", output_loading_info=True, add_pooling_layer=False
    )
    assert type(model).__name__ == "BertModel"
    assert not any(info.values()), info


TEXTS = ["NBA 2008年İ中国\n", "", " ", "e\u0301É😀👨\u200d👩", "ΑΣ ẞß", "[MASK] ##b"]


@pytest.mark.parametrize("lower_case", [True, False])
def test_tokenizers_agree(cluener: Path, tmp_path: Path, lower_case: bool) -> None:
    vocab = read_vocab(cluener / "vocab.txt")
    export(make_ours(vocab, LabelSet(CATEGORIES), lower_case), tmp_path / "hf", "hf")
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "hf")
    texts = [example.text for example in read_cluener(cluener / "dev.json")] + TEXTS[:-1]
    actual = tokenizer(texts, return_offsets_mapping=True)
    expected = CharTokenizer(vocab, lower_case).encode_batch(texts)
    assert actual["input_ids"] == [encoding.ids for encoding in expected]
    assert actual["offset_mapping"] == [encoding.offsets for encoding in expected]
    assert tokenizer.model_max_length == 64
    # The only difference: transformers detects special tokens in a text.
    assert tokenizer.convert_tokens_to_ids("[MASK]") in tokenizer(TEXTS[-1])["input_ids"]


def test_pipeline_entities_agree(cluener: Path, tmp_path: Path) -> None:
    """The pipeline agrees with `lenient`. Our default `strict` drops entities that start with I-."""
    model = make_ours(read_vocab(cluener / "vocab.txt"), LabelSet(CATEGORIES))
    export(model, tmp_path / "hf", "hf")
    pipeline = transformers.pipeline(
        "token-classification", str(tmp_path / "hf"), aggregation_strategy="simple"
    )
    texts = [example.text for example in read_cluener(cluener / "dev.json")[:50]]
    predicted = [
        [(entity["entity_group"], entity["start"], entity["end"]) for entity in row]
        for row in pipeline(texts)
    ]
    tagger = tagger_of(model)
    assert predicted == [[entity[:3] for entity in row] for row in tagger(texts, "lenient")]
    assert sum(map(len, predicted)) > 500
    orphans = 0
    for text, row, strict in zip(texts, predicted, tagger(texts), strict=True):
        ids = np.zeros((1, 64), np.int32)  # one width, so that the model is compiled once
        tokens = tagger.tokenizer.encode(text).ids
        ids[0, : len(tokens)] = tokens
        tags = np.asarray(tagger.logits(ids, ids > 0)).argmax(-1)[0, 1:]
        starts_with_b = [span for span in row if model.labels.names[tags[span[1]]][0] == "B"]
        assert starts_with_b == [entity[:3] for entity in strict]
        orphans += len(row) - len(starts_with_b)
    assert orphans > 100  # so the two conventions do differ


def by_character(names: list[str], vocab: list[str], tokenizer: str) -> ModelDir:
    """Return a tagger that predicts the i-th tag for the i-th token after the special ones, in any context."""
    labels = LabelSet.from_names(names)
    config = BertConfig(
        vocab_size=len(vocab), num_labels=len(labels), hidden_size=16, num_hidden_layers=1,
        num_attention_heads=2, intermediate_size=8, max_position_embeddings=64,
    )  # fmt: skip
    params = jax.tree.map(jnp.zeros_like, init_params(config, jax.random.key(0)))
    layer = params["encoder"]["layers"]["0"]
    for norm in (
        params["encoder"]["embeddings"]["norm"],
        layer["attention_norm"],
        layer["mlp_norm"],
    ):
        norm["scale"] = jnp.ones(16)
    word = jnp.eye(len(vocab), 16, -len(SPECIAL_TOKENS))
    params["encoder"]["embeddings"]["word"] = word
    params["head"]["classifier"]["kernel"] = jnp.eye(16, len(labels))
    return ModelDir(config, labels, vocab, 64, params, tokenizer=tokenizer)


@pytest.mark.parametrize("inside", ["I", "M"])
@pytest.mark.parametrize(("tokenizer", "strategy"), [("char", "simple"), ("wordpiece", "first")])
def test_pipeline_splits_bioes_entities_unless_labels_are_bio(
    tmp_path: Path, tokenizer: str, strategy: str, inside: str
) -> None:
    """A sample of the valid tag sequences of up to five tokens."""
    tags = "OBIESbies"  # lower case: the second category
    prefixes = {"I": inside, "i": inside}
    names = ["O"] + [
        f"{prefixes.get(tag, tag.upper())}-{'x' if tag.isupper() else 'y'}" for tag in tags[1:]
    ]
    model = by_character(names, [*SPECIAL_TOKENS, *"obiesacdf", "##o"], tokenizer)
    assert model.labels is not None
    allowed, texts = model.labels.allowed_transitions(), list[str]()
    for size in (1, 2, 3, 4, 5):
        for sequence in itertools.islice(itertools.product(range(9), repeat=size), 0, None, size):
            transitions = itertools.pairwise((0, *sequence, 0))
            text = (" " if tokenizer == "wordpiece" else "").join("obiesacdf"[i] for i in sequence)
            if all(allowed[step] for step in transitions):
                texts.append(text)
    export(model, tmp_path / "as_trained", "hf")
    assert strategy in export(model, tmp_path / "bio", "hf", "bio")
    predicted = {}
    for folder in ("as_trained", "bio"):
        pipeline = transformers.pipeline(
            "token-classification", str(tmp_path / folder), aggregation_strategy=strategy
        )
        predicted[folder] = [
            [(entity["entity_group"], entity["start"], entity["end"]) for entity in row]
            for row in pipeline(texts, batch_size=64)
        ]
    ours = [[entity[:3] for entity in row] for row in load(tmp_path / "as_trained")(texts)]
    assert predicted["bio"] == ours
    assert sum(map(len, ours)) > 500
    assert sum(map(len, predicted["as_trained"])) > sum(map(len, ours))


@pytest.mark.slow
@pytest.mark.every_python
def test_wordpieces_agree(cluener: Path, tmp_path: Path) -> None:
    """Against transformers' BERT tokenizer, created from the vocabulary and loaded from our export."""
    vocab = read_vocab(cluener / "vocab.txt")
    texts = [example.text for example in read_cluener(cluener / "dev.json")] + TEXTS[:-1]
    for lower_case in (True, False):
        model = make_ours(vocab, LabelSet(CATEGORIES), lower_case)
        model.tokenizer = "wordpiece"
        export(model, tmp_path / f"hf_{lower_case}", "hf")
        expected = WordPieceTokenizer(vocab, lower_case).encode_batch(texts)
        assert any("##" in token for encoding in expected for token in encoding.tokens)
        made = transformers.BertTokenizerFast(str(cluener / "vocab.txt"), do_lower_case=lower_case)
        loaded = transformers.AutoTokenizer.from_pretrained(tmp_path / f"hf_{lower_case}")
        for tokenizer in (made, loaded):
            actual = tokenizer(texts, return_offsets_mapping=True)
            assert actual["input_ids"] == [encoding.ids for encoding in expected]
            assert actual["offset_mapping"] == [encoding.offsets for encoding in expected]


def test_pipeline_words_agree(cluener: Path, tmp_path: Path) -> None:
    model = make_ours(read_vocab(cluener / "vocab.txt"), LabelSet(CATEGORIES))
    model.tokenizer = "wordpiece"
    export(model, tmp_path / "hf", "hf")
    pipeline = transformers.pipeline(
        "token-classification", str(tmp_path / "hf"), aggregation_strategy="first"
    )
    texts = [example.text for example in read_cluener(cluener / "dev.json")[:50]]
    texts += [
        "John Smith's iPhone7 sold 2008年 in Café Lumière, New-York.",
        "ΑΣ ẞß supercalifragilistic",
    ]
    predicted = [
        [(entity["entity_group"], entity["start"], entity["end"]) for entity in row]
        for row in pipeline(texts)
    ]
    ours = load(tmp_path / "hf")(texts, "lenient")
    assert predicted == [[entity[:3] for entity in row] for row in ours]
    assert sum(map(len, predicted)) > 500


def test_scores_of_one_token_entities_agree(cluener: Path, tmp_path: Path) -> None:
    """For one token, the pipeline's mean of probabilities equals our product."""
    model = make_ours(read_vocab(cluener / "vocab.txt"), LabelSet(CATEGORIES))
    export(model, tmp_path / "hf", "hf")
    pipeline = transformers.pipeline(
        "token-classification", str(tmp_path / "hf"), aggregation_strategy="simple"
    )
    texts = [example.text for example in read_cluener(cluener / "dev.json")[:5]]
    compared = 0
    for row, theirs_row in zip(tagger_of(model)(texts, "lenient"), pipeline(texts), strict=True):
        for entity, other in zip(row, theirs_row, strict=True):
            if entity.end - entity.start == 1:
                assert entity.score == pytest.approx(float(other["score"]), abs=1e-5)
                compared += 1
    assert compared > 20
