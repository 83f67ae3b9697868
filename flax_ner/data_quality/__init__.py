"""Find likely mistakes in labelled data and report them. Never imports jax."""
