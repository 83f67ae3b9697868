"""Decide the settings that a run leaves open, from the weights of `init_from`, the data, or `FALLBACKS`."""

from collections.abc import Collection, Sequence

from ml_collections import ConfigDict

from flax_ner.config import ENCODER_FIELDS, TRAINING_FIELDS, check_config, is_unset, with_fallbacks
from flax_ner.errors import UserError
from flax_ner.text.characters import count_unknown, rows_of_characters
from flax_ner.text.encoding import cut_share
from flax_ner.text.examples import Example
from flax_ner.text.labels import SCHEMES, LabelSet
from flax_ner.text.subword import SubwordTokenizer
from flax_ner.text.tagged import cjk_share
from flax_ner.text.tokenizer import CharTokenizer, WordPieceTokenizer
from flax_ner.weights.model_dir import ModelDir

SAMPLE = 1000  # texts of data.train by which the kind of tokens is chosen
MOST_CJK = 0.5  # share of CJK characters, among these and the words of other scripts
MOST_UNKNOWN = 0.5  # share of characters that a vocabulary of subwords has no row for
MOST_CUT = 0.1  # share of entities that begin or end inside a word


def decide(
    config: ConfigDict, source: ModelDir | None, found: Collection[str] = ()
) -> tuple[ConfigDict, list[str]]:
    """Decide the settings of model, rows and tags that are not set.

    Args:
        config: of the run.
        source: where `init_from` leads.
        found: categories of the training data.

    Returns:
        A copy of the configuration in which they are set, and notes about them.

    Raises:
        UserError: a field that is set contradicts the weights, or settings contradict what is decided.
    """
    decided, notes = ConfigDict(config.to_dict()), list[str]()
    if source is not None:
        _refuse_contradictions(config, source)
        for name in (*ENCODER_FIELDS, *TRAINING_FIELDS):
            if is_unset(config, f"model.{name}"):
                decided.model[name] = getattr(source.config, name)
        known = source.labels
        if known is not None and labels_fit(config, known, found):
            if is_unset(config, "model.head"):
                decided.model.head = source.config.head
            if is_unset(config, "data.scheme") and known.scheme in SCHEMES:  # spans have none
                decided.data.scheme = known.scheme
    decided = with_fallbacks(decided)
    positions = decided.model.max_position_embeddings
    if config.data.max_length is None and positions < decided.data.max_length:
        decided.data.max_length = positions
        notes.append(f"data.max_length: {positions}, as many tokens as the model has positions.")
    check_config(decided)
    return decided, notes


def labels_fit(config: ConfigDict, known: LabelSet, found: Collection[str]) -> bool:
    """Whether the labels of a tagger are those that a configuration and its data ask for.

    Args:
        config: of the run; what is not set asks for nothing.
        known: the tagger's labels.
        found: categories of the training data.
    """
    if config.data.scheme != known.scheme and not is_unset(config, "data.scheme"):
        return False
    if config.data.categories:
        return tuple(config.data.categories) == known.categories
    return bool(found) and set(found) <= set(known.categories)


def _refuse_contradictions(config: ConfigDict, source: ModelDir) -> None:
    unlike, flags = list[str](), list[str]()
    for name in ENCODER_FIELDS:
        value, theirs = config.model[name], getattr(source.config, name)
        if value != theirs and not is_unset(config, f"model.{name}"):
            unlike.append(f"model.{name} is {value}, but the weights have {theirs}")
            flags.append(f"--config.model.{name}={theirs}")
    if unlike:
        fields = "these fields" if len(unlike) > 1 else "the field"
        raise UserError(
            f"init_from: {config.init_from} contradicts the configuration: {'; '.join(unlike)}. Leave "
            f"{fields} out, or set {' '.join(flags)}"
        )


def choose_kind(source: ModelDir, train: Sequence[Example] = ()) -> tuple[str, str]:
    """Choose how to read text for the weights of `init_from`.

    A tagger and an encoder of characters keep their own way. An encoder of words reads words, unless its
    vocabulary has no pieces of words, most words of the training data are CJK characters, or a tenth of
    its entities begin or end inside a word: labels then belong to characters. Subwords stay where the
    vocabulary has few of the characters of the data.

    Args:
        source: the weights.
        train: labelled data to decide by; none for masked language modelling, which keeps the encoder's way.

    Returns:
        A key of `TOKENIZERS`, and the reason; "" for one that needs none.
    """
    own, char = source.tokenizer, CharTokenizer.kind
    if source.labels is not None or own == char:
        return own, ""
    if own == WordPieceTokenizer.kind and not any(t.startswith("##") for t in source.vocab):
        return char, "because the vocabulary has no pieces of words"
    sample = train[:: max(1, len(train) // SAMPLE)]
    reason = "as the encoder's own tokenizer reads text"
    if not sample:
        return own, reason
    cjk = cjk_share(example.text for example in sample)
    tokenizer = source.build_tokenizer()
    if isinstance(tokenizer, SubwordTokenizer):
        if not {"pad", "unk", "cls", "sep"} <= tokenizer.special.keys():
            return (
                own,
                "because its tokenizer.json lacks a special token that reading characters needs",
            )
        rows, _ = rows_of_characters(
            tokenizer.tokens, tokenizer.special.values(), tokenizer.byte_level
        )
        unknown, count = count_unknown(rows, (example.text for example in sample))
        if unknown.total() > MOST_UNKNOWN * count:
            return own, "because the vocabulary lacks most characters of data.train"
    if cjk > MOST_CJK:
        return char, f"because {cjk:.0%} of the words of data.train are CJK characters"
    cut = cut_share(sample, tokenizer.tokenize([example.text for example in sample]))
    if cut > MOST_CUT:
        return char, f"because {cut:.0%} of the entities of data.train begin or end inside a word"
    return own, reason


def choose_lower_case(source: ModelDir) -> tuple[bool, str]:
    """Choose whether to lower-case text for the weights of `init_from`; likewise with a reason.

    A tagger keeps its own way. An encoder that is said to keep capitals and has none in its vocabulary, as
    bert-base-chinese, would read each as [UNK].
    """
    if source.lower_case or source.labels is not None:
        return source.lower_case, ""
    letters = [token for token in source.vocab if len(token) == 1]
    small = any(letter != letter.upper() for letter in letters)
    capital = any(letter != letter.lower() for letter in letters)
    if small and not capital:
        return True, "because the vocabulary has no capital letters"
    return False, ""
