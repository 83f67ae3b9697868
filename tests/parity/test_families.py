"""Encoders other than BERT against transformers, in both directions. Needs transformers and PyTorch."""

import json
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

from flax_ner.model.losses import cross_entropy
from flax_ner.model.mlm_head import apply_masked_lm
from flax_ner.model.tagging_model import Params, abstract_params, apply, init_params
from flax_ner.text.labels import LabelSet
from flax_ner.text.subword import SubwordTokenizer, roberta_definition
from flax_ner.weights.convert import convert
from flax_ner.weights.export import export
from flax_ner.weights.layouts import HF_LAYOUTS
from flax_ner.weights.model_dir import ModelDir, load_model, save_model
from flax_ner.weights.names import match_tensors
from flax_ner.weights.source import open_source
from flax_ner.weights.tensor_copy import fill
from tests.subwords import byte_level_bpe, unigram, word_pieces

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

TAGS = LabelSet(["name", "place"], "bioes")
SHAPE = {
    "hidden_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 96,
    "max_position_embeddings": 40,
}
OFFSET = {"type_vocab_size": 1, "layer_norm_eps": 1e-5, "max_position_embeddings": 42}
# Name -> family, fields of its configuration, function that writes its tokenizer.
FAMILIES: dict[str, tuple[str, dict[str, Any], Any]] = {
    "roberta": ("roberta", OFFSET | {"pad_token_id": 1}, byte_level_bpe),
    "xlm-roberta": ("xlm-roberta", OFFSET | {"pad_token_id": 1}, unigram),
    "camembert": ("camembert", OFFSET | {"pad_token_id": 1}, unigram),
    "electra": ("electra", {"embedding_size": 24}, word_pieces),
    "electra, not projected": ("electra", {"embedding_size": 48}, word_pieces),
    "ernie": (
        "ernie",
        {"use_task_id": True, "task_type_vocab_size": 3, "hidden_act": "relu"},
        word_pieces,
    ),
    "ernie, no task types": ("ernie", {"type_vocab_size": 4, "pad_token_id": 0}, word_pieces),
}
TAGGER = "ForTokenClassification"
DISTINCT = ("roberta", "electra", "ernie")  # one per architecture
CASES = [(name, TAGGER) for name in FAMILIES]
CASES += [(name, head) for name in DISTINCT for head in ("ForMaskedLM", "Model")]
WIDTH = 40


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    transformers.utils.logging.disable_progress_bar()
    with warnings.catch_warnings():
        # Raised inside transformers and torch.
        warnings.simplefilter("ignore", DeprecationWarning)
        yield


def make(name: str, head: str, folder: Path) -> tuple[Any, ModelDir]:
    """Save a random model of transformers, in which no tensor has its initial value, and convert it."""
    model_type, fields, write_tokenizer = FAMILIES[name]
    folder.mkdir()
    size = write_tokenizer(folder)
    id2label = dict(enumerate(TAGS.names))
    if head == "ForMaskedLM":  # the head of some families has an activation of its own
        fields = fields | {"hidden_act": "relu"}
    config = transformers.AutoConfig.for_model(
        model_type, vocab_size=size, id2label=id2label,
        label2id={tag: i for i, tag in id2label.items()}, **SHAPE | fields,
    )  # fmt: skip
    model = getattr(transformers, HF_LAYOUTS[model_type][0].family.name + head)(config).eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn(parameter.shape, generator=generator)
    model.save_pretrained(folder)
    ours, report = convert(open_source(folder))
    assert report.layout == f"Hugging Face {type(model).__name__}" and not report.notes
    return model, ours


def inputs(size: int) -> tuple[np.ndarray, np.ndarray]:
    """Return ids and mask [3, T]. Padding has RoBERTa's id 1, for which PyTorch has no gradient."""
    ids = np.random.default_rng(0).integers(2, size, (3, WIDTH))
    mask = (np.arange(WIDTH) < np.array([[WIDTH], [23], [5]])).astype(np.int64)
    return np.where(mask, ids, 1), mask


def call(ours: ModelDir, params: Params, ids: np.ndarray, mask: np.ndarray) -> Any:
    positions = np.broadcast_to(np.arange(WIDTH), ids.shape)
    return jax.jit(apply, static_argnums=0)(ours.config, params, ids, mask, positions)


def vectors(ours: ModelDir, ids: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Return the first components of the encoder's vectors, with an identity matrix as head."""
    head = init_params(ours.config, jax.random.key(0))["head"]
    eye = jnp.eye(ours.config.hidden_size)[:, : ours.config.num_labels]
    identity = {"classifier": {"kernel": eye, "bias": head["classifier"]["bias"] * 0}}
    return np.asarray(call(ours, {"encoder": ours.params["encoder"], "head": identity}, ids, mask))


def masked_lm_logits(ours: ModelDir, ids: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Return the logits of the masked language model, float32 [3, T, V]."""
    params = {"encoder": ours.params["encoder"], "head": ours.params["masked_lm"]}
    indices = np.broadcast_to(np.arange(WIDTH), ids.shape)
    arguments = (ids, mask, indices, indices, np.arange(ours.config.vocab_size))
    return np.asarray(jax.jit(apply_masked_lm, static_argnums=0)(ours.config, params, *arguments))


@pytest.mark.parametrize(("name", "head"), CASES)
def test_outputs_match_transformers_in_both_directions(
    tmp_path: Path, name: str, head: str
) -> None:
    model, ours = make(name, head, tmp_path / "theirs")
    ids, mask = inputs(ours.config.vocab_size)
    with torch.no_grad():
        output = model(input_ids=torch.tensor(ids), attention_mask=torch.tensor(mask))
    if head == TAGGER:
        assert ours.labels is not None and ours.labels.names == TAGS.names
        actual, expected = np.asarray(call(ours, ours.params, ids, mask)), output.logits.numpy()
    elif head == "ForMaskedLM":
        actual, expected = masked_lm_logits(ours, ids, mask), output.logits.numpy()
    else:
        actual = vectors(ours, ids, mask)
        expected = output.last_hidden_state.numpy()[..., : ours.config.num_labels]
    np.testing.assert_allclose(actual[mask > 0], expected[mask > 0], rtol=0, atol=1e-4)

    save_model(
        tmp_path / "ours", ours
    )  # a model directory must hold everything that an export needs
    export(load_model(tmp_path / "ours"), tmp_path / "back", "hf")
    auto = getattr(transformers, f"AutoModel{head.removesuffix('Model')}")
    options = {} if head != "Model" or name.startswith("electra") else {"add_pooling_layer": False}
    back, info = auto.from_pretrained(tmp_path / "back", output_loading_info=True, **options)
    assert type(back) is type(model) and not any(info.values()), info
    tensors = model.state_dict()
    assert back.state_dict().keys() == {x for x in tensors if not x.startswith("pooler.")}
    for tensor_name, tensor in back.state_dict().items():
        assert torch.equal(tensor, tensors[tensor_name]), tensor_name
    with torch.no_grad():
        again = back.eval()(input_ids=torch.tensor(ids), attention_mask=torch.tensor(mask))
    assert torch.equal(again[0][mask > 0], output[0][mask > 0])

    theirs, exported = (
        transformers.AutoTokenizer.from_pretrained(tmp_path / x) for x in ("theirs", "back")
    )
    texts = ["王建国在东海市工作。", "Hello, big world", " a  b\n", ""]
    assert exported(texts)["input_ids"] == theirs(texts)["input_ids"]
    own = ours.build_tokenizer()
    assert [own.encode(text).ids for text in texts] == theirs(texts)["input_ids"]
    for role in ("pad", "mask", "cls", "sep", "unk"):
        assert getattr(exported, f"{role}_token") == getattr(theirs, f"{role}_token")


@pytest.mark.parametrize("name", [*DISTINCT, "xlm-roberta"])
def test_gradients_match_transformers(tmp_path: Path, name: str) -> None:
    model, ours = make(name, TAGGER, tmp_path / "theirs")
    ids, mask = inputs(ours.config.vocab_size)
    labels = np.random.default_rng(1).integers(0, len(TAGS), ids.shape)
    ignored = torch.tensor(np.where(mask > 0, labels, -100))
    arguments = {"input_ids": torch.tensor(ids), "attention_mask": torch.tensor(mask)}
    model(**arguments, labels=ignored).loss.backward()

    @jax.jit
    @jax.grad
    def gradients(params: Params) -> jax.Array:
        return cross_entropy(call(ours, params, ids, mask), jnp.asarray(labels), mask)

    actual = flatten_dict(gradients(jax.tree.map(jnp.asarray, ours.params)), sep="/")
    named = {x: parameter.grad.numpy() for x, parameter in model.named_parameters()}
    layout, abstract = HF_LAYOUTS[FAMILIES[name][0]][0], abstract_params(ours.config)
    expected = flatten_dict(fill(match_tensors(named, layout, abstract), named, abstract), sep="/")
    assert actual.keys() == expected.keys()
    for path, gradient in actual.items():
        difference = np.linalg.norm(np.asarray(gradient) - expected[path])
        assert difference <= 1e-4 * max(np.linalg.norm(expected[path]), 1e-3), path


def test_roberta_vocab_and_merges_match_their_tokenizer(tmp_path: Path) -> None:
    byte_level_bpe(tmp_path)
    made = SubwordTokenizer((tmp_path / "tokenizer.json").read_text("utf-8"))
    made._backend.model.save(str(tmp_path))
    (tmp_path / "vocab.json").write_text(json.dumps({t: i for i, t in enumerate(made.tokens)}))
    theirs = transformers.RobertaTokenizerFast(
        str(tmp_path / "vocab.json"), str(tmp_path / "merges.txt")
    )
    ours = SubwordTokenizer(
        roberta_definition(tmp_path / "vocab.json", tmp_path / "merges.txt", {})
    )
    texts = ["Hello world, the 2008年", " 国内  银行\n", "a<mask>b</s>", ""]
    expected = theirs(texts, return_offsets_mapping=True)
    assert [ours.encode(text).ids for text in texts] == expected["input_ids"]
    assert [ours.encode(text).offsets for text in texts] == expected["offset_mapping"]
