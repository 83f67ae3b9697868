"""python -m flax_ner, and the script flax-ner: see `flax_ner.cli.main`."""

import atexit
import gc

from flax_ner.huge_pages import use_huge_pages

# Objects to allocate before Python looks for garbage. Imports and tracing allocate much and leave little of it.
# With the default, a tenth of the time of a short command is this search.
GARBAGE_THRESHOLD = 100_000


def main() -> None:
    """Run a command."""
    use_huge_pages()
    gc.set_threshold(GARBAGE_THRESHOLD)
    atexit.register(gc.freeze)  # otherwise Python looks through all objects again before it exits
    from flax_ner.cli.main import main as run

    run()


if __name__ == "__main__":
    main()
