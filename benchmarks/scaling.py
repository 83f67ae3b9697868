"""Calculate memory, communication and time of BERT-base and BERT-large on 1 to 256 chips.

    python benchmarks/scaling.py

Nothing is measured and no array is made, so it runs on any machine. It takes a minute, and three more with
libtpu. Method and assumptions:

- Parameters and AdamW's state are sharded by `state_shardings`; `bytes_per_device` counts them.
- The project's training step is compiled for 8 devices with each mesh, and the collectives in the compiled
  program are counted: for the CPU back end, and for a TPU v5e if libtpu is installed (`pip install libtpu`; no
  TPU is needed). The tables show them next to the formula (`bytes_sent`).
- Bytes are those that a device sends: (n-1)/n of the array in an all-gather or reduce-scatter over n devices,
  and twice that in an all-reduce.
- Peak rates and bandwidths are the vendors' (`CHIPS`). Matrix products run at UTILISATION of the peak. Two of a
  TPU's four links carry traffic: at its corners, a slice without wrap-around links has only two. GPUs have
  NVLink among 8, and one 400 Gbit/s port each beyond: a ring through all 8 GPUs of a host uses all ports.
- Communication can be hidden if it takes no longer than the matrix products of the step. If it takes a tenth of
  their time and nothing overlaps, it costs a tenth.
"""

import argparse
import json
import math
import os
import re
from collections import Counter
from functools import partial
from importlib.util import find_spec
from typing import Any, NamedTuple

os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=8"
os.environ.setdefault("TPU_SKIP_MDS_QUERY", "true")  # otherwise libtpu queries a cloud service

import jax
import jax.numpy as jnp
import numpy as np
from common import BASE, LARGE, machine, step_flops
from jax.experimental import topologies
from jax.sharding import AbstractMesh, AxisType, Mesh

from flax_ner.config import UNLABELLED_FALLBACKS, default_config, with_fallbacks
from flax_ner.model import matmul
from flax_ner.model.bert import BertConfig
from flax_ner.model.tagging_model import abstract_params
from flax_ner.text.batches import Batches
from flax_ner.training.loss import make_loss, make_tagging_gradients
from flax_ner.training.mesh import BATCH_AXES, batch_sharding, bytes_per_device, state_shardings
from flax_ner.training.optimizer import make_optimizer, make_schedule
from flax_ner.training.step import RunSteps, init_state, make_run_steps, make_step

VOCABULARY, TAGS, TOKENS = 21_128, 21, 128  # CLUENER's; tokens per row
UTILISATION = 0.4
COUNTS = (1, 2, 4, 8, 16, 32, 64, 128, 256)
MODELS = {"BERT-base": BASE, "BERT-large": LARGE}
# BERT-base with fewer layers: further layers repeat the same collectives.
CHECKED = {"num_hidden_layers": 2}
TINY = {
    "hidden_size": 64,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 128,
}
ROWS = 16  # per device, in compiled steps


class Chip(NamedTuple):
    peak: float  # dense bfloat16 FLOP/s
    near: float  # bytes per second that a chip sends to others of its 8
    far: float  # beyond 8, if all 8 chips of a host take part
    alone: float  # beyond 8, if only one chip per host does


CHIPS = {
    "TPU v5e": Chip(197e12, 100e9, 100e9, 100e9),
    "TPU v6e": Chip(918e12, 200e9, 200e9, 200e9),
    "H100": Chip(989e12, 450e9, 400e9, 50e9),
}


def mesh_shapes(count: int) -> dict[str, tuple[int, int]]:
    """Return (`mesh.data`, `mesh.fsdp`) by name."""
    mixed = {"mixed": (count // 8, 8)} if count > 8 else {}
    return {"data": (count, 1)} | mixed | ({"fsdp": (1, count)} if count > 1 else {})


def make_config(size: dict[str, int]) -> BertConfig:
    return BertConfig(VOCABULARY, TAGS, **size, compute_dtype="bfloat16")


def make_training(model: BertConfig, mesh: Any) -> tuple[Any, Any, RunSteps]:
    """Return shapes and shardings of the training state, and the jitted steps with default settings."""
    config = with_fallbacks(default_config(), UNLABELLED_FALLBACKS)
    schedule = make_schedule(config.optimizer, 100, 100)
    optimizer = make_optimizer(config.optimizer, schedule)
    shapes = jax.eval_shape(partial(init_state, optimizer), abstract_params(model))
    shardings = state_shardings(mesh, shapes)
    step = make_step(make_tagging_gradients(model, make_loss(config.loss), 0), optimizer, schedule)
    return shapes, shardings, make_run_steps(step, shardings)


def bytes_sent(model: BertConfig, data: int, fsdp: int) -> tuple[float, float]:
    """Return the bytes that a device sends per step over `data` and over `fsdp`, for any number of rows.

    Gradients are float32: all-reduced over `data`, and reduce-scattered over `fsdp`. Over `fsdp`, kernels are
    all-gathered in bfloat16, in the forward and again in the backward pass. Embedding tables are all-gathered
    once, in float32.
    """
    mesh = AbstractMesh((data, fsdp), BATCH_AXES, axis_types=(AxisType.Auto,) * 2)
    shapes, shardings, _ = make_training(model, mesh)
    over_data = over_fsdp = 0.0
    leaves = jax.tree.leaves_with_path(shapes["params"])
    for (path, x), sharding in zip(leaves, jax.tree.leaves(shardings["params"]), strict=True):
        size, table = x.size * 4, "embeddings" in jax.tree_util.keystr(path)
        if "fsdp" not in sharding.spec:
            over_data += 2 * share(data * fsdp) * size
            continue
        over_data += 2 * share(data) * size / fsdp
        over_fsdp += share(fsdp) * (size + (size if table else 2 * size / 2))
    return over_data, over_fsdp


def communication_seconds(chip: Chip, data: int, fsdp: int, sent: tuple[float, float]) -> float:
    """Return the seconds to send `sent` bytes over `data` and then over `fsdp`."""
    over_data = chip.near if data * fsdp <= 8 else chip.alone if fsdp > 1 else chip.far
    return sent[0] / over_data + sent[1] / (chip.near if fsdp <= 8 else chip.far)


def share(devices: int) -> float:
    return (devices - 1) / devices


def compiled_bytes(
    model: BertConfig, devices: Any, data: int, fsdp: int
) -> tuple[Counter[str], float]:
    """Return the bytes that a device sends in a compiled step by kind of collective, and scratch bytes."""
    tpu = devices[0].platform == "tpu"
    mesh = Mesh(np.array(devices).reshape(data, fsdp), BATCH_AXES, axis_types=(AxisType.Auto,) * 2)
    shapes, shardings, run = make_training(model, mesh)
    state = jax.tree.map(
        lambda x, y: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=y), shapes, shardings
    )
    rows = ROWS * data * fsdp
    array = jax.ShapeDtypeStruct((2, rows, TOKENS), jnp.int32, sharding=batch_sharding(mesh))
    number = jax.ShapeDtypeStruct((), jnp.int32)
    arguments = state, Batches(*[array] * 4), number, number, number
    # Otherwise a gather becomes a ring of small ones between products, which is harder to count.
    options = {"xla_jf_spmd_threshold_for_windowed_einsum_mib": "1000000"} if tpu else {}
    traced = run.trace(*arguments)
    lowered = traced.lower(lowering_platforms=("tpu",)) if tpu else traced.lower()
    program = lowered.compile(compiler_options=options)
    return collectives(program.as_text(), data * fsdp), program.memory_analysis().temp_size_in_bytes


BYTES = {"f32": 4, "s32": 4, "u32": 4, "bf16": 2, "pred": 1}
COLLECTIVE = re.compile(
    r"(\S+) = (.*?) (all-reduce|all-gather|reduce-scatter|all-to-all|collective-permute)(-start)?\("
)


def collectives(text: str, devices: int) -> Counter[str]:
    """Return the bytes that a device sends by kind of collective; the body of a loop counts once."""
    sent: dict[str, tuple[str, float]] = {}  # by channel, because a TPU's program repeats some
    computation = ""
    for line in text.splitlines():
        if line and not line[0].isspace():
            computation = line.split()[0]
        match = COLLECTIVE.search(line)
        if not match:
            continue
        name, result, kind, start = match.groups()
        arrays = re.findall(rf"({'|'.join(BYTES)})\[([\d,]*)\]", result)
        sizes = [BYTES[d] * math.prod(map(int, filter(None, n.split(",")))) for d, n in arrays]
        # The result of an asynchronous start holds both operand and result.
        size = max(sizes) if start and kind != "all-reduce" else sum(sizes)
        n = group_size(line) or devices
        if kind == "all-reduce" and "all-reduce-scatter" in computation:  # a TPU's reduce-scatter
            kind, size = "reduce-scatter", size / n
        times = {"all-reduce": 2 * share(n), "reduce-scatter": n - 1, "collective-permute": 1}
        channel = re.search(r"channel_id=(\d+)", line)
        sent[channel[1] if channel else name] = kind, size * times.get(kind, share(n))
    totals: Counter[str] = Counter()
    for kind, size in sent.values():
        totals[kind] += size
    return totals


def group_size(line: str) -> int:
    """Return the devices per group of a collective, or 0 if the line has no groups."""
    if match := re.search(r"replica_groups=mesh\[(.*?)\] ?\{(.*?)\}", line):
        axes = dict(re.findall(r"'(\w+)'=(\d+)", match[1]))
        return math.prod(int(axes[name]) for name in re.findall(r"\w+", match[2]))
    if match := re.search(r"replica_groups=\[\d+,(\d+)\]", line):
        return int(match[1])
    match = re.search(r"replica_groups=\{\{([\d,]*)\}", line)
    return match[1].count(",") + 1 if match else 0


def check(model: BertConfig, pod: bool) -> list[dict[str, Any]]:
    """Print a table of the formula and of compiled steps, and return its rows."""
    matmul._on_cpu = lambda: False  # compile the accelerator's code path
    meshes = [(8, 1), (2, 4), (1, 8)]
    targets = [("CPU", jax.devices(), meshes)]
    if find_spec("libtpu"):
        eight = topologies.get_topology_desc("v5e:2x4", "tpu").devices
        targets.append(("TPU v5e", eight, meshes))
        if pod:
            every = topologies.get_topology_desc("v5e:16x16", "tpu").devices
            targets.append(("TPU v5e", every, [(256, 1), (32, 8), (16, 16), (1, 256)]))
    print("| program for | data x fsdp | formula, MB | compiled, MB | of which | scratch, MB |")
    print("| --- | --- | --- | --- | --- | --- |")
    rows = []
    for name, devices, meshes in targets:
        for data, fsdp in meshes:
            expected = sum(bytes_sent(model, data, fsdp)) / 1e6
            kinds, scratch = compiled_bytes(model, devices, data, fsdp)
            sent = {kind: round(size / 1e6, 1) for kind, size in kinds.most_common() if size > 1e5}
            most = ", ".join(f"{kind} {size:.0f}" for kind, size in sent.items())
            total = kinds.total() / 1e6
            print(
                f"| {name} | {data} x {fsdp} | {expected:.0f} | {total:.0f} | {most} | {scratch / 1e6:.0f} |"
            )
            rows.append({"for": name, "data": data, "fsdp": fsdp, "formula": round(expected, 1)})
            rows[-1] |= {"compiled": round(total, 1), "scratch": round(scratch / 1e6), **sent}
    return rows


def activations(model: BertConfig) -> float:
    """Estimate the bytes of activations per row that are kept for the backward pass.

    A layer keeps eight arrays of the encoder's width and two of the MLP's in bfloat16, and the attention
    probabilities in float32 before dropout and in bfloat16 after it.
    """
    D, F, N = model.hidden_size, model.intermediate_size, model.num_attention_heads
    return model.num_hidden_layers * TOKENS * (2 * (8 * D + 2 * F) + 6 * N * TOKENS)


def tables(name: str, model: BertConfig) -> list[dict[str, Any]]:
    """Print a table of memory, communication and the rows per chip that hide it, and return its rows."""
    row = step_flops(model, 1, TOKENS)
    parameters = sum(x.size for x in jax.tree.leaves(abstract_params(model)))
    print(
        f"\n{name}: {parameters / 1e6:.1f} M parameters, {row / 1e9:.1f} GFLOP and "
        f"about {activations(model) / 1e6:.0f} MB of activations per row\n"
    )
    chips = " | ".join(f"{chip}: ms, rows" for chip in CHIPS)
    print(f"| chips | data x fsdp | state, MB per chip | sent, MB per chip | {chips} |")
    print("| --- | --- | --- | --- |" + " --- |" * len(CHIPS))
    entries = []
    for count in COUNTS:
        for data, fsdp in mesh_shapes(count).values():
            mesh = AbstractMesh((data, fsdp), BATCH_AXES, axis_types=(AxisType.Auto,) * 2)
            shapes, shardings, _ = make_training(model, mesh)
            state = bytes_per_device(shapes, shardings)
            sent = bytes_sent(model, data, fsdp)
            line = f"| {count} | {data} x {fsdp} | {state / 1e6:.0f} | {sum(sent) / 1e6:.0f} "
            entry: dict[str, Any] = {"data": data, "fsdp": fsdp, "state": state}
            entry["sent"] = round(sum(sent))
            for chip_name, chip in CHIPS.items():
                time = communication_seconds(chip, data, fsdp, sent)
                hidden = math.ceil(time * UTILISATION * chip.peak / row)
                line += f"| {1e3 * time:.1f}, {hidden} " if count > 1 else "| "
                entry[chip_name] = [round(1e3 * time, 2), hidden]
            print(line + "|")
            entries.append(entry)
    return entries


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument(
        "--pod", action="store_true", help="also compile for 256 chips; takes ten minutes more"
    )
    parser.add_argument("--reduced", action="store_true", help="compile a tiny model")
    options = parser.parse_args()
    result: dict[str, Any] = {
        name: tables(name, make_config(size)) for name, size in MODELS.items()
    }
    size = TINY if options.reduced else CHECKED
    print(f"\nCompiled step, {size}, {ROWS} rows per device:\n")
    result["compiled"] = check(make_config(size), options.pod)
    print(f"\n`{json.dumps(result | machine('jax', 'optax'))}`")


if __name__ == "__main__":
    main()
