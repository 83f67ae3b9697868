"""The command line as a whole: version, help, doctor, completion."""

import re
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
    ("module", "arguments", "message"),
    [
        ("bulk", ["model", "texts", "out"], "The same command tags the files that are missing."),
        ("doctor", [], ""),
    ],
)
def test_ctrl_c_ends_a_command_without_a_traceback(
    module: str,
    arguments: list[str],
    message: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    name = {"bulk": "tag_files", "doctor": "_devices"}[module]
    monkeypatch.setattr(f"flax_ner.cli.{module}_command.{name}", interrupt)
    with pytest.raises(SystemExit, match=r"^130$"):
        main([module, *arguments])
    assert capsys.readouterr().err.split("\n")[-2] == f"flax_ner: interrupted. {message}".rstrip()


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
