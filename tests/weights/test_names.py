"""Mapping of tensor names, layouts and shapes."""

import re
from typing import Any

import numpy as np
import pytest
from flax.traverse_util import flatten_dict

from flax_ner.errors import UserError
from flax_ner.model.tagging_model import abstract_params
from flax_ner.weights.conversion_report import Report
from flax_ner.weights.layouts import LAYOUTS, MMOCR, Layout, detect_layout
from flax_ner.weights.names import current_names, infer_shape, match_tensors
from flax_ner.weights.tensor_copy import fill, to_torch
from tests.weights.helpers import CONFIG, PRETRAINED, TRAINED, old_name, tiny_state_dict

ABSTRACT = abstract_params(CONFIG)
EXTRA = {
    "pooler.dense.weight": "pooler: not used for tagging",
    "pooler.dense.bias": "pooler: not used for tagging",
    "embeddings.position_ids": "buffer, not a parameter",
}
HEAD_TARGETS = {"head/classifier/kernel", "head/classifier/bias"}


def current(state: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {name: state[old] for name, old in current_names(state, "f.pth").items()}


def report_of(state: dict[str, np.ndarray]) -> Report:
    tensors = current(state)
    return match_tensors(tensors, detect_layout(tensors, "f.pth"), ABSTRACT)


def convert(state: dict[str, np.ndarray]) -> tuple[dict[str, Any], Report]:
    report = report_of(state)
    assert report.errors == []
    return fill(report, current(state), ABSTRACT), report


@pytest.mark.parametrize("old_names", [False, True], ids=["weight-bias", "gamma-beta"])
@pytest.mark.parametrize("prefix", [TRAINED, PRETRAINED])
def test_every_parameter_is_filled_exactly_once(prefix: str, old_names: bool) -> None:
    state = tiny_state_dict(prefix, old_names)
    params, report = convert(state)
    targets, filled = flatten_dict(ABSTRACT, sep="/"), flatten_dict(params, sep="/")
    assert set(filled) == set(targets) - (HEAD_TARGETS if prefix == PRETRAINED else set())
    for path, array in filled.items():
        assert array.shape == targets[path].shape, path
        assert array.dtype == np.float32, path
    # All values are present, each as often as in the source.
    converted = np.sort(np.concatenate([array.ravel() for array in filled.values()]))
    original = np.sort(np.concatenate([array.ravel() for array in state.values()]))
    np.testing.assert_array_equal(converted, original)
    assert sorted(used.source for used in report.used) == sorted(current(state))
    assert {used.target for used in report.used} == set(filled)
    assert all(used.shape == current(state)[used.source].shape for used in report.used)
    assert report.ignored == []
    assert {target for target, _ in report.fresh} == set(targets) - set(filled)


@pytest.mark.parametrize("prefix", [TRAINED, PRETRAINED])
def test_old_and_new_names_give_the_same_parameters(prefix: str) -> None:
    new, old = (
        flatten_dict(convert(tiny_state_dict(prefix, old))[0], sep="/") for old in (False, True)
    )
    for path, array in new.items():
        np.testing.assert_array_equal(array, old[path], err_msg=path)


@pytest.mark.parametrize("i", [0, 1])
@pytest.mark.parametrize(("slot", "name"), [(0, "query"), (1, "key"), (2, "value")])
def test_query_key_and_value_fill_their_slots(slot: int, name: str, i: int) -> None:
    state = tiny_state_dict(TRAINED)
    qkv = convert(state)[0]["encoder"]["layers"][str(i)]["attention"]["qkv"]
    source = f"{TRAINED}encoder.layer.{i}.attention.self.{name}"
    x = np.random.default_rng(1).integers(-5, 6, (3, 8)).astype(np.float32)
    projected = np.einsum("td,dnh->tnh", x, qkv["kernel"][:, slot]) + qkv["bias"][slot]
    # PyTorch: a linear layer, then a reshape of the width to heads.
    expected = (x @ state[f"{source}.weight"].T + state[f"{source}.bias"]).reshape(3, 2, 4)
    np.testing.assert_array_equal(projected, expected)


@pytest.mark.parametrize("i", [0, 1])
def test_attention_output_concatenates_the_heads(i: int) -> None:
    state = tiny_state_dict(TRAINED)
    kernel = convert(state)[0]["encoder"]["layers"][str(i)]["attention"]["out"]["kernel"]
    heads = np.random.default_rng(1).integers(-5, 6, (3, 2, 4)).astype(np.float32)
    weight = state[f"{TRAINED}encoder.layer.{i}.attention.output.dense.weight"]
    expected = heads.reshape(3, 8) @ weight.T
    np.testing.assert_array_equal(np.einsum("tnh,nhd->td", heads, kernel), expected)


@pytest.mark.parametrize(
    ("source", "target"),
    [
        ("embeddings.word_embeddings.weight", "embeddings/word"),
        ("embeddings.position_embeddings.weight", "embeddings/position"),
        ("embeddings.token_type_embeddings.weight", "embeddings/token_type"),
        ("embeddings.LayerNorm.weight", "embeddings/norm/scale"),
        ("embeddings.LayerNorm.bias", "embeddings/norm/bias"),
        ("encoder.layer.1.attention.output.dense.bias", "layers/1/attention/out/bias"),
        ("encoder.layer.1.attention.output.LayerNorm.weight", "layers/1/attention_norm/scale"),
        ("encoder.layer.1.attention.output.LayerNorm.bias", "layers/1/attention_norm/bias"),
        ("encoder.layer.1.intermediate.dense.weight", "layers/1/mlp_in/kernel"),
        ("encoder.layer.1.intermediate.dense.bias", "layers/1/mlp_in/bias"),
        ("encoder.layer.0.output.dense.weight", "layers/0/mlp_out/kernel"),
        ("encoder.layer.0.output.dense.bias", "layers/0/mlp_out/bias"),
        ("encoder.layer.0.output.LayerNorm.weight", "layers/0/mlp_norm/scale"),
        ("encoder.layer.0.output.LayerNorm.bias", "layers/0/mlp_norm/bias"),
    ],
)  # fmt: skip
def test_other_tensors_fill_their_parameters(source: str, target: str) -> None:
    state = tiny_state_dict(TRAINED)
    tensor = state[TRAINED + source].T if target.endswith("kernel") else state[TRAINED + source]
    np.testing.assert_array_equal(
        flatten_dict(convert(state)[0]["encoder"], sep="/")[target], tensor
    )


def test_the_head_fills_its_parameters() -> None:
    state = tiny_state_dict(TRAINED)
    head = convert(state)[0]["head"]["classifier"]
    np.testing.assert_array_equal(head["kernel"], state["decoder.classifier.weight"].T)
    np.testing.assert_array_equal(head["bias"], state["decoder.classifier.bias"])


def test_half_precision_becomes_float32() -> None:
    state = {name: array.astype(np.float16) for name, array in tiny_state_dict(TRAINED).items()}
    for path, array in flatten_dict(convert(state)[0], sep="/").items():
        assert array.dtype == np.float32, path


@pytest.mark.parametrize("prefix", [TRAINED, PRETRAINED])
def test_ignored_tensors_are_reported_with_reasons(prefix: str) -> None:
    extra = {prefix + name: reason for name, reason in EXTRA.items()}
    if prefix == PRETRAINED:
        extra["cls.predictions.bias"] = "pre-training heads: not used for tagging"
        extra["cls.seq_relationship.weight"] = extra["cls.predictions.bias"]
    state = tiny_state_dict(prefix) | {name: np.zeros(3, np.float32) for name in extra}
    _, report = convert(state)
    assert dict(report.ignored) == extra
    assert len(report.used) + len(report.ignored) == len(state)
    fresh = HEAD_TARGETS if prefix == PRETRAINED else set()
    assert {target for target, _ in report.fresh} == fresh


def test_all_errors_are_reported_together() -> None:
    state = tiny_state_dict(TRAINED, old_names=True)
    missing = (
        "encoder.bert.encoder.layer.1.attention.self.key.weight",
        "encoder.bert.embeddings.LayerNorm.weight",
        "decoder.classifier.bias",
    )
    for name in missing:
        del state[old_name(name)]
    state["encoder.bert.encoder.layer.0.output.dense.weight"] = np.zeros((12, 8), np.float32)
    state["decoder.classifier.weight"] = np.zeros((7, 8), np.float32)
    state["encoder.bert.encoder.layer.0.output.LayerNorm.gamma"] = np.zeros((1, 8), np.float32)
    state["encoder.bert.encoder.layer.2.output.dense.bias"] = np.zeros(8, np.float32)
    state["decoder.lstm.weight_ih_l0"] = np.zeros((5, 5), np.float32)
    assert sorted(report_of(state).errors) == sorted(
        [
            f"missing: {missing[0]}, for encoder/layers/1/attention/qkv/kernel",
            f"missing: {missing[1]}, for encoder/embeddings/norm/scale",
            f"missing: {missing[2]}, for head/classifier/bias",
            "wrong shape: encoder.bert.encoder.layer.0.output.dense.weight is [12, 8], "
            "the model needs [8, 12]",
            "wrong shape: decoder.classifier.weight is [7, 8], the model needs [5, 8]",
            "wrong shape: encoder.bert.encoder.layer.0.output.LayerNorm.weight is [1, 8], "
            "the model needs [8]",
            "unknown: encoder.bert.encoder.layer.2.output.dense.bias is not part of the model "
            "and no rule ignores it",
            "unknown: decoder.lstm.weight_ih_l0 is not part of the model and no rule ignores it",
        ]
    )


@pytest.mark.parametrize("name", tiny_state_dict(TRAINED))
def test_a_missing_tensor_is_an_error(name: str) -> None:
    state = tiny_state_dict(TRAINED)
    del state[name]
    (error,) = match_tensors(state, MMOCR, ABSTRACT).errors
    assert error.startswith(f"missing: {name}, for ")


def test_an_unfilled_parameter_is_an_error() -> None:
    state = tiny_state_dict(TRAINED)
    abstract = ABSTRACT | {"pooler": {"kernel": np.zeros((8, 8))}}
    assert match_tensors(state, MMOCR, abstract).errors == ["no rule fills pooler/kernel"]


def test_ignored_names_must_match_completely() -> None:
    state = tiny_state_dict(TRAINED) | {
        "my_cls.bias": np.zeros(1),
        "xpooler.dense.bias": np.zeros(1),
    }
    errors = report_of(state).errors
    assert [error.split()[1] for error in errors] == ["my_cls.bias", "xpooler.dense.bias"]


def test_a_tensor_under_two_names_is_refused() -> None:
    state = tiny_state_dict(TRAINED) | tiny_state_dict(TRAINED, old_names=True)
    with pytest.raises(UserError, match="are two names of one tensor"):
        convert(state)


def test_head_tensors_of_another_layout_are_unknown() -> None:
    state = tiny_state_dict(PRETRAINED) | {"decoder.classifier.bias": np.zeros(5, np.float32)}
    (error,) = report_of(state).errors
    assert error.startswith("unknown: decoder.classifier.bias ")


HEADS = {
    "token": ["classifier.weight", "classifier.bias"],
    "masked": ["cls.predictions.bias", "cls.predictions.decoder.weight"],
    "pre-training": ["cls.predictions.bias", "cls.seq_relationship.weight"],
    "none": [],
}


@pytest.mark.parametrize(
    "parallel", ["", "module.", "model.", "model.model.", "module.model.", "_orig_mod.model."]
)
@pytest.mark.parametrize("old_names", [False, True])
@pytest.mark.parametrize(
    ("prefix", "head", "name", "scores"),
    [
        ("encoder.bert.", "none", "MMOCR trained checkpoint", "decoder.classifier."),
        ("bert.", "none", "MMOCR pre-trained encoder", None),
        ("bert.", "token", "BertForTokenClassification", "classifier."),
        ("bert.", "masked", "BertForMaskedLM", None),
        ("bert.", "pre-training", "BertForPreTraining", None),
        ("", "none", "BertModel", None),
        ("", "token", "BertForTokenClassification", "classifier."),
    ],
)
def test_layouts_are_detected_by_names(
    prefix: str, head: str, name: str, scores: str | None, old_names: bool, parallel: str
) -> None:
    state = tiny_state_dict(prefix, old_names)
    state |= dict.fromkeys(HEADS[head], np.zeros(1, np.float32))
    layout = detect_layout(current({parallel + n: tensor for n, tensor in state.items()}), "f.pth")
    assert name in layout.name
    assert (layout.encoder, layout.head) == (prefix, scores)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("albert.encoder.albert_layer_groups.0.albert_layers.0.ffn.weight", "ALBERT: its layers share"),
        ("distilbert.transformer.layer.0.ffn.lin1.weight", "DistilBERT: it has no token types"),
        ("deberta.embeddings.word_embeddings.weight", "DeBERTa: its positions are relative"),
        ("nezha.embeddings.word_embeddings.weight", "NEZHA: its positions are relative"),
        ("roformer.embeddings.word_embeddings.weight", "RoFormer: its positions are rotary"),
        ("bert.encoder.layer.0.attention.self.distance_embedding.weight", "relative positions"),
    ],
)  # fmt: skip
def test_unsupported_models_are_refused_with_a_reason(name: str, reason: str) -> None:
    state = tiny_state_dict(PRETRAINED) | {name: np.zeros(1, np.float32)}
    with pytest.raises(UserError, match=f"{re.escape(name)} belongs to .*{reason}"):
        detect_layout(state, "f.pth")


def test_wrapper_prefixes_are_removed_where_present() -> None:
    """A Lightning module stores weights of its loss beside the model."""
    state = {f"model.{name}": tensor for name, tensor in tiny_state_dict(PRETRAINED).items()}
    tensors = current(state | {"criterion.weight": np.zeros(5, np.float32)})
    report = match_tensors(
        tensors, detect_layout(tensors, "f.pth"), {"encoder": ABSTRACT["encoder"]}
    )
    assert report.errors == [] and len(report.used) == len(state)
    assert report.ignored == [("criterion.weight", "weights of the loss: not used for tagging")]


def test_unsupported_models_are_detected_inside_a_wrapper() -> None:
    name = "model.albert.embeddings.word_embeddings.weight"
    with pytest.raises(UserError, match="belongs to ALBERT"):
        detect_layout(current({name: np.zeros((2, 2), np.float32)}), "f.pth")


@pytest.mark.parametrize(
    ("name", "family"),
    [
        ("electra.embeddings.word_embeddings.weight", "ELECTRA"),
        ("embeddings_project.weight", "ELECTRA"),
        ("roberta.embeddings.word_embeddings.weight", "RoBERTa or XLM-RoBERTa"),
        ("ernie.embeddings.word_embeddings.weight", "ERNIE"),
        ("bert.embeddings.task_type_embeddings.weight", "ERNIE"),
    ],
)
def test_other_families_need_their_config_json(name: str, family: str) -> None:
    state = tiny_state_dict(PRETRAINED) | {name: np.zeros(1, np.float32)}
    message = f"{re.escape(name)} belongs to {family}, but no config.json states the model_type"
    with pytest.raises(UserError, match=message):
        detect_layout(state, "f.pth")
    for model_type in ("roberta", "electra"):
        with pytest.raises(
            UserError, match=rf"no known layout matches.*of model_type {model_type} has"
        ):
            detect_layout(tiny_state_dict(PRETRAINED), "f.pth", model_type)


def test_integer_tensors_are_an_error() -> None:
    state = tiny_state_dict(TRAINED)
    name = "encoder.bert.encoder.layer.0.output.dense.weight"
    state[name] = state[name].astype(np.int8)
    assert report_of(state).errors == [f"wrong dtype: {name} is int8, expected floating point"]


@pytest.mark.parametrize("layers", [["0", "2"], ["1"], ["0", "1", "999999999"], ["0", "01"]])
def test_layer_numbers_must_be_contiguous(layers: list[str]) -> None:
    state = {name: tensor for name, tensor in tiny_state_dict(PRETRAINED).items()}
    for name in [name for name in state if "layer.1." in name]:
        del state[name]
    tensor = state["bert.encoder.layer.0.intermediate.dense.weight"]
    for i in set(layers) - {"0"}:
        state[f"bert.encoder.layer.{i}.intermediate.dense.weight"] = tensor
    if "0" not in layers:
        state = {name: tensor for name, tensor in state.items() if "layer.0." not in name}
    with pytest.raises(
        UserError, match=r"layers are .*, not 0, 1, 2, \.\.\. The file is incomplete"
    ):
        infer_shape(state, detect_layout(state, "f.pth"), "f.pth")


@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda layout: layout.name)
def test_to_torch_is_the_inverse_of_fill(layout: Layout) -> None:
    head = "decoder.classifier." if layout.head is None else layout.head
    state = {
        name.replace(TRAINED, layout.encoder).replace("decoder.classifier.", head): tensor
        for name, tensor in tiny_state_dict(TRAINED).items()
        if layout.head is not None or not name.startswith("decoder.")
    }
    report = match_tensors(state, layout, ABSTRACT)
    back = to_torch(fill(report, state, ABSTRACT), layout)
    assert list(back) == list(state)  # also in the order of PyTorch's modules
    for name, tensor in state.items():
        np.testing.assert_array_equal(back[name], tensor, err_msg=name)


def test_a_view_of_a_parameter_is_not_a_copy() -> None:
    state = tiny_state_dict(TRAINED)
    params = fill(match_tensors(state, MMOCR, ABSTRACT), state, ABSTRACT)
    for name, tensor in to_torch(params, MMOCR).items():
        assert not tensor.flags.owndata, name


def test_an_unknown_layout_is_refused_with_the_expected_names() -> None:
    state = {"model.embed.weight": np.zeros(1), "backbone.conv.weight": np.zeros(1)}
    with pytest.raises(UserError, match=r"f\.pth: no known layout matches") as caught:
        detect_layout(state, "f.pth")
    for part in ("backbone.conv.weight, model.embed.weight", "encoder.bert.embeddings.word_emb"):
        assert part in str(caught.value)


@pytest.mark.parametrize("prefix", [TRAINED, PRETRAINED])
def test_shapes_determine_the_configuration(prefix: str) -> None:
    state = tiny_state_dict(prefix)
    fields = infer_shape(state, detect_layout(state, "f.pth"), "f.pth")
    expected = {name: getattr(CONFIG, name) for name in fields}
    assert fields == expected
    assert len(fields) == (7 if prefix == TRAINED else 6)


def test_a_file_with_missing_tensors_is_refused() -> None:
    state = tiny_state_dict(PRETRAINED)
    layout = detect_layout(state, "f.pth")
    del state["bert.embeddings.position_embeddings.weight"]
    with pytest.raises(
        UserError, match=r"f\.pth: bert\.embeddings\.position_embeddings\.weight is missing"
    ):
        infer_shape(state, layout, "f.pth")
