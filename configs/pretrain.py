"""Pre-train a small BERT from scratch, by masked language modelling on your own plain text.

    python train.py --config configs/pretrain.py --workdir runs/pretrain \
        --config.data.train=text.txt --config.data.dev=dev.txt

Text is UTF-8, one document or sentence per line, plain, .xz or .gz (docs/pretraining.md). The encoder has the
size of configs/cluener_scratch.py, which can start from it with --config.init_from=runs/pretrain/best.
`--config configs/pretrain.py:weights` continues from the weights of --config.init_from, of any size.
Hardware: two CPU cores; with AVX512-BF16 or AMX add --config.model.compute_dtype=bfloat16.
"""

from ml_collections import ConfigDict

from flax_ner.config import default_config


def get_config(start: str = "nothing") -> ConfigDict:
    if start not in ("nothing", "weights"):
        raise ValueError(f"the variant {start!r} is unknown. Choose nothing or weights.")
    config = default_config()
    config.task = "masked_lm"
    config.optimizer.learning_rate = 3e-4
    if start == "weights":
        config.init_from = "weights/bert_pretrain.pth"
    else:
        config.model.hidden_size = 256
        config.model.num_hidden_layers = 4
        config.model.num_attention_heads = 4
        config.model.intermediate_size = 1024
        config.model.max_position_embeddings = 128
        config.optimizer.learning_rate = 1e-3
    config.model.hidden_dropout_prob = 0.0  # each text is seen only once or twice
    config.model.attention_probs_dropout_prob = 0.0
    config.tokenizer.min_count = 5
    config.data.train = "data/text/train.txt"
    config.data.dev = "data/text/dev.txt"
    config.data.batch_size = 32
    config.pretrain.mask_prob = 0.3
    config.train.epochs = 1
    config.optimizer.warmup = 0.05
    config.optimizer.b2 = 0.98
    config.checkpoint.every = 500
    return config
