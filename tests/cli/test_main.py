"""The command line as a whole: version, help, doctor, completion."""

import re
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax
import pytest

from flax_ner import __version__
from flax_ner.cli.main import COMMANDS, main

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("arguments", [["--version"], ["doctor"]])
def test_the_version_is_printed(
    arguments: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    if arguments == ["--version"]:
        with pytest.raises(SystemExit, match=r"^0$"):
            main(arguments)
    else:
        main(arguments)
    assert __version__ in capsys.readouterr().out


def test_doctor_names_versions_and_devices_but_no_variables(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "secret")
    main(["doctor"])
    printed = capsys.readouterr().out
    assert "secret" not in printed
    names = [line.partition(":")[0] for line in printed.splitlines()]
    assert {"Python", "packages", "devices", "bfloat16", "free disk space"} <= set(names)
    assert "cpu: 8 x cpu" in printed  # the tests run on eight simulated devices


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["bulk", "model", "texts", "out"], " The same command tags the files that are missing."),
        (["doctor"], ""),
    ],
)
@pytest.mark.parametrize("place", ["import", "run"])
def test_ctrl_c_ends_a_command_with_one_line(
    arguments: list[str], message: str, place: str, sigint: None
) -> None:
    names = {"import": "main.make_parser", "run": "main._check_argument_order"}
    code = (
        "import os, signal, sys\nfrom flax_ner.cli import main\n"
        f"{names[place]} = lambda *_: os.kill(os.getpid(), signal.SIGINT)\n"
        f"main.main({arguments!r})\n"
    )
    ended = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert ended.returncode == -signal.SIGINT  # a loop of a shell script ends, too
    assert ended.stderr == f"flax_ner: interrupted.{message}\n"


@pytest.mark.parametrize(
    ("capability", "expected"),
    [("9.0", "yes"), ("7.5", "no (compute"), ("gfx942", "unknown (compute")],
)
def test_doctor_tells_whether_a_gpu_supports_bfloat16(
    capability: str,
    expected: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    device = SimpleNamespace(device_kind="a GPU", compute_capability=capability)
    monkeypatch.setattr(jax, "devices", lambda: [device])
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    main(["doctor"])
    printed = capsys.readouterr().out
    assert "gpu: 1 x a GPU" in printed
    assert re.search(rf"bfloat16: +{re.escape(expected)}", printed)


@pytest.mark.parametrize("error", [RuntimeError("no device"), AssertionError()])
def test_doctor_reports_what_it_can_without_devices_and_readable_files(
    error: Exception, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise error

    read_text = Path.read_text

    def deny(path: Path, *arguments: Any, **more: Any) -> str:
        if path.is_relative_to("/proc") or path.is_relative_to("/sys"):
            raise PermissionError(path)
        return read_text(path, *arguments, **more)

    monkeypatch.setattr(jax, "devices", fail)
    monkeypatch.setattr(jax, "default_backend", fail)
    monkeypatch.setattr(Path, "read_text", deny)
    main(["doctor"])
    printed = capsys.readouterr().out
    assert "none that jax can use" in printed and "free disk space" in printed


def test_completion_knows_commands_and_settings(capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("shtab")
    main(["completion", "bash"])
    script = capsys.readouterr().out
    assert "--data.train" in script and "evaluate" in script and "_flax_ner" in script
    subprocess.run(["bash", "-n"], input=script, text=True, check=True)


def test_every_module_of_a_command_is_listed() -> None:
    modules = {path.name for path in (ROOT / "flax_ner" / "cli").glob("*_command.py")}
    of_data = {"audit_command.py", "download_command.py", "select_command.py"}
    assert modules - of_data == {f"{name}_command.py" for name in COMMANDS}


@pytest.mark.parametrize(
    "arguments", ["--help", "--version", "data --help", "data stats --help", "x"]
)
def test_help_and_commands_on_data_start_without_jax(arguments: str) -> None:
    code = (
        "import sys\nfrom flax_ner.cli.main import main\ntry: main()\n"
        "finally: assert 'jax' not in sys.modules"
    )
    command = [sys.executable, "-c", code, *arguments.split()]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == (2 if arguments == "x" else 0), result.stderr
    assert "Traceback" not in result.stderr
