"""The tagging task for several seeds: train the models in parallel and save their ensemble."""

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

from flax_ner.evaluation.metrics import Scores
from flax_ner.finetuning.tagging import Tagging
from flax_ner.inference.tagger import load
from flax_ner.model.tagging_model import Params
from flax_ner.text.batches import Batches, Epoch
from flax_ner.training.hosts import run_on_primary
from flax_ner.training.loss import Gradients, State
from flax_ner.training.mesh import state_shardings
from flax_ner.training.random_keys import init_key
from flax_ner.training.task import Evaluate, Metrics, model_folder
from flax_ner.weights.ensemble import combine
from flax_ner.weights.model_dir import ModelDir, load_model, save_model

SeedGradients = Callable[[Array, State, Batches], tuple[Array, Params]]


class MultiSeed(Tagging):
    """Train `config.train.seeds` taggers in parallel: a `TrainingTask` with parameters stacked along axis K.

    Each model has the initial parameters, batches and dropout of a single run with its seed.
    """

    def __init__(self, config: ConfigDict):
        super().__init__(config)
        self._seed_values = tuple(range(config.seed, config.seed + config.train.seeds))
        self.seeds = self._seed_values
        self.units_per_step *= len(self.seeds)
        self.gradients = vmap_gradients(self.gradients_for_seed, self._seed_values)

    def batches(self, chunk: int, rows: np.ndarray) -> Epoch:
        """Return the batches of an epoch for all seeds, arrays [S, B, seeds, T, ...]."""
        epochs = []
        for seed in self._seed_values:
            batcher = copy(self._data.batcher)
            batcher.seed = seed
            epochs.append(batcher.epoch(chunk, rows))
        arrays: Batches = jax.tree.map(
            lambda *arrays: np.stack(arrays, 2), *(epoch.shapes[0] for epoch in epochs)
        )
        return Epoch([arrays], epochs[0].order)

    def abstract(self) -> Params:
        """Return the parameters' shapes and dtypes, without arrays."""
        count = len(self.seeds)
        model = super().abstract()
        return jax.tree.map(lambda x: jax.ShapeDtypeStruct((count, *x.shape), x.dtype), model)

    def initial(self, key: Array, shardings: Params) -> Params:
        """Return the initial parameters. Each model is initialised with the key of its own seed."""
        mesh = jax.tree.leaves(shardings)[0].mesh
        model_shardings = state_shardings(mesh, super().abstract())
        models = [
            super(MultiSeed, self).initial(init_key(s), model_shardings) for s in self._seed_values
        ]
        stack = jax.jit(
            lambda *params: jax.tree.map(lambda *x: jnp.stack(x), *params), out_shardings=shardings
        )
        stacked: Params = stack(*models)
        return stacked

    def evaluator(self, mesh: Mesh) -> Evaluate:
        """Return a function that computes precision, recall and F1 of each model on dev."""
        evaluate = super().evaluator(mesh)

        def evaluate_each(params: Params) -> list[Metrics]:
            return [
                metrics
                for i in range(len(self.seeds))
                for metrics in evaluate(jax.tree.map(lambda x, i=i: x[i], params))
            ]

        return evaluate_each

    def saved(self, params: Params, index: int = 0) -> ModelDir:
        """Return the model directory of the model number `index`."""
        return super().saved(jax.tree.map(lambda x: x[index], params))

    def report(self, workdir: Path, console: Console) -> Scores:
        """Save ensembles as `best` and `last`; print the dev scores of each model and of the ensemble."""
        folders = [model_folder(workdir, seed) for seed in self.seeds]
        for name in ("best", "last"):
            paths = [folder / name for folder in folders]
            run_on_primary(partial(_save_ensemble, workdir / name, paths))
        scoring, dev = self.config.eval.scoring, self._data.dev
        scores = [load(folder / "best").score(dev, scoring) for folder in folders]
        console.print(
            _table(self._seed_values, scores, f"{workdir} on {self.config.data.dev}, {scoring}")
        )
        console.print("Ensemble:", highlight=False)
        return super().report(workdir, console)


def vmap_gradients(gradients_for_seed: SeedGradients, seeds: tuple[int, ...]) -> Gradients:
    """Vectorise the gradients of one model over several models.

    Args:
        gradients_for_seed: `(seed, state, batch) -> (loss, gradients)` of one model.
        seeds: one per model, K of them.

    Returns:
        `(state, batch) -> (mean loss, gradients)` for parameters [seeds, ...] and batches of arrays
        [B, seeds, T, ...].
    """

    def gradients(state: State, batch: Batches) -> tuple[Array, Params]:
        def model_gradients(seed: Array, params: Params, rows: Batches) -> tuple[Array, Params]:
            return gradients_for_seed(seed, {"params": params, "step": state["step"]}, rows)

        seed_array = jnp.array(seeds, jnp.uint32)
        vmapped = jax.vmap(model_gradients, in_axes=(0, 0, 1))
        loss, grads = vmapped(seed_array, state["params"], batch)
        return loss.mean(), grads

    return gradients


def _save_ensemble(path: Path, paths: list[Path]) -> None:
    save_model(path, combine([load_model(p) for p in paths], [str(p) for p in paths]))


def _table(seeds: tuple[int, ...], scores: list[Scores], title: str) -> Table:
    table = Table("seed", "precision", "recall", "F1", title_justify="left")
    table.title = Text(title, "table.title")
    columns = [[getattr(s, name) for s in scores] for name in ("precision", "recall", "f1")]
    for seed, *values in zip(seeds, *columns, strict=True):
        table.add_row(str(seed), *(f"{x:.4f}" for x in values))
    table.add_section()
    table.add_row("mean", *(f"{mean(column):.4f}" for column in columns))
    table.add_row("standard deviation", *(f"{stdev(column):.4f}" for column in columns))
    return table
