"""The interface between the training loop and what it trains."""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple, Protocol

import jax
import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict
from rich.console import Console

from flax_ner.evaluation.metrics import Scores
from flax_ner.model.tagging_model import Params
from flax_ner.text.batches import Epoch
from flax_ner.text.tokenizer import Tokenizer
from flax_ner.training.loss import Gradients
from flax_ner.weights.model_dir import ModelDir

Content = bytes | Iterable[bytes | memoryview]  # the whole, or blocks of any size
Metrics = dict[str, float]
Evaluate = Callable[[Params], list[Metrics]]  # dev metrics of these parameters, one dict per model


class Baseline(NamedTuple):
    """The loss of a model that does not read the text. A model that is no better has not learned."""

    loss: float
    known: str  # what that model knows instead
    remedy: str  # settings to train with instead, as flags


class TrainingTask(Protocol):
    """What the loop trains: data, gradients and evaluation (`Tagging`, `MultiSeed`, `MaskedLM`).

    The constructor takes a configuration. It reads and checks everything that the configuration names, and
    writes nothing. Attributes from `gradients` on may be missing until `setup` has run.
    """

    config: ConfigDict  # every setting is decided
    tokenizer: Tokenizer
    notes: list[str]  # printed before training starts
    best_by: str  # the dev metric that selects `best`; higher is better
    # One per model that is trained at once; (None,) for a single model.
    seeds: tuple[int | None, ...]
    unit: str  # what throughput counts: sentences or tokens
    gradients: Gradients
    dev_size: int  # units of dev
    units_per_step: float
    steps_per_epoch: int
    steps_per_chunk: int  # steps whose batches are on the device at once
    baseline: Baseline | None

    def fingerprints(self) -> dict[str, Content]:
        """Return the data that decide the result, by setting. All hosts must have the same.

        Large data are yielded in blocks, so that hashing makes no copy of them.
        """

    def setup(self, workdir: Path, mesh: Mesh, console: Console) -> None:
        """Do the work that needs the locked work directory."""

    def batches(self, chunk: int, rows: np.ndarray) -> Epoch:
        """Return the batches of a chunk, of each only `rows`, int [n].

        They depend on the seed and the chunk only, so a run resumes from the step number alone.
        """

    def abstract(self) -> Params:
        """Return the parameters' shapes and dtypes, without arrays."""

    def initial(self, key: jax.Array, shardings: Params) -> Params:
        """Return the initial parameters."""

    def release(self) -> None:
        """Free the weights of `init_from`, which the training state now holds."""

    def evaluator(self, mesh: Mesh) -> Evaluate:
        """Return a function that computes dev metrics from parameters on the mesh."""

    def saved(self, params: Params, index: int = 0) -> ModelDir:
        """Return the model directory of the model number `index`."""

    def report(self, workdir: Path, console: Console) -> Scores | Metrics:
        """Load `best`, print its dev scores and return them."""

    def next_commands(self, workdir: Path) -> list[str]:
        """Return shell commands that use the result."""


def model_folder(workdir: Path, seed: int | None) -> Path:
    """Return the folder of a model's `best` and `last`: the work directory, or `seed_N` with several seeds."""
    return workdir if seed is None else workdir / f"seed_{seed}"
