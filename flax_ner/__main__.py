"""python -m flax_ner: see `flax_ner.inference.cli`."""

from flax_ner.inference.cli import main

main()
