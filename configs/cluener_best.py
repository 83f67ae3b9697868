"""CLUENER2020: the single model with the highest F1 in benchmarks/RESULTS.md, from a small pre-trained encoder.

    python train.py --config configs/cluener_best.py --workdir runs/cluener_best

multilingual-e5-small (12 layers x 384), read by characters, with a GlobalPointer and FGM, which takes two
passes per step. Strict F1 on dev: 0.7777, the mean of three seeds, from matrices rounded to 4 bits. This head
cannot be exported to PyTorch or ONNX, and it cannot be a teacher for distillation. For these, use
configs/cluener.py.

Hardware: a GPU or TPU, or two CPU cores; add --config.model.compute_dtype=bfloat16 where the hardware has it.
A run took 48 to 61 minutes on one core in bfloat16. For several seeds and their ensemble, add
--config.train.seeds=3.

For BERT-base, whose F1 has not been measured:

    python train.py --config configs/cluener_best.py --workdir runs/cluener_best \
        --config.init_from=hfl/chinese-roberta-wwm-ext
"""

from ml_collections import ConfigDict

from flax_ner.config import default_config


def get_config() -> ConfigDict:
    config = default_config()
    config.init_from = "intfloat/multilingual-e5-small"
    config.tokenizer.kind = "char"
    config.model.head = "global_pointer"
    config.train.fgm = 1.0
    return config
