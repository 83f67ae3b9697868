"""Model directories after kills, power failures and bit flips, and with concurrent readers."""

import itertools
import os
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

import flax_ner
from flax_ner import durable
from flax_ner.errors import UserError
from flax_ner.model.tagging_model import init_params
from flax_ner.weights import model_dir
from flax_ner.weights.describe import describe
from flax_ner.weights.export import export
from flax_ner.weights.model_dir import ModelDir, load_model, read_metadata, save_model
from tests.disk import Disk, copied, files, flip
from tests.weights.helpers import CONFIG, LABELS, VOCAB, assert_same

ROOT = Path(__file__).resolve().parents[2]


SAVED = 3  # number of the model that the tests share


def model(number: int) -> ModelDir:
    """Return a model with `number` as its `max_length` and as the value of every parameter."""
    shapes = init_params(CONFIG, jax.random.key(0))
    params = jax.tree.map(lambda x: np.full(x.shape, number, np.float32), shapes)
    return ModelDir(CONFIG, LABELS, VOCAB, number, params)


def number_of(path: Path) -> int:
    """Return the number of the model in a directory, and assert that all files come from one save."""
    loaded = load_model(path)
    assert_same(loaded.params, model(loaded.max_length).params)
    return loaded.max_length


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("saved") / "model"
    save_model(path, model(SAVED))
    return path


# For each input line "NUMBER KILL", save a model in a child process that exits with status 9 before its KILL-th
# call that changes files. Print the exit status of the child.
SAVER = """
import os, sys
from pathlib import Path
import jax
import numpy as np
from flax_ner import durable
from flax_ner.model.tagging_model import abstract_params
from flax_ner.weights.model_dir import ModelDir, save_model
from tests.weights.helpers import CONFIG, LABELS, VOCAB

path, shapes = Path(sys.argv[1]), abstract_params(CONFIG)
remaining = 0

def count(event, arguments):
    global remaining
    changes = event in ("os.mkdir", "os.rename", "os.remove", "os.rmdir") or (
        event == "open" and arguments[2] & os.O_CREAT
    )
    if remaining and changes and "/dev/null" not in arguments:
        remaining -= 1
        if remaining == 0:
            os._exit(9)

sys.addaudithook(count)
os.fsync = lambda descriptor: None  # slow, and a killed process loses nothing that it wrote
if sys.argv[2] == "renames":
    durable._exchange = lambda one, other: False
for line in sys.stdin:
    number, kill = map(int, line.split())
    child = os.fork()
    if not child:
        params = jax.tree.map(lambda x: np.full(x.shape, number, np.float32), shapes)
        remaining = kill
        save_model(path, ModelDir(CONFIG, LABELS, VOCAB, number, params))
        os._exit(0)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="the system has no fork")
@pytest.mark.parametrize("way", ["exchange", "renames"])
def test_a_kill_during_a_save_leaves_the_old_or_the_new_model(tmp_path: Path, way: str) -> None:
    path, missing = tmp_path / "model", 0
    save_model(path, model(1))
    kill = 0 if way == "exchange" else 20  # the first 20 calls are the same for both
    command = [sys.executable, "-c", SAVER, str(path), way]
    pipe = subprocess.PIPE
    # Each save starts from what the killed one before it left.
    with subprocess.Popen(command, cwd=ROOT, stdin=pipe, stdout=pipe, text=True) as saver:
        assert saver.stdin and saver.stdout
        before, kept, replaced = 1, 0, 0
        for number in range(2, 300):
            kill += 1 if replaced < 5 else 4  # later calls only remove the old model's files
            print(number, kill, file=saver.stdin, flush=True)
            status = int(saver.stdout.readline())
            current = number_of(path)
            assert current in (before, number)
            missing += not path.exists()
            if status == 0 and replaced > 5:
                break
            if status == 0:  # threads make the number of calls vary, so some kills were skipped
                kill, before = kill - 8, current
                continue
            assert status == 9
            kept, replaced = kept + (current == before), replaced + (current == number)
            before = current
        assert status == 0 and current == number
        saver.stdin.close()
    assert kept > 4 and replaced > 5  # kills before and after the rename
    assert [child.name for child in tmp_path.iterdir()] == ["model"]
    assert (missing > 0) == (way == "renames")  # and `number_of` loaded it nevertheless


@pytest.mark.parametrize("exchange", [True, False])
def test_a_model_is_on_disk_before_it_is_renamed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, exchange: bool
) -> None:
    disk = Disk(monkeypatch, exchange)
    for number in (1, 2):
        save_model(tmp_path / "runs" / "model", model(number))
        disk.check_renames_synced()
    assert number_of(tmp_path / "runs" / "model") == 2
    export(model(1), tmp_path / "exported", "hf")
    disk.check_renames_synced()
    assert disk.renamed == ["model", "model", "exported"]


def test_a_changed_file_is_reported(saved: Path, tmp_path: Path) -> None:
    names = files(saved)
    assert {"config.json", "labels.json", "vocab.txt", "checksums.json"} < set(names)
    assert sum(name.startswith("params/") for name in names) > 5
    path = copied(saved, tmp_path / "model")
    for name in names:
        content = (path / name).read_bytes()
        size = len(content)
        message = (
            "model: "
            if name == "checksums.json"
            else rf"model: {name} does not match its checksum\. "
        )
        for position in {i * size // 16 for i in range(16)} | {size - 1} if size else ():
            flip(path / name, position, position % 8)
            with pytest.raises(UserError, match=message):
                load_model(path)
            if "/" not in name and name != "checksums.json":
                with pytest.raises(UserError, match=message):
                    read_metadata(path)
            (path / name).write_bytes(content)
        for changed in (content[: size // 2], content + b"\n"):
            if changed != content:
                (path / name).write_bytes(changed)
                # JSON ignores an additional line break.
                if (name, changed) != ("checksums.json", content + b"\n"):
                    with pytest.raises(UserError, match=message):
                        load_model(path)
        (path / name).unlink()
        if name != "checksums.json":  # directories of older versions have none
            with pytest.raises(UserError, match=rf"{name}( is missing|\.)"):
                load_model(path)
        (path / name).write_bytes(content)
    assert number_of(path) == SAVED
    flip(path / "vocab.txt", 30)
    for use in (flax_ner.load, lambda path: describe(path, "MODEL")):
        with pytest.raises(UserError, match=r"vocab\.txt does not match its checksum"):
            use(path)


@pytest.mark.parametrize("name", ["params/d/other", "labels.json"])
def test_an_added_file_is_reported(tmp_path: Path, name: str) -> None:
    encoder = model(1)
    encoder.labels = None
    del encoder.params["head"]
    save_model(tmp_path / "model", encoder)
    (tmp_path / "model" / "README.md").write_text("Not read, so it may exist.")
    (tmp_path / "model" / "params" / ".DS_Store").touch()
    assert load_model(tmp_path / "model").max_length == 1
    (tmp_path / "model" / name).write_text('{"scheme": "bio", "categories": ["a", "b"]}')
    with pytest.raises(UserError, match=f"model: {name} was added later"):
        load_model(tmp_path / "model")


def test_a_changed_file_is_accepted_without_checksums(saved: Path, tmp_path: Path) -> None:
    path = copied(saved, tmp_path / "model")
    changed = (path / "vocab.txt").read_text().replace("f", "g")
    (path / "vocab.txt").write_text(changed)
    with pytest.raises(UserError, match=r"If you made this change, delete checksums\.json\."):
        load_model(path)
    (path / "checksums.json").unlink()
    assert load_model(path).vocab[-1] == "g"


@pytest.mark.parametrize("name", ["/etc/passwd", "../../secret", "params/../../secret"])
def test_checksums_cannot_name_files_outside_the_directory(
    saved: Path, tmp_path: Path, name: str
) -> None:
    path = copied(saved, tmp_path / "model")
    (path / "checksums.json").write_text(f'{{"{name}": "00"}}')
    with pytest.raises(UserError, match=r"checksums\.json is damaged"):
        load_model(path)


def test_a_reader_gets_one_model_while_it_is_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, read = tmp_path / "model", model_dir._read_small_files
    save_model(path, model(1))
    numbers = iter([2, 3])

    def replaced_meanwhile(folder: Path) -> ModelDir:
        result = read(folder)
        for number in itertools.islice(numbers, 1):
            save_model(path, model(number))
        return result

    monkeypatch.setattr(model_dir, "_read_small_files", replaced_meanwhile)
    assert number_of(path) == 3
    # A reader that misses files because they are being removed.
    numbers = iter([4])

    def removed_meanwhile(folder: Path, small: bool = False) -> None:
        for number in itertools.islice(numbers, 1):
            save_model(path, model(number))
            raise UserError("params are missing")

    monkeypatch.setattr(model_dir, "check_files", removed_meanwhile)
    assert number_of(path) == 4


def test_a_model_is_found_between_two_renames(saved: Path, tmp_path: Path) -> None:
    copied(saved, tmp_path / ".model.replaced")
    assert number_of(tmp_path / "model") == SAVED
    assert len(flax_ner.load(tmp_path / "model").labels) == len(LABELS)
    assert "a model directory" in describe(tmp_path / "model", "MODEL")[0]


def test_the_old_model_stays_if_the_second_rename_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_model(tmp_path / "model", model(1))
    rename = os.rename

    def failing(one: Path, other: Path) -> None:
        if Path(one).name == ".model.writing":
            raise OSError(5, "Input/output error")
        rename(one, other)

    monkeypatch.setattr(durable, "_exchange", lambda one, other: False)
    monkeypatch.setattr(os, "rename", failing)
    with pytest.raises(UserError, match=r"cannot be written \(.*Input/output error"):
        save_model(tmp_path / "model", model(2))
    assert number_of(tmp_path / "model") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
