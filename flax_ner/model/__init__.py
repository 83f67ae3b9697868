"""Encoder and heads: pure functions, and modules that hold parameters only."""
