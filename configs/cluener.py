"""CLUENER2020 with BERT-base and AdamW, from pre-trained weights.

    python train.py --config configs/cluener.py --workdir runs/cluener \
        --config.init_from=weights/bert_pretrain.pth --config.tokenizer.vocab=weights/vocab.txt

`init_from` is MMOCR's bert_pretrain.pth (or another BERT in that layout), or a model directory made
from it by convert/torch_to_flax.py, which brings its vocabulary. On a GPU or TPU add
--config.model.compute_dtype=bfloat16.
"""

from ml_collections import ConfigDict

from flax_ner.config import default_config


def get_config() -> ConfigDict:
    config = default_config()
    config.init_from = "weights/bert_pretrain.pth"
    config.tokenizer.vocab = "weights/vocab.txt"
    config.model.hidden_act = "gelu_new"  # as MMOCR runs these weights
    config.train.epochs = 4
    config.optimizer.learning_rate = 5e-5
    return config
