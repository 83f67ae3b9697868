"""Time the CRF's loss and its gradient: alone, in other forms, and as a share of a training step.

    python benchmarks/crf.py data/cluener vocab.txt [--shapes small narrow base] [--rounds 5]

A step has 8 packed rows of 128 tokens. The forms of the forward variables:

    sequential    one step per token, in log space: `flax_ner.model.crf`
    rescaled      one step per token, with probabilities that are divided by their sum at each token
    associative   log-depth scan over matrices of transition scores, in log space

All have the same loss and gradient up to rounding, or the benchmark fails. Steps with a softmax and with a CRF
take turns. The median counts.
"""

import json
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from common import SHAPES, machine, make_training, parse_shapes, read_tokens, time_call
from jax import Array, lax

from flax_ner.huge_pages import use_huge_pages
from flax_ner.model import crf
from flax_ner.model.bert import BertConfig
from flax_ner.model.crf import Chain, make_chain
from flax_ner.text.batches import Batcher
from flax_ner.text.encoding import TokenSet

STEPS = {"small": 20, "narrow": 5, "base": 3}  # per measurement
ROWS, LENGTH = 8, 128
REPEATS = 20  # calls per measurement of the loss


def rescaled_log_partition(emissions: Array, transitions: Array, chain: Chain) -> Array:
    """Return the summed log Z of all sentences, computed with probabilities."""
    ratios = jnp.exp(transitions - transitions.max())

    def step(
        carry: tuple[Array, Array], token: tuple[Array, ...]
    ) -> tuple[tuple[Array, Array], Array]:
        probs, log_scale = carry  # [B, C], [B]
        emission, valid, start = token
        highest = emission.max(-1, keepdims=True)
        factor = jnp.exp(emission - highest)
        extended = (probs @ ratios) * factor
        total = extended.sum(-1, keepdims=True)
        grown = log_scale + jnp.log(total[:, 0]) + highest[:, 0] + transitions.max()
        first = factor.sum(-1, keepdims=True)
        probs = jnp.where(start, factor / first, jnp.where(valid, extended / total, probs))
        begun = jnp.log(first[:, 0]) + highest[:, 0]
        log_scale = jnp.where(start[:, 0], begun, jnp.where(valid[:, 0], grown, log_scale))
        return (probs, log_scale), log_scale

    ones = jnp.ones_like(emissions[:, 0])
    _, log_z = lax.scan(step, (ones, ones[:, 0]), time_major(emissions, chain))  # [T, B]
    return jnp.where(chain.end.T, log_z, 0).sum()


def associative_log_partition(emissions: Array, transitions: Array, chain: Chain) -> Array:
    """Return the summed log Z of all sentences, computed by an associative scan."""
    C = emissions.shape[-1]
    never = -1e30
    identity = jnp.where(jnp.eye(C, dtype=bool), 0.0, never)
    emission, valid, start = time_major(emissions, chain)
    extend = transitions + emission[:, :, None]  # [T, B, C (from), C (to)]
    # A sentence starts from its first token, whatever came before.
    begin = jnp.broadcast_to(emission[:, :, None], extend.shape)
    matrices = jnp.where(valid[..., None], extend, identity)
    matrices = jnp.where(start[..., None], begin, matrices)
    reset = start[..., None] & jnp.ones_like(matrices, bool)

    def combine(left: tuple[Array, Array], right: tuple[Array, Array]) -> tuple[Array, Array]:
        a, b = left[0], right[0]
        product = jax.nn.logsumexp(a[..., :, :, None] + b[..., None, :, :], -2)
        return jnp.where(right[1], b, product), left[1] | right[1]

    scanned, _ = lax.associative_scan(combine, (matrices, reset))
    alpha = scanned[:, :, 0]  # every row of a matrix that begins a sentence is equal
    return jnp.where(chain.end.T, jax.nn.logsumexp(alpha, -1), 0).sum()


def time_major(emissions: Array, chain: Chain) -> tuple[Array, Array, Array]:
    """Return emissions [T, B, C], and `valid` and `start` [T, B, 1]."""
    return emissions.swapaxes(0, 1), chain.valid.T[..., None], chain.start.T[..., None]


def sequential_log_partition(emissions: Array, transitions: Array, chain: Chain) -> Array:
    """Return the summed log Z of all sentences, computed as the head `crf` does."""
    alpha = crf._forward(emissions, transitions, chain)  # [B, T, C]
    return jnp.where(chain.end, jax.nn.logsumexp(alpha, -1), 0).sum()


FORMS: dict[str, Callable[[Array, Array, Chain], Array]] = {
    "sequential": sequential_log_partition,
    "rescaled": rescaled_log_partition,
    "associative": associative_log_partition,
}


def make_forms(
    tokens: TokenSet, labels: int
) -> dict[str, Callable[[], tuple[Array, tuple[Array, Array]]]]:
    """Return functions that compute log Z and its gradients for one batch, by form."""
    batch = Batcher(tokens, "pack", ROWS, LENGTH, seed=0).epoch(0).shapes[0]
    segments, positions = (jnp.asarray(x[0]) for x in (batch.segment_ids, batch.positions))
    chain = make_chain(segments, positions, segments > 0)
    rng = np.random.default_rng(0)
    emissions = jnp.asarray(3 * rng.normal(size=(ROWS, LENGTH, labels)), jnp.float32)
    transitions = jnp.asarray(rng.normal(size=(labels, labels)), jnp.float32)

    def make(form: Callable[[Array, Array, Chain], Array]) -> Callable[[], Any]:
        compute = jax.jit(jax.value_and_grad(form, (0, 1)))
        return lambda: jax.block_until_ready(compute(emissions, transitions, chain))

    forms = {name: make(form) for name, form in FORMS.items()}
    expected = forms["sequential"]()
    for compute in forms.values():
        for one, other in zip(jax.tree.leaves(compute()), jax.tree.leaves(expected), strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-3)
    return forms


def measure(shape: str, data: Path, vocab: Path, rounds: int) -> dict[str, float]:
    """Return the median times of a step with each head and of each form, in ms."""
    tokens, tokenizer, labels = read_tokens(data, vocab)
    ways: dict[str, Callable[[], float]] = {}
    for head in ("softmax", "crf"):
        model = BertConfig(len(tokenizer.tokens), len(labels), **SHAPES[shape], head=head)
        timed_steps, steps = make_training(tokens, model, ROWS, LENGTH, STEPS[shape])
        ways[head] = lambda run=timed_steps, n=steps: run()[1] / n  # type: ignore[misc]
    for name, compute in make_forms(tokens, len(labels)).items():
        ways[name] = lambda call=compute: time_call(call, REPEATS)  # type: ignore[misc]
    times: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, run in ways.items():
            times[name].append(run())
    return {name: round(1000 * statistics.median(values), 2) for name, values in times.items()}


def main() -> None:
    options = parse_shapes(__doc__.splitlines()[0])
    print(
        "| model | step, softmax, ms | step, CRF, ms | CRF / softmax | log Z and gradient, ms: "
        f"{' | '.join(FORMS)} |\n| {' | '.join(['---'] * (4 + len(FORMS)))} |"
    )
    rows = {}
    for shape in options.shapes:
        rows[shape] = row = measure(shape, options.data, options.vocab, options.rounds)
        forms = " | ".join(f"{row[name]}" for name in FORMS)
        print(
            f"| {shape} | {row['softmax']} | {row['crf']} | {row['crf'] / row['softmax']:.3f} | {forms} |",
            flush=True,
        )
    print(f"\n`{json.dumps(rows | machine('jax', 'flax'))}`")


if __name__ == "__main__":
    use_huge_pages()
    main()
