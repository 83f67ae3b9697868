"""CLUENER2020: reproduce the recipe of MMOCR's bert_softmax.

    python train.py --config configs/cluener_mmocr.py --workdir runs/cluener_mmocr \
        --config.init_from=weights/bert_pretrain.pth

Adadelta, batch 8, every sentence padded to 128, 18 epochs, 24 outputs, MMOCR's own scoring.
Hardware: a GPU. Published: precision 0.7885, recall 0.7998, F1 0.7941. These scores have not been reproduced
here, because the pre-trained weights were not available.
Source: MMOCR 0.6.3, configs/ner/bert_softmax/bert_softmax_cluener_18e.py.
"""

from ml_collections import ConfigDict

from flax_ner.config import default_config


def get_config() -> ConfigDict:
    config = default_config()
    config.init_from = "weights/bert_pretrain.pth"
    config.data.batching = "pad"
    config.data.batch_size = 8
    config.data.scheme = "mmocr"
    config.train.epochs = 18
    config.train.standardise = False
    config.optimizer.name = "adadelta"
    config.optimizer.learning_rate = 0.5
    config.optimizer.schedule = "step"
    config.optimizer.warmup = 0.0
    config.optimizer.milestones = (8, 14, 16)
    config.optimizer.clip_norm = 0.5
    config.eval.scoring = "mmocr"
    return config
