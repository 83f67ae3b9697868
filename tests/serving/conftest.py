"""The model of the tests of bulk jobs, and its ONNX export."""

import pytest

from flax_ner.weights.model_dir import load_model
from tests.serving.helpers import save_hand_made


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return save_hand_made(tmp_path_factory.mktemp("model") / "model")


@pytest.fixture(scope="module")
def onnx_export(model: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    pytest.importorskip("onnx", reason="the tests of ONNX exports need the extra `onnx`")
    pytest.importorskip("onnxruntime", reason="the tests of ONNX exports need the extra `onnx`")
    from flax_ner.weights.onnx_export import export_onnx

    folder = tmp_path_factory.mktemp("export") / "onnx"
    export_onnx(load_model(model), folder)
    return str(folder)
