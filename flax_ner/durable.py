"""Write files and folders so that a crash leaves either the complete old version or the complete new one.

Data reaches the disk (fsync) before a name refers to it, and the name reaches the disk before anything
that it replaces is removed. Checksums tell later whether a file is still as it was written.
"""

import ctypes
import errno
import hashlib
import json
import os
import shutil
import sys
from collections.abc import Container
from pathlib import Path, PurePosixPath

CHECKSUMS = "checksums.json"  # in a folder: path of each other file -> SHA-256


def write_text(path: Path, text: str) -> None:
    """Write a UTF-8 file, or replace it in one step."""
    new = path.with_name(f".{path.name}.writing")
    try:
        new.write_text(text, "utf-8", newline="\n")
        replace_file(new, path)
    finally:
        new.unlink(missing_ok=True)


def replace_file(new: Path, path: Path) -> None:
    """Rename a finished file to `path`, in the same folder, and replace what has that name."""
    sync_tree(new)
    new.replace(path)
    sync(path.parent)


def make_folder(path: Path) -> None:
    """Make a folder and its missing parents."""
    missing = [folder for folder in (path, *path.parents) if not folder.exists()]
    path.mkdir(parents=True, exist_ok=True)
    for folder in missing:
        sync(folder.parent)


def new_folder_name(path: Path) -> Path:
    """Return a free name beside `path`, under which its next version can be written.

    Completes or removes what a process left there that was killed while it did the same.
    """
    new, old = _new(path), _old(path)
    if old.exists() and not path.exists():
        old.rename(path)
    for leftover in (new, old):
        _remove(leftover)
    return new


def replace_folder(new: Path, path: Path) -> None:
    """Rename a finished folder, or file, to `path`, and remove what has that name.

    Where the operating system can exchange two names, `path` exists at every moment. Elsewhere (NFS,
    Windows) it is missing between two renames, and `current` finds the old version meanwhile.

    Args:
        new: from `new_folder_name(path)`.
        path: the folder to replace; it need not exist.
    """
    sync_tree(new)
    old = new
    if not os.path.lexists(path):
        new.rename(path)
    elif _exchange(new, path):
        try:
            sync(path.parent)
        except OSError:
            _exchange(new, path)
            raise
    else:
        old = _old(path)
        path.rename(old)
        try:
            new.rename(path)
        except OSError:
            old.rename(path)
            raise
    sync(path.parent)
    _remove(old)


def current(path: Path) -> Path:
    """Return `path`, or the folder that holds its content while `replace_folder` is between two renames."""
    if os.path.exists(path):
        return path
    old = _old(Path(os.path.realpath(path)))  # a link stays, and what it leads to is replaced
    return old if os.path.exists(old) else path


def sync_tree(path: Path) -> None:
    """Force a file, or a folder with all that is in it, to disk."""
    if path.is_dir():
        for child in path.iterdir():
            sync_tree(child)
    sync(path)


def sync(path: Path) -> None:
    """Force a file, or the names in a folder, to disk."""
    is_folder = path.is_dir()
    if is_folder and os.name == "nt":  # Windows cannot open folders, and needs no fsync of them
        return
    try:
        descriptor = os.open(path, os.O_RDONLY if is_folder else os.O_RDWR)
    except PermissionError:
        if is_folder:  # one may write into it and not list it
            return
        raise
    try:
        os.fsync(descriptor)
    except OSError as error:  # some network file systems have no fsync of folders
        if not (is_folder and error.errno in (errno.EINVAL, errno.ENOTSUP)):
            raise
    finally:
        os.close(descriptor)


def write_checksums(folder: Path) -> None:
    """Write `checksums.json` over all files of a folder."""
    files = [file for file in sorted(folder.rglob("*")) if file.is_file()]
    sums = {file.relative_to(folder).as_posix(): _sha256(file) for file in files}
    write_text(folder / CHECKSUMS, json.dumps(sums, indent=1) + "\n")


def read_checksums(folder: Path) -> dict[str, str]:
    """Return the SHA-256 of each file that `checksums.json` lists.

    Raises:
        FileNotFoundError: the folder has none.
        OSError: it cannot be read.
        ValueError: its content is damaged.
    """
    sums = json.loads((folder / CHECKSUMS).read_text("utf-8"))
    inside = isinstance(sums, dict) and not any(
        PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts for name in sums
    )
    if not inside:
        raise ValueError(f"{CHECKSUMS} has no paths of files in its folder")
    return sums


def find_damage(folder: Path, names: Container[str] | None = None) -> str | None:
    """Compare the files of a folder with its `checksums.json`.

    Args:
        folder: written with `write_checksums`.
        names: compare only these files; None: all that are listed.

    Returns:
        What is wrong with the first damaged file; None if nothing is.
    """
    try:
        for name, expected in read_checksums(folder).items():
            if names is not None and name not in names:
                continue
            if not (folder / name).is_file():
                return f"{name} is missing"
            if _sha256(folder / name) != expected:
                return f"{name} is not as it was written"
    except FileNotFoundError:
        return f"{CHECKSUMS} is missing"
    except OSError as error:
        return f"it cannot be read: {error.strerror}"
    except ValueError:
        return f"{CHECKSUMS} is not as it was written"
    return None


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _new(path: Path) -> Path:
    return path.with_name(f".{path.name}.writing")


def _old(path: Path) -> Path:
    return path.with_name(f".{path.name}.replaced")


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _exchange(one: Path, other: Path) -> bool:
    """Exchange two names in one step; return False where the system or the file system cannot."""
    # (function, arguments): renameat2 with AT_FDCWD and RENAME_EXCHANGE, renamex_np with RENAME_SWAP.
    first, second = os.fsencode(one), os.fsencode(other)
    calls = {
        "linux": ("renameat2", (-100, first, -100, second, ctypes.c_uint(2))),
        "darwin": ("renamex_np", (first, second, ctypes.c_uint(2))),
    }
    if sys.platform not in calls:
        return False
    name, arguments = calls[sys.platform]
    function = getattr(ctypes.CDLL(None), name, None)
    return function is not None and function(*arguments) == 0
