"""Make the pictures in docs/images with the system's Chromium.

python docs/make_screenshot.py web MODEL TEXTS OUT
python docs/make_screenshot.py report HTML OUT

`web` shows the page of `python -m flax_ner web`, `report` a page of `python -m flax_ner evaluate --html`.
Chinese needs a font, such as that of the Debian package fonts-noto-cjk.
"""

import argparse
import sys
import tempfile
from pathlib import Path
from typing import Any

# Python puts this folder on the path, not the repository, where flax_ner is if it is not installed.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tests.browser import browsing, chromium, serving, tag


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    web = commands.add_parser("web", help="the page that tags texts")
    web.add_argument("model", metavar="MODEL", help="as for `python -m flax_ner web`")
    web.add_argument("texts", metavar="TEXTS", type=Path, help="file with one text per line")
    report = commands.add_parser("report", help="the HTML report of an evaluation")
    report.add_argument("html", metavar="HTML", type=Path, help="what --html wrote")
    for command in (web, report):
        command.add_argument("out", metavar="OUT", type=Path, help="PNG file to write")
        command.add_argument("--width", type=int, default=1200, help="window width, default: 1200")
        command.add_argument("--height", type=int, default=800, help="window height, default: 800")
    options = parser.parse_args()
    executable = chromium()
    if executable is None:
        sys.exit("no Chromium: apt-get install chromium fonts-noto-cjk")
    with browsing(executable) as browser:
        page = browser.new_page(viewport={"width": options.width, "height": options.height})
        if options.command == "web":
            _show_web(page, options.model, options.texts.read_text("utf-8"), options.out)
        else:
            page.goto(options.html.resolve().as_uri())
            page.screenshot(path=options.out)


def _show_web(page: Any, model: str, texts: str, out: Path) -> None:
    with tempfile.TemporaryDirectory() as folder, serving(model, Path(folder)) as server:
        page.goto(server.url)
        tag(page, texts)
        page.locator("#marked .highlighted").first.wait_for()
        page.wait_for_timeout(1000)  # colours fade in, and the table computes its widths
        page.mouse.move(0, 0)
        page.evaluate("document.activeElement.blur()")
        page.screenshot(path=out)


if __name__ == "__main__":
    main()
