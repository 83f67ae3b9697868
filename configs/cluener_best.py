"""CLUENER2020 with a pre-trained Chinese BERT, and with what helped small models (benchmarks/RESULTS.md).

    python train.py --config configs/cluener_best.py --workdir runs/cluener_best \
        --config.init_from=hfl/chinese-roberta-wwm-ext

or google-bert/bert-base-chinese, or a folder that has either's files. Measured on models of 2 layers: a CRF is
ahead of the softmax, from nothing and from a small encoder that had read text, if its rate is high enough for
the epochs; from that encoder FGM gains more, in twice the time; a higher rate for the head than for the encoder
helps it from nothing, and had no significant effect from that encoder. (Results from that encoder predate a fix
that affects one of the 10,748 training sentences, whose entities overlap.) Expected, as weights
of BERT-base were not at hand: that CRF and FGM are ahead here too, and that a head which begins from nothing
wants more than the encoder's 3e-5; --config.model.head=softmax --config.train.fgm=0 is the plain way. The
rates themselves are those usual for BERT-base. Hardware: a GPU or TPU, then add
--config.model.compute_dtype=bfloat16. Several seeds and their ensemble: --config.train.seeds=3.
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
    config.optimizer.head_factor = 20.0
    return config
