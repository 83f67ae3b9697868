"""Command line: python -m flax_ner web."""

import argparse
from contextlib import suppress

from flax_ner.cli.model_options import add_batch_size, add_compute_dtype, load_tagger
from flax_ner.cli.serve_command import print_status
from flax_ner.serving.listening import listen, listener_url
from flax_ner.serving.web import HOST, MAX_CHARACTERS, PORT, import_gradio, make_app, serve


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `web`."""
    parser.description = (
        "Serve a web page on this machine that tags typed or pasted text, one text per line, at "
        f"most {MAX_CHARACTERS:,} characters at a time. The page needs no internet access, and no text leaves "
        "this machine."
    )
    parser.add_argument("model", metavar="MODEL", help="as for predict")
    parser.add_argument(
        "--host", metavar="ADDR", default=HOST,
        help="address to listen at; 0.0.0.0 also admits other machines, without a password. Default: "
        "%(default)s",
    )  # fmt: skip
    parser.add_argument(
        "--port", type=int, default=PORT, metavar="N",
        help="port to listen at; 0 chooses a free one. Default: %(default)s",
    )  # fmt: skip
    add_batch_size(parser)
    add_compute_dtype(parser)
    parser.set_defaults(run=_web)


def _web(options: argparse.Namespace) -> None:
    import_gradio()  # fail before the model is loaded
    with suppress(KeyboardInterrupt), listen(options.host, options.port) as listener:
        print_status(f"loading {options.model}")
        tagger = load_tagger(options.model, options.compute_dtype, options.batch_size)
        app = make_app(tagger, options.model)
        print_status("compiling, so that no request has to wait for it")
        tagger.compile()
        print_status(f"{listener_url(listener)} is ready. Press Ctrl-C to stop.")
        serve(app, listener)
