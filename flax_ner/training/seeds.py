"""The job of training several taggers side by side, which differ in their seed alone."""

from collections.abc import Callable
from copy import copy
from functools import partial
from pathlib import Path
from statistics import mean, stdev

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.sharding import Mesh
from ml_collections import ConfigDict
from rich.console import Console
from rich.table import Table
from rich.text import Text

from flax_ner.inference.tagger import load
from flax_ner.model.tagger import Params
from flax_ner.text.batches import Batches, Epoch
from flax_ner.text.metrics import Scores
from flax_ner.training.gradients import Gradients, State
from flax_ner.training.hosts import from_first
from flax_ner.training.job import Evaluate, Figures, folder_of
from flax_ner.training.mesh import state_shardings
from flax_ner.training.random_keys import init_key
from flax_ner.training.tagging import Tagging
from flax_ner.weights.ensemble import combine
from flax_ner.weights.model_dir import ModelDir, load_model, save_model

GradientsOfSeed = Callable[[Array, State, Batches], tuple[Array, Params]]


class SeveralSeeds(Tagging):
    """A `Job`: as `Tagging` for each of `config.train.seeds` models, all parameters with a leading axis K.

    A model has the initial values, the batches and the dropout that a run of its seed alone has.
    """

    def __init__(self, config: ConfigDict):
        super().__init__(config)
        self._numbers = tuple(range(config.seed, config.seed + config.train.seeds))
        self.seeds = self._numbers
        self.units_per_step *= len(self.seeds)
        self.gradients = side_by_side(self.gradients_of_seed, self._numbers)

    def batches(self, portion: int, rows: np.ndarray) -> Epoch:
        """Those of an epoch of each seed, arrays [S, B, K, T, ...]."""
        epochs = []
        for seed in self._numbers:
            batcher = copy(self._task.batcher)
            batcher.seed = seed
            epochs.append(batcher.epoch(portion, rows))
        arrays: Batches = jax.tree.map(
            lambda *each: np.stack(each, 2), *(epoch.shapes[0] for epoch in epochs)
        )
        return Epoch([arrays], epochs[0].order)

    def abstract(self) -> Params:
        """See `Job`."""
        count = len(self.seeds)
        one = super().abstract()
        return jax.tree.map(lambda x: jax.ShapeDtypeStruct((count, *x.shape), x.dtype), one)

    def initial(self, key: Array, shardings: Params) -> Params:
        """See `Job`; each model has a key of its own."""
        mesh = jax.tree.leaves(shardings)[0].mesh
        one = state_shardings(mesh, super().abstract())
        each = [super(SeveralSeeds, self).initial(init_key(s), one) for s in self._numbers]
        stack = jax.jit(
            lambda *params: jax.tree.map(lambda *x: jnp.stack(x), *params), out_shardings=shardings
        )
        stacked: Params = stack(*each)
        return stacked

    def evaluator(self, mesh: Mesh) -> Evaluate:
        """Precision, recall and F1 of each."""
        evaluate = super().evaluator(mesh)

        def each(params: Params) -> list[Figures]:
            return [
                figures
                for i in range(len(self.seeds))
                for figures in evaluate(jax.tree.map(lambda x, i=i: x[i], params))
            ]

        return each

    def saved(self, params: Params, index: int = 0) -> ModelDir:
        """See `Job`."""
        return super().saved(jax.tree.map(lambda x: x[index], params))

    def report(self, workdir: Path, console: Console) -> Scores:
        """Leave ensembles as `best` and `last`, and score each model and the ensemble of the best."""
        folders = [folder_of(workdir, seed) for seed in self.seeds]
        for name in ("best", "last"):
            paths = [folder / name for folder in folders]
            from_first(partial(_save_ensemble, workdir / name, paths))
        scoring, dev = self.config.eval.scoring, self._task.dev
        scores = [load(folder / "best").score(dev, scoring) for folder in folders]
        console.print(
            _table(self._numbers, scores, f"{workdir} on {self.config.data.dev}, {scoring}")
        )
        console.print("Their ensemble:", highlight=False)
        return super().report(workdir, console)


def side_by_side(gradients_of_seed: GradientsOfSeed, seeds: tuple[int, ...]) -> Gradients:
    """Gradients of several models at once, and the mean of their losses.

    Args:
        gradients_of_seed: `(seed, state, batch) -> (loss, gradients)` of one model.
        seeds: of each.

    Returns:
        The like, for parameters [K, ...] and a batch of arrays [B, K, T, ...].
    """

    def gradients(state: State, batch: Batches) -> tuple[Array, Params]:
        def one(seed: Array, params: Params, rows: Batches) -> tuple[Array, Params]:
            return gradients_of_seed(seed, {"params": params, "step": state["step"]}, rows)

        numbers = jnp.array(seeds, jnp.uint32)
        loss, grads = jax.vmap(one, in_axes=(0, 0, 1))(numbers, state["params"], batch)
        return loss.mean(), grads

    return gradients


def _save_ensemble(path: Path, paths: list[Path]) -> None:
    save_model(path, combine([load_model(p) for p in paths], [str(p) for p in paths]))


def _table(seeds: tuple[int, ...], scores: list[Scores], title: str) -> Table:
    table = Table("seed", "precision", "recall", "F1", title_justify="left")
    table.title = Text(title, "table.title")
    columns = [[getattr(s, name) for s in scores] for name in ("precision", "recall", "f1")]
    for seed, *figures in zip(seeds, *columns, strict=True):
        table.add_row(str(seed), *(f"{x:.4f}" for x in figures))
    table.add_section()
    table.add_row("mean", *(f"{mean(column):.4f}" for column in columns))
    table.add_row("standard deviation", *(f"{stdev(column):.4f}" for column in columns))
    return table
