"""`fit` with settings that the end-to-end test does not cover."""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from filelock import FileLock
from flax.traverse_util import flatten_dict
from ml_collections import ConfigDict

from configs import cluener_mmocr, demo
from flax_ner import load
from flax_ner.data.cluener import write_cluener
from flax_ner.data.synthetic import synthetic
from flax_ner.errors import UserError
from flax_ner.fit import fit
from flax_ner.training.loop import _how_to_use_less_memory
from flax_ner.training.mesh import make_mesh
from flax_ner.weights.model_dir import load_model

ROOT = Path(__file__).resolve().parents[2]
TINY = {
    "model.hidden_size": 16,
    "model.num_hidden_layers": 1,
    "model.num_attention_heads": 2,
    "model.intermediate_size": 16,
    "data.format": "synthetic",
    "data.train": "train 120",
    "data.dev": "dev 20",
    "data.batch_size": 8,
    "mesh.data": 1,
    "train.steps": 10,
}


def small(config: ConfigDict, **changes: Any) -> ConfigDict:
    fields = TINY | {name.replace("__", "."): value for name, value in changes.items()}
    config.update_from_flattened_dict(fields)
    return config


def rows(workdir: Path, split: str) -> list[dict[str, Any]]:
    lines = (workdir / "metrics.jsonl").read_text().splitlines()
    return [row for row in map(json.loads, lines) if row["split"] == split]


def params(workdir: Path) -> dict[str, np.ndarray]:
    return {
        k: np.asarray(v)
        for k, v in flatten_dict(load_model(workdir / "last").params, sep="/").items()
    }


@pytest.mark.slow
def test_the_mmocr_recipe_runs(tmp_path: Path) -> None:
    config = small(cluener_mmocr.get_config(), init_from="", train__steps=4, mesh__data=8)
    scores = fit(config, tmp_path / "run")
    assert len(load(tmp_path / "run" / "best").labels) == 24
    assert rows(tmp_path / "run", "train")[-1]["learning_rate"] == 0.5
    assert scores.gold == sum(len(e.entities or ()) for e in synthetic("dev", 20))


@pytest.mark.slow
def test_a_resumed_run_with_buckets_is_bit_identical(tmp_path: Path) -> None:
    changes = {"data__batching": "bucket", "loss__name": "focal", "checkpoint__every": 4}
    changes["mesh__data"] = 8
    fit(small(demo.get_config(), **changes), tmp_path / "whole")
    # The files of a run that was stopped after step 8.
    shutil.copytree(tmp_path / "whole", tmp_path / "half")
    for later in ("checkpoints/10", "last"):
        shutil.rmtree(tmp_path / "half" / later)
    fit(small(demo.get_config(), **changes), tmp_path / "half")
    expected, actual = params(tmp_path / "whole"), params(tmp_path / "half")
    assert all((expected[name] == actual[name]).all() for name in expected)


@pytest.mark.slow
def test_a_run_on_eight_devices_resumes_on_fewer(tmp_path: Path) -> None:
    on_eight = {"mesh__data": 1, "mesh__fsdp": 8, "checkpoint__every": 5}
    on_eight |= {
        "model__hidden_size": 64,
        "model__intermediate_size": 128,
    }  # large enough to be sharded
    fit(small(demo.get_config(), **on_eight), tmp_path / "eight")
    expected = params(tmp_path / "eight")
    for data, fsdp in ((1, 4), (2, 1), (1, 1)):
        workdir = tmp_path / f"{data} x {fsdp}"
        (workdir / "checkpoints").mkdir(parents=True)
        shutil.copytree(tmp_path / "eight" / "checkpoints" / "5", workdir / "checkpoints" / "5")
        shutil.copy(tmp_path / "eight" / "config.json", workdir)
        fit(
            small(demo.get_config(), **(on_eight | {"mesh__data": data, "mesh__fsdp": fsdp})),
            workdir,
        )
        assert rows(workdir, "train")[0]["step"] > 5  # it did not start over
        for name, array in params(workdir).items():
            np.testing.assert_allclose(array, expected[name], atol=1e-4, err_msg=name)


@pytest.mark.slow
def test_scan_over_layers_trains_the_same_model(tmp_path: Path) -> None:
    changes = {"model__num_hidden_layers": 3, "train__steps": 4}
    fit(small(demo.get_config(), **changes), tmp_path / "layers")
    fit(small(demo.get_config(), model__scan_layers=True, **changes), tmp_path / "scanned")
    expected, actual = params(tmp_path / "layers"), params(tmp_path / "scanned")
    assert expected.keys() == actual.keys()
    for name in expected:
        np.testing.assert_allclose(actual[name], expected[name], atol=1e-4, err_msg=name)
    assert not load(tmp_path / "scanned" / "last").config.scan_layers


@pytest.mark.slow
@pytest.mark.every_python
def test_another_configuration_in_the_same_work_directory_is_rejected(tmp_path: Path) -> None:
    fit(small(demo.get_config(), train__steps=2), tmp_path / "run")
    before = (tmp_path / "run" / "config.json").read_text()
    changed = small(demo.get_config(), train__steps=2, model__hidden_size=32, seed=1)
    with pytest.raises(UserError, match=r"model.hidden_size was 16, is 32; seed was 0, is 1"):
        fit(changed, tmp_path / "run")
    assert (tmp_path / "run" / "config.json").read_text() == before


@pytest.mark.slow
@pytest.mark.every_python
def test_a_run_does_not_resume_with_other_data_under_the_same_name(tmp_path: Path) -> None:
    files = {split: tmp_path / f"{split}.json" for split in ("train", "dev")}
    paths = {f"data__{split}": str(path) for split, path in files.items()}
    config = small(demo.get_config(), data__format="cluener", train__steps=1, **paths)
    for split, path in files.items():
        write_cluener(path, synthetic(split, 20))
    fit(config, tmp_path / "run")
    for split, path in files.items():
        before = path.read_text("utf-8")
        line, *others = before.splitlines()
        path.write_text("\n".join([*others, line]), "utf-8")  # the same lines in another order
        with pytest.raises(UserError, match=rf"started with other inputs: data\.{split}\. Restore"):
            fit(config, tmp_path / "run")
        path.write_text(before, "utf-8")
    fit(config, tmp_path / "run")
    (tmp_path / "run" / "inputs.json").write_text("[1]")
    with pytest.raises(UserError, match=r"inputs\.json is damaged"):
        fit(config, tmp_path / "run")


@pytest.mark.slow
@pytest.mark.every_python
def test_a_second_run_in_the_same_work_directory_is_rejected(tmp_path: Path) -> None:
    with FileLock(tmp_path / ".lock"), pytest.raises(UserError, match="another run is using"):
        fit(small(demo.get_config()), tmp_path)
    fit(small(demo.get_config(), train__steps=1), tmp_path)  # after the lock is released


@pytest.mark.slow
@pytest.mark.every_python
def test_a_damaged_config_is_reported(tmp_path: Path) -> None:
    fit(small(demo.get_config(), train__steps=1), tmp_path)
    (tmp_path / "config.json").write_text('{"seed":')
    with pytest.raises(UserError, match=r"config.json is damaged"):
        fit(small(demo.get_config(), train__steps=1), tmp_path)


DIVERGING = {
    "mesh__data": 8,
    "optimizer__learning_rate": 1e38,
    "optimizer__schedule": "constant",
    "optimizer__warmup": 0.0,
    "train__steps_per_dispatch": 4,
}


@pytest.mark.slow
def test_a_run_stops_before_a_nonfinite_step_and_saves_the_state(tmp_path: Path) -> None:
    pattern = (
        r"step 2 \(epoch 1, batch 2 of \d+\): the loss is (nan|inf), the largest gradients are those of "
        r"encoder.* not finite.*skip_nonfinite"
    )
    for _ in range(2):  # the resumed run stops at the same step
        with pytest.raises(UserError, match=pattern):
            fit(small(demo.get_config(), **DIVERGING), tmp_path)
        assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["1"]
    assert [row["step"] for row in rows(tmp_path, "train")] == [1]  # the finite step, once


@pytest.mark.slow
def test_a_stopped_run_resumes_with_skip_nonfinite(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(UserError, match="step 2 "):
        fit(small(demo.get_config(), **DIVERGING), tmp_path)
    fit(small(demo.get_config(), **DIVERGING, train__skip_nonfinite=True), tmp_path)
    assert "9 steps were skipped" in capsys.readouterr().out
    good, *bad = rows(tmp_path, "train")
    assert good["step"] == 1 and good["loss"] > 0
    assert sum(row["skipped"] for row in bad) == 9
    assert {row["loss"] for row in bad} == {None}


SHORT_OF_MEMORY = """
import resource, sys
from pathlib import Path
import jax
from configs.demo import get_config
from flax_ner.errors import UserError
from flax_ner.fit import fit
from flax_ner.training.loop import _how_to_use_less_memory
from flax_ner.training.mesh import make_mesh
from tests.training.test_loop import small

config = small(get_config(), data__batch_size=8192)
jax.numpy.zeros(3).block_until_ready()
pages = int(Path("/proc/self/statm").read_text().split()[0])
resource.setrlimit(resource.RLIMIT_AS, (pages * 4096 + 2**31,) * 2)  # at most 2 GiB more
try:
    fit(config, sys.argv[1])
except UserError as error:
    print(error)
"""


@pytest.mark.slow
@pytest.mark.every_python
def test_the_out_of_memory_error_says_what_to_change(tmp_path: Path) -> None:
    command = [sys.executable, "-c", SHORT_OF_MEMORY, str(tmp_path / "run")]
    result = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=300
    )
    assert "the device is out of memory" in result.stdout, result.stderr
    assert "model.remat=True" in result.stdout
    assert "data.batch_size (now 8192)" in result.stdout


def test_errors_are_raised_before_training(tmp_path: Path) -> None:
    unlabelled = tmp_path / "test.json"
    unlabelled.write_text('{"text": "王建国在东海市工作。"}\n', "utf-8")
    labelled = tmp_path / "train.json"
    write_cluener(labelled, synthetic("train", 20))
    files = {"data__format": "cluener", "data__train": str(labelled)}
    with pytest.raises(UserError, match=r"data.dev: .*test.json:1: has no label"):
        fit(small(demo.get_config(), **files, data__dev=str(unlabelled)), tmp_path / "run")
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"--workdir: .*file cannot be written"):
        fit(small(demo.get_config()), tmp_path / "file")
    with pytest.raises(UserError, match=r"mesh\.fsdp: 3 does not divide the 8 devices"):
        fit(small(demo.get_config(), mesh__data=0, mesh__fsdp=3), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_weights_of_another_shape_are_rejected_with_the_flags_to_set(tmp_path: Path) -> None:
    fit(small(demo.get_config(), train__steps=2), tmp_path / "run")
    # Unset settings are recorded with their resolved values.
    used = flatten_dict(json.loads((tmp_path / "run" / "config.json").read_text()), sep=".")
    for name, value in (("model.head", "softmax"), ("model.hidden_act", "gelu"),
                        ("data.max_length", 128), ("tokenizer.lower_case", True)):  # fmt: skip
        assert used[name] == value, name
    assert None not in used.values()
    other = small(
        demo.get_config(), init_from=str(tmp_path / "run" / "last"), model__intermediate_size=32
    )
    with pytest.raises(UserError, match=r"or set --config\.model\.intermediate_size=16"):
        fit(other, tmp_path / "other")


def test_there_are_eight_devices() -> None:
    assert jax.device_count() == 8


@pytest.mark.slow
def test_a_compiled_dispatch_is_profiled(tmp_path: Path) -> None:
    changes = {"profile": True, "train__steps": 6, "train__steps_per_dispatch": 2}
    fit(small(demo.get_config(), **changes), tmp_path / "run")
    fit(small(demo.get_config(), **changes | {"profile": False}), tmp_path / "plain")
    assert len(list((tmp_path / "run" / "profile").rglob("perfetto_trace.json.gz"))) == 1
    assert not (tmp_path / "plain" / "profile").exists()
    expected, actual = params(tmp_path / "plain"), params(tmp_path / "run")
    assert all((actual[name] == expected[name]).all() for name in expected)


def test_a_missing_profile_is_explained(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fit(small(demo.get_config(), profile=True, train__steps=2), tmp_path / "run")
    # Repeating the command in the same work directory would find no step left.
    advice = "every dispatch was compiled. Lower train.steps_per_dispatch and set a new --workdir."
    assert f"No profile: {advice}" in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize(
    ("changes", "included", "excluded"),
    [
        (
            {},
            [
                "gradient_accumulation_steps=2,",
                "remat=True and model.scan_layers=True",
                "size (now 8)",
            ],
            [],
        ),
        (
            {"train.gradient_accumulation_steps": 2, "model.scan_layers": True},
            ["gradient_accumulation_steps=4 (now 2)", "remat=True,"],
            ["scan_layers"],
        ),
        ({"data.batch_size": 1}, ["mesh.fsdp"], ["batch_size", "gradient_accumulation"]),
        ({"model.remat": True}, ["scan_layers=True"], ["model.remat=True"]),
    ],
)
def test_out_of_memory_advice_names_options_that_help(
    changes: dict[str, Any], included: list[str], excluded: list[str]
) -> None:
    config = small(demo.get_config())
    config.update_from_flattened_dict(changes)
    advice = _how_to_use_less_memory(config, make_mesh(1, 1, config.data.batch_size))
    assert all(words in advice for words in included), advice
    assert not any(words in advice for words in excluded), advice
