"""What BERT-base and BERT-large need from 1 to 256 chips: memory, communication, time. A calculation.

    python benchmarks/scaling.py

Nothing is measured and no array is made, so any machine will do: a minute, and three more with
libtpu. Method and assumptions:

- Parameters and AdamW's state lie where `state_shardings` puts them; `bytes_a_device` counts them.
- A training step of the project is compiled for 8 devices in each form, and the collectives in the
  program are counted: on the CPU back end, and for a TPU v5e (no TPU is needed) where libtpu is
  installed (`pip install libtpu`). The formula stands beside them (`communicated`).
- Bytes are what a device sends: (n-1)/n of the array in a gather or a reduction and scattering over
  n devices, twice that in an all-reduce.
- Peak rates and bandwidths are the vendors' (`CHIPS`). Products run at UTILISATION of the peak. Of a
  TPU's four links, two carry: those of a corner of a slice that is no torus. GPUs have NVLink up to
  8, and beyond one 400 Gbit/s port each: a ring through all 8 of a host uses all of its ports.
- Communication is hidden where it takes no longer than the products of the step, and costs a tenth
  where it takes a tenth of them and nothing overlaps.
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
os.environ.setdefault("TPU_SKIP_MDS_QUERY", "true")  # libtpu would ask a cloud for its topology

import jax
import jax.numpy as jnp
import numpy as np
from common import BASE, LARGE, machine, step_flops
from jax.experimental import topologies
from jax.sharding import AbstractMesh, AxisType, Mesh

from flax_ner.config import WITHOUT_LABELS, default_config, with_fallbacks
from flax_ner.model import products
from flax_ner.model.bert import BertConfig
from flax_ner.model.tagger import abstract_params
from flax_ner.text.batches import Batches
from flax_ner.training.gradients import make_gradients, make_loss
from flax_ner.training.mesh import BATCH, batch_sharding, bytes_a_device, state_shardings
from flax_ner.training.optimizer import make_optimizer, make_schedule
from flax_ner.training.step import RunSteps, init_state, make_step, run_steps

VOCABULARY, TAGS, TOKENS = 21_128, 21, 128  # of CLUENER; tokens of a row
UTILISATION = 0.4
COUNTS = (1, 2, 4, 8, 16, 32, 64, 128, 256)
MODELS = {"BERT-base": BASE, "BERT-large": LARGE}
CHECKED = {"num_hidden_layers": 2}  # as wide as BERT-base; more layers are more of the same
TINY = {
    "hidden_size": 64,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 128,
}
ROWS = 16  # a device, where steps are compiled


class Chip(NamedTuple):
    peak: float  # bfloat16 floating point operations a second, dense
    near: float  # bytes a second that a chip sends among the first 8
    far: float  # among more, where all 8 of a host take part
    alone: float  # among more, where only one of each host does


CHIPS = {
    "TPU v5e": Chip(197e12, 100e9, 100e9, 100e9),
    "TPU v6e": Chip(918e12, 200e9, 200e9, 200e9),
    "H100": Chip(989e12, 450e9, 400e9, 50e9),
}


def forms(count: int) -> dict[str, tuple[int, int]]:
    """`mesh.data` x `mesh.fsdp` by name."""
    mixed = {"mixed": (count // 8, 8)} if count > 8 else {}
    return {"data": (count, 1)} | mixed | ({"fsdp": (1, count)} if count > 1 else {})


def model_of(size: dict[str, int]) -> BertConfig:
    return BertConfig(VOCABULARY, TAGS, **size, compute_dtype="bfloat16")


def training(model: BertConfig, mesh: Any) -> tuple[Any, Any, RunSteps]:
    """Shapes of the state, where it lies, and the compiled steps of `train.py`'s defaults."""
    config = with_fallbacks(default_config(), WITHOUT_LABELS)
    schedule = make_schedule(config.optimizer, 100, 100)
    optimizer = make_optimizer(config.optimizer, schedule)
    shapes = jax.eval_shape(partial(init_state, optimizer), abstract_params(model))
    shardings = state_shardings(mesh, shapes)
    step = make_step(make_gradients(model, make_loss(config.loss), 0), optimizer, schedule)
    return shapes, shardings, run_steps(step, shardings)


def communicated(model: BertConfig, data: int, fsdp: int) -> tuple[float, float]:
    """Bytes that a device sends in a step, over `data` and over `fsdp`, however many rows it has.

    Gradients are float32: summed over `data`, and summed and scattered over `fsdp`. Over `fsdp`
    kernels are gathered in bfloat16, forward and again backward, and embedding tables in float32, once.
    """
    mesh = AbstractMesh((data, fsdp), BATCH, axis_types=(AxisType.Auto,) * 2)
    shapes, shardings, _ = training(model, mesh)
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


def seconds(chip: Chip, data: int, fsdp: int, sent: tuple[float, float]) -> float:
    """How long sending takes: over `data`, then over `fsdp`."""
    over_data = chip.near if data * fsdp <= 8 else chip.alone if fsdp > 1 else chip.far
    return sent[0] / over_data + sent[1] / (chip.near if fsdp <= 8 else chip.far)


def share(devices: int) -> float:
    return (devices - 1) / devices


def in_program(model: BertConfig, devices: Any, data: int, fsdp: int) -> tuple[Counter[str], float]:
    """Bytes a device sends by kind of collective, and scratch memory, in the compiled step."""
    tpu = devices[0].platform == "tpu"
    mesh = Mesh(np.array(devices).reshape(data, fsdp), BATCH, axis_types=(AxisType.Auto,) * 2)
    shapes, shardings, run = training(model, mesh)
    state = jax.tree.map(
        lambda x, place: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place), shapes, shardings
    )
    rows = ROWS * data * fsdp
    array = jax.ShapeDtypeStruct((2, rows, TOKENS), jnp.int32, sharding=batch_sharding(mesh))
    number = jax.ShapeDtypeStruct((), jnp.int32)
    arguments = state, Batches(*[array] * 4), number, number, number
    # One gather and not a ring of small ones with products in between, which counts worse.
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
    """Bytes that a device sends, by kind, from the text of a program; the body of a loop counts once."""
    sent: dict[str, tuple[str, float]] = {}  # by channel: a TPU's program repeats some in parts
    inside = ""
    for line in text.splitlines():
        if line and not line[0].isspace():
            inside = line.split()[0]
        found = COLLECTIVE.search(line)
        if not found:
            continue
        name, result, kind, start = found.groups()
        arrays = re.findall(rf"({'|'.join(BYTES)})\[([\d,]*)\]", result)
        sizes = [BYTES[d] * math.prod(map(int, filter(None, n.split(",")))) for d, n in arrays]
        size = max(sizes) if start and kind != "all-reduce" else sum(sizes)  # operand and result
        n = group_size(line) or devices
        if kind == "all-reduce" and "all-reduce-scatter" in inside:  # a TPU's reduce-scatter
            kind, size = "reduce-scatter", size / n
        times = {"all-reduce": 2 * share(n), "reduce-scatter": n - 1, "collective-permute": 1}
        channel = re.search(r"channel_id=(\d+)", line)
        sent[channel[1] if channel else name] = kind, size * times.get(kind, share(n))
    totals: Counter[str] = Counter()
    for kind, size in sent.values():
        totals[kind] += size
    return totals


def group_size(line: str) -> int:
    """Devices of one group of a collective; 0 where the text does not say."""
    if found := re.search(r"replica_groups=mesh\[(.*?)\] ?\{(.*?)\}", line):
        axes = dict(re.findall(r"'(\w+)'=(\d+)", found[1]))
        return math.prod(int(axes[name]) for name in re.findall(r"\w+", found[2]))
    if found := re.search(r"replica_groups=\[\d+,(\d+)\]", line):
        return int(found[1])
    found = re.search(r"replica_groups=\{\{([\d,]*)\}", line)
    return found[1].count(",") + 1 if found else 0


def check(model: BertConfig, pod: bool) -> list[dict[str, Any]]:
    """The formula beside what compiled steps have; prints a table."""
    products._on_cpu = lambda: False  # the program that an accelerator gets
    meshes = [(8, 1), (2, 4), (1, 8)]
    places = [("CPU", jax.devices(), meshes)]
    if find_spec("libtpu"):
        eight = topologies.get_topology_desc("v5e:2x4", "tpu").devices
        places.append(("TPU v5e", eight, meshes))
        if pod:
            every = topologies.get_topology_desc("v5e:16x16", "tpu").devices
            places.append(("TPU v5e", every, [(256, 1), (32, 8), (16, 16), (1, 256)]))
    print("| program for | data x fsdp | formula, MB | compiled, MB | of which | scratch, MB |")
    print("| --- | --- | --- | --- | --- | --- |")
    rows = []
    for name, devices, meshes in places:
        for data, fsdp in meshes:
            expected = sum(communicated(model, data, fsdp)) / 1e6
            kinds, scratch = in_program(model, devices, data, fsdp)
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
    """Bytes of a row that the backward pass finds in memory, roughly.

    A layer keeps, in bfloat16, eight arrays of the width and two of the MLP's; and the attention
    probabilities, in float32 before dropout and in bfloat16 behind it.
    """
    D, F, N = model.hidden_size, model.intermediate_size, model.num_attention_heads
    return model.num_hidden_layers * TOKENS * (2 * (8 * D + 2 * F) + 6 * N * TOKENS)


def tables(name: str, model: BertConfig) -> list[dict[str, Any]]:
    """Memory and communication for each number of chips and form, and rows a chip that pay for it."""
    row = step_flops(model, 1, TOKENS)
    parameters = sum(x.size for x in jax.tree.leaves(abstract_params(model)))
    print(
        f"\n{name}: {parameters / 1e6:.1f} M parameters, {row / 1e9:.1f} GFLOP and "
        f"about {activations(model) / 1e6:.0f} MB of activations a row\n"
    )
    chips = " | ".join(f"{chip}: ms, rows" for chip in CHIPS)
    print(f"| chips | data x fsdp | state, MB a chip | sent, MB a chip | {chips} |")
    print("| --- | --- | --- | --- |" + " --- |" * len(CHIPS))
    found = []
    for count in COUNTS:
        for data, fsdp in forms(count).values():
            mesh = AbstractMesh((data, fsdp), BATCH, axis_types=(AxisType.Auto,) * 2)
            shapes, shardings, _ = training(model, mesh)
            state = bytes_a_device(shapes, shardings)
            sent = communicated(model, data, fsdp)
            line = f"| {count} | {data} x {fsdp} | {state / 1e6:.0f} | {sum(sent) / 1e6:.0f} "
            entry: dict[str, Any] = {"data": data, "fsdp": fsdp, "state": state}
            entry["sent"] = round(sum(sent))
            for name_of, chip in CHIPS.items():
                time = seconds(chip, data, fsdp, sent)
                hidden = math.ceil(time * UTILISATION * chip.peak / row)
                line += f"| {1e3 * time:.1f}, {hidden} " if count > 1 else "| "
                entry[name_of] = [round(1e3 * time, 2), hidden]
            print(line + "|")
            found.append(entry)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument(
        "--pod", action="store_true", help="compile for 256 chips too: ten minutes more"
    )
    parser.add_argument("--reduced", action="store_true", help="compile a tiny model")
    options = parser.parse_args()
    result: dict[str, Any] = {name: tables(name, model_of(size)) for name, size in MODELS.items()}
    size = TINY if options.reduced else CHECKED
    print(f"\nA step as compiled, {size}, {ROWS} rows a device:\n")
    result["compiled"] = check(model_of(size), options.pod)
    print(f"\n`{json.dumps(result | machine('jax', 'optax'))}`")


if __name__ == "__main__":
    main()
