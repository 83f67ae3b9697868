"""Model directories after kills, power failures, bit flips, and while others read them."""

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
from flax_ner.model.tagger import init_params
from flax_ner.weights import model_dir
from flax_ner.weights.describe import describe
from flax_ner.weights.export import export
from flax_ner.weights.model_dir import ModelDir, load_model, read_card, save_model
from tests.disk import Disk, copied, files, flip
from tests.weights.helpers import CONFIG, LABELS, VOCAB, assert_same

ROOT = Path(__file__).resolve().parents[2]


SAVED = 3  # number of the model that the tests share


def model(number: int) -> ModelDir:
    """A model that tells its number by the length of rows and by each parameter."""
    shapes = init_params(CONFIG, jax.random.key(0))
    params = jax.tree.map(lambda x: np.full(x.shape, number, np.float32), shapes)
    return ModelDir(CONFIG, LABELS, VOCAB, number, params)


def number_of(path: Path) -> int:
    """The number of the model in a directory, which must be whole and of one save."""
    loaded = load_model(path)
    assert_same(loaded.params, model(loaded.max_length).params)
    return loaded.max_length


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("saved") / "model"
    save_model(path, model(SAVED))
    return path


# Saves a model in a process of its own for each line "NUMBER KILL" of its input, and kills it before
# its KILL-th call that changes files; prints the exit status, which is 9 of one that was killed.
SAVER = """
import os, sys
from pathlib import Path
import jax
import numpy as np
from flax_ner import durable
from flax_ner.model.tagger import abstract_params
from flax_ner.weights.model_dir import ModelDir, save_model
from tests.weights.helpers import CONFIG, LABELS, VOCAB

path, shapes = Path(sys.argv[1]), abstract_params(CONFIG)
left = 0

def count(event, arguments):
    global left
    changes = event in ("os.mkdir", "os.rename", "os.remove", "os.rmdir") or (
        event == "open" and arguments[2] & os.O_CREAT
    )
    if left and changes and "/dev/null" not in arguments:
        left -= 1
        if left == 0:
            os._exit(9)

sys.addaudithook(count)
os.fsync = lambda descriptor: None  # a killed process loses nothing that it wrote, and this takes long
if sys.argv[2] == "renames":
    durable._exchange = lambda one, other: False
for line in sys.stdin:
    number, kill = map(int, line.split())
    child = os.fork()
    if not child:
        params = jax.tree.map(lambda x: np.full(x.shape, number, np.float32), shapes)
        left = kill
        save_model(path, ModelDir(CONFIG, LABELS, VOCAB, number, params))
        os._exit(0)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="the system has no fork")
@pytest.mark.parametrize("way", ["exchange", "renames"])
def test_a_kill_at_any_moment_of_a_save_leaves_the_old_or_the_new_model(
    tmp_path: Path, way: str
) -> None:
    path, missing = tmp_path / "model", 0
    save_model(path, model(1))
    kill = 0 if way == "exchange" else 20  # before that both do the same
    command = [sys.executable, "-c", SAVER, str(path), way]
    pipe = subprocess.PIPE
    # Each save begins with what the one before left, so that all of them are saves after a kill too.
    with subprocess.Popen(command, cwd=ROOT, stdin=pipe, stdout=pipe, text=True) as saver:
        assert saver.stdin and saver.stdout
        before, kept, replaced = 1, 0, 0
        for number in itertools.count(2):
            kill += 1 if replaced < 5 else 4  # then it removes the old model's files
            print(number, kill, file=saver.stdin, flush=True)
            status = int(saver.stdout.readline())
            found = number_of(path)
            assert found in (before, number)
            missing += not path.exists()
            if status == 0:
                break
            assert status == 9
            kept, replaced = kept + (found == before), replaced + (found == number)
            before = found
        assert found == number
        saver.stdin.close()
    assert kept > 4 and replaced > 5  # kills before and after the new model has the name
    assert [child.name for child in tmp_path.iterdir()] == ["model"]
    assert (missing > 0) == (way == "renames")  # and `number_of` found it nevertheless


@pytest.mark.parametrize("exchange", [True, False])
def test_a_model_is_on_disk_before_it_has_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, exchange: bool
) -> None:
    disk = Disk(monkeypatch, exchange)
    for number in (1, 2):
        save_model(tmp_path / "runs" / "model", model(number))
        disk.check_names()
    assert number_of(tmp_path / "runs" / "model") == 2
    export(model(1), tmp_path / "exported", "hf")
    disk.check_names()
    assert disk.renamed == ["model", "model", "exported"]


def test_a_changed_file_is_reported_and_not_served(saved: Path, tmp_path: Path) -> None:
    names = files(saved)
    assert {"config.json", "labels.json", "vocab.txt", "checksums.json"} < set(names)
    assert sum(name.startswith("params/") for name in names) > 5
    path = copied(saved, tmp_path / "model")
    for name in names:
        content = (path / name).read_bytes()
        size = len(content)
        told = (
            "model: " if name == "checksums.json" else rf"model: {name} is not as it was written\. "
        )
        for position in {i * size // 16 for i in range(16)} | {size - 1} if size else ():
            flip(path / name, position, position % 8)
            with pytest.raises(UserError, match=told):
                load_model(path)
            if "/" not in name and name != "checksums.json":
                with pytest.raises(UserError, match=told):
                    read_card(path)
            (path / name).write_bytes(content)
        for cut in (content[: size // 2], content + b"\n"):
            if cut != content:
                (path / name).write_bytes(cut)
                # A line break more means nothing to JSON.
                if (name, cut) != ("checksums.json", content + b"\n"):
                    with pytest.raises(UserError, match=told):
                        load_model(path)
        (path / name).unlink()
        if name != "checksums.json":  # without which a directory is one of an older version
            with pytest.raises(UserError, match=rf"{name}( is missing|\.)"):
                load_model(path)
        (path / name).write_bytes(content)
    assert number_of(path) == SAVED
    flip(path / "vocab.txt", 30)
    for use in (flax_ner.load, lambda path: describe(path, "MODEL")):
        with pytest.raises(UserError, match=r"vocab\.txt is not as it was written"):
            use(path)


@pytest.mark.parametrize("name", ["params/d/other", "labels.json"])
def test_a_file_that_was_not_written_with_the_model_is_reported(tmp_path: Path, name: str) -> None:
    encoder = model(1)
    encoder.labels = None
    del encoder.params["head"]
    save_model(tmp_path / "model", encoder)
    (tmp_path / "model" / "README.md").write_text("Not read, so it may be there.")
    (tmp_path / "model" / "params" / ".DS_Store").touch()
    assert load_model(tmp_path / "model").max_length == 1
    (tmp_path / "model" / name).write_text('{"scheme": "bio", "categories": ["a", "b"]}')
    with pytest.raises(UserError, match=f"model: {name} was not written with it"):
        load_model(tmp_path / "model")


def test_a_change_of_ones_own_is_taken_as_the_message_says(saved: Path, tmp_path: Path) -> None:
    path = copied(saved, tmp_path / "model")
    changed = (path / "vocab.txt").read_text().replace("f", "g")
    (path / "vocab.txt").write_text(changed)
    with pytest.raises(UserError, match=r"If this change is yours, delete its checksums\.json\."):
        load_model(path)
    (path / "checksums.json").unlink()
    assert load_model(path).vocab[-1] == "g"


@pytest.mark.parametrize("name", ["/etc/passwd", "../../secret", "params/../../secret"])
def test_checksums_never_lead_out_of_the_directory(saved: Path, tmp_path: Path, name: str) -> None:
    path = copied(saved, tmp_path / "model")
    (path / "checksums.json").write_text(f'{{"{name}": "00"}}')
    with pytest.raises(UserError, match=r"checksums\.json is not as it was written"):
        load_model(path)


def test_a_reader_gets_one_model_while_another_replaces_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, read = tmp_path / "model", model_dir._read_small_files
    save_model(path, model(1))
    numbers = iter([2, 3])

    def replaced_meanwhile(folder: Path) -> ModelDir:
        found = read(folder)
        for number in itertools.islice(numbers, 1):
            save_model(path, model(number))
        return found

    monkeypatch.setattr(model_dir, "_read_small_files", replaced_meanwhile)
    assert number_of(path) == 3
    # And one that finds files missing because they are being removed.
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


def test_where_the_second_rename_fails_the_older_model_stays(
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
