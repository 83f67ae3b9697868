"""Pictures for the documentation, by the system's Chromium.

python docs/make_screenshot.py web MODEL TEXTS OUT    the page that `python -m flax_ner web` serves
python docs/make_screenshot.py report HTML OUT        the page that `evaluate --html` writes
"""

import argparse
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

# Python puts this folder on the path, not the repository, where flax_ner lies if it is not installed.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tests.browser import browsing, chromium, serving, tag


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--width", type=int, default=1200, help="of the window, default: 1200")
    parser.add_argument("--height", type=int, default=800, help="of the window, default: 800")
    kinds = parser.add_subparsers(required=True)
    web = kinds.add_parser("web")
    web.add_argument("model", metavar="MODEL", help="as for `python -m flax_ner web`")
    web.add_argument("texts", metavar="TEXTS", type=Path, help="file with one text a line")
    web.set_defaults(take=take_web)
    report = kinds.add_parser("report")
    report.add_argument("html", metavar="HTML", type=Path, help="as `evaluate --html` writes it")
    report.set_defaults(take=take_report)
    for kind in (web, report):
        kind.add_argument("out", metavar="OUT", type=Path, help="PNG file to write")
    options = parser.parse_args()
    options.take(options)


def take_web(options: argparse.Namespace) -> None:
    with (
        tempfile.TemporaryDirectory() as folder,
        serving(options.model, Path(folder)) as server,
        window(options) as page,
    ):
        page.goto(server.url)
        tag(page, options.texts.read_text("utf-8"))
        page.locator("#marked .highlighted").first.wait_for()
        page.wait_for_timeout(1000)  # colours fade in, the table finds its widths
        page.mouse.move(0, 0)
        page.evaluate("document.activeElement.blur()")
        page.screenshot(path=options.out)


def take_report(options: argparse.Namespace) -> None:
    """From the sentences on: the tables in front of them are tables."""
    with window(options) as page:
        page.goto(options.html.resolve().as_uri())
        page.evaluate("document.querySelector('input').closest('label').parentElement.scrollIntoView()")
        page.screenshot(path=options.out)


@contextmanager
def window(options: argparse.Namespace) -> Iterator[Any]:
    """A page of the browser, of the size asked for."""
    executable = chromium()
    if executable is None:
        sys.exit("no Chromium: apt-get install chromium fonts-noto-cjk")
    with browsing(executable) as browser:
        yield browser.new_page(viewport={"width": options.width, "height": options.height})


if __name__ == "__main__":
    main()
