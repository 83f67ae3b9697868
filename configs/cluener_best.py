"""CLUENER2020: the single model with the highest F1 in benchmarks/RESULTS.md, from a small pre-trained encoder.

    python train.py --config configs/cluener_best.py --workdir runs/cluener_best

multilingual-e5-small (12 layers x 384, 25 million parameters after the characters' rows are taken), read by
characters, with a CRF and FGM, which takes two passes per step. Both raise F1 there. Strict F1 on dev: F1_HERE,
with matrices that were rounded to 4 bits before training.

Hardware: a GPU or TPU, or two CPU cores in about 45 minutes; add --config.model.compute_dtype=bfloat16 where the
hardware has it. For several seeds and their ensemble, add --config.train.seeds=3.

A larger encoder needs a lower learning rate. For BERT-base, whose F1 has not been measured:

    python train.py --config configs/cluener_best.py --workdir runs/cluener_best \\
        --config.init_from=hfl/chinese-roberta-wwm-ext --config.optimizer.learning_rate=5e-5
"""

from ml_collections import ConfigDict

from flax_ner.config import default_config


def get_config() -> ConfigDict:
    config = default_config()
    config.init_from = "intfloat/multilingual-e5-small"
    config.tokenizer.kind = "char"
    config.model.head = "crf"
    config.data.scheme = "bioes"
    config.train.fgm = 1.0
    config.optimizer.learning_rate = 2e-4
    return config
