"""Tag the first line of standard input in one of three ways, and print the time of each part.

    python benchmarks/first_result_way.py flax_ner|transformers|onnxruntime FOLDER < TEXT

FOLDER is a model directory for flax_ner; the output of `convert/flax_to_torch.py MODEL FOLDER --layout hf` for
transformers; and that of `flax-ner export MODEL FOLDER --to onnx` for onnxruntime, whose entities are printed
as one tag per token. Started by benchmarks/first_result.py. Each way imports only what it needs.
"""

import json
import sys
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

Tag = Callable[[str], Any]


def use_flax_ner() -> Callable[[str], Tag]:
    from flax_ner.cli.model_options import load_tagger
    from flax_ner.inference import tagger  # noqa: F401  # what `load_tagger` imports later

    return load_tagger


def use_transformers() -> Callable[[str], Tag]:
    import torch  # noqa: F401
    from transformers import pipeline
    from transformers.pipelines import TokenClassificationPipeline  # noqa: F401

    return lambda folder: pipeline("token-classification", folder, aggregation_strategy="simple")


def use_onnxruntime() -> Callable[[str], Tag]:
    import numpy as np
    import onnxruntime
    from tokenizers import Tokenizer

    def load(folder: str) -> Tag:
        tokenizer = Tokenizer.from_file(f"{folder}/tokenizer.json")
        session = onnxruntime.InferenceSession(
            f"{folder}/onnx/model.onnx", providers=["CPUExecutionProvider"]
        )
        names = json.loads(Path(folder, "labels.json").read_text("utf-8"))["names"]

        def tag(text: str) -> list[str]:
            ids = np.array([tokenizer.encode(text).ids])
            inputs = {"input_ids": ids, "attention_mask": np.ones_like(ids)}
            return [names[i] for i in session.run(["logits"], inputs)[0][0].argmax(-1)]

        return tag

    return load


def main() -> None:
    way, folder = sys.argv[1:]
    text = sys.stdin.readline().rstrip("\n")
    clocks = [(time.perf_counter(), 0.0)]  # the CPU time counts from the start of the process

    def mark() -> None:
        clocks.append((time.perf_counter(), time.process_time()))

    load = {
        "flax_ner": use_flax_ner,
        "transformers": use_transformers,
        "onnxruntime": use_onnxruntime,
    }[way]()
    mark()
    tag = load(folder)
    mark()
    entities = tag(text)
    mark()
    tag(text)
    mark()
    print(entities, flush=True)
    parts = [
        [after - before for before, after in zip(*pair, strict=True)] for pair in pairwise(clocks)
    ]
    print(json.dumps(parts), file=sys.stderr)


if __name__ == "__main__":
    main()
