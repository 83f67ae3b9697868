"""The web page: the functions that compute its content, and the page in a browser."""

import json
import re
import sys
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from flax_ner import load
from flax_ner.cli.main import main
from flax_ner.errors import UserError
from flax_ner.inference.inputs import read_inputs
from flax_ner.inference.outputs import json_line
from flax_ner.serving import web
from flax_ner.text.examples import Entity
from flax_ner.weights.model_dir import load_model
from tests.browser import Server, browsing_or_skip, serving, tag
from tests.serving.helpers import save_hand_made

EMOJI = "😀👨‍👩‍👧"  # 6 characters and 10 UTF-16 code units
HARD = (
    f"{EMOJI}b{EMOJI}bi",
    "<u>b</u><img src=x onerror=alert(1)>&amp;",
    "",
    "مرحبا b بالعالم\0",
    "half \ud83d bi of a pair",
)


def fake_tagger(texts: list[str]) -> list[list[Entity]]:
    """Predict the entities of the hand-made tagger without a model."""
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
        ("a\u2028b\x0bc\x85d", ["a\u2028b\x0bc\x85d"]),  # not line breaks in a file either
        ("", []),
    ],
)
def test_text_is_split_into_lines_like_a_file(typed: str, texts: list[str], tmp_path: Path) -> None:
    assert web.split_lines(typed) == texts
    file = tmp_path / "texts.txt"
    file.write_bytes(typed.encode())
    assert [item.text for item in read_inputs(str(file))] == texts


def test_text_that_cannot_be_tagged_gives_a_message() -> None:
    def never(texts: list[str]) -> list[list[Entity]]:
        raise AssertionError("the model ran")

    assert web.tag_typed(never, "中" * (web.MAX_CHARACTERS + 1)) == (
        [],
        "The text has 20,001 characters, but the page accepts at most 20,000. "
        "Shorten the text, or tag it as a file with `python -m flax_ner predict`.",
    )
    for typed in ("", " \t\u3000", "\n\n"):
        assert web.tag_typed(never, typed) == ([], "There is no text to tag. Type or paste one.")
    assert web.input_error("😀" * web.MAX_CHARACTERS) == ""  # twice as many UTF-16 code units

    def short(texts: list[str]) -> list[list[Entity]]:
        raise UserError("Memory is short.")

    assert web.tag_typed(short, "a") == ([], "Nothing was tagged. Memory is short.")


def test_highlighted_text_and_table_show_the_entities() -> None:
    tagged, error = web.tag_typed(fake_tagger, "\n".join(HARD))
    assert error == "" and [text for text, _ in tagged] == list(HARD)
    pieces = web.highlighted_text(tagged)
    shown = [text.replace("\ud83d", "\ufffd") for text in HARD]
    assert "".join(piece for piece, _ in pieces) == "\n".join(shown)
    assert [piece for piece, kind in pieces if kind] == ["b", "bi", "b", "b", "bi"]
    assert pieces[:4] == [(EMOJI, None), ("b", "name"), (EMOJI, None), ("bi", "name")]
    assert ("", None) not in pieces
    rows = web.table_rows(tagged)
    for line, text, kind, start, end, _ in rows:
        assert (shown[line - 1][start:end], kind) == (text, "name")
    assert [row[0] for row in rows] == [1, 1, 2, 4, 5]
    assert rows[1] == [1, "bi", "name", 13, 15, 0.9025]


def test_summary_counts_entities_above_the_threshold() -> None:
    tagged, _ = web.tag_typed(fake_tagger, "b bi bii\no")
    assert web.summary(tagged, 0.0) == "2 texts, 3 entities."
    assert web.summary(tagged, 0.95**2) == "2 texts, 3 entities, 2 shown."
    assert web.summary(tagged, 1.0) == "2 texts, 3 entities, 0 shown."
    assert web.summary(tagged[1:], 0.5) == "1 text, 0 entities."
    assert web.table_rows(web.apply_threshold(tagged, 0.95**2)) == web.table_rows(tagged)[:2]


def test_json_lines_equal_the_output_of_predict(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    stub = SimpleNamespace(stream=lambda texts, **_: iter(fake_tagger(list(texts))))
    monkeypatch.setattr("flax_ner.cli.predict_command.load_tagger", lambda *_: stub)
    file = tmp_path / "texts.txt"
    file.write_text("\n".join(HARD[:4]) + "\n", "utf-8")
    main(["predict", "model", str(file), "--format", "jsonl"])
    tagged, _ = web.tag_typed(fake_tagger, file.read_text("utf-8"))
    assert web.json_lines(tagged) == capsys.readouterr().out

    tagged, _ = web.tag_typed(fake_tagger, HARD[4])
    written = web.json_lines(tagged)
    written.encode()
    assert json.loads(written)["text"] == HARD[4]


def test_a_missing_or_old_gradio_is_reported_with_the_pip_command(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "gradio", None)
    with pytest.raises(
        SystemExit, match=r"^flax_ner: web: needs gradio\. Run pip install 'gradio>="
    ):
        main(["web", "no model"])
    old = SimpleNamespace(__version__="5.50.0")
    monkeypatch.setitem(sys.modules, "gradio", old)
    with pytest.raises(
        SystemExit, match=r"^flax_ner: web: needs gradio>=6\.24, but 5\.50\.0 is installed"
    ):
        main(["web", "no model"])


def test_the_extra_requires_the_gradio_version_that_the_page_needs() -> None:
    extras = tomllib.loads(Path("pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert extras["web"] == [web.GRADIO_REQUIREMENT]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return save_hand_made(tmp_path_factory.mktemp("model") / "<i>model")


@pytest.fixture(scope="module")
def server(model: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    if find_spec("gradio") is None:
        pytest.skip("no gradio: it is in the extra `web`")
    with serving(model, tmp_path_factory.mktemp("cwd")) as server:
        yield server


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with browsing_or_skip() as browser:
        yield browser


@pytest.fixture
def page(server: Server, browser: Any) -> Iterator[Any]:
    with open_page(server, browser) as page:
        yield page


@contextmanager
def open_page(server: Server, browser: Any) -> Iterator[Any]:
    """Open the page. At the end, assert that it had no errors and sent requests only to this server."""
    page = browser.new_page()
    errors: list[str] = []
    page.on("console", lambda m: m.type in ("error", "warning") and errors.append(m.text))
    page.on("pageerror", lambda error: errors.append(str(error)))
    # Gradio cancels its event stream itself.
    page.on(
        "requestfailed",
        lambda r: "/queue/data?" in r.url or errors.append(f"failed: {r.url} {r.failure}"),
    )
    page.on("response", lambda r: r.status >= 400 and errors.append(f"{r.status}: {r.url}"))
    page.on("dialog", lambda dialog: errors.append(dialog.message) or dialog.dismiss())
    page.on(
        "request", lambda r: r.url.startswith((server.url, "blob:" + server.url)) or errors.append(r.url)
    )  # fmt: skip
    page.goto(server.url)
    yield page
    page.wait_for_load_state("load")
    assert errors == []
    page.close()


def marks(page: Any) -> list[tuple[str, str]]:
    """Return the texts and labels of the highlighted pieces."""
    pieces = page.locator("#marked .highlighted").all()
    return [(p.locator(".text").text_content(), p.locator(".label").inner_text()) for p in pieces]


def table(page: Any, count: int) -> list[list[str]]:
    """Return the table once it has `count` rows."""
    from playwright.sync_api import expect

    cells, width = page.locator("#table [data-testid^=cell-]"), len(web.HEADINGS)
    expect(cells).to_have_count(count * width)
    texts = [text.strip() for text in cells.all_inner_texts()]
    return [texts[i : i + width] for i in range(0, len(texts), width)]


@pytest.mark.slow
def test_page_shows_highlights_and_table_and_saves_a_file(
    page: Any, model: str, tmp_path: Path
) -> None:
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
    expected = web.table_rows(list(zip(texts, found, strict=True)))
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
    assert queued and not [
        url for url in queued if "/queue/" in url
    ]  # requests to the queue would run the model

    with page.expect_download() as download:
        page.locator("#export").click()
    assert download.value.suggested_filename == "entities.jsonl"
    found = tagger(texts, threshold=between)
    lines = [json_line(text, row) + "\n" for text, row in zip(texts, found, strict=True)]
    assert Path(download.value.path()).read_text("utf-8") == "".join(lines)


@pytest.mark.slow
def test_the_page_tags_with_an_onnx_export(model: str, browser: Any, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime", reason="the extra `onnx` is not installed")
    pytest.importorskip("onnx", reason="the extra `onnx` is not installed")
    pytest.importorskip("gradio", reason="the extra `web` is not installed")
    from playwright.sync_api import expect

    from flax_ner.weights.onnx_export import export_onnx

    export_onnx(load_model(model), tmp_path / "export")
    with (
        serving(str(tmp_path / "export"), tmp_path) as server,
        open_page(server, browser) as page,
    ):
        tag(page, "b o bii")
        expect(page.locator("#message")).to_have_text("1 text, 2 entities.")
        assert marks(page) == [("b", "name"), ("bii", "name")]


@pytest.mark.slow
def test_page_shows_why_a_text_cannot_be_tagged(page: Any) -> None:
    from playwright.sync_api import expect

    message, export = page.locator("#message"), page.locator("#export")
    expect(export).to_be_disabled()
    page.locator("#threshold input[type=range]").fill("0.5")  # before any text is tagged
    page.locator("#threshold input[type=range]").fill("0")
    tag(page, "b")
    expect(message).to_have_text("1 text, 1 entity.")
    expect(export).to_be_enabled()
    for typed, expected in (
        ("中" * 20_001, "The text has 20,001 characters, but the page accepts at most 20,000."),
        (" \n", "There is no text to tag."),
    ):
        tag(page, typed)
        expect(message).to_contain_text(expected)
        assert marks(page) == table(page, 0) == []
        expect(export).to_be_disabled()
    tag(page, "😀" * 19_998 + "bi")
    expect(message).to_have_text("1 text, 1 entity.")
    assert table(page, 1)[0][3:5] == ["19998", "20000"]


@pytest.mark.slow
def test_a_late_response_to_the_slider_does_not_replace_a_newer_one(page: Any) -> None:
    from playwright.sync_api import expect

    delayed: list[Any] = []

    def hold(route: Any) -> None:
        if delayed:
            route.continue_()
        else:
            delayed.append((route, route.fetch()))

    page.route("**/run/predict*", hold)
    page.locator("#threshold input[type=range]").fill("0.01")
    tag(page, "b")
    page.wait_for_timeout(3_000)  # by then the text is tagged, but its update is held back
    (route, response), *_ = delayed
    with page.expect_response("**/run/predict*"):
        route.fulfill(response=response)
    page.wait_for_timeout(1_000)
    expect(page.locator("#message")).to_have_text("1 text, 1 entity.")
    assert marks(page) == [("b", "name")]


@pytest.mark.slow
def test_a_lone_surrogate_is_tagged_like_any_character(page: Any) -> None:
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
def test_a_click_on_an_example_tags_it_and_uploads_are_rejected(page: Any) -> None:
    from playwright.sync_api import expect

    # The page has no file input, and direct uploads are rejected.
    upload = {"files": {"name": "x.txt", "mimeType": "text/plain", "buffer": b"x"}}
    answer = page.request.post(page.url + "gradio_api/upload", multipart=upload)
    assert answer.status == 413
    page.get_by_role("button", name=web.EXAMPLES[2][:10]).click()
    expect(page.locator("#message")).to_have_text("2 texts, 0 entities.")
    assert page.locator("#typed textarea").input_value() == web.EXAMPLES[2]


@pytest.mark.slow
def test_ctrl_c_stops_the_server_and_it_contacted_no_other_host(
    model: str, browser: Any, tmp_path: Path
) -> None:
    """The server stops while the page is still open. Other tests need theirs, so it is a server of its own."""
    with serving(model, tmp_path) as server, open_page(server, browser) as page:
        tag(page, "b")
        assert server.stop() == 0
    assert [line.removeprefix("flax_ner: ").split()[0] for line in server.log.splitlines()] == [
        "loading", "compiling,", server.url,
    ]  # fmt: skip
    assert server.contacts() == {"127.0.0.1"}
