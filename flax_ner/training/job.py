"""What the loop trains, as far as it knows it."""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple, Protocol

import jax
import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict
from rich.console import Console

from flax_ner.model.tagger import Params
from flax_ner.text.batches import Epoch
from flax_ner.text.metrics import Scores
from flax_ner.text.tokenizer import Tokenizer
from flax_ner.training.gradients import Gradients
from flax_ner.weights.model_dir import ModelDir

Content = bytes | Iterable[bytes | memoryview]  # all at once, or in chunks of any size
Figures = dict[str, float]
Evaluate = Callable[[Params], list[Figures]]  # of dev, by these parameters; of each model


class Baseline(NamedTuple):
    """The loss of a model that does not read the text. A model that is no better has not learned."""

    loss: float
    known: str  # what that model knows instead
    remedy: str  # settings to train with instead, as flags


class Job(Protocol):
    """Data, gradients and evaluation of one `config.task`; `tagging` and `masked_lm` have them.

    It is made of a configuration, and has then read and checked all that the configuration names and
    written nothing. What comes from `prepare` may be asked for behind it.
    """

    # Every setting is decided. Those that the user did not set follow from what was read.
    config: ConfigDict
    tokenizer: Tokenizer
    notes: list[str]  # what a user should know before training starts
    best_by: str  # the figure of dev whose highest value makes `best`
    seeds: tuple[int | None, ...]  # of models that are trained side by side; of one alone None
    unit: str  # what rates count: sentences, tokens
    gradients: Gradients  # from `prepare`, as all that follow
    dev_size: int  # units of dev
    units_per_step: float
    steps_per_epoch: int
    steps_per_portion: int  # steps whose batches are on the device at a time
    baseline: Baseline | None  # to compare the loss with, where one is known

    def parts(self) -> dict[str, Content]:
        """Return the data it was made of, by setting. They are the same in all processes.

        Large data come as an iterable of chunks, so that no copy of them is made to hash them.
        """

    def prepare(self, workdir: Path, mesh: Mesh, console: Console) -> None:
        """Make what training needs besides; the work directory is this run's own now."""

    def batches(self, portion: int, rows: np.ndarray) -> Epoch:
        """Those of steps `portion * steps_per_portion` and on; of each only `rows`, int [n].

        The same whenever asked for, so that the place in training is the step number.
        """

    def abstract(self) -> Params:
        """The tree of parameters with shapes in place of arrays."""

    def initial(self, key: jax.Array, shardings: Params) -> Params:
        """The parameters to begin with."""

    def release(self) -> None:
        """Drop the weights of `init_from`: they are in the state now."""

    def evaluator(self, mesh: Mesh) -> Evaluate:
        """What scores parameters that lie on this mesh."""

    def saved(self, params: Params, index: int = 0) -> ModelDir:
        """The model directory to leave of these parameters, by the number of the model."""

    def report(self, workdir: Path, console: Console) -> Scores | Figures:
        """Show what `best` is worth, as it lies on disk."""

    def next_commands(self, workdir: Path) -> list[str]:
        """Return the commands to run after this run, as lines of the shell."""


def folder_of(workdir: Path, seed: int | None) -> Path:
    """Where the models of a seed lie; of a run of one, in the work directory itself."""
    return workdir if seed is None else workdir / f"seed_{seed}"
