"""Durable writes of files and folders, and checksums."""

import errno
import os
from pathlib import Path

import pytest

from flax_ner import durable
from tests.disk import Disk, flip


def test_failed_write_keeps_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file.json"
    durable.write_text(path, "old")

    def fail(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="No space left"):
        durable.write_text(path, "new")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_makedirs_synced_syncs_parents(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    disk = Disk(monkeypatch)
    durable.makedirs_synced(tmp_path / "a" / "b")
    for folder in (tmp_path, tmp_path / "a"):
        status = folder.stat()
        assert disk.synced[status.st_ino] == (status.st_size, status.st_mtime_ns)
    durable.makedirs_synced(tmp_path / "a" / "b")


def test_file_system_without_folder_fsync_is_supported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unsupported(descriptor: int) -> None:
        raise OSError(errno.EINVAL, "Invalid argument")

    monkeypatch.setattr(os, "fsync", unsupported)
    durable.fsync_path(tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="Invalid argument"):
        durable.fsync_path(tmp_path / "file")


@pytest.mark.parametrize("exchange", [True, False])
def test_replace_folder_replaces_folder_link_or_nothing(
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
        new = durable.staging_path(path)
        new.mkdir()
        (new / str(number)).touch()
        durable.replace_folder(new, path)
        assert [child.name for child in path.iterdir()] == [str(number)]
        assert not path.is_symlink()
        assert {child.name for child in tmp_path.iterdir()} == {"folder", "elsewhere"}


def test_find_checksum_error_checks_the_given_files(tmp_path: Path) -> None:
    (tmp_path / "inner").mkdir()
    for name in ("one", "inner/two"):
        (tmp_path / name).write_text(name)
    durable.write_checksums(tmp_path)
    assert durable.find_checksum_error(tmp_path) is None
    flip(tmp_path / "inner" / "two", 3)
    assert durable.find_checksum_error(tmp_path) == "inner/two does not match its checksum"
    assert durable.find_checksum_error(tmp_path, ["one"]) is None
    (tmp_path / "one").unlink()
    assert durable.find_checksum_error(tmp_path, ["one"]) == "one is missing"
    (tmp_path / "checksums.json").write_text("[]")
    assert durable.find_checksum_error(tmp_path) == "checksums.json is damaged"
