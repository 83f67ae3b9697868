"""The page in examples/browser finds the entities that the package finds in the same texts."""

import re
import shutil
import subprocess
import time
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest

from flax_ner import load
from flax_ner.weights.onnx_export import export_onnx
from tests.browser import browsing_or_skip
from tests.exports import HEADS, random_model
from tests.local_server import LocalServer
from tests.subwords import TEXTS

pytestmark = pytest.mark.slow

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "browser"
MAX_LENGTH = 24  # most of the texts are longer
EMOJI = "😀👨‍👩‍👧"  # 6 characters and 10 UTF-16 code units
HARD = [
    f"{EMOJI}王建国{EMOJI}在东海市。\U00020000",
    "HELLO WORLD, LONDON İS QUICK",
    "",
    " \t ",
    "l\u0301azy fo\u0301x\u0301 Lo\u200bndon, \x00over 10% of <b>dogs</b>",
    "王建国在《温格。球队。》的东海市。”国内银行！？现在走的是台湾的发卡模式，战胜曼联之后",
    "王建国\n\n在东海市工作。国内银行现在走的是台湾的发卡模式\u2028，国内银行现在",
    "o" * 101 + " lazy dog",
    " ".join(TEXTS * 3),
]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, str]]:
    """Serve a copy of the example. Yield its folder and address."""
    for package in ("onnx", "onnxruntime"):
        pytest.importorskip(package)
    folder = tmp_path_factory.mktemp("site") / "browser"
    shutil.copytree(EXAMPLE, folder, ignore=shutil.ignore_patterns("node_modules", "model"))
    if (EXAMPLE / "node_modules").is_dir():
        (folder / "node_modules").symlink_to(EXAMPLE / "node_modules")
    else:
        install_packages(folder)

    class Handler(SimpleHTTPRequestHandler):
        def __init__(self, *arguments: Any) -> None:
            super().__init__(*arguments, directory=str(folder))

        def log_message(self, *_: object) -> None:
            pass

    with LocalServer(Handler) as server:
        yield folder, server.address


def install_packages(folder: Path) -> None:
    npm = shutil.which("npm")
    if npm is None:
        pytest.skip("no npm on PATH")
    command = [npm, "ci", "--fetch-retries=0"]
    result = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=300)
    assert "EUSAGE" not in result.stderr  # package.json and package-lock.json contradict each other
    if result.returncode:
        pytest.skip(f"npm ci failed: {result.stderr[:200]}")


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with browsing_or_skip() as browser:
        yield browser


@pytest.fixture
def page(browser: Any, site: tuple[Path, str]) -> Iterator[Any]:
    """Yield an empty page. At the end, assert that it had no errors and sent requests only to the server."""
    page, errors = browser.new_page(), list[str]()
    page.on("pageerror", lambda error: errors.append(str(error)))
    # The file of the model has one of three names, so some are not found.
    page.on(
        "console",
        lambda m: m.type in ("error", "warning") and "404" not in m.text and errors.append(m.text),
    )
    own = (site[1], f"blob:{site[1]}", "data:")
    page.on("request", lambda r: r.url.startswith(own) or errors.append(r.url))
    yield page
    assert errors == []
    page.close()


def find_entities(page: Any, text: str) -> list[tuple[str, int, int, str]]:
    """Type a text, press the button, and return the rows of the table."""
    from playwright.sync_api import expect

    page.locator("#text").fill(text)
    page.locator("#tag").click()
    expect(page.locator("#status")).to_have_text(re.compile(r"^\d+ entit(y|ies) in \d+ ms\.$"))
    rows = [row.locator("td").all_text_contents() for row in page.locator("#rows tr").all()]
    assert len(rows) == int(page.locator("#status").text_content().split()[0])
    # Without the types after the entities, the marked text is the text.
    pieces = page.locator("#marked").evaluate(
        "marked => [...marked.childNodes].map(node => (node.firstChild ?? node).data ?? '')"
    )
    assert "".join(pieces) == text
    return [(kind, int(start), int(end), surface) for kind, start, end, surface in rows]


@pytest.mark.parametrize("family", ["bert", "bert, gelu"])  # characters, WordPieces
@pytest.mark.parametrize("head", HEADS)
def test_entities_are_those_of_the_package(
    family: str, head: str, site: tuple[Path, str], page: Any
) -> None:
    folder, address = site
    name = f"{family} {head}"
    export_onnx(random_model(family, head, MAX_LENGTH), folder / name)
    expected = load(folder / name)([*TEXTS, *HARD])
    assert sum(map(len, expected)) > 10
    page.goto(f"{address}/?model={name}")
    for text, entities in zip([*TEXTS, *HARD], expected, strict=True):
        assert find_entities(page, text) == [tuple(e[:4]) for e in entities]


@pytest.mark.parametrize("dtype", ["float16", "int8"])
def test_smaller_models_are_opened(dtype: str, site: tuple[Path, str], page: Any) -> None:
    folder, address = site
    export_onnx(random_model("bert", "crf"), folder / dtype, dtype)
    (expected,) = load(folder / dtype)([TEXTS[1]])
    page.goto(f"{address}/?model={dtype}")
    assert expected and find_entities(page, TEXTS[1]) == [tuple(e[:4]) for e in expected]


def test_folders_that_cannot_be_opened_are_reported(site: tuple[Path, str], page: Any) -> None:
    from playwright.sync_api import expect

    folder, address = site
    export_onnx(random_model("roberta"), folder / "roberta")
    export_onnx(random_model(), folder / "no program")
    (folder / "no program/onnx/model.onnx").unlink()

    def answer_late(route: Any) -> None:
        time.sleep(0.5)
        route.continue_()

    page.route(
        "**/model/flax_ner.json", answer_late
    )  # the message must not depend on what arrives first
    for name, message in (
        ("model", r"^model/flax_ner\.json: 404 .+\. Export a model into this folder\.$"),
        ("roberta", r"^roberta: has a tokenizer\.json of its own\. "),
        ("no program", r"^no program: has none of onnx/model\.onnx, .+ --to onnx\.$"),
    ):
        page.goto(f"{address}/?model={name}")
        expect(page.locator("#status")).to_have_text(re.compile(message))
        assert page.locator("#tag").is_disabled()
