"""Score predicted entities (precision, recall, F1) and report the results. Never imports jax."""
