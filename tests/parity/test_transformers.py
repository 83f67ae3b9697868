"""Models of Hugging Face transformers, converted both ways, where it and PyTorch are installed."""

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
from flax_ner.model.bert import BertConfig
from flax_ner.model.tagger import init_params
from flax_ner.text.cluener import read_cluener
from flax_ner.text.labels import LabelSet
from flax_ner.text.tokenizer import CharTokenizer, WordPieceTokenizer
from flax_ner.text.vocab import SPECIAL_TOKENS, read_vocab
from flax_ner.weights.convert import CLUENER, convert
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
        # Deep in transformers and torch; nothing of ours.
        warnings.simplefilter("ignore", DeprecationWarning)
        yield


def theirs(head: str, vocab_size: int, hidden_act: str, shape: dict[str, int], std: float) -> Any:
    """A random model of theirs with no tensor at its initial value."""
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
    """The same logits, or the same vectors under the head, at every token."""
    size = ours.config.vocab_size
    ids = np.random.default_rng(0).integers(0, size, (3, width))
    mask = (np.arange(width) < np.array([[width], [width // 2], [5]])).astype(np.int64)
    params = ours.params
    if ours.labels is None:  # an encoder: a head that shows its vectors as they are
        head = init_params(ours.config, jax.random.key(0))["head"]["classifier"]
        eye = jnp.eye(ours.config.hidden_size)[:, : head["kernel"].shape[1]]
        shown = {"classifier": {"kernel": eye, "bias": head["bias"] * 0}}
        params = {"encoder": params["encoder"], "head": shown}
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
def test_tiny_models_give_the_same_numbers(tmp_path: Path, head: str, hidden_act: str) -> None:
    model = theirs(head, 300, hidden_act, TINY, 0.1)
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
def test_base_size_models_give_the_same_numbers(tmp_path: Path, hidden_act: str) -> None:
    model = theirs(HEADS[0], 21128, hidden_act, BASE, 0.01)
    write_vocab_of(tmp_path, 21128)
    model.save_pretrained(tmp_path)
    ours, _ = convert(open_source(tmp_path))
    assert (ours.config.num_hidden_layers, ours.config.hidden_size) == (12, 768)
    compare(model, ours, 128)
    # And back: every bit of what they hold.
    export(ours, tmp_path / "back", "hf")
    back = transformers.AutoModelForTokenClassification.from_pretrained(tmp_path / "back")
    for name, tensor in model.state_dict().items():
        assert torch.equal(back.state_dict()[name], tensor), name


# --- Ours in their hands -------------------------------------------------------------------------


def ours_over(vocab: list[str], labels: LabelSet, lower_case: bool = True) -> ModelDir:
    """A random tagger that finds many entities, well-formed and not."""
    config = BertConfig(vocab_size=len(vocab), num_labels=len(labels), **TINY)
    params = init_params(config, jax.random.key(0))
    keys = iter(jax.random.split(jax.random.key(1), 100))
    params = jax.tree.map(lambda x: x + 0.1 * jax.random.normal(next(keys), x.shape), params)
    return ModelDir(config, labels, vocab, 64, params, lower_case)


def tagger_of(model: ModelDir) -> Tagger:
    tokenizer = CharTokenizer(model.vocab, model.lower_case)
    assert model.labels is not None
    return Tagger(model.config, model.params, tokenizer, model.labels, model.max_length)


@pytest.mark.parametrize("labels", [LabelSet(CLUENER), LabelSet.mmocr(CLUENER)])
def test_transformers_loads_the_export_whole(tmp_path: Path, labels: LabelSet) -> None:
    vocab = write_vocab_of(tmp_path, 300)
    export(ours_over(vocab, labels), tmp_path / "hf", "hf")
    model, info = transformers.AutoModelForTokenClassification.from_pretrained(
        tmp_path / "hf", output_loading_info=True
    )
    assert type(model).__name__ == "BertForTokenClassification"
    assert not any(info.values()), info
    assert [model.config.id2label[i] for i in range(len(labels))] == labels.names
    compare(model.eval(), convert(open_source(tmp_path / "hf"))[0], 40)


def test_transformers_loads_an_encoder_but_for_the_pooler(tmp_path: Path) -> None:
    encoder = ours_over(write_vocab_of(tmp_path, 300), LabelSet(["a"]))
    encoder.labels, encoder.params = None, {"encoder": encoder.params["encoder"]}
    export(encoder, tmp_path / "hf", "hf")
    model, info = transformers.AutoModel.from_pretrained(
        tmp_path / "hf", output_loading_info=True, add_pooling_layer=False
    )
    assert type(model).__name__ == "BertModel"
    assert not any(info.values()), info


TEXTS = ["NBA 2008年İ中国\n", "", " ", "e\u0301É😀👨\u200d👩", "ΑΣ ẞß", "[MASK] ##b"]


@pytest.mark.parametrize("lower_case", [True, False])
def test_their_tokenizer_is_ours(cluener: Path, tmp_path: Path, lower_case: bool) -> None:
    vocab = read_vocab(cluener / "vocab.txt")
    export(ours_over(vocab, LabelSet(CLUENER), lower_case), tmp_path / "hf", "hf")
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "hf")
    texts = [example.text for example in read_cluener(cluener / "dev.json")] + TEXTS[:-1]
    found = tokenizer(texts, return_offsets_mapping=True)
    expected = CharTokenizer(vocab, lower_case).encode_batch(texts)
    assert found["input_ids"] == [encoding.ids for encoding in expected]
    assert found["offset_mapping"] == [encoding.offsets for encoding in expected]
    assert tokenizer.model_max_length == 64
    # The one difference: they find special tokens in a text, here they are plain characters.
    assert tokenizer.convert_tokens_to_ids("[MASK]") in tokenizer(TEXTS[-1])["input_ids"]


def test_their_pipeline_finds_our_entities(cluener: Path, tmp_path: Path) -> None:
    """Equal under `lenient`, which is their convention. Ours by default is `strict`: it drops what
    begins with an I-, and they differ in just those."""
    model = ours_over(read_vocab(cluener / "vocab.txt"), LabelSet(CLUENER))
    export(model, tmp_path / "hf", "hf")
    pipeline = transformers.pipeline(
        "token-classification", str(tmp_path / "hf"), aggregation_strategy="simple"
    )
    texts = [example.text for example in read_cluener(cluener / "dev.json")[:50]]
    found = [
        [(entity["entity_group"], entity["start"], entity["end"]) for entity in row]
        for row in pipeline(texts)
    ]
    tagger = tagger_of(model)
    assert found == [[entity[:3] for entity in row] for row in tagger(texts, "lenient")]
    assert sum(map(len, found)) > 500
    orphans = 0
    for text, row, strict in zip(texts, found, tagger(texts), strict=True):
        ids = np.array([tagger.tokenizer.encode(text).ids])
        tags = np.asarray(tagger.logits(ids, np.ones_like(ids))).argmax(-1)[0, 1:-1]
        begun = [span for span in row if model.labels.names[tags[span[1]]][0] == "B"]
        assert begun == [entity[:3] for entity in strict]
        orphans += len(row) - len(begun)
    assert orphans > 100  # so the two conventions were told apart


def by_character(names: list[str], vocab: list[str], tokenizer: str) -> ModelDir:
    """A tagger that gives the i-th token after the special ones the i-th tag, whatever is around it."""
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
def test_the_pipeline_splits_ends_but_not_with_labels_bio(
    tmp_path: Path, tokenizer: str, strategy: str, inside: str
) -> None:
    """All well-formed tags of up to five tokens, and some that are not."""
    tags = "OBIESbies"  # of two categories
    places = {"I": inside, "i": inside}
    names = ["O"] + [
        f"{places.get(tag, tag.upper())}-{'x' if tag.isupper() else 'y'}" for tag in tags[1:]
    ]
    model = by_character(names, [*SPECIAL_TOKENS, *"obiesacdf", "##o"], tokenizer)
    assert model.labels is not None
    legal, texts, broken = model.labels.legal_steps(), list[str](), list[str]()
    for size in (1, 2, 3, 4, 5):
        for sequence in itertools.islice(itertools.product(range(9), repeat=size), 0, None, size):
            steps = itertools.pairwise((0, *sequence, 0))
            text = (" " if tokenizer == "wordpiece" else "").join("obiesacdf"[i] for i in sequence)
            (texts if all(legal[step] for step in steps) else broken).append(text)
    export(model, tmp_path / "as_trained", "hf")
    assert strategy in export(model, tmp_path / "bio", "hf", "bio")
    found = {}
    for folder in ("as_trained", "bio"):
        pipeline = transformers.pipeline(
            "token-classification", str(tmp_path / folder), aggregation_strategy=strategy
        )
        found[folder] = [
            [(entity["entity_group"], entity["start"], entity["end"]) for entity in row]
            for row in pipeline(texts)
        ]
    ours = [[entity[:3] for entity in row] for row in load(tmp_path / "as_trained")(texts)]
    assert found["bio"] == ours
    assert sum(map(len, ours)) > 500
    assert sum(map(len, found["as_trained"])) > sum(map(len, ours))


def test_their_wordpieces_are_ours(cluener: Path, tmp_path: Path) -> None:
    """Against their BERT tokenizer made from the vocabulary alone, and our export of ours."""
    vocab = read_vocab(cluener / "vocab.txt")
    texts = [example.text for example in read_cluener(cluener / "dev.json")] + TEXTS[:-1]
    for lower_case in (True, False):
        model = ours_over(vocab, LabelSet(CLUENER), lower_case)
        model.tokenizer = "wordpiece"
        export(model, tmp_path / f"hf_{lower_case}", "hf")
        expected = WordPieceTokenizer(vocab, lower_case).encode_batch(texts)
        assert any("##" in token for encoding in expected for token in encoding.tokens)
        made = transformers.BertTokenizerFast(str(cluener / "vocab.txt"), do_lower_case=lower_case)
        loaded = transformers.AutoTokenizer.from_pretrained(tmp_path / f"hf_{lower_case}")
        for theirs in (made, loaded):
            found = theirs(texts, return_offsets_mapping=True)
            assert found["input_ids"] == [encoding.ids for encoding in expected]
            assert found["offset_mapping"] == [encoding.offsets for encoding in expected]


def test_their_pipeline_finds_our_words(cluener: Path, tmp_path: Path) -> None:
    model = ours_over(read_vocab(cluener / "vocab.txt"), LabelSet(CLUENER))
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
    found = [
        [(entity["entity_group"], entity["start"], entity["end"]) for entity in row]
        for row in pipeline(texts)
    ]
    ours = load(tmp_path / "hf")(texts, "lenient")
    assert found == [[entity[:3] for entity in row] for row in ours]
    assert sum(map(len, found)) > 500


def test_scores_of_one_token_are_theirs(cluener: Path, tmp_path: Path) -> None:
    """Theirs is the mean over an entity's tokens, ours their product: equal for one token."""
    model = ours_over(read_vocab(cluener / "vocab.txt"), LabelSet(CLUENER))
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
