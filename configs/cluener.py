"""CLUENER2020 with BERT-base and AdamW, from pre-trained weights.

    python train.py --config configs/cluener.py --workdir runs/cluener \
        --config.init_from=weights/bert_pretrain.pth

`init_from` is MMOCR's bert_pretrain.pth with its vocab.txt beside it, a folder of Hugging Face or a
repository on its hub, or a model directory. The weights decide the shape of the model, its activation,
lower-casing and the kind of tokens. Hardware: a GPU or TPU, then add
--config.model.compute_dtype=bfloat16; on two CPU cores it runs, half an hour an epoch. Its F1 has not been
measured: the published weights are not at hand here (MMOCR's own recipe reached 0.7941 with them).
"""

from ml_collections import ConfigDict

from flax_ner.config import default_config


def get_config() -> ConfigDict:
    config = default_config()
    config.init_from = "weights/bert_pretrain.pth"
    return config
