"""A picture of the page that `python -m flax_ner web` serves, by the system's Chromium.

python docs/make_screenshot.py MODEL TEXTS OUT [--width 1200] [--height 800]
"""

import argparse
import sys
import tempfile
from pathlib import Path

# Python puts this folder on the path, not the repository, where flax_ner lies if it is not installed.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tests.browser import browsing, chromium, serving, tag


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", metavar="MODEL", help="as for `python -m flax_ner web`")
    parser.add_argument("texts", metavar="TEXTS", type=Path, help="file with one text a line")
    parser.add_argument("out", metavar="OUT", type=Path, help="PNG file to write")
    parser.add_argument("--width", type=int, default=1200, help="of the window, default: 1200")
    parser.add_argument("--height", type=int, default=800, help="of the window, default: 800")
    options = parser.parse_args()
    executable = chromium()
    if executable is None:
        sys.exit("no Chromium: apt-get install chromium fonts-noto-cjk")
    with (
        tempfile.TemporaryDirectory() as folder,
        serving(options.model, Path(folder)) as server,
        browsing(executable) as browser,
    ):
        page = browser.new_page(viewport={"width": options.width, "height": options.height})
        page.goto(server.url)
        tag(page, options.texts.read_text("utf-8"))
        page.locator("#marked .highlighted").first.wait_for()
        page.wait_for_timeout(1000)  # colours fade in, the table finds its widths
        page.mouse.move(0, 0)
        page.evaluate("document.activeElement.blur()")
        page.screenshot(path=options.out)


if __name__ == "__main__":
    main()
