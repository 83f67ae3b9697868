"""Output files of commands: an input is never replaced, another file only with --force."""

from pathlib import Path

import pytest

from flax_ner.cli.main import main

# Commands that read MODEL, DATA, TRAIN and OTHER and write OUT.
COMMANDS = {
    "evaluate, JSON": "evaluate MODEL DATA --train TRAIN --compare OTHER --json OUT",
    "evaluate, HTML": "evaluate MODEL DATA --train TRAIN --compare OTHER --html OUT",
    "predict": "predict MODEL DATA --output OUT",
    "convert": "data convert DATA OUT",
    "check, JSON": "data check DATA TRAIN --model MODEL --json OUT",
    "check, HTML": "data check DATA TRAIN --model MODEL --html OUT",
    "stats, JSON": "data stats DATA TRAIN --json OUT",
    "stats, HTML": "data stats DATA TRAIN --html OUT",
}
each_command = pytest.mark.parametrize("command", COMMANDS.values(), ids=COMMANDS)


@pytest.fixture
def inputs(tmp_path: Path) -> dict[str, Path]:
    made = {"DATA": tmp_path / "data.json", "TRAIN": tmp_path / "train.json"}
    for path in made.values():
        path.write_text('{"text": "a", "label": {}}\n')
    for name in ("MODEL", "OTHER"):  # a folder with a file
        made[name] = tmp_path / name.lower()
        made[name].mkdir()
        (made[name] / "labels.json").write_text("{}")
    return made


def run(command: str, inputs: dict[str, Path], out: Path, *more: str) -> None:
    paths = inputs | {"OUT": out}
    main([str(paths.get(word, word)) for word in command.split()] + list(more))


@each_command
def test_no_command_replaces_another_file_without_force(
    inputs: dict[str, Path], tmp_path: Path, command: str
) -> None:
    out = tmp_path / "out"
    out.write_text("precious")
    with pytest.raises(SystemExit, match=r"'.*out' exists\. Name another file, or .* --force\.$"):
        run(command, inputs, out)
    assert out.read_text() == "precious"


@each_command
def test_no_command_replaces_its_inputs(inputs: dict[str, Path], command: str) -> None:
    for name, path in inputs.items():
        if name in command:
            target = path / "labels.json" if path.is_dir() else path
            before = target.read_bytes()
            for more in ([], ["--force"]):
                with pytest.raises(SystemExit, match=r"belongs to the input .*\. Name another"):
                    run(command, inputs, target, *more)
            assert target.read_bytes() == before


@pytest.mark.parametrize("command", ["data stats DATA --json OUT", "data check DATA --html OUT"])
def test_force_replaces_a_file(inputs: dict[str, Path], tmp_path: Path, command: str) -> None:
    out = tmp_path / "out"
    out.write_text("old")
    run(command, inputs, out, "--force")
    assert "data.json" in out.read_text()
