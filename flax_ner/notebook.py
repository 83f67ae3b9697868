"""Helpers of the notebooks: input files from Google Drive, uploads and zip files, and HTML pages in a cell.

Google Drive and uploads exist only in Colab. Elsewhere a notebook takes paths.
"""

import hashlib
import importlib
import lzma
import os
import shutil
import tempfile
import zipfile
import zlib
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import Any

from flax_ner.errors import UserError
from flax_ner.weights.source import SUFFIXES

DRIVE = "/content/drive"  # the mount point that Colab's own button uses


@dataclass(frozen=True)
class Page:
    """An HTML page as the output of a cell, in a frame that isolates its style and scripts."""

    html: str = field(repr=False)
    height: int = 600  # pixels

    def _repr_html_(self) -> str:
        # Messages to the browser are UTF-8, which cannot encode lone surrogates.
        page = escape(self.html.encode("utf-8", "backslashreplace").decode("utf-8"))
        return (
            f'<iframe srcdoc="{page}" sandbox="allow-scripts" width="100%" height="{self.height}" '
            'style="border: 1px solid #8885"></iframe>'
        )


def resolve_input(path: str, field: str) -> str:
    """Make an input of a notebook available as a local path.

    Args:
        path: a file or folder. For a path below /content/drive, Google Drive is mounted. A .zip file is
            unpacked. "" asks for an upload in the browser. Anything else is returned unchanged, as it
            may be the name of a repository on the hub or of synthetic data.
        field: name of the setting in the notebook, for messages.

    Returns:
        The path. For several uploaded or zipped files it is their folder, or, if exactly one of them is a
        weights file, that file.

    Raises:
        UserError: Drive or an upload is needed outside of Colab, nothing was uploaded, or the
            zip file is missing or damaged.
    """
    if not path:
        path = _upload(field)
    elif _on_drive(path):
        _mount(path, field)
    is_zip = path.lower().endswith(".zip") and not Path(path).is_dir()
    return _unpack(path, field) if is_zip else path


def save_output(path: str | Path, folder: str) -> str:
    """Copy a file to a folder, or download it in the browser.

    Args:
        path: the file.
        folder: target folder, created if needed; it may be on Google Drive. "" downloads the file in
            Colab, and leaves it where it is elsewhere.

    Returns:
        A message for the user that says where the file is.

    Raises:
        UserError: there is no such file, the folder cannot be written, or it is on Google Drive outside of
            Colab.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path}: no such file. Run the cell that writes it first.")
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
            raise UserError(
                f"SAVE_TO: {folder} cannot be written ({error.strerror or error}). Name another folder."
            ) from None
    files = _colab("files")
    if files is None:
        return f"{path.name} is in {path.absolute()}"
    files.download(str(path))
    return f"{path.name} is in the browser's downloads and in {path.absolute()}"


def _on_drive(path: str) -> bool:
    return Path(os.path.abspath(path)).is_relative_to(DRIVE)  # Drive may not be mounted yet


def _upload(field: str) -> str:
    files = _colab("files")
    if files is None:
        raise UserError(f"{field}: is empty, and uploads work only in Colab. Set it to a path.")
    print(f"{field}: choose a file, a .zip, or several files that belong together.")
    folder = Path(tempfile.mkdtemp(prefix="flax_ner_"))
    files.upload(str(folder))
    if not any(folder.iterdir()):
        raise UserError(f"{field}: nothing was uploaded. Run the cell again, or set it to a path.")
    digest = hashlib.sha256()
    for path in sorted(folder.iterdir()):
        digest.update(f"{path.name} {path.stat().st_size} ".encode() + path.read_bytes())
    target = _folder_for(digest.hexdigest())
    if target.exists():
        shutil.rmtree(folder)
    else:
        target.parent.mkdir(parents=True, exist_ok=True)
        folder.rename(target)
    return _select_input(target)


def _folder_for(digest: str) -> Path:
    """Return the folder for content with this SHA-256.

    A resumed run then has the same input paths.
    """
    return Path(tempfile.gettempdir(), "flax_ner", digest[:16])


def _unpack(path: str, field: str) -> str:
    # Unpack to the local disk, as Drive is slow with many small files.
    try:
        with Path(path).open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
    except FileNotFoundError:
        raise UserError(f"{field}: no file {path!r}. Correct the path.") from None
    except OSError as error:
        raise UserError(
            f"{field}: {path} cannot be read ({error.strerror or error}). Check its permissions."
        ) from None
    folder = _folder_for(digest) / Path(path).stem
    failed = f"{field}: {path} cannot be unpacked"
    try:
        with zipfile.ZipFile(path) as archive:
            archive.extractall(folder)
    except (zipfile.BadZipFile, EOFError, zlib.error, lzma.LZMAError) as error:
        raise UserError(f"{failed}, because it is damaged ({error}). Create it again.") from None
    except RuntimeError as error:  # it is encrypted, or its compression is unknown
        raise UserError(
            f"{failed} ({error}). Create it again, without a password and with the usual compression."
        ) from None
    except OSError as error:
        if error.errno is None:  # from bz2
            raise UserError(
                f"{failed}, because it is damaged ({error}). Create it again."
            ) from None
        raise UserError(
            f"{failed} into {folder} ({error.strerror or error}). Free space there, or unpack it elsewhere and "
            "give the folder."
        ) from None
    return _select_input(folder)


def _select_input(folder: Path) -> str:
    """Descend into the only folder, and select what it stands for.

    That is its only file, otherwise its only weights file, otherwise the folder.
    """
    # macOS and other systems add hidden files.
    content = [path for path in folder.iterdir() if not path.name.startswith((".", "__MACOSX"))]
    weights = [path for path in content if path.suffix in SUFFIXES]
    for candidates in (content, weights):
        if len(candidates) == 1:
            (path,) = candidates
            return _select_input(path) if path.is_dir() else str(path)
    return str(folder)


def _mount(path: str, field: str) -> None:
    if Path(DRIVE, "MyDrive").is_dir():
        return
    drive = _colab("drive")
    if drive is None:
        raise UserError(f"{field}: {path} is on Google Drive, which is available only in Colab.")
    drive.mount(DRIVE)


def _colab(name: str) -> Any:
    """Return a module of the package `google.colab`, or None outside of Colab."""
    try:
        return importlib.import_module(f"google.colab.{name}")
    except ImportError:
        return None
