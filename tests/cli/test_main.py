"""The command line as a whole: version, help, doctor, completion."""

import subprocess
import sys
from pathlib import Path

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
