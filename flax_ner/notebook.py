"""What notebooks need besides: files from Google Drive, from the browser or out of a zip, and pages in a cell.

Only Colab has the first two; elsewhere a notebook names files by their paths.
"""

import hashlib
import importlib
import os
import shutil
import tempfile
import zipfile
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import Any

from flax_ner.errors import UserError
from flax_ner.weights.source import SUFFIXES

DRIVE = "/content/drive"  # where Colab's own button mounts it


@dataclass(frozen=True)
class Page:
    """A whole HTML page as what a cell shows, in a frame of its own: its style and script stay there."""

    html: str = field(repr=False)
    height: int = 600  # pixels

    def _repr_html_(self) -> str:
        # Messages to a browser are UTF-8, which lone surrogates are not.
        page = escape(self.html.encode("utf-8", "backslashreplace").decode("utf-8"))
        return (
            f'<iframe srcdoc="{page}" sandbox="allow-scripts" width="100%" height="{self.height}" '
            'style="border: 1px solid #8885"></iframe>'
        )


def obtain(path: str, field: str) -> str:
    """Make a file or folder that a user named in a notebook lie where it can be read.

    Args:
        path: a file or folder, also below /content/drive, which is mounted for it; a .zip, which is
            unpacked; nothing: the browser asks for files. Anything else stays as it is: it may be
            the name of a repository on the hub, or of synthetic data.
        field: what the user set; messages begin with it.

    Returns:
        The path. Of several files, uploaded or zipped, their folder; if they are weights with what
        belongs to them, the file of weights.

    Raises:
        UserError: only Colab has Drive or uploads, nothing was uploaded, or the zip is damaged.
    """
    if not path:
        path = _upload(field)
    elif _on_drive(path):
        _mount(path, field)
    return _unpack(path, field) if path.lower().endswith(".zip") else path


def hand_over(path: str | Path, folder: str) -> str:
    """Give the user a file: a copy in a folder, also on Drive; without one the browser downloads it.

    Args:
        path: the file.
        folder: made if it is not there; "" for a download, which only Colab has.

    Returns:
        Where it is, for the user.

    Raises:
        UserError: the folder cannot be written, or is on Drive and this is not Colab.
    """
    path = Path(path)
    if folder:
        if _on_drive(folder):
            _mount(folder, "SAVE_TO")
        try:
            Path(folder).mkdir(parents=True, exist_ok=True)
            target = Path(folder, path.name)
            if not (target.exists() and target.samefile(path)):
                shutil.copy(path, target)
            return f"{path.name} is in {target}"
        except OSError as error:
            raise UserError(f"SAVE_TO: {folder} cannot be written ({error.strerror}).") from None
    files = _colab("files")
    if files is None:
        return f"{path.name} is in {path.absolute()}"
    files.download(str(path))
    return f"{path.name} goes to the browser's downloads; it is in {path.absolute()}, too."


def _on_drive(path: str) -> bool:
    return Path(os.path.abspath(path)).is_relative_to(DRIVE)  # Drive may not be mounted yet


def _upload(field: str) -> str:
    files = _colab("files")
    if files is None:
        raise UserError(
            f"{field}: is empty, and only Colab can ask for an upload. Set it to a path."
        )
    print(f"{field}: choose a file, a .zip, or several files that belong together.")
    folder = Path(tempfile.mkdtemp(prefix="flax_ner_"))
    files.upload(str(folder))
    if not any(folder.iterdir()):
        raise UserError(f"{field}: nothing was uploaded. Run the cell again, or set it to a path.")
    digest = hashlib.sha256()
    for path in sorted(folder.iterdir()):
        digest.update(f"{path.name} {path.stat().st_size} ".encode() + path.read_bytes())
    kept = _folder_of(digest.hexdigest())
    if kept.exists():
        shutil.rmtree(folder)
    else:
        kept.parent.mkdir(parents=True, exist_ok=True)
        folder.rename(kept)
    return _meant(kept)


def _folder_of(digest: str) -> Path:
    """Where what has this SHA-256 is put: the same place each time, or a run that was stopped would not
    know its input again.
    """
    return Path(tempfile.gettempdir(), "flax_ner", digest[:16])


def _unpack(path: str, field: str) -> str:
    # Into a folder of the machine: Drive is slow with many small files.
    try:
        with Path(path).open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        folder = _folder_of(digest) / Path(path).stem
        with zipfile.ZipFile(path) as archive:
            archive.extractall(folder)
    except FileNotFoundError:
        raise UserError(f"{field}: no file {path!r}.") from None
    except (
        OSError,
        zipfile.BadZipFile,
        EOFError,
        RuntimeError,
    ) as error:  # RuntimeError: encrypted
        raise UserError(
            f"{field}: {path} cannot be unpacked ({error}). Pack it again, without a password."
        ) from None
    return _meant(folder)


def _meant(folder: Path) -> str:
    """What is in a folder: its one file or folder, else its one file of weights, else the folder."""
    # Finder and others add files of their own.
    inside = [path for path in folder.iterdir() if not path.name.startswith((".", "__MACOSX"))]
    weights = [path for path in inside if path.suffix in SUFFIXES]
    for found in (inside, weights):
        if len(found) == 1:
            (one,) = found
            return _meant(one) if one.is_dir() else str(one)
    return str(folder)


def _mount(path: str, field: str) -> None:
    if Path(DRIVE, "MyDrive").is_dir():
        return
    drive = _colab("drive")
    if drive is None:
        raise UserError(f"{field}: {path} is on Google Drive, which only Colab has.")
    drive.mount(DRIVE)


def _colab(name: str) -> Any:
    """A module of Colab's own, None elsewhere."""
    try:
        return importlib.import_module(f"google.colab.{name}")
    except ImportError:
        return None
