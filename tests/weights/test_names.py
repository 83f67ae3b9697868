"""Tensor names and where each tensor goes."""

import re
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flax_ner.errors import UserError
from flax_ner.model.tagger import abstract_params
from flax_ner.weights.names import (
    LAYOUTS,
    MMOCR,
    Layout,
    current_names,
    fill,
    flatten,
    plan,
    read_shape,
    recognise,
    to_torch,
    unflatten,
)
from flax_ner.weights.report import Report
from tests.weights.helpers import CONFIG, PRETRAINED, TRAINED, old_name, tiny_state_dict

ABSTRACT = abstract_params(CONFIG)
EXTRA = {
    "pooler.dense.weight": "pooler: tagging has no use for it",
    "pooler.dense.bias": "pooler: tagging has no use for it",
    "embeddings.position_ids": "buffer, not learnt",
}
HEAD_TARGETS = {"head/classifier/kernel", "head/classifier/bias"}


def current(state: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {name: state[old] for name, old in current_names(state, "f.pth").items()}


def planned(state: dict[str, np.ndarray]) -> Report:
    tensors = current(state)
    return plan(tensors, recognise(tensors, "f.pth"), ABSTRACT)


def convert(state: dict[str, np.ndarray]) -> tuple[dict[str, Any], Report]:
    report = planned(state)
    assert report.faults == []
    return fill(report, current(state), ABSTRACT), report


TREES = st.recursive(
    st.integers(),
    lambda inner: st.dictionaries(st.text("abc", min_size=1), inner, min_size=1),
    max_leaves=8,
)


@settings(max_examples=50, deadline=None)
@given(st.dictionaries(st.text("abc", min_size=1), TREES))
def test_unflatten_is_the_inverse_of_flatten(tree: dict[str, Any]) -> None:
    assert unflatten(flatten(tree)) == tree


def test_flatten_joins_names_with_slashes() -> None:
    assert flatten({"a": {"b": 1, "c": {"d": 2}}, "e": 3}) == {"a/b": 1, "a/c/d": 2, "e": 3}


@pytest.mark.parametrize("old_names", [False, True], ids=["weight-bias", "gamma-beta"])
@pytest.mark.parametrize("prefix", [TRAINED, PRETRAINED])
def test_every_target_is_filled_exactly(prefix: str, old_names: bool) -> None:
    state = tiny_state_dict(prefix, old_names)
    params, report = convert(state)
    targets, filled = flatten(ABSTRACT), flatten(params)
    assert set(filled) == set(targets) - (HEAD_TARGETS if prefix == PRETRAINED else set())
    for path, array in filled.items():
        assert array.shape == targets[path].shape, path
        assert array.dtype == np.float32, path
    # Every number arrives: the same values, each as often as before.
    arrived = np.sort(np.concatenate([array.ravel() for array in filled.values()]))
    sent = np.sort(np.concatenate([array.ravel() for array in state.values()]))
    np.testing.assert_array_equal(arrived, sent)
    assert sorted(used.source for used in report.used) == sorted(current(state))
    assert {used.target for used in report.used} == set(filled)
    assert all(used.shape == current(state)[used.source].shape for used in report.used)
    assert report.ignored == []
    assert {target for target, _ in report.fresh} == set(targets) - set(filled)


@pytest.mark.parametrize("prefix", [TRAINED, PRETRAINED])
def test_old_and_new_names_give_the_same_parameters(prefix: str) -> None:
    new, old = (flatten(convert(tiny_state_dict(prefix, old))[0]) for old in (False, True))
    for path, array in new.items():
        np.testing.assert_array_equal(array, old[path], err_msg=path)


@pytest.mark.parametrize("i", [0, 1])
@pytest.mark.parametrize(("slot", "name"), [(0, "query"), (1, "key"), (2, "value")])
def test_query_key_and_value_lie_in_their_slots(slot: int, name: str, i: int) -> None:
    state = tiny_state_dict(TRAINED)
    qkv = convert(state)[0]["encoder"]["layers"][str(i)]["attention"]["qkv"]
    source = f"{TRAINED}encoder.layer.{i}.attention.self.{name}"
    x = np.random.default_rng(1).integers(-5, 6, (3, 8)).astype(np.float32)
    projected = np.einsum("td,dnh->tnh", x, qkv["kernel"][:, slot]) + qkv["bias"][slot]
    # PyTorch: a linear layer, then the width divided into heads.
    expected = (x @ state[f"{source}.weight"].T + state[f"{source}.bias"]).reshape(3, 2, 4)
    np.testing.assert_array_equal(projected, expected)


@pytest.mark.parametrize("i", [0, 1])
def test_attention_output_takes_the_heads_side_by_side(i: int) -> None:
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
def test_plain_tensors_go_to_their_place(source: str, target: str) -> None:
    state = tiny_state_dict(TRAINED)
    tensor = state[TRAINED + source].T if target.endswith("kernel") else state[TRAINED + source]
    np.testing.assert_array_equal(flatten(convert(state)[0]["encoder"])[target], tensor)


def test_the_head_goes_to_its_place() -> None:
    state = tiny_state_dict(TRAINED)
    head = convert(state)[0]["head"]["classifier"]
    np.testing.assert_array_equal(head["kernel"], state["decoder.classifier.weight"].T)
    np.testing.assert_array_equal(head["bias"], state["decoder.classifier.bias"])


def test_half_precision_becomes_float32() -> None:
    state = {name: array.astype(np.float16) for name, array in tiny_state_dict(TRAINED).items()}
    for path, array in flatten(convert(state)[0]).items():
        assert array.dtype == np.float32, path


@pytest.mark.parametrize("prefix", [TRAINED, PRETRAINED])
def test_the_report_says_what_was_left_behind(prefix: str) -> None:
    extra = {prefix + name: reason for name, reason in EXTRA.items()}
    if prefix == PRETRAINED:
        extra["cls.predictions.bias"] = "pre-training heads: tagging has no use for them"
        extra["cls.seq_relationship.weight"] = extra["cls.predictions.bias"]
    state = tiny_state_dict(prefix) | {name: np.zeros(3, np.float32) for name in extra}
    _, report = convert(state)
    assert dict(report.ignored) == extra
    assert len(report.used) + len(report.ignored) == len(state)
    fresh = HEAD_TARGETS if prefix == PRETRAINED else set()
    assert {target for target, _ in report.fresh} == fresh


def test_all_faults_are_reported_together() -> None:
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
    assert sorted(planned(state).faults) == sorted(
        [
            f"missing: {missing[0]}, for encoder/layers/1/attention/qkv/kernel",
            f"missing: {missing[1]}, for encoder/embeddings/norm/scale",
            f"missing: {missing[2]}, for head/classifier/bias",
            "misshapen: encoder.bert.encoder.layer.0.output.dense.weight is [12, 8], "
            "the model needs [8, 12]",
            "misshapen: decoder.classifier.weight is [7, 8], the model needs [5, 8]",
            "misshapen: encoder.bert.encoder.layer.0.output.LayerNorm.weight is [1, 8], "
            "the model needs [8]",
            "unknown: encoder.bert.encoder.layer.2.output.dense.bias is not part of the model "
            "and no rule ignores it",
            "unknown: decoder.lstm.weight_ih_l0 is not part of the model and no rule ignores it",
        ]
    )


@pytest.mark.parametrize("name", tiny_state_dict(TRAINED))
def test_no_tensor_may_be_missing(name: str) -> None:
    state = tiny_state_dict(TRAINED)
    del state[name]
    (fault,) = plan(state, MMOCR, ABSTRACT).faults
    assert fault.startswith(f"missing: {name}, for ")


def test_no_target_may_be_left_over() -> None:
    state = tiny_state_dict(TRAINED)
    abstract = ABSTRACT | {"pooler": {"kernel": np.zeros((8, 8))}}
    assert plan(state, MMOCR, abstract).faults == ["no rule fills pooler/kernel"]


def test_a_name_that_only_contains_an_ignored_one_is_unknown() -> None:
    state = tiny_state_dict(TRAINED) | {
        "my_cls.bias": np.zeros(1),
        "xpooler.dense.bias": np.zeros(1),
    }
    faults = planned(state).faults
    assert [fault.split()[1] for fault in faults] == ["my_cls.bias", "xpooler.dense.bias"]


def test_a_tensor_under_its_old_and_its_new_name_is_refused() -> None:
    state = tiny_state_dict(TRAINED) | tiny_state_dict(TRAINED, old_names=True)
    with pytest.raises(UserError, match="are two names of one tensor"):
        convert(state)


def test_a_pretrained_encoder_has_no_place_for_a_head() -> None:
    state = tiny_state_dict(PRETRAINED) | {"decoder.classifier.bias": np.zeros(5, np.float32)}
    (fault,) = planned(state).faults
    assert fault.startswith("unknown: decoder.classifier.bias ")


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
def test_the_layout_is_recognised_by_names(
    prefix: str, head: str, name: str, scores: str | None, old_names: bool, parallel: str
) -> None:
    state = tiny_state_dict(prefix, old_names)
    state |= dict.fromkeys(HEADS[head], np.zeros(1, np.float32))
    layout = recognise(current({parallel + n: tensor for n, tensor in state.items()}), "f.pth")
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
def test_relatives_of_bert_are_refused_by_name(name: str, reason: str) -> None:
    state = tiny_state_dict(PRETRAINED) | {name: np.zeros(1, np.float32)}
    with pytest.raises(UserError, match=f"{re.escape(name)} belongs to .*{reason}"):
        recognise(state, "f.pth")


def test_a_wrapper_is_taken_off_beside_tensors_without_it() -> None:
    """A module of Lightning has weights of its loss beside the model that it trains."""
    state = {f"model.{name}": tensor for name, tensor in tiny_state_dict(PRETRAINED).items()}
    tensors = current(state | {"criterion.weight": np.zeros(5, np.float32)})
    report = plan(tensors, recognise(tensors, "f.pth"), {"encoder": ABSTRACT["encoder"]})
    assert report.faults == [] and len(report.used) == len(state)
    assert report.ignored == [
        ("criterion.weight", "weights of the loss: tagging has no use for them")
    ]


def test_a_relative_of_bert_is_named_inside_a_wrapper_too() -> None:
    name = "model.albert.embeddings.word_embeddings.weight"
    with pytest.raises(UserError, match="belongs to ALBERT"):
        recognise(current({name: np.zeros((2, 2), np.float32)}), "f.pth")


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
    wanted = f"{re.escape(name)} belongs to {family}, and no config.json states its model_type"
    with pytest.raises(UserError, match=wanted):
        recognise(state, "f.pth")
    for model_type in ("roberta", "electra"):
        with pytest.raises(UserError, match=rf"no known layout.*of model_type {model_type} has"):
            recognise(tiny_state_dict(PRETRAINED), "f.pth", model_type)


def test_whole_numbers_are_no_weights() -> None:
    state = tiny_state_dict(TRAINED)
    name = "encoder.bert.encoder.layer.0.output.dense.weight"
    state[name] = state[name].astype(np.int8)
    assert planned(state).faults == [f"unusable: {name} holds int8, weights are floating point"]


@pytest.mark.parametrize("layers", [["0", "2"], ["1"], ["0", "1", "999999999"], ["0", "01"]])
def test_layers_are_numbered_without_a_gap(layers: list[str]) -> None:
    state = {name: tensor for name, tensor in tiny_state_dict(PRETRAINED).items()}
    for name in [name for name in state if "layer.1." in name]:
        del state[name]
    tensor = state["bert.encoder.layer.0.intermediate.dense.weight"]
    for i in set(layers) - {"0"}:
        state[f"bert.encoder.layer.{i}.intermediate.dense.weight"] = tensor
    if "0" not in layers:
        state = {name: tensor for name, tensor in state.items() if "layer.0." not in name}
    with pytest.raises(UserError, match=r"has the layers .*, not 0, 1, 2"):
        read_shape(state, recognise(state, "f.pth"), "f.pth")


@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda layout: layout.name)
def test_to_torch_is_the_inverse_of_fill(layout: Layout) -> None:
    head = "decoder.classifier." if layout.head is None else layout.head
    state = {
        name.replace(TRAINED, layout.encoder).replace("decoder.classifier.", head): tensor
        for name, tensor in tiny_state_dict(TRAINED).items()
        if layout.head is not None or not name.startswith("decoder.")
    }
    report = plan(state, layout, ABSTRACT)
    back = to_torch(fill(report, state, ABSTRACT), layout)
    assert list(back) == list(state)  # in the order of PyTorch's modules, too
    for name, tensor in state.items():
        np.testing.assert_array_equal(back[name], tensor, err_msg=name)


def test_a_view_of_a_parameter_is_not_a_copy() -> None:
    state = tiny_state_dict(TRAINED)
    params = fill(plan(state, MMOCR, ABSTRACT), state, ABSTRACT)
    for name, tensor in to_torch(params, MMOCR).items():
        assert not tensor.flags.owndata, name


def test_an_unknown_layout_is_refused_with_what_was_expected() -> None:
    state = {"model.embed.weight": np.zeros(1), "backbone.conv.weight": np.zeros(1)}
    with pytest.raises(UserError, match=r"f\.pth: no known layout") as caught:
        recognise(state, "f.pth")
    for part in ("backbone.conv.weight, model.embed.weight", "encoder.bert.embeddings.word_emb"):
        assert part in str(caught.value)


@pytest.mark.parametrize("prefix", [TRAINED, PRETRAINED])
def test_shapes_tell_the_configuration(prefix: str) -> None:
    state = tiny_state_dict(prefix)
    fields = read_shape(state, recognise(state, "f.pth"), "f.pth")
    expected = {name: getattr(CONFIG, name) for name in fields}
    assert fields == expected
    assert len(fields) == (7 if prefix == TRAINED else 6)


def test_a_file_that_is_cut_off_is_refused() -> None:
    state = tiny_state_dict(PRETRAINED)
    layout = recognise(state, "f.pth")
    del state["bert.embeddings.position_embeddings.weight"]
    with pytest.raises(UserError, match=r"f\.pth: lacks bert\.embeddings\.position_embeddings"):
        read_shape(state, layout, "f.pth")
