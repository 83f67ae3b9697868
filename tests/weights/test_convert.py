"""Conversion of weights to models: parameters, configuration, vocabulary, labels."""

import re
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import flax_ner
from convert.torch_to_flax import main
from flax_ner.data.cluener import CATEGORIES
from flax_ner.errors import UserError
from flax_ner.text.labels import LabelSet
from flax_ner.weights.conversion_report import Report
from flax_ner.weights.convert import convert
from flax_ner.weights.export import export
from flax_ner.weights.model_dir import ModelDir, load_model, save_model
from flax_ner.weights.open_model import open_model
from flax_ner.weights.safetensors_files import write_safetensors
from flax_ner.weights.source import open_source, read_json
from tests.weights.helpers import (
    CONFIG,
    LABELS,
    PRETRAINED,
    TRAINED,
    VOCAB,
    assert_same,
    tagger_state_dict,
    tiny_config,
    tiny_state_dict,
    write_source,
)

HEADS = {"num_attention_heads": 2}


@pytest.fixture(scope="module")
def converted(golden: Path, cluener: Path) -> dict[str, tuple[ModelDir, Report]]:
    """Convert both golden files."""
    return {
        name: convert(open_source(golden / f"{name}.pth", cluener / "vocab.txt"))
        for name in ("bert_softmax_tiny", "bert_pretrain_tiny_legacy")
    }


def test_a_trained_checkpoint_converts_completely(
    converted: dict[str, tuple[ModelDir, Report]], golden: Path
) -> None:
    model, report = converted["bert_softmax_tiny"]
    stated = read_json(golden / "config.json")
    row = model.config.to_json()
    assert {name: row[name] for name in stated if name in row} == {
        name: value for name, value in stated.items() if name not in ("categories", "id2label")
    }
    assert model.labels is not None
    assert (model.labels.scheme, model.labels.categories) == ("mmocr", CATEGORIES)
    assert len(model.vocab) == 21128
    assert model.max_length == 512
    assert (len(report.used), len(report.ignored), len(report.fresh)) == (39, 2, 0)


def test_masked_lm_head_is_converted_only_if_complete(tmp_path: Path) -> None:
    shapes = {
        "transform.dense.weight": (8, 8), "transform.dense.bias": (8,),
        "transform.LayerNorm.weight": (8,), "transform.LayerNorm.bias": (8,), "bias": (11,),
    }  # fmt: skip
    random = np.random.default_rng(1)
    head = {
        f"cls.predictions.{name}": random.normal(size=shape).astype(np.float32)
        for name, shape in shapes.items()
    }
    rest = tiny_state_dict(PRETRAINED)
    decoder = "cls.predictions.decoder.weight"
    tied = {decoder: rest["bert.embeddings.word_embeddings.weight"]}

    def convert_state(
        name: str, state: dict[str, np.ndarray], **config: Any
    ) -> tuple[ModelDir, Report]:
        source = write_source(tmp_path / name, state, config=config)
        return convert(open_source(source), None, HEADS)

    whole, report = convert_state("whole", rest | head | tied)
    converted_head = whole.params["masked_lm"]
    kernel = head["cls.predictions.transform.dense.weight"].T
    np.testing.assert_array_equal(converted_head["transform"]["kernel"], kernel)
    np.testing.assert_array_equal(converted_head["bias"], head["cls.predictions.bias"])
    assert report.ignored == [(decoder, "tied to the word embeddings and the bias")]

    untied, report = convert_state("untied", rest | head | tied, tie_word_embeddings=False)
    assert set(untied.params) == {"encoder"}
    assert {reason for _, reason in report.ignored} == {
        "masked language modelling head with untied embeddings: not supported"
    }
    for name, tensor in head.items():
        others = {other: tensor for other, tensor in head.items() if other != name}
        # The second case: transformers resized the embeddings but not the bias.
        for i, head_tensors in enumerate((others, others | {name: tensor[:-1]})):
            model, report = convert_state(f"{name}{i}", rest | head_tensors)
            assert set(model.params) == {"encoder"}
            assert {ignored for ignored, _ in report.ignored} == head_tensors.keys()


def test_the_legacy_file_converts_to_the_same_encoder(
    converted: dict[str, tuple[ModelDir, Report]],
) -> None:
    trained, _ = converted["bert_softmax_tiny"]
    encoder, report = converted["bert_pretrain_tiny_legacy"]
    assert set(encoder.params) == {"encoder"}
    assert encoder.labels is None
    assert_same(encoder.params["encoder"], trained.params["encoder"])
    assert len(report.used) == 37
    assert {name.split(".")[0] for name, _ in report.ignored} == {"cls", "bert"}
    assert [target for target, _ in report.fresh] == [
        "head/classifier/bias",
        "head/classifier/kernel",
    ]


def test_a_vocabulary_of_another_size_is_refused(trained: Path) -> None:
    trained.with_name("vocab.txt").write_text("\n".join([*VOCAB, "g"]), "utf-8")
    message = rf"vocab\.txt: 12 tokens, but {re.escape(str(trained))} has embeddings for 11"
    with pytest.raises(UserError, match=message):
        convert(open_source(trained), LABELS, HEADS)


@pytest.mark.parametrize(
    ("name", "value", "actual"),
    [("vocab_size", 12, 11), ("hidden_size", 16, 8), ("num_hidden_layers", 3, 2),
     ("intermediate_size", 8, 12), ("max_position_embeddings", 512, 6), ("type_vocab_size", 1, 2)],
)  # fmt: skip
def test_a_config_that_contradicts_the_tensors_is_refused(
    tmp_path: Path, name: str, value: int, actual: int
) -> None:
    path = write_source(tmp_path, tagger_state_dict(), config=tiny_config() | {name: value})
    message = f"config.json: {name} is {value}, but it is {actual} in the tensors of {path}."
    with pytest.raises(UserError, match=re.escape(message)):
        convert(open_source(path))


def test_an_unusual_hidden_size_needs_the_number_of_heads(trained: Path) -> None:
    with pytest.raises(
        UserError,
        match=r"f\.pth: hidden size 8 is not a multiple of 64, .*--num-attention-heads of",
    ):
        convert(open_source(trained), LABELS)


def test_fields_without_tensors_come_from_the_config(tmp_path: Path) -> None:
    stated = tiny_config() | {
        "num_attention_heads": 4,
        "hidden_act": "gelu_pytorch_tanh",  # alias of gelu_new
        "layer_norm_eps": 1e-5,
        "hidden_dropout_prob": 0.25,
        "classifier_dropout": None,  # None means hidden_dropout_prob
        "initializer_range": 1,
    }
    path = write_source(tmp_path, tagger_state_dict(), config=stated)
    defaults = {"hidden_act": "gelu", "classifier_dropout": 0.5, "num_attention_heads": 8}
    model, report = convert(open_source(path), None, defaults | {"classifier_dropout": 0.25})
    assert report.notes == []
    config = model.config
    assert (config.num_attention_heads, config.hidden_act, config.layer_norm_eps) == (
        4, "gelu_new", 1e-5,
    )  # fmt: skip
    assert (config.hidden_dropout_prob, config.classifier_dropout) == (0.25, 0.25)
    assert config.initializer_range == 1.0 and type(config.initializer_range) is float


def test_assumed_fields_are_noted(trained: Path) -> None:
    model, report = convert(open_source(trained), LABELS, HEADS)
    assert model.config == CONFIG
    assert report.notes == [
        "Activation: gelu_new, as in MMOCR (no config.json).",
        "LayerNorm eps: 1e-12, as in BERT (no config.json).",
    ]


def test_a_missing_activation_is_that_of_the_family(tmp_path: Path) -> None:
    state = tiny_state_dict(PRETRAINED)
    for row, activation in (
        ({"model_type": "bert"} | HEADS, "gelu, as in Hugging Face"),
        (HEADS, "gelu_new, as in MMOCR"),
    ):
        source = open_source(write_source(tmp_path, state, "f.pth", row))
        _, report = convert(source)
        assert f"Activation: {activation} (config.json does not say)." in report.notes


def test_heads_are_64_wide_by_default(golden: Path, cluener: Path, tmp_path: Path) -> None:
    (tmp_path / "f.pth").symlink_to(golden / "bert_softmax_tiny.pth")
    model, report = convert(open_source(tmp_path / "f.pth", cluener / "vocab.txt"))
    assert model.config.num_attention_heads == 1
    assert report.notes[0].startswith("Attention heads: 1, for the usual head width of 64")


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"model_type": "albert"}, "model_type is 'albert' (ALBERT: its layers share"),
        ({"model_type": "modernbert"}, "model_type is 'modernbert' (ModernBERT: it is another"),
        ({"model_type": "roberta"}, "a model of model_type roberta has one of roberta.embed"),
        ({"model_type": "llama"}, "model_type is 'llama' (it is another architecture)"),
        ({"position_embedding_type": "relative_key"}, "position_embedding_type is 'relative_key'"),
        ({"is_decoder": True}, "is_decoder is True"),
        ({"hidden_act": "silu"}, "model.hidden_act: 'silu' is unknown"),
        ({"hidden_act": 7}, "hidden_act is 7, expected str"),
        ({"num_attention_heads": "2"}, "num_attention_heads is '2', expected int"),
        ({"num_attention_heads": True}, "num_attention_heads is True, expected int"),
        ({"num_attention_heads": 0}, "model.num_attention_heads: 0"),
        ({"num_attention_heads": -8}, "model.num_attention_heads: -8"),
        ({"num_attention_heads": 3}, "model.hidden_size: 8 is not a multiple of"),
        ({"num_attention_heads": 10**30}, "is not a multiple of"),
        ({"layer_norm_eps": "tiny"}, "layer_norm_eps is 'tiny', expected float"),
        ({"layer_norm_eps": float("nan")}, "layer_norm_eps is nan, expected float"),
        ({"hidden_dropout_prob": 1.5}, "model.hidden_dropout_prob: 1.5"),
        ({"id2label": {"0": "O"}}, "id2label does not name the 5 outputs"),
        ({"id2label": ["O"] * 5}, "id2label does not name the 5 outputs"),
        ({"id2label": {str(i): i for i in range(5)}}, "id2label does not name the 5 outputs"),
        ({"id2label": {str(i): f"T{i}" for i in range(5)}}, "'T0' is not a tag"),
        ({"id2label": {str(i): f"LABEL_{i}" for i in range(5)}}, "torch_to_flax.py --labels FILE"),
        ({"id2label": None}, "torch_to_flax.py --labels FILE"),
    ],
)
def test_an_invalid_config_is_refused_with_field_and_path(
    tmp_path: Path, row: dict[str, Any], message: str
) -> None:
    path = write_source(tmp_path, tagger_state_dict(), config=tiny_config() | row)
    with pytest.raises(UserError) as caught:
        convert(open_source(path))
    assert message in str(caught.value)
    assert str(tmp_path) in str(caught.value)


@pytest.mark.parametrize(
    ("labels", "size"), [(None, 24), (LabelSet(["a"]), 3), (LabelSet(["a"], "mmocr"), 6)]
)
def test_the_number_of_labels_must_match_the_outputs(
    trained: Path, labels: LabelSet | None, size: int
) -> None:
    with pytest.raises(
        UserError, match=rf"head has 5 outputs, but there are {size} labels .*--labels"
    ):
        convert(open_source(trained), labels, HEADS)


def test_an_encoder_accepts_no_labels(tmp_path: Path) -> None:
    path = write_source(tmp_path, tiny_state_dict(PRETRAINED), "f.pth")
    model, report = convert(open_source(path), None, HEADS)
    assert model.labels is None
    assert len(report.fresh) == 2
    with pytest.raises(UserError, match=r"--labels: .*f\.pth has no head for tagging"):
        convert(open_source(path), LABELS, HEADS)


def test_a_head_with_unknown_labels_is_dropped_with_try(tmp_path: Path) -> None:
    names = {str(i): name for i, name in enumerate(["NOUN", "VERB", "ADJ", "ADP", "X"])}
    path = write_source(tmp_path, tagger_state_dict(), config=tiny_config() | {"id2label": names})
    with pytest.raises(UserError, match="'NOUN' is not a tag"):
        open_model(path, "path")
    model, report = open_model(path, "init_from", head="try")
    assert model.labels is None and set(model.params) == {"encoder"}
    assert report is not None and report.notes[-1].startswith("The head is dropped. ")


@pytest.mark.parametrize(
    "head",
    [
        {"crf.transitions": (5, 5), "crf.start_transitions": (5,)},
        {"classifier.0.weight": (5, 8), "classifier.0.bias": (5,)},
        {"cls.weight": (5, 8)},
    ],
    ids=["crf", "sequential", "cls"],
)
@pytest.mark.parametrize("readable", [True, False])
def test_an_unknown_head_is_reported_and_can_be_dropped(
    tmp_path: Path, head: dict[str, tuple[int, ...]], readable: bool
) -> None:
    state = {n: t for n, t in tagger_state_dict().items() if readable or "classifier" not in n}
    state |= {name: np.zeros(shape, np.float32) for name, shape in head.items()}
    path = write_source(tmp_path / "hf", state, config=tiny_config())
    named = f"unknown head: {', '.join(sorted(head))}. Only a single linear layer"
    with pytest.raises(UserError, match=re.escape(named) + r".* --drop-head"):
        open_model(path, "MODEL")
    model, report = open_model(path, "init_from", head="try")
    assert report is not None and set(model.params) == {"encoder"}
    assert f"The head is dropped, because it is unknown: {', '.join(sorted(head))}." in report.notes
    main([str(path), str(tmp_path / "model"), "--drop-head"])
    again = load_model(tmp_path / "model")
    assert again.labels is None
    assert_same(again.params, model.params)


def test_a_known_head_can_be_dropped(tmp_path: Path) -> None:
    path = write_source(tmp_path, tagger_state_dict(), config=tiny_config())
    model, report = convert(open_source(path), head="drop")
    assert model.labels is None and set(model.params) == {"encoder"}
    assert {name for name, _ in report.ignored} == {"classifier.weight", "classifier.bias"}
    path = write_source(tmp_path, tiny_state_dict(TRAINED), "f.pth")
    mmocr, _ = convert(open_source(path), head="drop")
    assert mmocr.tokenizer == "char"  # MMOCR's files always have the char tokenizer
    assert_same(mmocr.params, model.params)


def test_a_long_head_is_reported_by_its_first_tensors(tmp_path: Path) -> None:
    state = tagger_state_dict() | {f"lstm.{i}": np.zeros(1, np.float32) for i in range(9)}
    with pytest.raises(UserError, match=r"unknown head: lstm\.0, .*lstm\.4 and 4 more\."):
        convert(open_source(write_source(tmp_path, state, config=tiny_config())))


def test_labels_without_prefixes_are_read_as_io_tags(tmp_path: Path) -> None:
    names = ["O", "PER", "LOC", "ORG", "MISC"]
    stated = tiny_config() | {"id2label": {str(i): name for i, name in enumerate(names)}}
    path = write_source(tmp_path / "hf", tagger_state_dict(), config=stated)
    model, _ = convert(open_source(path))
    assert model.labels is not None
    assert (model.labels.scheme, model.labels.names) == ("io", names)
    message = export(model, tmp_path / "back", "hf")
    assert "Warning" not in message  # the pipeline groups such labels correctly
    row = read_json(tmp_path / "back" / "config.json")
    assert list(row["id2label"].values()) == names
    save_model(tmp_path / "model", model)
    tagger = flax_ner.load(tmp_path / "model")
    entities, probabilities = tagger("abcd"), tagger.predict_proba("abcd")
    best = [names[i] for i in probabilities.argmax(-1)]
    runs = [(category, len(list(run))) for category, run in groupby(best)]
    assert [(e.type, e.end - e.start) for e in entities] == [run for run in runs if run[0] != "O"]


def test_values_beyond_float32_are_refused(tmp_path: Path) -> None:
    state = {name: tensor.astype(np.float64) for name, tensor in tagger_state_dict().items()}
    state["classifier.bias"][0] = 1e300
    path = write_source(tmp_path, {}, config=tiny_config())
    write_safetensors(path, state)
    with pytest.raises(
        UserError, match=r"classifier\.bias: has values that are not finite in float32"
    ):
        convert(open_source(path))


def test_a_model_directory_is_not_converted_again(tmp_path: Path) -> None:
    path = write_source(tmp_path / "hf", tagger_state_dict(), config=tiny_config())
    main([str(path), str(tmp_path / "model")])
    with pytest.raises(SystemExit, match="model: is already a model directory"):
        main([str(tmp_path / "model"), str(tmp_path / "again")])


def test_a_head_without_its_bias_is_refused(tmp_path: Path) -> None:
    state = tiny_state_dict(TRAINED)
    del state["decoder.classifier.bias"]
    path = write_source(tmp_path, state, "f.pth")
    with pytest.raises(UserError, match=r"missing: decoder\.classifier\.bias"):
        convert(open_source(path), LABELS, HEADS)


@pytest.mark.parametrize("name", ["BertForSequenceClassification", "BertForMultipleChoice"])
def test_a_sequence_classification_head_is_ignored(tmp_path: Path, name: str) -> None:
    state = tagger_state_dict() | {
        "bert.pooler.dense.weight": np.zeros((8, 8), np.float32),
        "bert.pooler.dense.bias": np.zeros(8, np.float32),
    }
    path = write_source(tmp_path, state, config=tiny_config() | {"architectures": [name]})
    model, report = convert(open_source(path))
    assert model.labels is None and set(model.params) == {"encoder"}
    assert report.layout == f"Hugging Face {name}"
    assert dict(report.ignored)["classifier.weight"].startswith("head for whole sentences")


def test_all_tensor_errors_are_reported_together(tmp_path: Path) -> None:
    """A missing tensor, an extra tensor and a tensor of the wrong shape."""
    state = tagger_state_dict()
    del state["bert.encoder.layer.1.output.dense.bias"]
    state["bert.encoder.layer.0.output.dense.weight"] = np.zeros((12, 8), np.float32)
    state["lstm.weight"] = np.zeros(3, np.float32)
    path = write_source(tmp_path, state, config=tiny_config())
    with pytest.raises(UserError) as caught:
        convert(open_source(path))
    assert str(caught.value).splitlines() == [
        f"{path}: cannot be converted (Hugging Face BertForTokenClassification):",
        "  wrong shape: bert.encoder.layer.0.output.dense.weight is [12, 8], the model needs [8, 12]",
        "  missing: bert.encoder.layer.1.output.dense.bias, for encoder/layers/1/mlp_out/bias",
        "  unknown head: lstm.weight. Only a single linear layer named classifier is supported. To convert "
        "only the encoder, use convert/torch_to_flax.py --drop-head.",
    ]


# --- open_model and load -------------------------------------------------------------------------


def test_open_model_accepts_files_folders_and_model_directories(tmp_path: Path) -> None:
    path = write_source(tmp_path / "hf", tagger_state_dict(), config=tiny_config())
    model, report = open_model(path.parent, "path")
    assert report is not None and report.layout.endswith("BertForTokenClassification")
    save_model(tmp_path / "model", model)
    for other in (path, tmp_path / "model"):
        again, _ = open_model(other, "path")
        assert_same(again.params, model.params)
        assert (again.config, again.vocab) == (model.config, model.vocab)
        assert again.labels is not None and again.labels.names == LABELS.names


def test_load_warns_about_assumptions(tmp_path: Path) -> None:
    stated = tiny_config()
    del stated["layer_norm_eps"]
    path = write_source(tmp_path, tagger_state_dict(), config=stated)
    with pytest.warns(UserWarning, match=r"LayerNorm eps: 1e-12, .*config\.json does not say"):
        flax_ner.load(path)
