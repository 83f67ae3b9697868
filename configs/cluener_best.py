"""CLUENER2020: a pre-trained Chinese BERT with the options that helped small models (benchmarks/RESULTS.md).

    python train.py --config configs/cluener_best.py --workdir runs/cluener_best \
        --config.init_from=hfl/chinese-roberta-wwm-ext

google-bert/bert-base-chinese works too, or a local folder with the files of either.

The options were chosen on models of 2 layers, trained from scratch or from a small pre-trained encoder:

- A CRF is better than a softmax in both cases, if the learning rate is high enough for the number of epochs.
- FGM improves the pre-trained encoder further, in twice the time.
- A higher learning rate for the head helps from scratch. With the pre-trained encoder it had no significant
  effect.

The results with the pre-trained encoder predate a fix that affects one of the 10,748 training sentences, whose
entities overlap. Weights of BERT-base were not available, so the effect of CRF, FGM and the head's learning
rate on it is an expectation. The learning rates are the usual ones for BERT-base.
--config.model.head=softmax --config.train.fgm=0 turns CRF and FGM off.

Hardware: a GPU or TPU; add --config.model.compute_dtype=bfloat16 there. For several seeds and their ensemble,
add --config.train.seeds=3.
"""

from ml_collections import ConfigDict

from flax_ner.config import default_config


def get_config() -> ConfigDict:
    config = default_config()
    config.init_from = "hfl/chinese-roberta-wwm-ext"
    config.model.head = "crf"
    config.data.scheme = "bioes"
    config.train.epochs = 5
    config.train.fgm = 1.0
    config.optimizer.learning_rate = 3e-5
    config.optimizer.head_lr_multiplier = 20.0
    return config
