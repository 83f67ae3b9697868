"""python -m flax_ner: see `flax_ner.cli.main`."""

from flax_ner.huge_pages import use_huge_pages

use_huge_pages()

from flax_ner.cli.main import main  # noqa: E402  it imports jax

main()
