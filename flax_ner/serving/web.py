"""Serve a web page for trying a tagger, built with Gradio (the extra `web`): python -m flax_ner web.

Pure functions of texts and entities compute what the page shows, and `make_app` lays it out. Gradio
receives pieces of text, never offsets: a browser counts UTF-16 code units, Python counts characters.
"""

import logging
import re
import socket
from collections.abc import Callable, Sequence
from functools import partial
from html import escape
from typing import Any

from flax_ner.errors import UserError, import_optional
from flax_ner.evaluation.display import flat_segments
from flax_ner.inference.outputs import json_line
from flax_ner.inference.tagger import Tagger
from flax_ner.text.examples import Entity
from flax_ner.text.utf8 import SURROGATES

MIN_GRADIO = (6, 24)  # older versions store the typed text in the browser
GRADIO_REQUIREMENT = f"gradio>={MIN_GRADIO[0]}.{MIN_GRADIO[1]}"
HOST, PORT = "127.0.0.1", 7860
MAX_CHARACTERS = 20_000  # per request; BERT-base on two CPU cores tags about 1,000 per second
HEADINGS = ("line", "text", "type", "start", "end", "score")
EXAMPLES = (
    "王建国在东海市工作，他是华信科技的总裁。",
    "导演李晓明的新片《遥远的海岸》上周在北京上映。",
    "记者从南江市教育局获悉，新规定下个月实行。\n青山队3比1战胜了北川足球俱乐部⚽😀。",
)
# One colour per category. White text is legible on each, and dark text on each at half opacity.
COLOURS = (
    "#2563eb", "#b45309", "#047857", "#dc2626", "#7c3aed",
    "#0e7490", "#854d0e", "#db2777", "#4d7c0f", "#475569",
)  # fmt: skip
# By default Gradio renders each piece as a block, without line breaks, and types in capitals.
CSS = """
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
# The browser creates the file, so that no text is written to the server's disk.
SAVE_SCRIPT = """(lines) => {
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([lines], {type: "application/jsonl"}));
    link.download = "entities.jsonl";
    link.click();
    URL.revokeObjectURL(link.href);
}"""

TaggedTexts = Sequence[tuple[str, Sequence[Entity]]]


def split_lines(typed: str) -> list[str]:
    r"""Split into texts, one per line. As in the files of `predict`, only \n and \r\n end a line."""
    lines = re.split("\r?\n", typed)
    return lines if lines[-1] else lines[:-1]


def input_error(typed: str) -> str:
    """Return why this text cannot be tagged, as a message for the user, or "" if it can."""
    if len(typed) > MAX_CHARACTERS:
        return (
            f"The text has {len(typed):,} characters, but the page accepts at most {MAX_CHARACTERS:,}. "
            "Shorten the text, or tag it as a file with `python -m flax_ner predict`."
        )
    return "" if typed.strip() else "There is no text to tag. Type or paste one."


def apply_threshold(tagged: TaggedTexts, threshold: float) -> TaggedTexts:
    """Drop the entities with a lower score, as `Tagger` does."""
    return [(text, [e for e in entities if e.score >= threshold]) for text, entities in tagged]


def highlighted_text(tagged: TaggedTexts) -> list[tuple[str, str | None]]:
    """Return all texts as pieces with the entity type, None outside of entities, separated by "\\n"."""
    pieces: list[tuple[str, str | None]] = []
    for i, (text, entities) in enumerate(tagged):
        pieces += [("\n", None)] if i else []
        pieces += [
            (_replace_surrogates(p), category) for p, category in flat_segments(text, entities)
        ]
    return pieces


def table_rows(tagged: TaggedTexts) -> list[list[Any]]:
    """Return the table of entities with the columns `HEADINGS`. Lines are numbered from 1."""
    return [
        [number, _replace_surrogates(e.text), e.type, e.start, e.end, round(e.score, 4)]
        for number, (_, entities) in enumerate(tagged, 1)
        for e in entities
    ]


def summary(tagged: TaggedTexts, threshold: float) -> str:
    """Return a sentence that says how many entities were predicted and how many are shown."""
    count, shown = (
        sum(len(entities) for _, entities in t)
        for t in (tagged, apply_threshold(tagged, threshold))
    )
    texts = f"{len(tagged)} {'text' if len(tagged) == 1 else 'texts'}"
    entities = f"{count} {'entity' if count == 1 else 'entities'}"
    return f"{texts}, {entities}" + (f", {shown} shown." if shown < count else ".")


def json_lines(tagged: TaggedTexts) -> str:
    """Return the same lines as `predict --format jsonl` writes."""
    lines = "".join(f"{json_line(text, entities)}\n" for text, entities in tagged)
    return lines.encode("utf-8", "backslashreplace").decode()  # escape lone surrogates


def _replace_surrogates(text: str) -> str:
    """Replace lone surrogates, which UTF-8 cannot encode, by the replacement character."""
    return SURROGATES.sub("\ufffd", text)


def tag_typed(
    tagger: Callable[[list[str]], list[list[Entity]]], typed: str
) -> tuple[TaggedTexts, str]:
    """Tag the typed text.

    Returns:
        The texts with their entities and ""; or no texts and a message that says why.
    """
    message = input_error(typed)
    if message:
        return [], message
    texts = split_lines(typed)
    try:
        return list(zip(texts, tagger(texts), strict=True)), ""
    except UserError as error:  # such as out of memory
        return [], f"Nothing was tagged. {error}"


def make_app(tagger: Tagger, name: str) -> Any:
    """Return the page as an ASGI application.

    Args:
        tagger: tags the texts, one request at a time.
        name: name of the model, shown on the page.

    Raises:
        UserError: Gradio is not installed or too old.
    """
    gr, fastapi = import_gradio(), import_optional("fastapi", "web", GRADIO_REQUIREMENT)
    categories = tagger.labels.categories
    colours = {name: COLOURS[i % len(COLOURS)] for i, name in enumerate(categories)}

    def show(answer: tuple[TaggedTexts, str], threshold: float) -> tuple[Any, ...]:
        tagged, error = answer
        shown = apply_threshold(tagged, threshold)
        message = error or (summary(tagged, threshold) if tagged else "")
        button = gr.Button(interactive=bool(tagged))
        return message, highlighted_text(shown), table_rows(shown), button

    with gr.Blocks(title=f"flax_ner: {name}", analytics_enabled=False) as page:
        answer = gr.State(([], ""))
        gr.HTML(f"<b>flax_ner</b>, model <code>{escape(name)}</code>")
        with gr.Row():
            with gr.Column(min_width=320):
                typed = gr.Textbox(
                    label="text", lines=7, max_lines=20, elem_id="typed",
                    info=f"One text per line, at most {MAX_CHARACTERS:,} characters. Press Shift+Enter to tag.",
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
                    info="Entities with a lower score are omitted, in the saved file too.",
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
                partial(tag_typed, tagger), typed, answer,
                api_visibility="private", show_progress_on=[marked],
                concurrency_id="tagger", concurrency_limit=1,
            )  # fmt: skip
        # A single listener runs one update at a time, so an older result cannot replace a newer one.
        gr.on(
            [answer.change, threshold.change], show, [answer, threshold], [message, marked, table, export],
            api_visibility="private", trigger_mode="always_last", show_progress="hidden",
            queue=False,  # the slider does not wait for texts in the queue
        )  # fmt: skip
        export.click(
            lambda answer, threshold: json_lines(apply_threshold(answer[0], threshold)),
            [answer, threshold], saved, api_visibility="private", queue=False,
        ).then(None, saved, js=SAVE_SCRIPT)  # fmt: skip

    return gr.mount_gradio_app(
        fastapi.FastAPI(openapi_url=None), page, "/", footer_links=[], run_history=False, show_error=False,
        max_file_size=0,  # by default Gradio accepts uploads from anyone
        ssr_mode=False, enable_monitoring=False, pwa=False, mcp_server=False,
        css=CSS, theme=gr.themes.Default(font="sans-serif", font_mono="monospace"),
    )  # fmt: skip


def serve(app: Any, listener: socket.socket) -> None:
    """Serve requests until Ctrl-C, which raises `KeyboardInterrupt`."""
    uvicorn = import_optional("uvicorn", "web", GRADIO_REQUIREMENT)

    class Server(uvicorn.Server):  # type: ignore[name-defined]
        async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
            # Every open page keeps a request running. Cancelling it is not an error worth logging.
            logging.getLogger("uvicorn.error").setLevel(logging.CRITICAL)
            await super().shutdown(sockets)

    config = uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=0)
    Server(config).run(sockets=[listener])


def import_gradio() -> Any:
    """Import and return Gradio.

    Raises:
        UserError: it is not installed or too old.
    """
    gradio = import_optional("gradio", "web", GRADIO_REQUIREMENT)
    if tuple(map(int, gradio.__version__.split(".")[:2])) < MIN_GRADIO:
        raise UserError(
            f"web: needs {GRADIO_REQUIREMENT}, but {gradio.__version__} is installed. "
            f"Run pip install -U '{GRADIO_REQUIREMENT}'."
        )
    return gradio
