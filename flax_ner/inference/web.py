"""A page to try a tagger on, made with Gradio (the extra `web`): python -m flax_ner web.

What the page shows is made by functions of texts and entities; `make_app` puts them on it. Gradio gets
pieces of text and never offsets: a browser counts UTF-16 units, Python characters.
"""

import errno
import logging
import re
import socket
from collections.abc import Callable, Sequence
from functools import partial
from html import escape
from typing import Any

from flax_ner.errors import UserError, need, reason
from flax_ner.inference.outputs import json_line
from flax_ner.inference.tagger import Tagger
from flax_ner.text.examples import Entity
from flax_ner.text.report import segments

OLDEST = (6, 24)  # gradio; older ones keep what was typed in the browser
GRADIO = f"gradio>={OLDEST[0]}.{OLDEST[1]}"
HOST, PORT = "127.0.0.1", 7860
LIMIT = 20_000  # characters at a time; BERT-base on two CPU cores tags some 1,000 a second
HEADINGS = ("line", "text", "type", "start", "end", "score")
EXAMPLES = (
    "王建国在东海市工作，他是华信科技的总裁。",
    "导演李晓明的新片《遥远的海岸》上周在北京上映。",
    "记者从南江市教育局获悉，新规定下个月实行。\n青山队3比1战胜了北川足球俱乐部⚽😀。",
)
# Of entities, by category: white on them, and text on half of them, can be read.
COLOURS = (
    "#2563eb", "#b45309", "#047857", "#dc2626", "#7c3aed",
    "#0e7490", "#854d0e", "#db2777", "#4d7c0f", "#475569",
)  # fmt: skip
# Gradio makes a block of each piece, which no line break passes through, and writes types in capitals.
STYLE = """
#marked .textfield { display: block; font-size: 0; line-height: 30px; }
#marked .highlighted { font-size: 11px; white-space: nowrap; }
#marked .highlighted { -webkit-box-decoration-break: clone; box-decoration-break: clone; }
#marked .text { font-size: 15px; unicode-bidi: isolate; color: var(--body-text-color); }
#marked .label { font-size: 11px; text-transform: none; white-space: nowrap; }
#marked .line-break::after { content: "\\a"; white-space: pre; }
#table { --font-mono: var(--font); }
#table td, #table th { padding: 0; }
#table .cell-wrap { padding: 4px; }
@media (max-width: 640px) { #table .cell-wrap * { font-size: 12px; } }
"""
# The file is made by the browser: no text stays on this machine's disk.
SAVE = """(lines) => {
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([lines], {type: "application/jsonl"}));
    link.download = "entities.jsonl";
    link.click();
    URL.revokeObjectURL(link.href);
}"""
_SURROGATES = re.compile("[\ud800-\udfff]")

Tagged = Sequence[tuple[str, Sequence[Entity]]]  # texts with their entities


def split_lines(typed: str) -> list[str]:
    r"""Split into texts, one per line, as `predict` reads a file: only \n and \r\n end a line."""
    lines = re.split("\r?\n", typed)
    return lines if lines[-1] else lines[:-1]


def fault(typed: str) -> str:
    """Why this cannot be tagged, for who typed it, or "" where it can."""
    if len(typed) > LIMIT:
        return (
            f"These are {len(typed):,} characters, and the page takes {LIMIT:,} at a time. Nothing was tagged: "
            "shorten the text, or give the file to `python -m flax_ner predict`."
        )
    return "" if typed.strip() else "There is no text to tag. Type or paste one."


def above(tagged: Tagged, threshold: float) -> Tagged:
    """Without the entities that are less probable, as `Tagger` leaves them out."""
    return [(text, [e for e in entities if e.score >= threshold]) for text, entities in tagged]


def pieces(tagged: Tagged) -> list[tuple[str, str | None]]:
    """All texts in pieces with their types, None outside of entities, a line break between texts."""
    found: list[tuple[str, str | None]] = []
    for i, (text, entities) in enumerate(tagged):
        found += [("\n", None)] if i else []
        found += [(_showable(piece), kind) for piece, kind in segments(text, entities)]
    return found


def rows(tagged: Tagged) -> list[list[Any]]:
    """The table of entities, its columns as in `HEADINGS`; lines count from 1."""
    return [
        [number, _showable(e.text), e.type, e.start, e.end, round(e.score, 4)]
        for number, (_, entities) in enumerate(tagged, 1)
        for e in entities
    ]


def summary(tagged: Tagged, threshold: float) -> str:
    """How many entities are shown, in a sentence."""
    count, shown = (
        sum(len(entities) for _, entities in t) for t in (tagged, above(tagged, threshold))
    )
    texts = f"{len(tagged)} {'text' if len(tagged) == 1 else 'texts'}"
    entities = f"{count} {'entity' if count == 1 else 'entities'}"
    return f"{texts}, {entities}" + (f", {shown} shown." if shown < count else ".")


def json_lines(tagged: Tagged) -> str:
    """What `predict --format jsonl` writes."""
    lines = "".join(f"{json_line(text, entities)}\n" for text, entities in tagged)
    return lines.encode(
        "utf-8", "backslashreplace"
    ).decode()  # lone surrogates are escaped there too


def _showable(text: str) -> str:
    """Lone surrogates, which UTF-8 lacks, are shown as unknown characters."""
    return _SURROGATES.sub("\ufffd", text)


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens there.

    Raises:
        UserError: another program does, or this machine has no such address or port.
    """
    if not 0 <= port <= 65535:
        raise UserError(f"--port {port}: a port lies in [1, 65535]; 0 takes any that is free.")
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        return socket.create_server((host, port), family=family)
    except (OSError, UnicodeError) as error:  # UnicodeError: nothing that could name a machine
        if isinstance(error, OSError) and error.errno == errno.EADDRINUSE:
            raise UserError(
                f"--port {port}: is taken at {host}. Give another one, or 0 for any that is free."
            ) from None
        why = reason(error).partition(" (")[0]
        raise UserError(f"--host {host} --port {port}: cannot listen there ({why}).") from None


def address(listener: socket.socket) -> str:
    """The page's address in a browser."""
    host, port = listener.getsockname()[:2]
    return f"http://{f'[{host}]' if ':' in host else host}:{port}/"


def find(tagger: Callable[[list[str]], list[list[Entity]]], typed: str) -> tuple[Tagged, str]:
    """What was typed with its entities; or nothing, and why."""
    problem = fault(typed)
    if problem:
        return [], problem
    texts = split_lines(typed)
    try:
        return list(zip(texts, tagger(texts), strict=True)), ""
    except UserError as error:  # memory is short
        return [], f"Nothing was tagged. {error}"


def make_app(tagger: Tagger, name: str) -> Any:
    """The page as an ASGI application.

    Args:
        tagger: of the texts; asked for one request at a time.
        name: of the model, to be shown.

    Raises:
        UserError: Gradio is not installed, or is too old.
    """
    gr, fastapi = need_gradio(), need("fastapi", "web", GRADIO)
    categories = tagger.labels.categories
    colours = {kind: COLOURS[i % len(COLOURS)] for i, kind in enumerate(categories)}

    def show(answer: tuple[Tagged, str], threshold: float) -> tuple[Any, ...]:
        tagged, problem = answer
        left = above(tagged, threshold)
        message = problem or (summary(tagged, threshold) if tagged else "")
        return message, pieces(left), rows(left), gr.Button(interactive=bool(tagged))

    with gr.Blocks(title=f"flax_ner: {name}", analytics_enabled=False) as page:
        answer = gr.State(([], ""))
        gr.HTML(f"<b>flax_ner</b>, entities as <code>{escape(name)}</code> finds them")
        with gr.Row():
            with gr.Column(min_width=320):
                typed = gr.Textbox(
                    label="text", lines=7, max_lines=20, elem_id="typed",
                    info=f"One text a line, {LIMIT:,} characters at most. Shift+Enter tags it.",
                )  # fmt: skip
                examples = gr.Examples(
                    [[e] for e in EXAMPLES], typed, cache_examples=False, api_visibility="private"
                )
                tag = gr.Button("Tag", variant="primary", elem_id="tag")
            with gr.Column(min_width=320):
                message = gr.Markdown(elem_id="message")
                marked = gr.HighlightedText(label="entities", color_map=colours, elem_id="marked")
                threshold = gr.Slider(
                    0, 1, 0, step=0.01, label="threshold", elem_id="threshold",
                    info="Entities with a lower score are left out, of the file too.",
                )  # fmt: skip
                table = gr.Dataframe(
                    headers=list(HEADINGS), interactive=False, buttons=[], elem_id="table",
                    datatype=["number", "str", "str", "number", "number", "number"], wrap=True,
                    column_widths=["9%", "31%", "25%", "11%", "10%", "14%"],
                )  # fmt: skip
                export = gr.Button("Save as JSON lines", interactive=False, elem_id="export")
                saved = gr.Textbox(visible=False)

        for event in (tag.click, typed.submit, examples.load_input_event.then):
            event(
                partial(find, tagger), typed, answer,
                api_visibility="private", show_progress_on=[marked],
                concurrency_id="tagger", concurrency_limit=1,
            )  # fmt: skip
        # One listener, which runs once at a time: an older result cannot arrive after a newer one.
        gr.on(
            [answer.change, threshold.change], show, [answer, threshold], [message, marked, table, export],
            api_visibility="private", trigger_mode="always_last", show_progress="hidden",
            queue=False,  # the slider need not wait for somebody's text
        )  # fmt: skip
        export.click(
            lambda answer, threshold: json_lines(above(answer[0], threshold)),
            [answer, threshold], saved, api_visibility="private", queue=False,
        ).then(None, saved, js=SAVE)  # fmt: skip

    return gr.mount_gradio_app(
        fastapi.FastAPI(openapi_url=None), page, "/", footer_links=[], run_history=False, show_error=False,
        max_file_size=0,  # the page takes no files, and Gradio would take anybody's
        ssr_mode=False, enable_monitoring=False, pwa=False, mcp_server=False,
        css=STYLE, theme=gr.themes.Default(font="sans-serif", font_mono="monospace"),
    )  # fmt: skip


def serve(app: Any, listener: socket.socket) -> None:
    """Answer requests until Ctrl-C, which is a `KeyboardInterrupt` as anywhere."""
    uvicorn = need("uvicorn", "web", GRADIO)

    class Server(uvicorn.Server):  # type: ignore[name-defined]
        async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
            # Every open page keeps a request running. They are cut, which is no fault to tell of.
            logging.getLogger("uvicorn.error").setLevel(logging.CRITICAL)
            await super().shutdown(sockets)

    config = uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=0)
    Server(config).run(sockets=[listener])


def need_gradio() -> Any:
    """Gradio.

    Raises:
        UserError: it is not installed, or is too old.
    """
    found = need("gradio", "web", GRADIO)
    if tuple(map(int, found.__version__.split(".")[:2])) < OLDEST:
        raise UserError(
            f"web: needs {GRADIO}, and this is {found.__version__}. Run pip install -U '{GRADIO}'."
        )
    return found
