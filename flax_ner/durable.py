"""Write files and folders so that a crash leaves either the complete old version or the complete new one.

Data is synced to disk (fsync) before it is renamed to its final name. The rename is synced before the
old version is removed. Checksums detect later damage.
"""

import ctypes
import errno
import hashlib
import json
import os
import shutil
import sys
from collections.abc import Container, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

from filelock import FileLock, Timeout

from flax_ner.errors import UserError

CHECKSUMS = "checksums.json"  # maps the path of each other file in the folder to its SHA-256


def write_text(path: Path, text: str) -> None:
    """Write a UTF-8 file, atomically replacing an existing one."""
    new = _staging_name(path)
    try:
        new.write_text(text, "utf-8", newline="\n")
        replace_file(new, path)
    finally:
        new.unlink(missing_ok=True)


def replace_file(new: Path, path: Path) -> None:
    """Rename a complete file to `path` in the same folder, replacing an existing file."""
    fsync_tree(new)
    new.replace(path)
    fsync_path(path.parent)


def makedirs_synced(path: Path) -> None:
    """Create a folder and its missing parents, and sync their names to disk."""
    missing = [folder for folder in (path, *path.parents) if not folder.exists()]
    path.mkdir(parents=True, exist_ok=True)
    for folder in missing:
        fsync_path(folder.parent)


def staging_path(path: Path) -> Path:
    """Return a free path beside `path`, where its next version can be written.

    First completes or removes what a killed process left there.
    """
    new, old = _staging_name(path), _replaced_name(path)
    if old.exists() and not path.exists():
        old.rename(path)
    for leftover in (new, old):
        _remove(leftover)
    return new


def replace_folder(new: Path, path: Path) -> None:
    """Rename a complete folder, or file, to `path`, and remove the old version.

    If the operating system can exchange two names, `path` exists at all times. Otherwise (NFS,
    Windows) it is missing between two renames; `current_version` returns the old version meanwhile.

    Args:
        new: path returned by `staging_path(path)`.
        path: folder to replace. It need not exist.
    """
    fsync_tree(new)
    old = new
    if not os.path.lexists(path):
        new.rename(path)
    elif _exchange(new, path):
        try:
            fsync_path(path.parent)
        except OSError:
            _exchange(new, path)
            raise
    else:
        old = _replaced_name(path)
        path.rename(old)
        try:
            new.rename(path)
        except OSError:
            old.rename(path)
            raise
    fsync_path(path.parent)
    _remove(old)


def current_version(path: Path) -> Path:
    """Return `path`, or its old version if `replace_folder` is between its two renames."""
    if os.path.exists(path):
        return path
    # If `path` is a link, its target was replaced, not the link.
    old = _replaced_name(Path(os.path.realpath(path)))
    return old if os.path.exists(old) else path


def fsync_tree(path: Path) -> None:
    """Sync a file, or a folder and everything in it, to disk."""
    if path.is_dir():
        for child in path.iterdir():
            fsync_tree(child)
    fsync_path(path)


def fsync_path(path: Path) -> None:
    """Sync a file, or the names in a folder, to disk."""
    is_folder = path.is_dir()
    if is_folder and os.name == "nt":  # Windows cannot open folders, and need not sync them
        return
    try:
        descriptor = os.open(path, os.O_RDONLY if is_folder else os.O_RDWR)
    except PermissionError:
        if is_folder:  # the folder may be writable but not readable
            return
        raise
    try:
        os.fsync(descriptor)
    except OSError as error:  # some network file systems cannot sync folders
        if not (is_folder and error.errno in (errno.EINVAL, errno.ENOTSUP)):
            raise
    finally:
        os.close(descriptor)


@contextmanager
def lock_folder(folder: Path, busy: str) -> Iterator[None]:
    """Create a folder and keep other processes out of it that lock it too.

    Raises:
        UserError: another process has locked it; the message is `busy`.
        OSError: the folder cannot be created or written.
    """
    makedirs_synced(folder)
    lock = FileLock(folder / ".lock", timeout=0)
    try:
        lock.acquire()
    except Timeout:
        raise UserError(busy) from None
    try:
        yield
    finally:
        lock.release()


def write_checksums(folder: Path) -> None:
    """Write the checksums of all files in a folder to its `checksums.json`."""
    files = [file for file in sorted(folder.rglob("*")) if file.is_file()]
    sums = {file.relative_to(folder).as_posix(): _sha256(file) for file in files}
    write_text(folder / CHECKSUMS, json.dumps(sums, indent=1) + "\n")


def read_checksums(folder: Path) -> dict[str, str]:
    """Return the SHA-256 of each file that `checksums.json` lists.

    Raises:
        FileNotFoundError: the folder has no `checksums.json`.
        OSError: the file cannot be read.
        ValueError: the file is damaged.
    """
    sums = json.loads((folder / CHECKSUMS).read_text("utf-8"))
    valid = isinstance(sums, dict) and not any(
        PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts for name in sums
    )
    if not valid:
        raise ValueError(f"{CHECKSUMS} lists paths outside of its folder")
    return sums


def find_checksum_error(folder: Path, names: Container[str] | None = None) -> str | None:
    """Compare the files of a folder with its `checksums.json`.

    Args:
        folder: folder with checksums from `write_checksums`.
        names: paths of the files to compare; None for all listed files.

    Returns:
        A message about the first missing or changed file; None if all files match.
    """
    try:
        for name, expected in read_checksums(folder).items():
            if names is not None and name not in names:
                continue
            if not (folder / name).is_file():
                return f"{name} is missing"
            if _sha256(folder / name) != expected:
                return f"{name} does not match its checksum"
    except FileNotFoundError:
        return f"{CHECKSUMS} is missing"
    except OSError as error:
        return f"a file cannot be read: {error.strerror}"
    except ValueError:
        return f"{CHECKSUMS} is damaged"
    return None


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _staging_name(path: Path) -> Path:
    return path.with_name(f".{path.name}.writing")


def _replaced_name(path: Path) -> Path:
    return path.with_name(f".{path.name}.replaced")


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _exchange(one: Path, other: Path) -> bool:
    """Atomically exchange two names. Return False if the system or the file system does not support it."""
    # -100 is AT_FDCWD; the flag 2 is RENAME_EXCHANGE of renameat2 and RENAME_SWAP of renamex_np.
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
