r"""Resume NER from scratch: a small BERT on CoNLL columns of characters with BMES tags.

    python train.py --config configs/resume.py --workdir runs/resume \
        --config.model.compute_dtype=bfloat16

The files are train.char.bmes, dev.char.bmes and test.char.bmes of Zhang and Yang (ACL 2018), in
data/resume. Hardware: 7 minutes on two shared CPU cores with AVX512-BF16. Leave out the second
line on CPUs without these instructions. Strict F1 of `best`: 0.8876 on dev, which selected it, and
0.8890 on test (seed 0).
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
    config.model.max_position_embeddings = 192
    config.tokenizer.min_count = 2
    config.data.train = "data/resume/train.char.bmes"
    config.data.dev = "data/resume/dev.char.bmes"
    config.data.max_length = 192  # the longest sentence has 178 characters
    config.data.batch_size = 2
    config.train.epochs = 12
    config.optimizer.learning_rate = 5e-4
    return config
