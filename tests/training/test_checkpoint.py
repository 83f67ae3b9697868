"""Damaged checkpoints and full disks."""

import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec, SingleDeviceSharding

from flax_ner.errors import UserError
from flax_ner.training.checkpoint import Checkpoints
from flax_ner.training.mesh import make_mesh

ROOT = Path(__file__).resolve().parents[2]


def arrays_of(step: int) -> dict[str, Any]:
    """Return a state whose arrays depend on the step."""
    kernel = jax.random.normal(jax.random.key(step), (300, 200))
    return {"params": {"kernel": kernel}, "step": jax.numpy.int32(step)}


def restored(path: Path) -> tuple[Any, list[str]]:
    """Return the state that a resumed run starts from, and the notes about it."""
    shapes = jax.eval_shape(lambda: arrays_of(0))
    sharding = SingleDeviceSharding(jax.devices()[0])
    with Checkpoints(path, keep=3) as checkpoints:
        state = checkpoints.restore(shapes, jax.tree.map(lambda _: sharding, shapes))
        return state, checkpoints.notes


def assert_is(state: Any, step: int) -> None:
    assert int(state["step"]) == step
    np.testing.assert_array_equal(state["params"]["kernel"], arrays_of(step)["params"]["kernel"])


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("run") / "checkpoints"
    with Checkpoints(path, keep=3) as checkpoints:
        for step in (1, 2, 3):
            checkpoints.save(step, arrays_of(step))
    return path


def test_replicated_arrays_are_saved_without_compiling(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    replicated = NamedSharding(make_mesh(8, 1, 8), PartitionSpec())
    state = jax.device_put(arrays_of(7), replicated)
    with jax.log_compiles():
        assert jax.jit(lambda x: x + 1)(1) == 2  # compilation is logged
        assert "Compiling" in caplog.text
        caplog.clear()
        with Checkpoints(tmp_path, keep=1) as checkpoints:
            checkpoints.save(7, state)
    assert "Compiling" not in caplog.text
    assert_is(restored(tmp_path)[0], 7)


@pytest.fixture
def path(saved: Path, tmp_path: Path) -> Path:
    """Intact checkpoints of steps 1, 2 and 3, for a test to damage."""
    return Path(shutil.copytree(saved, tmp_path / "checkpoints"))


def files(checkpoint: Path) -> list[Path]:
    return sorted(p for p in checkpoint.rglob("*") if p.is_file())


def truncate(file: Path) -> None:
    content = file.read_bytes()
    file.write_bytes(content[: len(content) // 2])


def flip(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


@pytest.mark.parametrize("damage", [truncate, flip, Path.unlink])
def test_damage_to_any_file_is_detected(
    path: Path, tmp_path: Path, damage: Callable[[Path], None]
) -> None:
    damaged = 0
    for name in [file.relative_to(path) for file in files(path / "3")]:
        if (path / name).stat().st_size == 0 and damage is not Path.unlink:
            continue
        copy = Path(shutil.copytree(path, tmp_path / f"copy{damaged}"))
        damage(copy / name)
        state, notes = restored(copy)
        assert_is(state, 2)
        (note,) = notes
        assert note.startswith("Checkpoint 3 is damaged")
        assert name.name in note or name.name == "checksums.json"
        assert (copy / "3.damaged").is_dir()
        damaged += 1
    assert damaged > 5


def test_training_resumes_from_the_newest_intact_checkpoint(path: Path) -> None:
    flip(max(files(path / "3"), key=lambda file: file.stat().st_size))
    truncate(max(files(path / "2"), key=lambda file: file.stat().st_size))
    with Checkpoints(path, keep=2) as checkpoints:
        assert len(checkpoints.notes) == 2
        for step in (2, 3):
            checkpoints.save(step, arrays_of(step))
    assert {p.name for p in path.iterdir()} == {"2", "3", "2.damaged", "3.damaged"}
    state, notes = restored(path)
    assert_is(state, 3)
    assert notes == []


def test_a_checkpoint_of_the_same_step_can_be_damaged_twice(path: Path) -> None:
    for _ in range(2):
        flip(max(files(path / "3"), key=lambda file: file.stat().st_size))
        with Checkpoints(path, keep=3) as checkpoints:
            checkpoints.save(3, arrays_of(3))
    assert_is(restored(path)[0], 3)


def test_an_unreadable_checkpoint_counts_as_damaged(path: Path) -> None:
    file = path / "3" / "checksums.json"
    file.unlink()
    file.mkdir()
    state, notes = restored(path)
    assert_is(state, 2)
    assert "cannot be read: Is a directory" in notes[0]


def test_a_run_does_not_start_over_if_all_checkpoints_are_damaged(path: Path) -> None:
    for step in "123":
        flip(max(files(path / step), key=lambda file: file.stat().st_size))
    for _ in range(2):  # the first attempt renamed nothing
        with pytest.raises(UserError, match=r"all checkpoints are damaged \(3: .*; 2: .*; 1: .*\)"):
            Checkpoints(path, keep=3)


def test_partial_checkpoints_of_a_killed_run_are_removed(path: Path) -> None:
    (path / "3").rename(path / "3.writing")
    shutil.copytree(path / "2", path / "4.writing.orbax-checkpoint-tmp")
    state, notes = restored(path)
    assert_is(state, 2)
    assert notes == []
    assert {p.name for p in path.iterdir()} == {"1", "2"}


def test_damaged_checksums_count_as_damage(path: Path) -> None:
    (path / "3" / "checksums.json").write_text('["no"]')
    state, notes = restored(path)
    assert_is(state, 2)
    assert "checksums.json is damaged" in notes[0]


def test_a_full_disk_is_reported_before_writing(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(path)._replace(free=100_000)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    reason = r"step 4 cannot be written \(it needs 0.2 MB, but the disk has only 0.1 MB left\)"
    with pytest.raises(UserError, match=reason), Checkpoints(path, keep=3) as checkpoints:
        checkpoints.save(4, arrays_of(4))
    assert_is(restored(path)[0], 3)


FULL_DISK = """
import resource, sys
from flax_ner.errors import UserError
from flax_ner.training.checkpoint import Checkpoints
from tests.training.test_checkpoint import arrays_of

state = arrays_of(4)
try:
    with Checkpoints(sys.argv[1], keep=3) as checkpoints:
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))  # bytes of a file
        checkpoints.save(4, state)
except UserError as error:
    print(error)
"""


@pytest.mark.slow
@pytest.mark.every_python
def test_a_failed_write_is_reported_and_leaves_earlier_checkpoints(path: Path) -> None:
    command = [sys.executable, "-c", FULL_DISK, str(path)]
    printed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert re.search(
        r"step 4 cannot be written \(.*File too large.*Earlier checkpoints are", printed
    )
    state, notes = restored(path)
    assert_is(state, 3)
    assert notes == []
    with Checkpoints(path, keep=3) as checkpoints:
        checkpoints.save(4, arrays_of(4))
    assert_is(restored(path)[0], 4)
    assert {p.name for p in path.iterdir()} == {"2", "3", "4"}
