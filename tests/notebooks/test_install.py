"""The requirements that a notebook passes to pip, depending on the installed jax and the device."""

import subprocess
import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
NONE = {"jax": None, "libtpu": None, "jax-cuda12-plugin": None, "jax-cuda13-plugin": None}


@pytest.fixture
def install() -> ModuleType:
    """Load a fresh copy of notebooks/install.py, which is outside of the package, for each test."""
    spec = spec_from_file_location("install", ROOT / "notebooks" / "install.py")
    assert spec and spec.loader
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("installed", "extra", "wanted"),
    [
        ({}, "", "jax>=0.10"),
        ({}, "cuda13", "jax[cuda13]>=0.10"),
        # New enough: pinned, whatever flax requires.
        ({"jax": "0.10.0"}, "", "jax==0.10.0"),
        ({"jax": "0.11.1", "libtpu": "0.0.40"}, "tpu", "jax==0.11.1"),
        ({"jax": "0.10", "jax-cuda12-plugin": "0.10"}, "cuda12", "jax==0.10"),
        ({"jax": "1.2.3.dev4"}, "", "jax==1.2.3.dev4"),
        # Too old: a newer one for the same device.
        ({"jax": "0.7.2"}, "", "jax>=0.10"),
        ({"jax": "0.9.9", "libtpu": "0.0.21"}, "tpu", "jax[tpu]>=0.10"),
        ({"jax": "0.7.2", "jax-cuda12-plugin": "0.7.2"}, "cuda12", "jax[cuda12]>=0.10"),
        # New enough, but without the plugin for the device.
        ({"jax": "0.12.0"}, "cuda12", "jax[cuda12]==0.12.0"),
        ({"jax": "0.12.0"}, "tpu", "jax[tpu]==0.12.0"),
    ],
)
def test_a_new_enough_jax_stays_and_an_older_one_is_replaced_for_the_same_device(
    install: ModuleType, installed: dict[str, str], extra: str, wanted: str
) -> None:
    required = install.requirements(Path("/checkout"), NONE | installed, extra, "0.10")
    assert required == ["/checkout[tensorboard]", wanted]


def test_the_minimum_jax_is_read_from_requirements_txt(install: ModuleType) -> None:
    stated = (ROOT / "requirements.txt").read_text("utf-8")
    assert f"jax>={install.minimum_jax(stated)}\n" in stated
    with pytest.raises(RuntimeError, match="no line jax>="):
        install.minimum_jax("flax>=0.12\nml-jax>=2\n")


def test_versions_compare_by_number(install: ModuleType) -> None:
    assert install.numbers("0.9.2") < install.numbers("0.10") <= install.numbers("0.10.0rc1")
    assert install.numbers("0.10.0.dev20260101") < install.numbers("0.10.1")


@pytest.mark.parametrize(
    ("plugin", "device", "driver", "extra"),
    [
        (None, None, "", ""),
        (
            "jax-cuda12-plugin",
            "nvidia0",
            "590.1",
            "cuda12",
        ),  # kept, although the driver supports CUDA 13
        ("jax-cuda13-plugin", "nvidia0", "580.65.06", "cuda13"),
        ("libtpu", "accel0", "", "tpu"),
        (None, "nvidia0", "550.54.15", "cuda12"),
        (None, "nvidiactl", "580.65.06", "cuda13"),
        (None, "nvidia0", "", "cuda12"),  # no nvidia-smi
        (None, "accel0", "", "tpu"),
        (None, "accel", "", ""),
    ],
)
def test_the_extra_follows_the_plugin_then_the_hardware(
    install: ModuleType,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    plugin: str | None,
    device: str | None,
    driver: str,
    extra: str,
) -> None:
    for name in ("NVIDIA", "TPU"):
        files = [pattern.replace("/dev", str(tmp_path)) for pattern in getattr(install, name)]
        monkeypatch.setattr(install, name, files)
    monkeypatch.setattr(install, "version", lambda name: "1.0" if name == plugin else None)
    if device:
        (tmp_path / device).touch()
    programs = tmp_path / "bin"
    programs.mkdir()
    if driver:
        (programs / "nvidia-smi").write_text(f"#!{sys.executable}\nprint('{driver}')\n")
        (programs / "nvidia-smi").chmod(0o755)
    monkeypatch.setenv("PATH", str(programs))
    assert install.device_extra() == extra


class Machine:
    """A fake machine: installed packages, and fake runs of pip and jax."""

    def __init__(self, before: dict[str, str], after: dict[str, str], sees: str):
        self.installed, self.after, self.sees = before, after, sees
        self.asked: list[str] = []

    def version(self, name: str) -> str | None:
        return self.installed.get(name)

    def run(self, command: list[str], **options: Any) -> subprocess.CompletedProcess[str]:
        if "pip" in command:
            self.asked = command[command.index("install") + 2 :]
            self.installed = self.after
            return subprocess.CompletedProcess(command, 0 if self.after else 1)
        return subprocess.CompletedProcess(command, 0, f"noise\n{self.sees}\n", "a warning")


def start(install: ModuleType, monkeypatch: pytest.MonkeyPatch, machine: Machine) -> None:
    monkeypatch.setattr(install, "version", machine.version)
    monkeypatch.setattr(install.subprocess, "run", machine.run)
    install.install(ROOT)


def load(monkeypatch: pytest.MonkeyPatch, install: ModuleType, **versions: str) -> None:
    """Simulate a kernel that has loaded exactly these of the modules `LOADED`."""
    for name in install.LOADED:
        monkeypatch.delitem(sys.modules, name, raising=False)
    for name, version in versions.items():
        module: Any = ModuleType(name)
        module.__version__ = version
        monkeypatch.setitem(sys.modules, name, module)


GPU = {"jax": "0.7.2", "jax-cuda12-plugin": "0.7.2"}
NEW = {"jax": "0.12.0", "jax-cuda12-plugin": "0.12.0", "flax_ner": "0.1.0"}


def test_an_old_jax_for_a_gpu_is_replaced_by_a_newer_one_for_a_gpu(
    install: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    machine = Machine(GPU, NEW, "gpu 1 0.12.0")
    load(monkeypatch, install)
    start(install, monkeypatch, machine)
    assert machine.asked == [f"{ROOT}[tensorboard]", "jax[cuda12]>=0.10"]
    assert "flax_ner 0.1.0, jax 0.12.0 on 1 x gpu." in capsys.readouterr().out
    machine.asked = []
    start(install, monkeypatch, machine)  # the second time nothing is installed
    assert not machine.asked


def test_a_jax_that_does_not_find_the_gpu_is_an_error(
    install: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(RuntimeError, match=r"finds only the CPU.*cuda12.*\n.*a warning"):
        start(install, monkeypatch, Machine(GPU, NEW, "cpu 1 0.12.0"))


def test_a_restart_is_required_after_replacing_loaded_packages(
    install: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    load(monkeypatch, install, jax="0.7.2", numpy="2.0.2")
    machine = Machine({**GPU, "numpy": "2.0.2"}, {**NEW, "numpy": "2.0.2"}, "gpu 1 0.12.0")
    for _ in range(2):  # until the session is restarted
        with pytest.raises(RuntimeError, match=r"had loaded an older jax\. Restart the session"):
            start(install, monkeypatch, machine)
    load(monkeypatch, install, numpy="2.0.2")
    start(install, monkeypatch, machine)


def test_a_failure_of_pip_is_an_error(install: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(RuntimeError, match="pip could not install"):
        start(install, monkeypatch, Machine(GPU, {}, ""))


def test_the_device_is_checked_in_a_new_process(
    install: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    install.check_device("")
    assert capsys.readouterr().out.rstrip().endswith(" on 8 x cpu.")  # set by tests/conftest.py
