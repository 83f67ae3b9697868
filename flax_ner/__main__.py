"""python -m flax_ner, and the script flax-ner: see `flax_ner.cli.main`."""

from flax_ner.garbage import collect_seldom
from flax_ner.huge_pages import use_huge_pages


def main() -> None:
    """Run a command."""
    use_huge_pages()
    collect_seldom()
    from flax_ner.cli.main import main as run

    run()


if __name__ == "__main__":
    main()
