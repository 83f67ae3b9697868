"""The fixtures of the command `predict`, shared with the tests of inference."""

from tests.inference.conftest import predict, tagger

__all__ = ["predict", "tagger"]
