"""Pre-train an encoder by masked language modelling."""
