"""What a power failure would leave: which files were forced to disk before a name referred to them."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from flax_ner import durable


class Disk:
    """Checks every rename to a final name while a test runs.

    Before it, the file or folder must be on disk in the state that it has then; after it, the folder
    that has the name must be, before anything is removed and at the end.

    Args:
        monkeypatch: of the test.
        exchange: whether two names can be exchanged in one step.
        look: called with each final name before the rename.
    """

    def __init__(
        self,
        monkeypatch: pytest.MonkeyPatch,
        exchange: bool = True,
        look: Callable[[Path], None] = lambda path: None,
    ):
        self.synced: dict[
            int, tuple[int, int]
        ] = {}  # inode -> size and time of change at its fsync
        self.renamed: list[str] = []  # final names
        self._unsynced: dict[int, Path] = {}  # folders whose names changed
        self._look, fsync, remove = look, os.fsync, durable._remove

        def synced(descriptor: int) -> None:
            fsync(descriptor)
            status = os.fstat(descriptor)
            self.synced[status.st_ino] = (status.st_size, status.st_mtime_ns)
            self._unsynced.pop(status.st_ino, None)

        def removed(path: Path) -> None:
            if path.exists():
                self.check_names()
            remove(path)

        monkeypatch.setattr(os, "fsync", synced)
        monkeypatch.setattr(durable, "_remove", removed)
        for name in ("rename", "replace"):
            monkeypatch.setattr(os, name, self._checked(getattr(os, name)))
        swap = self._checked(durable._exchange) if exchange else lambda one, other: False
        monkeypatch.setattr(durable, "_exchange", swap)

    def check_names(self) -> None:
        assert not self._unsynced, f"names changed and not on disk: {self._unsynced}"

    def size_of(self, path: Path) -> int:
        """How many bytes of a file are on disk."""
        return self.synced.get(path.stat().st_ino, (0, 0))[0]

    def _checked(self, rename: Callable[..., Any]) -> Callable[..., Any]:
        def checked(one: Any, other: Any, *more: Any, **named: Any) -> Any:
            path = Path(other)
            staged = any(part.startswith(".") or ".writing" in part for part in path.parts)
            if not staged:
                for child in [Path(one), *Path(one).rglob("*")]:
                    status = child.stat()
                    state = status.st_size, status.st_mtime_ns
                    assert self.synced.get(status.st_ino) == state, f"{child} is not on disk"
                self._look(path)
            result = rename(one, other, *more, **named)
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
