"""A fixture that runs the command `predict` in this process with a hand-made model."""

import io
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from flax_ner import Tagger
from flax_ner.cli.main import main
from tests.inference.helpers import hand_made_tagger


@pytest.fixture(scope="module")
def tagger() -> Tagger:
    return hand_made_tagger()


@pytest.fixture
def predict(
    tagger: Tagger, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[str, str]]:
    """Run the command and return its standard output and standard error."""
    monkeypatch.setattr("flax_ner.cli.predict_command.load_tagger", lambda *_: tagger)

    def run(*arguments: str | Path, stdin: bytes = b"") -> tuple[str, str]:
        # As in a C locale, in which Python reads bytes that are not UTF-8 as lone surrogates.
        stream = io.TextIOWrapper(
            io.BufferedReader(io.BytesIO(stdin)),  # type: ignore[type-var]
            "utf-8",
            "surrogateescape",
        )
        monkeypatch.setattr(sys, "stdin", stream)
        main(["predict", "model", *map(str, arguments)])
        captured = capsys.readouterr()
        return captured.out, captured.err

    return run
