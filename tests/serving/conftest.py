"""The model of the tests of bulk jobs, and its ONNX export."""

import pytest

from flax_ner.weights.model_dir import ModelDir, load_model, save_model
from tests.inference.helpers import LABELS, VOCAB, hand_made_tagger


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    tagger, folder = hand_made_tagger(), tmp_path_factory.mktemp("model") / "model"
    save_model(folder, ModelDir(tagger.config, LABELS, VOCAB, 64, tagger.params))
    return str(folder)


@pytest.fixture(scope="module")
def onnx_export(model: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    pytest.importorskip("onnx", reason="the tests of ONNX exports need the extra `onnx`")
    pytest.importorskip("onnxruntime", reason="the tests of ONNX exports need the extra `onnx`")
    from flax_ner.weights.onnx_export import export_onnx

    folder = tmp_path_factory.mktemp("export") / "onnx"
    export_onnx(load_model(model), folder)
    return str(folder)
