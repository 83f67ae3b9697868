"""python -m flax_ner, and the script flax-ner: see `flax_ner.cli.main`."""

import atexit
import gc

from flax_ner.huge_pages import use_huge_pages

# Net allocations of container objects before a garbage collection. `predict` makes 260,000 until it has tagged
# its first text, and few of them are garbage. With Python's default, collections take a tenth of that time.
GARBAGE_THRESHOLD = 400_000


def main() -> None:
    """Run a command."""
    use_huge_pages()
    gc.set_threshold(GARBAGE_THRESHOLD)
    atexit.register(gc.freeze)  # otherwise Python looks through all objects again before it exits
    from flax_ner.cli.main import main as run

    run()


if __name__ == "__main__":
    main()
