"""Small tokenizers of each kind, with the words of three sentences."""

from functools import lru_cache
from pathlib import Path

from tokenizers import (
    AddedToken,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)

from flax_ner.text.subword import SubwordTokenizer
from flax_ner.text.vocab import SPECIAL_TOKENS

TEXTS = [
    "Hello world, the quick brown fox jumps over London's lazy dog in 2008.",
    "王建国在东海市工作。国内银行现在走的是台湾的发卡模式，",
    "温格的球队终于又踢了一场经典的比赛，2比1战胜曼联之后枪手仍然留在了夺冠集团之内，",
]
SPECIAL = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]  # in the order of their ids


def byte_level_bpe(folder: Path) -> int:
    """Write the `tokenizer.json` of a RoBERTa-like byte-level BPE. Return the vocabulary size."""
    return _write(folder, _byte_level_bpe())


def unigram(folder: Path) -> int:
    """Write the `tokenizer.json` of an XLM-R-like Unigram model. Return the vocabulary size."""
    return _write(folder, _unigram())


def word_pieces(folder: Path) -> int:
    """Write the `vocab.txt` of a BERT model. Return the vocabulary size."""
    characters = sorted({c for text in TEXTS for c in text.lower() if not c.isspace()})
    tokens = [*SPECIAL_TOKENS, *characters, *(f"##{c}" for c in characters if c.isascii())]
    (folder / "vocab.txt").write_text("\n".join(tokens) + "\n", "utf-8")
    (folder / "tokenizer_config.json").write_text(
        '{"tokenizer_class": "BertTokenizer", "do_lower_case": true}'
    )
    return len(tokens)


def _write(folder: Path, definition: str) -> int:
    (folder / "tokenizer.json").write_text(definition, "utf-8")
    names = zip(("bos", "pad", "eos", "unk", "mask"), SPECIAL, strict=True)
    rows = [f'"{role}_token": "{token}"' for role, token in names]
    rows += ['"cls_token": "<s>"', '"sep_token": "</s>"']
    rows += ['"tokenizer_class": "PreTrainedTokenizerFast"']
    (folder / "tokenizer_config.json").write_text("{" + ", ".join(rows) + "}")
    return Tokenizer.from_str(definition).get_vocab_size()


@lru_cache
def _byte_level_bpe() -> str:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.train_from_iterator(
        TEXTS,
        trainers.BpeTrainer(
            vocab_size=360,
            special_tokens=[AddedToken(t, lstrip=t == "<mask>") for t in SPECIAL],
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    tokenizer.post_processor = processors.RobertaProcessing(
        ("</s>", 2), ("<s>", 0), add_prefix_space=False
    )
    return str(tokenizer.to_str())


@lru_cache
def _unigram() -> str:
    # Not trained: the trainer of `tokenizers` gives other pieces in each run.
    words = sorted({word for text in TEXTS for word in text.split() if word.isascii()})
    characters = sorted({c for text in TEXTS for c in text if not c.isspace()})
    pieces = [
        *((f"▁{word}", -4.0) for word in words),
        ("▁", -5.0),
        *((c, -6.0) for c in characters),
    ]
    vocab = [*((token, 0.0) for token in SPECIAL), *dict(pieces).items()]
    tokenizer = Tokenizer(models.Unigram(vocab, SPECIAL.index("<unk>"), byte_fallback=False))
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.NFKC(), normalizers.Replace("\n", " "), normalizers.Replace("  ", " ")]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    tokenizer.add_special_tokens(list(SPECIAL))
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    return str(tokenizer.to_str())


@lru_cache
def bpe_tokenizer() -> SubwordTokenizer:
    return SubwordTokenizer(_byte_level_bpe())


@lru_cache
def unigram_tokenizer() -> SubwordTokenizer:
    return SubwordTokenizer(_unigram())
