"""Command line: python -m flax_ner web."""

import argparse
import sys
from contextlib import suppress

from flax_ner.inference.tagger import load
from flax_ner.inference.web import HOST, LIMIT, PORT, address, listen, make_app, need_gradio, serve


def add_web_command(
    commands: "argparse._SubParsersAction[argparse.ArgumentParser]",
) -> argparse.ArgumentParser:
    """Add `web` to the commands."""
    web = commands.add_parser(
        "web", help="a page to try a model on, in the browser",
        description="Serve a page on this machine that tags what is typed or pasted, one text a line, at most "
        f"{LIMIT:,} characters at a time. The page needs no internet, and nothing typed leaves this machine.",
    )  # fmt: skip
    web.add_argument("model", metavar="MODEL", help="as for predict")
    web.add_argument(
        "--host", metavar="ADDR", default=HOST,
        help="address to listen at; 0.0.0.0 lets other machines in, without a password. Default: %(default)s",
    )  # fmt: skip
    web.add_argument(
        "--port", type=int, default=PORT, metavar="N",
        help="port to listen at; 0 takes any that is free. Default: %(default)s",
    )  # fmt: skip
    web.set_defaults(run=_web)
    return web


def _web(options: argparse.Namespace) -> None:
    need_gradio()  # before a model is loaded for nothing
    with suppress(KeyboardInterrupt), listen(options.host, options.port) as listener:
        _say(f"loading {options.model}")
        tagger = load(options.model, options.compute_dtype, options.batch_size)
        app = make_app(tagger, options.model)
        _say("compiling, so that no request has to wait for it")
        tagger.compile()
        _say(f"{address(listener)} is ready; Ctrl-C ends it")
        serve(app, listener)


def _say(message: str) -> None:
    print(f"flax_ner: {message}", file=sys.stderr, flush=True)
