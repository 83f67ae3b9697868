"""Small tokenizers of every kind, trained on a few words."""

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
ROBERTA = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]  # by id


def byte_level_bpe(folder: Path) -> int:
    """Write the `tokenizer.json` of a byte-level BPE as RoBERTa's; return the number of tokens."""
    return _write(folder, _byte_level_bpe())


def unigram(folder: Path) -> int:
    """Write the `tokenizer.json` of a Unigram vocabulary as XLM-R's; return the number of tokens."""
    return _write(folder, _unigram())


def word_pieces(folder: Path) -> int:
    """Write the `vocab.txt` of a BERT; return the number of tokens."""
    characters = sorted({c for text in TEXTS for c in text.lower() if not c.isspace()})
    tokens = [*SPECIAL_TOKENS, *characters, *(f"##{c}" for c in characters if c.isascii())]
    (folder / "vocab.txt").write_text("\n".join(tokens) + "\n", "utf-8")
    (folder / "tokenizer_config.json").write_text(
        '{"tokenizer_class": "BertTokenizer", "do_lower_case": true}'
    )
    return len(tokens)


def _write(folder: Path, definition: str) -> int:
    (folder / "tokenizer.json").write_text(definition, "utf-8")
    names = zip(("bos", "pad", "eos", "unk", "mask"), ROBERTA, strict=True)
    rows = [f'"{role}_token": "{token}"' for role, token in names]
    rows += ['"cls_token": "<s>"', '"sep_token": "</s>"']
    rows += ['"tokenizer_class": "PreTrainedTokenizerFast"']
    (folder / "tokenizer_config.json").write_text("{" + ", ".join(rows) + "}")
    return Tokenizer.from_str(definition).get_vocab_size()


@lru_cache
def _byte_level_bpe() -> str:
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    made.train_from_iterator(
        TEXTS,
        trainers.BpeTrainer(
            vocab_size=360,
            special_tokens=[AddedToken(t, lstrip=t == "<mask>") for t in ROBERTA],
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    made.post_processor = processors.RobertaProcessing(
        ("</s>", 2), ("<s>", 0), add_prefix_space=False
    )
    return str(made.to_str())


@lru_cache
def _unigram() -> str:
    made = Tokenizer(models.Unigram())
    made.normalizer = normalizers.Sequence(
        [normalizers.NFKC(), normalizers.Replace("\n", " "), normalizers.Replace("  ", " ")]
    )
    made.pre_tokenizer = pre_tokenizers.Metaspace()
    made.decoder = decoders.Metaspace()
    made.train_from_iterator(
        TEXTS,
        trainers.UnigramTrainer(
            vocab_size=150, special_tokens=ROBERTA, unk_token="<unk>", show_progress=False
        ),
    )
    made.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    return str(made.to_str())


@lru_cache
def bpe_tokenizer() -> SubwordTokenizer:
    return SubwordTokenizer(_byte_level_bpe())


@lru_cache
def unigram_tokenizer() -> SubwordTokenizer:
    return SubwordTokenizer(_unigram())
