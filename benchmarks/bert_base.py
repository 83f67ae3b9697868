"""BERT-base from a PyTorch file of real size: time a step, memory.

    python benchmarks/bert_base.py data/cluener vocab.txt [--steps 6]

Makes a random bert_pretrain.pth of MMOCR's shape (102 M parameters, 409 MB; needs PyTorch for that),
trains a few steps of configs/cluener.py from it and scores 64 sentences. The peak memory is what the
operating system counted. benchmarks/convert.py has what the conversion alone takes.
"""

import argparse
import json
import sys
import tempfile
from pathlib import Path

from common import machine, measure


def make_random_file(path: Path) -> int:
    """A pre-train file of BERT-base, every tensor random; the number of parameters."""
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
        around = 1.0 if name.endswith("LayerNorm.weight") else 0.0
        tensors[f"bert.{name}"] = around + 0.02 * torch.randn(shape)
    torch.save(tensors, path)
    return sum(tensor.numel() for tensor in tensors.values())


def last_rate(workdir: Path) -> float:
    """Sentences a second of the last stretch of training."""
    rows = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    return [row["sentences_per_second"] for row in rows if row["split"] == "train"][-1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path, help="folder with train.json and dev.json")
    parser.add_argument("vocab", type=Path, help="vocab.txt of 21,128 tokens")
    parser.add_argument("--steps", type=int, default=6)
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
        rate = last_rate(workdir)
    row = {
        "parameters": parameters,
        "train_steps": options.steps,
        "train_seconds": round(train.seconds, 1),
        "train_peak_mib": round(train.peak_mib),
        "sentences_per_second": round(rate, 2),
    } | machine("jax", "flax", "optax", "orbax-checkpoint")
    print("| what | seconds | peak memory, MiB |\n| --- | --- | --- |")
    print(
        f"| train {options.steps} steps of 16 x 128, score 64 sentences | {train.seconds:.1f} "
        f"| {train.peak_mib:.0f} |"
    )
    print(f"| sentences a second, last stretch | {rate:.2f} | |")
    print(json.dumps(row))


if __name__ == "__main__":
    main()
