"""Command line: python -m flax_ner serve."""

import argparse
import sys

from flax_ner.cli.model_options import add_batch_size, add_compute_dtype, load_tagger
from flax_ner.errors import import_optional
from flax_ner.inference.tagger import Tagger
from flax_ner.serving.api_key import VARIABLE, read_api_key
from flax_ner.serving.listening import listen, listener_url
from flax_ner.serving.server_settings import ServerSettings

# The extra `serve`. uvicorn accepts h11 before 0.16, which allows request smuggling (CVE-2025-43859).
REQUIREMENTS = ("h11>=0.16", "prometheus-client>=0.20", "starlette>=0.46", "uvicorn>=0.34")
HOST, PORT = "127.0.0.1", 8000
# The options that are fields of `ServerSettings`: what they count, and their help.
LIMITS = {
    "max_delay": ("MS", "time in milliseconds that a request waits for others to share its batch"),
    "max_batch": ("N", "texts per batch; a larger request is tagged in several batches"),
    "max_queue": ("N", "texts that wait to be tagged; beyond that the answer is 503"),
    "max_texts": ("N", "texts per request"),
    "max_text_characters": ("N", "characters per text"),
    "max_characters": ("N", "characters per request"),
    "max_body": ("BYTES", "bytes of a request's body"),
    "timeout": ("S", "time in seconds to tag a request's texts; after that the answer is 504"),
    "body_timeout": (
        "S", "time in seconds to receive a request's body, after that the answer is 408, and to send the answer"
    ),
}  # fmt: skip


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `serve`."""
    parser.description = (
        "Serve a model over HTTP. POST /tag tags texts. GET /docs describes it. SIGTERM and Ctrl-C "
        f"stop it after the requests that have arrived are answered. If {VARIABLE} is set, requests to /tag "
        "need that key."
    )
    parser.add_argument("model", metavar="MODEL", help="as for predict")
    parser.add_argument(
        "--host", metavar="ADDR", default=HOST,
        help="address to listen at; 0.0.0.0 also admits other machines. Default: %(default)s",
    )  # fmt: skip
    parser.add_argument(
        "--port", type=int, default=PORT, metavar="N",
        help="port to listen at; 0 chooses a free one. Default: %(default)s",
    )  # fmt: skip
    parser.add_argument(
        "--api-key-file", metavar="FILE",
        help=f"file with the key that requests to /tag need, instead of {VARIABLE}",
    )  # fmt: skip
    parser.add_argument(
        "--log-texts", action="store_true",
        help="log the texts, and why requests are refused. By default no text is logged",
    )  # fmt: skip
    limits = parser.add_argument_group("limits", "Each is a maximum.")
    defaults = ServerSettings()
    for name, (unit, meaning) in LIMITS.items():
        default = getattr(defaults, name)
        limits.add_argument(
            f"--{name.replace('_', '-')}", type=type(default), default=default, metavar=unit,
            help=f"{meaning}. Default: %(default)s",
        )  # fmt: skip
    add_batch_size(parser)
    add_compute_dtype(parser)
    parser.set_defaults(run=_serve)


def _serve(options: argparse.Namespace) -> None:
    for module in ("prometheus_client", "starlette", "uvicorn"):
        import_optional(module, "serve", "' '".join(REQUIREMENTS))
    from flax_ner.serving.run_server import serve

    settings = ServerSettings(
        **{name: getattr(options, name) for name in LIMITS},
        api_key=read_api_key(options.api_key_file),
        log_texts=options.log_texts,
    )

    def load_compiled() -> Tagger:
        tagger = load_tagger(options.model, options.compute_dtype, options.batch_size)
        print_status("compiling, so that no request has to wait for it")
        tagger.compile()
        return tagger

    with listen(options.host, options.port) as listener:
        url = listener_url(listener)
        print_status(f"loading {options.model}")
        serve(
            load_compiled,
            listener,
            settings,
            lambda: print_status(f"{url} is ready. Press Ctrl-C to stop."),
        )


def print_status(message: str) -> None:
    """Print what a server does."""
    print(f"flax_ner: {message}", file=sys.stderr, flush=True)
