"""Exports as ONNX and StableHLO programs."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from flax_ner import Tagger
from flax_ner.data.cluener import write_cluener
from flax_ner.errors import UserError
from flax_ner.model.crf import NEG_INF
from flax_ner.model.tagging_model import init_params, stack_layers
from flax_ner.text.examples import Entity, Example
from flax_ner.text.labels import SpanLabels
from flax_ner.weights import onnx_export
from flax_ner.weights.ensemble import combine
from flax_ner.weights.model_dir import ModelDir, save_model
from flax_ner.weights.onnx_export import export_onnx
from flax_ner.weights.onnx_graph import build_onnx_model
from flax_ner.weights.stablehlo_export import export_stablehlo
from tests.exports import FAMILIES, HEADS, LABELS, random_model
from tests.subwords import TEXTS

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")

FILES = ["config.json", "flax_ner.json", "labels.json", "tokenizer.json", "tokenizer_config.json"]


def jax_tagger(model: ModelDir) -> Tagger:
    assert model.labels is not None
    return Tagger(
        model.config, model.params, model.build_tokenizer(), model.labels, model.max_length
    )


def inputs(size: int, lengths: list[int]) -> tuple[np.ndarray, np.ndarray]:
    """Return random ids and mask, int64 [B, T], with padding on the right."""
    width = max(lengths)
    mask = (np.arange(width) < np.array(lengths)[:, None]).astype(np.int64)
    ids = np.random.default_rng(width).integers(2, size, mask.shape)
    return np.where(mask, ids, 1), mask


def run(file: Path, ids: np.ndarray, mask: np.ndarray) -> np.ndarray:
    session = onnxruntime.InferenceSession(file)
    logits: np.ndarray = session.run(["logits"], {"input_ids": ids, "attention_mask": mask})[0]
    return logits


@pytest.mark.parametrize("family", FAMILIES)
def test_logits_equal_those_of_jax_for_any_batch_and_length(tmp_path: Path, family: str) -> None:
    model = random_model(family)
    export_onnx(model, tmp_path / "out")
    file = tmp_path / "out" / "onnx" / "model.onnx"
    onnx.checker.check_model(file, full_check=True)
    tagger = jax_tagger(model)
    for lengths in ([40, 23, 5], [3]):
        ids, mask = inputs(model.config.vocab_size, lengths)
        logits = run(file, ids, mask)
        assert logits.dtype == np.float32 and logits.shape == (*ids.shape, len(LABELS))
        expected = np.asarray(tagger.logits(ids, mask))
        np.testing.assert_allclose(logits[mask > 0], expected[mask > 0], atol=1e-4, rtol=0)
        assert np.ptp(expected) > 1  # the texts and tags differ
        for row, length in enumerate(lengths):  # padding and other rows change nothing
            alone = run(file, ids[row : row + 1, :length], mask[row : row + 1, :length])
            np.testing.assert_allclose(alone[0], logits[row, :length], atol=1e-5, rtol=0)


def test_a_text_of_more_than_all_positions_is_an_error(tmp_path: Path) -> None:
    export_onnx(random_model(), tmp_path / "out")
    ids, mask = inputs(20, [41])
    with pytest.raises(Exception, match="Add"):
        run(tmp_path / "out" / "onnx" / "model.onnx", ids, mask)


@pytest.mark.parametrize("head", HEADS)
def test_the_folder_describes_the_model(tmp_path: Path, head: str) -> None:
    model = random_model(head=head)
    message = export_onnx(model, tmp_path / "out")
    transitions = [] if head == "softmax" else ["transitions.json"]
    files = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert files == sorted([*FILES, *transitions, "onnx", "vocab.txt"])
    assert ("transitions.json" in message) == bool(transitions)
    row = json.loads((tmp_path / "out" / "config.json").read_text())
    assert list(row["id2label"].values()) == LABELS.names
    if not transitions:
        return
    scores = np.array(json.loads((tmp_path / "out" / "transitions.json").read_text()), np.float32)
    learned = model.params["head"].get("transitions", np.zeros(scores.shape))
    allowed = LABELS.allowed_transitions()
    np.testing.assert_array_equal(scores[allowed], np.asarray(learned)[allowed])
    assert (scores[~allowed] == np.float32(NEG_INF)).all() and not allowed.all()


def viterbi(logits: np.ndarray, transitions: np.ndarray, outside: int) -> list[int]:
    """Return the most probable tags of a text, as the documentation does."""
    emissions = logits.copy()  # [T, C]
    for special in (0, -1):  # [CLS] and [SEP] have the tag O
        emissions[special] = -1e30
        emissions[special, outside] = 0
    best, pointers = emissions[0], []
    for emission in emissions[1:]:
        scores = best[:, None] + transitions  # [from, to]
        pointers.append(scores.argmax(0))
        best = scores.max(0) + emission
    tags = [int(best.argmax())]
    for pointer in reversed(pointers):
        tags.append(int(pointer[tags[-1]]))
    return tags[::-1]


@pytest.mark.parametrize("head", ["softmax_constrained", "crf"])
def test_a_few_lines_of_numpy_decode_the_logits(tmp_path: Path, head: str) -> None:
    model = random_model(head=head)
    export_onnx(model, tmp_path / "out")
    transitions = np.array(
        json.loads((tmp_path / "out" / "transitions.json").read_text()), np.float32
    )
    tagger, predicted = jax_tagger(model), 0
    for text in (TEXTS[1], TEXTS[2][:30]):
        ids = np.array([tagger.tokenizer.encode(text).ids])
        logits = run(tmp_path / "out" / "onnx" / "model.onnx", ids, np.ones_like(ids))
        tags = np.array([viterbi(logits[0], transitions, LABELS.outside)])
        entities = tagger(text)
        expected = [(entity.type, entity.start, entity.end) for entity in entities]
        assert LABELS.decode(tags, np.ones_like(tags))[0] == expected
        independent = logits.argmax(-1)  # decoding makes a difference
        assert LABELS.decode(independent, np.ones_like(tags))[0] != expected
        predicted += len(entities)
    assert predicted


@pytest.mark.parametrize("family", ["bert", "electra"])
def test_float16_stores_the_encoder_in_half_the_bytes(tmp_path: Path, family: str) -> None:
    model = random_model(family)
    export_onnx(model, tmp_path / "half", "float16")
    export_onnx(model, tmp_path / "whole")
    file = tmp_path / "half" / "onnx" / "model_fp16.onnx"
    onnx.checker.check_model(file, full_check=True)
    graph = onnx.load(file).graph
    dtypes = {tensor.name: tensor.data_type for tensor in graph.initializer}
    assert dtypes["embeddings/word"] == dtypes["layer1/mlp_in/kernel"] == onnx.TensorProto.FLOAT16
    assert dtypes["classifier/kernel"] == onnx.TensorProto.FLOAT
    assert [value.type.tensor_type.elem_type for value in graph.input] == [
        onnx.TensorProto.INT64
    ] * 2
    ids, mask = inputs(model.config.vocab_size, [40, 23])
    logits = run(file, ids, mask)
    whole = run(tmp_path / "whole" / "onnx" / "model.onnx", ids, mask)
    assert logits.dtype == np.float32
    assert 1e-6 < np.abs(logits - whole)[mask > 0].max() < 0.1 < np.ptp(whole)


@pytest.mark.parametrize("family", ["bert", "roberta"])
def test_int8_keeps_the_head_and_coarse_products_in_float(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, family: str
) -> None:
    model = random_model(family)
    intermediate = model.config.intermediate_size
    monkeypatch.setattr(onnx_export, "_rounding", lambda x: float(x.shape == (4, 40, intermediate)))
    export_onnx(model, tmp_path / "out", "int8")
    export_onnx(model, tmp_path / "whole")
    file = tmp_path / "out" / "onnx" / "model_quantized.onnx"
    assert list(file.parent.iterdir()) == [file]
    onnx.checker.check_model(file)
    graph = onnx.load(file).graph
    products = [node for node in graph.node if node.op_type == "MatMulInteger"]
    assert len(products) == 3 * model.config.num_hidden_layers
    float_products = [node for node in graph.node if node.op_type == "MatMul"]
    names = [node.name for node in float_products if "kernel" in node.input[1]]
    assert names == ["layer0/mlp_out/MatMul", "layer1/mlp_out/MatMul", "classifier/MatMul"]
    ids, mask = inputs(model.config.vocab_size, [40, 23])
    logits = run(file, ids, mask)
    whole = run(tmp_path / "whole" / "onnx" / "model.onnx", ids, mask)
    assert 1e-4 < np.abs(logits - whole)[mask > 0].mean() < 0.1 * whole.std()


def test_smoothing_keeps_the_logits_and_levels_the_channels(tmp_path: Path) -> None:
    model = random_model()
    norm = model.params["encoder"]["layers"]["0"]["attention_norm"]
    norm["scale"] = norm["scale"].at[3].set(50.0)  # a channel that is much larger than the others
    params = jax.tree.map(np.asarray, model.params)
    graph = build_onnx_model(model.config, params)
    ids, mask = inputs(model.config.vocab_size, [40, 23])
    onnx.save(graph, tmp_path / "before.onnx")
    before = run(tmp_path / "before.onnx", ids, mask)
    values = onnx_export._product_inputs(graph, tmp_path / "x", ids)
    smoothed = {name: x for name, x in values.items() if "layer" in name}
    divided = onnx_export._smooth(graph, smoothed)
    onnx.checker.check_model(graph, full_check=True)
    onnx.save(graph, tmp_path / "after.onnx")
    after = run(tmp_path / "after.onnx", ids, mask)
    np.testing.assert_allclose(after[mask > 0], before[mask > 0], atol=1e-4)
    name = "layer0/mlp_in/MatMul"
    scaled = onnx_export._product_inputs(graph, tmp_path / "x", ids)[name]
    np.testing.assert_allclose(scaled, divided[name], atol=1e-4)
    ranges = [np.abs(x).max((0, 1)) for x in (values[name], scaled)]
    spread = [x.max() / np.median(x) for x in ranges]
    assert spread[1] < 5 < 20 < spread[0]


def quantized_products(file: Path) -> list[str]:
    return [node.input[1] for node in onnx.load(file).graph.node if node.op_type == "MatMulInteger"]


def test_inputs_are_judged_after_smoothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = random_model()
    norm = model.params["encoder"]["layers"]["0"]["attention_norm"]
    norm["scale"] = norm["scale"].at[3].set(50.0)

    def spread(x: np.ndarray) -> float:  # of the channels, instead of the rounding
        ranges = np.abs(x).max((0, 1))
        return float(ranges.max() / np.median(ranges))

    monkeypatch.setattr(onnx_export, "_rounding", spread)
    monkeypatch.setattr(onnx_export, "MAX_ROUNDING", 20.0)
    export_onnx(model, tmp_path / "smoothed", "int8")
    products = quantized_products(tmp_path / "smoothed" / "onnx" / "model_quantized.onnx")
    assert "layer0/mlp_in/kernel_quantized" in products
    monkeypatch.setattr(onnx_export, "_smooth", lambda graph, inputs: {})
    export_onnx(model, tmp_path / "raw", "int8")
    raw = quantized_products(tmp_path / "raw" / "onnx" / "model_quantized.onnx")
    assert "layer0/mlp_in/kernel_quantized" not in raw


def test_products_with_inputs_that_are_not_finite_stay_in_float(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(onnx_export, "_rounding", lambda x: float("nan"))
    export_onnx(random_model(), tmp_path / "out", "int8")
    assert quantized_products(tmp_path / "out" / "onnx" / "model_quantized.onnx") == []


def test_factors_of_dead_channels_are_limited() -> None:
    x, kernel = np.zeros((2, 4, 3), np.float32), np.zeros((3, 5), np.float32)
    assert onnx_export._smoothing_factors(x, kernel) == pytest.approx([1, 1, 1], abs=1e-4)
    x[..., 0], kernel[1] = 1, 1
    factors = onnx_export._smoothing_factors(x, kernel)
    assert np.isfinite(factors).all() and factors.max() / factors.min() < 1e4


def test_rounding_is_that_of_onnxruntime(tmp_path: Path) -> None:
    node = onnx.helper.make_node("DynamicQuantizeLinear", ["x"], ["y", "scale", "zero"])
    back = onnx.helper.make_node("DequantizeLinear", ["y", "scale", "zero"], ["z"])
    values = [
        onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None) for name in "xz"
    ]
    graph = onnx.helper.make_graph([node, back], "test", values[:1], values[1:])
    model = onnx.helper.make_model(
        graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8
    )
    session = onnxruntime.InferenceSession(model.SerializeToString())
    x = np.random.default_rng(0).normal(size=(4, 40, 24)).astype(np.float32)
    for large in (3, 30):  # one large value makes all others coarse
        x[0, 0, 0] = large
        error = np.sqrt(np.square(session.run(["z"], {"x": x})[0] - x).mean())
        assert onnx_export._rounding(x) == pytest.approx(error / np.sqrt(np.square(x).mean()), 0.05)
    assert onnx_export._rounding(np.zeros((2, 3), np.float32)) == 0


def test_a_file_of_more_than_two_gigabytes_is_split(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = random_model()
    export_onnx(model, tmp_path / "one")
    monkeypatch.setattr(onnx_export, "MAX_PROTOBUF_BYTES", 1000)
    export_onnx(model, tmp_path / "two")
    folder = tmp_path / "two" / "onnx"
    assert sorted(path.name for path in folder.iterdir()) == ["model.onnx", "model.onnx_data"]
    onnx.checker.check_model(folder / "model.onnx")
    ids, mask = inputs(model.config.vocab_size, [9])
    expected = run(tmp_path / "one" / "onnx" / "model.onnx", ids, mask)
    np.testing.assert_array_equal(run(folder / "model.onnx", ids, mask), expected)


def test_equal_models_give_equal_files(tmp_path: Path) -> None:
    for name in ("a", "b"):
        export_onnx(random_model(), tmp_path / name)
    for file in (tmp_path / "a").rglob("*.*"):
        other = tmp_path / "b" / file.relative_to(tmp_path / "a")
        assert file.read_bytes() == other.read_bytes(), file


def test_stacked_layers_are_exported(tmp_path: Path) -> None:
    model = random_model()
    stacked = replace(
        model,
        config=replace(model.config, scan_layers=True),
        params=stack_layers(model.params),
    )
    for name, one in (("a", model), ("b", stacked)):
        export_onnx(one, tmp_path / name)
    files = [tmp_path / name / "onnx" / "model.onnx" for name in "ab"]
    assert files[0].read_bytes() == files[1].read_bytes()


LOAD_STABLEHLO = """
import sys
import numpy as np
from jax import export

with open(sys.argv[1] + "/model.stablehlo", "rb") as file:
    program = export.deserialize(bytearray(file.read()))
for name in ("short", "long"):
    arrays = np.load(f"{sys.argv[2]}/{name}.npz")
    logits = np.asarray(program.call(arrays["ids"], arrays["mask"]))
    assert logits.dtype == np.float32
    real = arrays["mask"] > 0
    np.testing.assert_allclose(logits[real], arrays["logits"][real], atol=1e-4, rtol=0)
assert {"cpu", "cuda", "tpu"} == set(program.platforms)
assert not {"flax", "flax_ner"} & set(sys.modules)
"""


@pytest.mark.parametrize(
    "family",
    [
        "bert",
        *(pytest.param(name, marks=pytest.mark.slow) for name in ("roberta", "electra", "ernie")),
    ],
)
def test_stablehlo_runs_without_flax(tmp_path: Path, family: str) -> None:
    model = random_model(family)
    # The program is float32, whatever the model was trained with.
    trained = replace(model, config=replace(model.config, compute_dtype="bfloat16"))
    message = export_stablehlo(trained, tmp_path / "out")
    assert "StableHLO: model.stablehlo" in message
    tagger = jax_tagger(model)
    for name, lengths in (("short", [4]), ("long", [40, 23, 5])):
        ids, mask = inputs(model.config.vocab_size, lengths)
        logits = np.asarray(tagger.logits(ids, mask))
        np.savez(
            tmp_path / name, ids=ids.astype(np.int32), mask=mask.astype(np.int32), logits=logits
        )
    arguments = [sys.executable, "-c", LOAD_STABLEHLO, str(tmp_path / "out"), str(tmp_path)]
    subprocess.run(arguments, check=True)
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert {*FILES, "transitions.json"} <= names


WITHOUT_PYTORCH = """
import sys
from flax_ner.cli.main import main

model, out, data = sys.argv[1:]
main(["export", model, out, "--to", "onnx", "--dtype", "int8"])
main(["evaluate", out, data])
main(["predict", out, data])
assert "onnxruntime" in sys.modules
assert "torch" not in sys.modules
"""


def test_no_command_imports_pytorch(tmp_path: Path) -> None:
    save_model(tmp_path / "model", random_model())
    entity = Entity("name", 0, 3, TEXTS[1][:3], 1.0)
    write_cluener(tmp_path / "data.json", [Example(TEXTS[1], (entity,))])
    names = ("model", "out", "data.json")
    arguments = [sys.executable, "-c", WITHOUT_PYTORCH, *(str(tmp_path / name) for name in names)]
    done = subprocess.run(arguments, check=True, capture_output=True, text=True)
    assert "WARNING" not in done.stderr


def span_model() -> ModelDir:
    model = random_model()
    labels = SpanLabels(["name", "place"])
    config = replace(model.config, head="global_pointer", num_labels=len(labels))
    return replace(
        model, config=config, labels=labels, params=init_params(config, jax.random.key(0))
    )


@pytest.mark.parametrize("export", [export_onnx, export_stablehlo])
def test_models_that_logits_do_not_describe_are_refused(tmp_path: Path, export: Any) -> None:
    tagger = random_model()
    encoder = replace(tagger, labels=None)
    ensemble = combine([tagger, tagger], ["a", "b"])
    for model, reason in (
        (encoder, "is an encoder without a head. Fine-tune it first: python train.py"),
        (ensemble, "does not support an ensemble of 2 models. Export one of them"),
        (span_model(), "does not support model.head global_pointer, which scores spans"),
    ):
        with pytest.raises(UserError, match=f"--to (onnx|stablehlo): .*{reason}"):
            export(model, tmp_path / "out")
    (tmp_path / "out").mkdir()
    with pytest.raises(UserError, match="out: already exists"):
        export(tagger, tmp_path / "out")
    assert not list((tmp_path / "out").iterdir())
