"""Weights from and to other frameworks, and model directories."""
