"""Errors of jax that a user can fix are one line with a remedy, at every entry point."""

import errno
import os
import runpy
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
import pytest

from configs import demo
from flax_ner.errors import UserError
from flax_ner.inference import tagger
from flax_ner.inference.cli import main
from flax_ner.memory import explain_jax_errors
from flax_ner.text.labels import LabelSet
from flax_ner.training import loop
from flax_ner.weights.model_dir import save_model
from tests.inference.helpers import hand_made_tagger
from tests.training.test_task import CATEGORIES, model

ROOT = Path(__file__).resolve().parents[1]
NO_MEMORY = "RESOURCE_EXHAUSTED: Out of memory while trying to allocate 2000000000 bytes."


def no_gpu() -> list[Any]:
    raise AssertionError  # what jax raises with JAX_PLATFORMS=cuda where there is no NVIDIA GPU


@pytest.fixture
def path(tmp_path: Path) -> Path:
    save_model(tmp_path / "model", model(LabelSet(CATEGORIES)))
    return tmp_path / "model"


@pytest.mark.parametrize(
    ("variable", "value", "why"),
    [
        ("JAX_PLATFORMS", "cuda", ""),
        ("JAX_PLATFORMS", "foo", "Backend 'foo' is not in the list of known backends"),
        pytest.param("JAX_NUM_CPU_DEVICES", "0", "'cpu'", marks=pytest.mark.slow),
    ],
)
def test_a_device_that_is_not_there_is_one_line(
    path: Path, variable: str, value: str, why: str
) -> None:
    command = [sys.executable, "-m", "flax_ner", "predict", str(path)]
    inherited = {k: v for k, v in os.environ.items() if k not in ("JAX_PLATFORMS", "XLA_FLAGS")}

    def run(environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command, cwd=ROOT, env=environment, input="中国", capture_output=True, text=True,
            check=False, timeout=300,
        )  # fmt: skip

    result = run(inherited | {variable: value})
    assert result.returncode == 1 and len(result.stderr.splitlines()) == 1, result.stderr
    assert result.stderr.startswith("flax_ner: jax has no usable device: ")
    assert why in result.stderr and f"Unset {variable} (now {value!r})" in result.stderr
    if value == "foo":  # the remedy works
        assert run(inherited).returncode == 0


def test_every_entry_point_explains_a_missing_device(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("devices", "local_devices", "process_index", "process_count", "default_backend"):
        monkeypatch.setattr(jax, name, no_gpu)
    monkeypatch.setenv("JAX_PLATFORMS", "cuda")
    told = r"jax has no usable device: there is no NVIDIA GPU\. Unset JAX_PLATFORMS \(now 'cuda'\)"
    with pytest.raises(UserError, match=f"^{told}"):
        tagger.load(path)
    config = demo.get_config()
    config.data.train, config.data.dev = "train 20", "dev 5"
    with pytest.raises(UserError, match=f"^{told}"):
        loop.fit(config, tmp_path / "run")
    for arguments in (["inspect"], ["ensemble", str(tmp_path / "out"), str(path)], ["predict"]):
        with pytest.raises(SystemExit, match=f"^flax_ner: {told}"):
            main([*arguments, str(path)])
    for script, arguments in {
        "flax_to_torch": [str(path), str(tmp_path / "out"), "--layout", "hf"],
    }.items():
        convert = runpy.run_path(str(ROOT / "convert" / f"{script}.py"))["main"]
        with pytest.raises(SystemExit, match=f"^{script}: {told}"):
            convert(arguments)


def test_errors_that_are_no_devices_fault_stay_as_they_are() -> None:
    for error in (RuntimeError("x"), AssertionError("y"), KeyError("z"), UserError("w")):
        with pytest.raises(type(error)) as caught, explain_jax_errors():
            raise error
        assert caught.value is error


def raise_from_orbax(*_: Any, **__: Any) -> None:
    try:
        raise jax.errors.JaxRuntimeError(NO_MEMORY)
    except jax.errors.JaxRuntimeError as error:
        raise Exception("Encountered error while reading array index") from error


def raise_memory_error(*_: Any, **__: Any) -> None:
    raise MemoryError("Unable to allocate 2.00 GiB for an array with shape (3,)")


def raise_enomem(*_: Any, **__: Any) -> None:
    raise OSError(errno.ENOMEM, "Cannot allocate memory")


def raise_shortage(*_: Any, **__: Any) -> None:
    raise jax.errors.JaxRuntimeError(NO_MEMORY)


@pytest.mark.parametrize(
    ("shortage", "told"),
    [
        (raise_shortage, r"the device is out of memory, 2,000 MB in one piece\."),
        (raise_from_orbax, r"the device is out of memory, 2,000 MB in one piece\."),
        (raise_memory_error, r"this machine is out of memory, 2\.00 GiB\."),
        (raise_enomem, r"this machine is out of memory\."),
    ],
)
def test_out_of_memory_at_load_and_in_training_is_explained(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shortage: Any, told: str
) -> None:
    for name in ("open_model", "cast_kernels"):  # reading the weights, and placing them
        with monkeypatch.context() as patched:
            patched.setattr(tagger, name, shortage)
            with pytest.raises(UserError, match=f"^{told} Close other programs"):
                tagger.load(path)
            with pytest.raises(SystemExit, match=f"^flax_ner: {told} Close other programs"):
                main(["predict", str(path)])
    config = demo.get_config()
    config.data.train, config.data.dev = "train 20", "dev 5"
    for name in ("Tagging", "make_mesh", "_train"):
        with monkeypatch.context() as patched:
            if name == "Tagging":
                patched.setitem(loop.JOBS, "tagging", shortage)
            else:
                patched.setattr(loop, name, shortage)
            advice = "What helps: .*data.batch_size" if name == "_train" else "Close other programs"
            with pytest.raises(UserError, match=f"^{told} {advice}"):
                loop.fit(config, tmp_path / "run")


def test_out_of_memory_on_the_way_to_the_device_names_the_batch_size(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tagger = hand_made_tagger()
    monkeypatch.setattr(jax, "device_put", raise_shortage)
    for use in (lambda: tagger(["bi"]), tagger.compile):
        with pytest.raises(UserError, match=r"out of memory.* Lower the batch size \(now 4\)"):
            use()
