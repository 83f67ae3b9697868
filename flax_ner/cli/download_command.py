"""Command line: python -m flax_ner data download."""

import argparse
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

from flax_ner.data.cluener_archive import (
    ARCHIVE_NAME,
    ARCHIVE_URL,
    CLUENER_SPLITS,
    download_cluener,
)


def add_download_command(
    data_commands: "argparse._SubParsersAction[argparse.ArgumentParser]",
) -> None:
    """Add `download` to the sub-commands of `data`."""
    download = data_commands.add_parser(
        "download", help="download a published data set",
        description="Download a published data set, unpack it and check its counts. Resumes an interrupted "
        "download, and does not download existing files again.",
    )  # fmt: skip
    download.add_argument("name", metavar="NAME", choices=("cluener",), help="cluener: CLUENER2020")
    download.add_argument(
        "--to", metavar="FOLDER", default="data/cluener", help="default: %(default)s"
    )
    download.add_argument(
        "--url", default=ARCHIVE_URL, help="address of the archive; default: %(default)s"
    )
    download.set_defaults(run=_download)


def _download(options: argparse.Namespace) -> None:
    folder = Path(options.to)
    columns = TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn()
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(ARCHIVE_NAME, total=None)
        new = download_cluener(
            folder, options.url, lambda done, total: bar.update(task, completed=done, total=total)
        )
    if not new:
        print(f"{folder}: all files already exist")
    for name, counts in CLUENER_SPLITS.items():
        print(f"{folder / name}: {counts}")
