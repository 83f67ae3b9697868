"""The page: what it shows, made from texts and entities, and in a browser."""

import errno
import json
import re
import sys
import tomllib
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from flax_ner import load
from flax_ner.errors import UserError
from flax_ner.inference import web
from flax_ner.inference.cli import main
from flax_ner.inference.inputs import read_inputs
from flax_ner.inference.outputs import json_line
from flax_ner.text.examples import Entity
from flax_ner.weights.model_dir import ModelDir, save_model
from tests.browser import Server, browsing, chromium, serving, tag
from tests.inference.helpers import LABELS, VOCAB, hand_made_tagger

EMOJI = "😀👨‍👩‍👧"  # six characters and ten UTF-16 units
HARD = (
    f"{EMOJI}b{EMOJI}bi",
    "<u>b</u><img src=x onerror=alert(1)>&amp;",
    "",
    "مرحبا b بالعالم\0",
    "half \ud83d bi of a pair",
)


def fake_tagger(texts: list[str]) -> list[list[Entity]]:
    """What the hand-made tagger of the tests finds, without a model."""
    return [
        [Entity("name", *m.span(), m[0], 0.95 ** len(m[0])) for m in re.finditer("bi*", text)]
        for text in texts
    ]


@pytest.mark.parametrize(
    ("typed", "texts"),
    [
        ("a", ["a"]),
        ("a\nb\n", ["a", "b"]),
        ("a\r\n\r\nb\rc\n\n", ["a", "", "b\rc", ""]),
        ("a\r\r\nb\r", ["a\r", "b\r"]),
        ("a\u2028b\x0bc\x85d", ["a\u2028b\x0bc\x85d"]),  # no line breaks in a file either
        ("", []),
    ],
)
def test_lines_are_those_of_a_file(typed: str, texts: list[str], tmp_path: Path) -> None:
    assert web.split_lines(typed) == texts
    file = tmp_path / "texts.txt"
    file.write_bytes(typed.encode())
    assert [item.text for item in read_inputs(str(file))] == texts


def test_what_cannot_be_tagged_is_said() -> None:
    def never(texts: list[str]) -> list[list[Entity]]:
        raise AssertionError("the model ran")

    assert web.find(never, "中" * (web.LIMIT + 1)) == (
        [],
        "These are 20,001 characters, and the page takes 20,000 at a time. Nothing was tagged: "
        "shorten the text, or give the file to `python -m flax_ner predict`.",
    )
    for typed in ("", " \t\u3000", "\n\n"):
        assert web.find(never, typed) == ([], "There is no text to tag. Type or paste one.")
    assert web.fault("😀" * web.LIMIT) == ""  # twice as many UTF-16 units

    def short(texts: list[str]) -> list[list[Entity]]:
        raise UserError("Memory is short.")

    assert web.find(short, "a") == ([], "Nothing was tagged. Memory is short.")


def test_pieces_and_rows_are_those_of_the_entities() -> None:
    tagged, problem = web.find(fake_tagger, "\n".join(HARD))
    assert problem == "" and [text for text, _ in tagged] == list(HARD)
    pieces = web.pieces(tagged)
    shown = [text.replace("\ud83d", "\ufffd") for text in HARD]
    assert "".join(piece for piece, _ in pieces) == "\n".join(shown)
    assert [piece for piece, kind in pieces if kind] == ["b", "bi", "b", "b", "bi"]
    assert pieces[:4] == [(EMOJI, None), ("b", "name"), (EMOJI, None), ("bi", "name")]
    assert ("", None) not in pieces
    rows = web.rows(tagged)
    for line, text, kind, start, end, _ in rows:
        assert (shown[line - 1][start:end], kind) == (text, "name")
    assert [row[0] for row in rows] == [1, 1, 2, 4, 5]
    assert rows[1] == [1, "bi", "name", 13, 15, 0.9025]


def test_what_is_above_the_threshold_is_counted() -> None:
    tagged, _ = web.find(fake_tagger, "b bi bii\no")
    assert web.summary(tagged, 0.0) == "2 texts, 3 entities."
    assert web.summary(tagged, 0.95**2) == "2 texts, 3 entities, 2 shown."
    assert web.summary(tagged, 1.0) == "2 texts, 3 entities, 0 shown."
    assert web.summary(tagged[1:], 0.5) == "1 text, 0 entities."
    assert web.rows(web.above(tagged, 0.95**2)) == web.rows(tagged)[:2]


def test_json_is_what_predict_writes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    stub = SimpleNamespace(stream=lambda texts, **_: iter(fake_tagger(list(texts))))
    monkeypatch.setattr("flax_ner.inference.cli.load", lambda *_: stub)
    file = tmp_path / "texts.txt"
    file.write_text("\n".join(HARD[:4]) + "\n", "utf-8")
    main(["predict", "model", str(file), "--format", "jsonl"])
    tagged, _ = web.find(fake_tagger, file.read_text("utf-8"))
    assert web.json_lines(tagged) == capsys.readouterr().out

    tagged, _ = web.find(fake_tagger, HARD[4])
    written = web.json_lines(tagged)
    written.encode()
    assert json.loads(written)["text"] == HARD[4]


def test_an_address_that_cannot_be_had_is_one_message(capsys: pytest.CaptureFixture[str]) -> None:
    with web.listen("127.0.0.1", 0) as taken:
        port = taken.getsockname()[1]
        assert web.address(taken) == f"http://127.0.0.1:{port}/"
        with pytest.raises(UserError, match=rf"^--port {port}: is taken at 127\.0\.0\.1\. Give"):
            web.listen("127.0.0.1", port)
    with pytest.raises(UserError, match=r"^--port 65536: a port lies in"):
        web.listen("127.0.0.1", 65536)
    with pytest.raises(UserError, match=rf"cannot listen there \(\[Errno {errno.EADDRNOTAVAIL}\]"):
        web.listen("192.0.2.1", 0)


def test_without_gradio_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gradio", None)
    with pytest.raises(
        SystemExit, match=r"^flax_ner: web: needs gradio\. Run pip install 'gradio>="
    ):
        main(["web", "no model"])
    old = SimpleNamespace(__version__="5.50.0")
    monkeypatch.setitem(sys.modules, "gradio", old)
    with pytest.raises(SystemExit, match=r"^flax_ner: web: needs gradio>=6\.24, and this is 5"):
        main(["web", "no model"])


def test_the_extra_asks_for_the_gradio_that_the_page_needs() -> None:
    extras = tomllib.loads(Path("pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert extras["web"] == [web.GRADIO]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    tagger, folder = hand_made_tagger(), tmp_path_factory.mktemp("model") / "<i>model"
    save_model(folder, ModelDir(tagger.config, LABELS, VOCAB, 64, tagger.params))
    return str(folder)


@pytest.fixture(scope="module")
def server(model: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    if find_spec("gradio") is None:
        pytest.skip("no gradio: it is in the extra `web`")
    with serving(model, tmp_path_factory.mktemp("cwd")) as server:
        yield server


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    if find_spec("playwright") is None:
        pytest.skip("no playwright: it is in the extra `dev`")
    executable = chromium()
    if executable is None:
        pytest.skip("no Chromium on PATH: apt-get install chromium")
    from playwright.sync_api import expect

    expect.set_options(timeout=30_000)  # on a machine that is busy
    with browsing(executable) as browser:
        yield browser


@pytest.fixture
def page(server: Server, browser: Any) -> Iterator[Any]:
    """The page, opened; in the end nothing has failed on it, and all was asked of this server."""
    page = browser.new_page()
    faults: list[str] = []
    page.on("console", lambda m: m.type in ("error", "warning") and faults.append(m.text))
    page.on("pageerror", lambda error: faults.append(str(error)))
    # Gradio ends its stream of answers itself.
    page.on(
        "requestfailed",
        lambda r: "/queue/data?" in r.url or faults.append(f"failed: {r.url} {r.failure}"),
    )
    page.on("response", lambda r: r.status >= 400 and faults.append(f"{r.status}: {r.url}"))
    page.on("dialog", lambda dialog: faults.append(dialog.message) or dialog.dismiss())
    page.on(
        "request", lambda r: r.url.startswith((server.url, "blob:" + server.url)) or faults.append(r.url)
    )  # fmt: skip
    page.goto(server.url)
    yield page
    page.wait_for_load_state("load")
    assert faults == []
    page.close()


def marks(page: Any) -> list[tuple[str, str]]:
    """Texts and labels of the marked pieces."""
    pieces = page.locator("#marked .highlighted").all()
    return [(p.locator(".text").text_content(), p.locator(".label").inner_text()) for p in pieces]


def table(page: Any, count: int) -> list[list[str]]:
    """The table, once it has so many rows."""
    from playwright.sync_api import expect

    cells, width = page.locator("#table [data-testid^=cell-]"), len(web.HEADINGS)
    expect(cells).to_have_count(count * width)
    texts = [text.strip() for text in cells.all_inner_texts()]
    return [texts[i : i + width] for i in range(0, len(texts), width)]


@pytest.mark.slow
def test_marks_table_threshold_and_file(page: Any, model: str, tmp_path: Path) -> None:
    from playwright.sync_api import expect

    typed = "\n".join([*HARD[:4], "bii"])
    tag(page, typed)
    expect(page.locator("#message")).to_have_text("5 texts, 5 entities.")
    assert marks(page) == [(text, "name") for text in ("b", "bi", "b", "b", "bii")]
    lines = page.locator("#marked .textfield").evaluate(
        "all => Array.from(all.querySelectorAll('.text, .line-break'),"
        " e => e.matches('.text') ? e.textContent : '\\n').join('')"
    )
    assert lines == typed
    assert page.locator("#marked img").count() == 0
    assert "<i>model" in page.locator("body").inner_text()

    tagger, texts = load(model), typed.split("\n")
    found = tagger(texts)
    expected = web.rows(list(zip(texts, found, strict=True)))
    assert table(page, 5) == [[str(cell) for cell in row] for row in expected]

    scores = sorted({round(entity.score, 2) for row in found for entity in row})
    between = round((scores[0] + scores[1]) / 2, 2)
    assert scores[0] < between < scores[1]
    queued: list[str] = []
    page.on("request", lambda request: queued.append(request.url))
    page.locator("#threshold input[type=range]").fill(str(between))
    expect(page.locator("#message")).to_have_text("5 texts, 5 entities, 4 shown.")
    assert marks(page) == [(text, "name") for text in ("b", "bi", "b", "b")]
    assert table(page, 4) == [[str(cell) for cell in row] for row in expected if row[5] >= between]
    assert queued and not [url for url in queued if "/queue/" in url]  # the model is behind it

    with page.expect_download() as download:
        page.locator("#export").click()
    assert download.value.suggested_filename == "entities.jsonl"
    found = tagger(texts, threshold=between)
    lines = [json_line(text, row) + "\n" for text, row in zip(texts, found, strict=True)]
    assert Path(download.value.path()).read_text("utf-8") == "".join(lines)


@pytest.mark.slow
def test_what_cannot_be_tagged_is_told_on_the_page(page: Any) -> None:
    from playwright.sync_api import expect

    message, export = page.locator("#message"), page.locator("#export")
    expect(export).to_be_disabled()
    page.locator("#threshold input[type=range]").fill("0.5")  # before there is anything
    page.locator("#threshold input[type=range]").fill("0")
    tag(page, "b")
    expect(message).to_have_text("1 text, 1 entity.")
    expect(export).to_be_enabled()
    for typed, told in (
        ("中" * 20_001, "These are 20,001 characters, and the page takes 20,000 at a time."),
        (" \n", "There is no text to tag."),
    ):
        tag(page, typed)
        expect(message).to_contain_text(told)
        assert marks(page) == table(page, 0) == []
        expect(export).to_be_disabled()
    tag(page, "😀" * 19_998 + "bi")
    expect(message).to_have_text("1 text, 1 entity.")
    assert table(page, 1)[0][3:5] == ["19998", "20000"]


@pytest.mark.slow
def test_a_late_answer_to_the_slider_does_not_replace_a_newer_one(page: Any) -> None:
    from playwright.sync_api import expect

    late: list[Any] = []

    def hold(route: Any) -> None:
        if late:
            route.continue_()
        else:
            late.append((route, route.fetch()))

    page.route("**/run/predict*", hold)
    page.locator("#threshold input[type=range]").fill("0.01")
    tag(page, "b")
    page.wait_for_timeout(3_000)  # the text is tagged by then, and nothing has been shown since
    (route, answer), *_ = late
    with page.expect_response("**/run/predict*"):
        route.fulfill(response=answer)
    page.wait_for_timeout(1_000)
    expect(page.locator("#message")).to_have_text("1 text, 1 entity.")
    assert marks(page) == [("b", "name")]


@pytest.mark.slow
def test_half_a_pair_of_surrogates_is_tagged_like_any_character(page: Any) -> None:
    from playwright.sync_api import expect

    half = "half \ud83d bi of a pair"
    area = page.locator("#typed textarea")
    area.evaluate(
        "(area) => { area.value = 'half \\ud83d bi of a pair';"
        " area.dispatchEvent(new Event('input', {bubbles: true})); }"
    )
    area.press("Shift+Enter")
    expect(page.locator("#message")).to_have_text("1 text, 1 entity.")
    assert marks(page) == [("bi", "name")]
    with page.expect_download() as download:
        page.locator("#export").click()
    row = json.loads(Path(download.value.path()).read_text("utf-8"))
    assert row["text"] == half
    assert [row["entities"][0][key] for key in ("text", "start", "end")] == ["bi", 7, 9]


@pytest.mark.slow
def test_an_example_is_tagged_at_a_click_and_no_file_is_taken(page: Any) -> None:
    from playwright.sync_api import expect

    # The page has no field for files, and who asks for one to be kept all the same gets none.
    upload = {"files": {"name": "x.txt", "mimeType": "text/plain", "buffer": b"x"}}
    answer = page.request.post(page.url + "gradio_api/upload", multipart=upload)
    assert answer.status == 413
    page.get_by_role("button", name=web.EXAMPLES[2][:10]).click()
    expect(page.locator("#message")).to_have_text("2 texts, 0 entities.")
    assert page.locator("#typed textarea").input_value() == web.EXAMPLES[2]


@pytest.mark.slow
def test_ctrl_c_ends_it_and_nobody_was_asked_for_anything(page: Any, server: Server) -> None:
    """The last test of the page, which is open still."""
    tag(page, "b")
    assert server.stop() == 0
    assert [line.removeprefix("flax_ner: ").split()[0] for line in server.log.splitlines()] == [
        "loading", "compiling,", server.url,
    ]  # fmt: skip
    assert server.contacts() == {"127.0.0.1"}
