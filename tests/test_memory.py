"""Errors of jax that a user can fix become one-line messages at every entry point."""

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
from flax_ner.cli.main import main
from flax_ner.errors import UserError
from flax_ner.fit import fit
from flax_ner.inference import tagger
from flax_ner.memory import explain_jax_errors
from flax_ner.text.labels import LabelSet
from flax_ner.weights.model_dir import save_model
from tests.finetuning.test_task_data import CATEGORIES, model
from tests.inference.helpers import hand_made_tagger

ROOT = Path(__file__).resolve().parents[1]
NO_MEMORY = "RESOURCE_EXHAUSTED: Out of memory while trying to allocate 2000000000 bytes."


def no_gpu() -> list[Any]:
    raise AssertionError  # jax raises this with JAX_PLATFORMS=cuda if there is no NVIDIA GPU


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
def test_a_missing_device_is_one_line(path: Path, variable: str, value: str, why: str) -> None:
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
    if value == "foo":  # the advice works
        assert run(inherited).returncode == 0


def test_every_entry_point_explains_a_missing_device(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("devices", "local_devices", "process_index", "process_count", "default_backend"):
        monkeypatch.setattr(jax, name, no_gpu)
    monkeypatch.setenv("JAX_PLATFORMS", "cuda")
    message = (
        r"jax has no usable device: there is no NVIDIA GPU\. Unset JAX_PLATFORMS \(now 'cuda'\)"
    )
    with pytest.raises(UserError, match=f"^{message}"):
        tagger.load(path)
    config = demo.get_config()
    config.data.train, config.data.dev = "train 20", "dev 5"
    with pytest.raises(UserError, match=f"^{message}"):
        fit(config, tmp_path / "run")
    for arguments in (["ensemble", str(tmp_path / "out"), str(path)], ["predict"]):
        with pytest.raises(SystemExit, match=f"^flax_ner: {message}"):
            main([*arguments, str(path)])
    main(["inspect", str(path)])  # needs no device
    for script, arguments in {
        "flax_to_torch": [str(path), str(tmp_path / "out"), "--layout", "hf"],
    }.items():
        convert = runpy.run_path(str(ROOT / "convert" / f"{script}.py"))["main"]
        with pytest.raises(SystemExit, match=f"^{script}: {message}"):
            convert(arguments)


def test_other_errors_are_not_changed() -> None:
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


def raise_out_of_memory(*_: Any, **__: Any) -> None:
    raise jax.errors.JaxRuntimeError(NO_MEMORY)


@pytest.mark.parametrize(
    ("fail", "message"),
    [
        (raise_out_of_memory, r"the device is out of memory \(allocating 2,000 MB\)\."),
        (raise_from_orbax, r"the device is out of memory \(allocating 2,000 MB\)\."),
        (raise_memory_error, r"this machine is out of memory \(allocating 2\.00 GiB\)\."),
        (raise_enomem, r"this machine is out of memory\."),
    ],
)
def test_out_of_memory_at_load_and_in_training_is_explained(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fail: Any, message: str
) -> None:
    for module, name in ((tagger, "open_model"), (jax, "device_put")):
        with monkeypatch.context() as patched:
            patched.setattr(module, name, fail)
            with pytest.raises(UserError, match=f"^{message} Close other programs"):
                tagger.load(path)
            with pytest.raises(SystemExit, match=f"^flax_ner: {message} Close other programs"):
                main(["predict", str(path)])
    config = demo.get_config()
    config.data.train, config.data.dev = "train 20", "dev 5"
    for name in ("fit.Tagging", "training.loop.make_mesh", "training.loop.make_run_steps"):
        with monkeypatch.context() as patched:
            patched.setattr(f"flax_ner.{name}", fail)
            training = name == "training.loop.make_run_steps"
            advice = "To use less memory, set .*mesh.fsdp" if training else "Close other programs"
            with pytest.raises(UserError, match=f"^{message} {advice}"):
                fit(config, tmp_path / "run")


def test_out_of_memory_in_the_tagger_suggests_a_smaller_batch_size(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tagger = hand_made_tagger()
    monkeypatch.setattr(jax, "device_put", raise_out_of_memory)
    for use in (lambda: tagger(["bi"]), tagger.compile):
        with pytest.raises(UserError, match=r"out of memory.* Lower the batch size \(now 4\)"):
            use()
