"""benchmarks/scaling.py and roofline.py: the calculated sizes and operations."""

import json
import math
import subprocess
import sys

import pytest

from flax_ner.model.bert import BertConfig
from tests.benchmarks.scripts import ROOT, load_benchmark


@pytest.mark.slow
def test_scaling_calculation_agrees_with_the_compiler() -> None:
    result = subprocess.run(
        [sys.executable, "benchmarks/scaling.py", "--reduced"],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    calculated = json.loads(result.stdout.strip().splitlines()[-1].strip("`"))
    for model in ("BERT-base", "BERT-large"):
        alone, *_, most = calculated[model]
        assert (alone["data"], alone["fsdp"], alone["sent"]) == (1, 1, 0)
        assert (most["data"], most["fsdp"]) == (1, 256)
        assert (
            alone["state"] / 256 < most["state"] < alone["state"] / 100
        )  # small arrays are not sharded
    meshes = {
        (row["data"], row["fsdp"]): row for row in calculated["compiled"] if row["for"] == "CPU"
    }
    assert meshes.keys() == {(8, 1), (2, 4), (1, 8)}
    # With data parallelism only gradients are sent. With sharding, the compiler chooses some collectives.
    assert meshes[8, 1]["compiled"] == pytest.approx(meshes[8, 1]["formula"], rel=0.01)


def test_roofline_has_all_products_of_a_step() -> None:
    pytest.importorskip("torch", reason="the roofline compares with PyTorch")
    roofline = load_benchmark("roofline")
    model = BertConfig(100, 21, **roofline.SHAPES["narrow"])
    operations = sum(
        2 * count * math.prod(shape) for shape, count in roofline.step_products(model).items()
    )
    assert operations == roofline.step_flops(model, roofline.ROWS, roofline.LENGTH)
