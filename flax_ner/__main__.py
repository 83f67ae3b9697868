"""python -m flax_ner: see `flax_ner.cli.main`."""

from flax_ner.cli.main import main

main()
