"""Check that files are synced to disk before a rename, because only synced data survives a power failure."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from flax_ner import durable


class Disk:
    """Check every rename to a final name while a test runs.

    Before a rename, the current content of the file or folder must be synced. After it, the parent
    folder must be synced before anything is removed, and by the end of the test.

    Args:
        monkeypatch: the fixture of the test.
        exchange: whether two names can be exchanged atomically.
        on_rename: called with each final name before the rename.
    """

    def __init__(
        self,
        monkeypatch: pytest.MonkeyPatch,
        exchange: bool = True,
        on_rename: Callable[[Path], None] = lambda path: None,
    ):
        # inode -> size and modification time at its last fsync
        self.synced: dict[int, tuple[int, int]] = {}
        self.renamed: list[str] = []  # final names
        self._unsynced: dict[int, Path] = {}  # folders with renames since their last fsync
        self._on_rename, fsync, remove = on_rename, os.fsync, durable._remove

        def record_fsync(descriptor: int) -> None:
            fsync(descriptor)
            status = os.fstat(descriptor)
            self.synced[status.st_ino] = (status.st_size, status.st_mtime_ns)
            self._unsynced.pop(status.st_ino, None)

        def check_and_remove(path: Path) -> None:
            if path.exists():
                self.check_renames_synced()
            remove(path)

        monkeypatch.setattr(os, "fsync", record_fsync)
        monkeypatch.setattr(durable, "_remove", check_and_remove)
        for name in ("rename", "replace"):
            monkeypatch.setattr(os, name, self._with_checks(getattr(os, name)))
        swap = self._with_checks(durable._exchange) if exchange else lambda one, other: False
        monkeypatch.setattr(durable, "_exchange", swap)

    def check_renames_synced(self) -> None:
        assert not self._unsynced, f"renames not synced: {self._unsynced}"

    def size_of(self, path: Path) -> int:
        """Return the size of a file at its last fsync."""
        return self.synced.get(path.stat().st_ino, (0, 0))[0]

    def _with_checks(self, rename: Callable[..., Any]) -> Callable[..., Any]:
        def checked(source: Any, target: Any, *args: Any, **kwargs: Any) -> Any:
            path = Path(target)
            staged = any(part.startswith(".") or ".writing" in part for part in path.parts)
            if not staged:
                for child in [Path(source), *Path(source).rglob("*")]:
                    status = child.stat()
                    state = status.st_size, status.st_mtime_ns
                    assert self.synced.get(status.st_ino) == state, f"{child} is not synced"
                self._on_rename(path)
            result = rename(source, target, *args, **kwargs)
            if not staged:
                self.renamed.append(path.name)
                self._unsynced[path.parent.stat().st_ino] = path.parent
            return result

        return checked


def flip(file: Path, position: int, bit: int = 0) -> None:
    """Flip one bit of a file."""
    content = bytearray(file.read_bytes())
    content[position] ^= 1 << bit
    file.write_bytes(content)


def files(folder: Path) -> list[str]:
    return sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())


def copied(source: Path, target: Path) -> Path:
    shutil.rmtree(target, ignore_errors=True)
    return Path(shutil.copytree(source, target))
