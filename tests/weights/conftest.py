"""Fixtures of the weights tests."""

from pathlib import Path

import pytest

from tests.weights.helpers import TRAINED, tiny_state_dict, write_source


@pytest.fixture
def trained(tmp_path: Path) -> Path:
    """Write a trained MMOCR checkpoint with five outputs and its vocabulary."""
    return write_source(tmp_path / "source", tiny_state_dict(TRAINED), "f.pth")
