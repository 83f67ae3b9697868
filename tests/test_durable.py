"""Files and folders that are written durably."""

import errno
import os
from pathlib import Path

import pytest

from flax_ner import durable
from tests.disk import Disk, flip


def test_a_file_that_cannot_be_written_leaves_the_older_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "file.json"
    durable.write_text(path, "old")

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        durable.write_text(path, "new")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_new_folders_are_on_disk_with_their_parents(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = Disk(monkeypatch)
    durable.make_folder(tmp_path / "a" / "b")
    for folder in (tmp_path, tmp_path / "a"):
        status = folder.stat()
        assert disk.synced[status.st_ino] == (status.st_size, status.st_mtime_ns)
    durable.make_folder(tmp_path / "a" / "b")


def test_a_file_system_without_fsync_of_folders_will_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unsupported(descriptor: int) -> None:
        raise OSError(errno.EINVAL, "Invalid argument")

    monkeypatch.setattr(os, "fsync", unsupported)
    durable.sync(tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="Invalid argument"):
        durable.sync(tmp_path / "file")


@pytest.mark.parametrize("exchange", [True, False])
def test_a_folder_takes_the_place_of_a_folder_a_link_or_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, exchange: bool
) -> None:
    if not exchange:
        monkeypatch.setattr(durable, "_exchange", lambda one, other: False)
    path, elsewhere = tmp_path / "folder", tmp_path / "elsewhere"
    elsewhere.mkdir()
    for number in range(3):
        if number == 2:
            durable._remove(path)
            path.symlink_to(elsewhere)
        new = durable.new_folder_name(path)
        new.mkdir()
        (new / str(number)).touch()
        durable.replace_folder(new, path)
        assert [child.name for child in path.iterdir()] == [str(number)]
        assert not path.is_symlink()
        assert {child.name for child in tmp_path.iterdir()} == {"folder", "elsewhere"}


def test_damage_is_found_in_any_file_that_is_asked_for(tmp_path: Path) -> None:
    (tmp_path / "inner").mkdir()
    for name in ("one", "inner/two"):
        (tmp_path / name).write_text(name)
    durable.write_checksums(tmp_path)
    assert durable.find_damage(tmp_path) is None
    flip(tmp_path / "inner" / "two", 3)
    assert durable.find_damage(tmp_path) == "inner/two is not as it was written"
    assert durable.find_damage(tmp_path, ["one"]) is None
    (tmp_path / "one").unlink()
    assert durable.find_damage(tmp_path, ["one"]) == "one is missing"
    (tmp_path / "checksums.json").write_text("[]")
    assert durable.find_damage(tmp_path) == "checksums.json is not as it was written"
