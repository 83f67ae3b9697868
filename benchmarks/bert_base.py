"""Fine-tune BERT-base from a PyTorch file of real size: training throughput and peak memory.

    python benchmarks/bert_base.py data/cluener vocab.txt [--steps 6]

Writes a random bert_pretrain.pth of MMOCR's shape (102 M parameters, 409 MB; needs PyTorch), trains a few
steps of configs/cluener.py from it and evaluates on 64 sentences. Peak memory is that of the process, as the
operating system counts it. benchmarks/convert.py measures the conversion alone.
"""

import argparse
import json
import sys
import tempfile
from pathlib import Path

from common import machine, measure


def make_random_file(path: Path) -> int:
    """Write a BERT-base checkpoint with random values and return the number of parameters."""
    import torch

    width, inner, layers = 768, 3072, 12
    shapes = {
        "embeddings.word_embeddings.weight": (21128, width),
        "embeddings.position_embeddings.weight": (512, width),
        "embeddings.token_type_embeddings.weight": (2, width),
        "embeddings.LayerNorm.weight": (width,),
        "embeddings.LayerNorm.bias": (width,),
        "pooler.dense.weight": (width, width),
        "pooler.dense.bias": (width,),
    }
    for i in range(layers):
        prefix = f"encoder.layer.{i}."
        for name, shape in {
            "attention.self.query": (width, width),
            "attention.self.key": (width, width),
            "attention.self.value": (width, width),
            "attention.output.dense": (width, width),
            "attention.output.LayerNorm": (width,),
            "intermediate.dense": (inner, width),
            "output.dense": (width, inner),
            "output.LayerNorm": (width,),
        }.items():
            shapes[f"{prefix}{name}.weight"] = shape
            shapes[f"{prefix}{name}.bias"] = shape[:1]
    torch.manual_seed(0)
    tensors = {}
    for name, shape in shapes.items():
        mean = 1.0 if name.endswith("LayerNorm.weight") else 0.0
        tensors[f"bert.{name}"] = mean + 0.02 * torch.randn(shape)
    torch.save(tensors, path)
    return sum(tensor.numel() for tensor in tensors.values())


def last_throughput(workdir: Path) -> float:
    """Return the sentences per second of the last dispatch."""
    rows = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    return [row["sentences_per_second"] for row in rows if row["split"] == "train"][-1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path, help="folder with train.json and dev.json")
    parser.add_argument("vocab", type=Path, help="vocab.txt of 21,128 tokens")
    parser.add_argument("--steps", type=int, default=6, help="training steps")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        source, workdir = Path(folder, "bert_pretrain.pth"), Path(folder, "run")
        parameters = make_random_file(source)
        dev = Path(folder, "dev.json")
        dev.write_text("".join((options.data / "dev.json").read_text().splitlines(True)[:64]))
        train = measure([
            *(sys.executable, "train.py", "--config=configs/cluener.py", f"--workdir={workdir}"),
            f"--config.init_from={source}",
            f"--config.tokenizer.vocab={options.vocab.absolute()}",
            f"--config.data.train={options.data.absolute() / 'train.json'}",
            f"--config.data.dev={dev}",
            *(f"--config.train.steps={options.steps}", "--config.train.steps_per_dispatch=2"),
        ])  # fmt: skip
        rate = last_throughput(workdir)
    row = {
        "parameters": parameters,
        "train_steps": options.steps,
        "train_seconds": round(train.seconds, 1),
        "train_peak_mib": round(train.peak_mib),
        "sentences_per_second": round(rate, 2),
    } | machine("jax", "flax", "optax", "orbax-checkpoint")
    print("| what | seconds | peak memory, MiB |\n| --- | --- | --- |")
    print(
        f"| train {options.steps} steps of 16 x 128, evaluate 64 sentences | {train.seconds:.1f} "
        f"| {train.peak_mib:.0f} |"
    )
    print(f"| sentences/s, last dispatch | {rate:.2f} | |")
    print(json.dumps(row))


if __name__ == "__main__":
    main()
