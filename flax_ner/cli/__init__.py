"""The command line: python -m flax_ner."""
