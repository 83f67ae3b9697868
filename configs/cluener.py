"""CLUENER2020: fine-tune pre-trained BERT-base with AdamW.

    python train.py --config configs/cluener.py --workdir runs/cluener \
        --config.init_from=weights/bert_pretrain.pth

`init_from` is MMOCR's bert_pretrain.pth with its vocab.txt in the same folder, a Hugging Face folder or hub
repository, or a model directory. The weights determine the size of the model, its activation function,
lower-casing and the tokenizer. Hardware: a GPU or TPU; add --config.model.compute_dtype=bfloat16 there. On two
CPU cores an epoch takes half an hour. F1 has not been measured, because the published weights were not
available (MMOCR's own recipe reached 0.7941 with them).
"""

from ml_collections import ConfigDict

from flax_ner.config import default_config


def get_config() -> ConfigDict:
    config = default_config()
    config.init_from = "weights/bert_pretrain.pth"
    return config
