"""CLUENER2020 from scratch: a small BERT, with a vocabulary built from the training texts.

    python train.py --config configs/cluener_scratch.py --workdir runs/cluener_scratch

Hardware: two CPU cores, under 45 minutes. Strict F1 on dev: 0.7082 (seed 0).
"""

from ml_collections import ConfigDict

from flax_ner.config import default_config


def get_config() -> ConfigDict:
    config = default_config()
    config.model.hidden_size = 256
    config.model.num_hidden_layers = 4
    config.model.num_attention_heads = 4
    config.model.intermediate_size = 1024
    config.model.hidden_dropout_prob = 0.2
    config.model.attention_probs_dropout_prob = 0.1
    config.model.classifier_dropout = 0.2
    config.model.max_position_embeddings = 128
    config.tokenizer.min_count = 2
    config.data.batch_size = 8
    config.train.epochs = 20
    config.optimizer.learning_rate = 7e-4
    return config
