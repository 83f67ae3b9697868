"""Resolve unset settings from the weights of `init_from`, the data, or `FALLBACKS`."""

from collections.abc import Collection, Sequence

from ml_collections import ConfigDict

from flax_ner.config import ENCODER_FIELDS, TRAINING_FIELDS, is_unset, with_fallbacks
from flax_ner.config_checks import check_config
from flax_ner.data.tagged import cjk_share
from flax_ner.errors import UserError
from flax_ner.text.character_rows import count_unknown, find_character_rows
from flax_ner.text.encoding import misaligned_fraction
from flax_ner.text.examples import Example
from flax_ner.text.labels import SCHEMES, LabelSet
from flax_ner.text.subword import SubwordTokenizer
from flax_ner.text.tokenizer import CharTokenizer, WordPieceTokenizer
from flax_ner.weights.model_dir import ModelDir

SAMPLE = 1000  # texts of data.train that the choice of the tokenizer is based on
MAX_CJK = 0.5  # fraction of CJK characters among all words, each CJK character counted as a word
MAX_UNKNOWN = 0.5  # fraction of characters without an embedding in a subword vocabulary
MAX_CUT = 0.1  # fraction of entities that start or end inside a word


def resolve_settings(
    config: ConfigDict, source: ModelDir | None, categories: Collection[str] = ()
) -> tuple[ConfigDict, list[str]]:
    """Resolve the unset settings of `model`, `data.max_length`, and `data.scheme` if the source's labels match.

    Args:
        config: configuration of the run; it is not changed.
        source: weights of `init_from`, or None.
        categories: categories of the training data.

    Returns:
        A copy of the configuration with these settings resolved, and notes about them.

    Raises:
        UserError: a setting contradicts the weights or a resolved setting.
    """
    resolved, notes = ConfigDict(config.to_dict()), list[str]()
    if source is not None:
        _check_contradictions(config, source)
        for name in (*ENCODER_FIELDS, *TRAINING_FIELDS):
            if is_unset(config, f"model.{name}"):
                resolved.model[name] = getattr(source.config, name)
        known = source.labels
        if known is not None and labels_match(config, known, categories):
            if is_unset(config, "model.head"):
                resolved.model.head = source.config.head
            # SpanLabels have no scheme.
            if is_unset(config, "data.scheme") and known.scheme in SCHEMES:
                resolved.data.scheme = known.scheme
    resolved = with_fallbacks(resolved)
    positions = resolved.model.max_position_embeddings
    if config.data.max_length is None and positions < resolved.data.max_length:
        resolved.data.max_length = positions
        notes.append(f"data.max_length: {positions}, the number of positions of the model.")
    check_config(resolved)
    return resolved, notes


def labels_match(config: ConfigDict, labels: LabelSet, categories: Collection[str]) -> bool:
    """Return whether the labels of a tagger match the configuration and the training data.

    Args:
        config: configuration of the run. Unset settings match anything.
        labels: the tagger's labels.
        categories: categories of the training data.
    """
    if config.data.scheme != labels.scheme and not is_unset(config, "data.scheme"):
        return False
    if config.data.categories:
        return tuple(config.data.categories) == labels.categories
    return bool(categories) and set(categories) <= set(labels.categories)


def _check_contradictions(config: ConfigDict, source: ModelDir) -> None:
    conflicts, flags = list[str](), list[str]()
    for name in ENCODER_FIELDS:
        value, theirs = config.model[name], getattr(source.config, name)
        if value != theirs and not is_unset(config, f"model.{name}"):
            conflicts.append(f"model.{name} is {value}, but the weights have {theirs}")
            flags.append(f"--config.model.{name}={theirs}")
    if conflicts:
        fields = "these settings" if len(conflicts) > 1 else "the setting"
        raise UserError(
            f"init_from: {config.init_from} contradicts the configuration: {'; '.join(conflicts)}. "
            f"Remove {fields}, or set {' '.join(flags)}"
        )


def default_scheme(kind: str, head: str, scoring: str) -> str:
    """Return the tag scheme of new labels: bioes for characters, else bio.

    With a softmax over characters, F1 on CLUENER and Resume is higher with bioes. On the words of WNUT17 both
    score about the same (benchmarks/RESULTS.md, "Tag schemes"), and other libraries read bio. The scoring
    `mmocr` does not support bioes. The head `global_pointer` has no tags; bio is what earlier versions recorded
    for it.

    Args:
        kind: `tokenizer.kind`.
        head: `model.head`.
        scoring: `eval.scoring`.
    """
    tags = kind == CharTokenizer.kind and head != "global_pointer" and scoring != "mmocr"
    return "bioes" if tags else "bio"


def choose_tokenizer_kind(source: ModelDir, train: Sequence[Example] = ()) -> tuple[str, str]:
    """Choose the tokenizer kind for the weights of `init_from`.

    A tagger and a character encoder keep their tokenizer. For other encoders the kind is `char` if the
    vocabulary has no word pieces, if most words of the training data are CJK characters, or if a tenth of
    the entities start or end inside a word. A subword encoder keeps its tokenizer if its vocabulary lacks
    most characters of the data.

    Args:
        source: the weights.
        train: labelled data. Without data, as in masked language modelling, the encoder keeps its tokenizer.

    Returns:
        A key of `TOKENIZERS`, and the reason for a note; "" if none is needed.
    """
    own, char = source.tokenizer, CharTokenizer.kind
    if source.labels is not None or own == char:
        return own, ""
    if own == WordPieceTokenizer.kind and not any(t.startswith("##") for t in source.vocab):
        return char, "because the vocabulary has no word pieces"
    sample = train[:: max(1, len(train) // SAMPLE)]
    reason = "the encoder's own tokenizer"
    if not sample:
        return own, reason
    cjk = cjk_share(example.text for example in sample)
    tokenizer = source.build_tokenizer()
    if isinstance(tokenizer, SubwordTokenizer):
        if not {"pad", "unk", "cls", "sep"} <= tokenizer.special.keys():
            return (
                own,
                "because its tokenizer.json lacks a special token that kind char needs",
            )
        rows, _ = find_character_rows(
            tokenizer.tokens, tokenizer.special.values(), tokenizer.byte_level
        )
        unknown, count = count_unknown(rows, (example.text for example in sample))
        if unknown.total() > MAX_UNKNOWN * count:
            return own, "because the vocabulary lacks most characters of data.train"
    if cjk > MAX_CJK:
        return char, f"because {cjk:.0%} of the words of data.train are CJK characters"
    cut = misaligned_fraction(sample, tokenizer.tokenize([example.text for example in sample]))
    if cut > MAX_CUT:
        return char, f"because {cut:.0%} of the entities of data.train start or end inside a word"
    return own, reason


def choose_lower_case(source: ModelDir) -> tuple[bool, str]:
    """Choose whether to lower-case text for the weights of `init_from`.

    A tagger keeps its setting. An encoder that is configured as cased but has no capital letters in its
    vocabulary, such as bert-base-chinese, would read each of them as [UNK].

    Returns:
        The choice, and the reason for a note; "" if none is needed.
    """
    if source.lower_case or source.labels is not None:
        return source.lower_case, ""
    letters = [token for token in source.vocab if len(token) == 1]
    has_lower = any(letter != letter.upper() for letter in letters)
    has_upper = any(letter != letter.lower() for letter in letters)
    if has_lower and not has_upper:
        return True, "because the vocabulary has no capital letters"
    return False, ""
