"""The layouts of checkpoints: how each kind names its tensors, and how to detect the layout of a file."""

import re
from collections.abc import Iterable
from dataclasses import dataclass

from flax_ner.errors import UserError
from flax_ner.weights.families import FAMILIES, SUPPORTED, Family

WORD_EMBEDDINGS = "embeddings.word_embeddings.weight"


@dataclass(frozen=True)
class Layout:
    """Naming scheme of a kind of checkpoint.

    Attributes:
        name: name of the layout, for messages.
        encoder: prefix of the encoder's tensors.
        head: prefix of the token classification head's tensors; None if there is no such head.
        hidden_act: activation to assume without a `config.json`.
        marker: prefix of at least one other tensor; "" if the layout needs none.
        model_type: a key of `FAMILIES`.
    """

    name: str
    encoder: str
    head: str | None
    hidden_act: str
    marker: str = ""
    model_type: str = "bert"

    @property
    def family(self) -> Family:
        return FAMILIES[self.model_type]


# Order matters: the first layout that matches is used.
MMOCR = Layout("MMOCR trained checkpoint", "encoder.bert.", "decoder.classifier.", "gelu_new")
TAGGER = Layout(
    "Hugging Face BertForTokenClassification", "bert.", "classifier.", "gelu", "classifier.weight"
)
PRETRAINING = Layout(
    "Hugging Face BertForPreTraining", "bert.", None, "gelu_new", "cls.seq_relation"
)
MASKED_LM = Layout(
    "Hugging Face BertForMaskedLM, or MMOCR pre-trained encoder",
    "bert.",
    None,
    "gelu_new",
    "cls.predictions.",
)
ENCODER_ONLY = Layout("Hugging Face BertModel", "", None, "gelu")
LAYOUTS = [
    MMOCR,
    TAGGER,
    PRETRAINING,
    MASKED_LM,
    Layout("MMOCR pre-trained encoder", "bert.", None, "gelu_new"),
    Layout(f"{TAGGER.name}, without prefix", "", "classifier.", "gelu", "classifier.weight"),
    ENCODER_ONLY,
]
# The layouts that exports use, per family: token classification, masked language model, no head.
HF_LAYOUTS = {"bert": (TAGGER, MASKED_LM, ENCODER_ONLY)}


def _add_layouts(model_type: str, family: Family) -> None:
    """Add the layouts of a family other than BERT."""
    name, prefix = f"Hugging Face {family.name}", family.encoder
    tagger = Layout(
        f"{name}ForTokenClassification", prefix, TAGGER.head, "gelu", TAGGER.marker, model_type
    )
    masked = Layout(f"{name}ForMaskedLM", prefix, None, "gelu", family.token_bias, model_type)
    other = Layout(f"{name}Model with another head", prefix, None, "gelu", "", model_type)
    encoder = Layout(f"{name}Model", "", None, "gelu", "", model_type)
    HF_LAYOUTS[model_type] = (tagger, masked, encoder)
    LAYOUTS.extend([tagger, masked, other, encoder])


for _type, _family in FAMILIES.items():
    if _type not in HF_LAYOUTS:
        _add_layouts(_type, _family)

# Models similar to BERT that are not supported: `model_type`, pattern of a tensor name, reason.
UNSUPPORTED_MODELS = [
    ("albert", r"^albert\.|albert_layer_groups", "ALBERT: its layers share one set of weights"),
    ("distilbert", r"^distilbert\.|transformer\.layer\.", "DistilBERT: it has no token types"),
    ("deberta", r"^deberta\.|rel_embeddings", "DeBERTa: its positions are relative"),
    ("deberta-v2", r"^deberta\.", "DeBERTa: its positions are relative"),
    ("nezha", r"^nezha\.", "NEZHA: its positions are relative"),
    ("roformer", r"^roformer\.|embed_positions", "RoFormer: its positions are rotary"),
    ("megatron-bert", r"encoder\.layer\.\d+\.attention\.ln\.", "Megatron-BERT: LayerNorm comes first"),
    ("mobilebert", r"^mobilebert\.|bottleneck", "MobileBERT: its layers have bottlenecks"),
    ("xlnet", r"^transformer\.mask_emb", "XLNet: it is another architecture"),
    ("modernbert", r"(^|\.)embeddings\.tok_embeddings", "ModernBERT: it is another architecture"),
    ("bert", r"distance_embedding", "BERT with relative positions"),
]  # fmt: skip
# Families that cannot be converted without a `config.json`: name, pattern of a tensor name.
NEEDS_CONFIG = [
    ("RoBERTa or XLM-RoBERTa", r"^roberta\.|^lm_head\."),
    ("ELECTRA", r"^electra\.|^discriminator_|^generator_|(^|\.)embeddings_project\."),
    ("ERNIE", r"^ernie\.|task_type_embeddings"),
]


def detect_layout(names: Iterable[str], path: str, model_type: str | None = None) -> Layout:
    """Return the layout of a file.

    Args:
        names: current names (`names.current_names`) of its tensors.
        path: path of the file, for messages.
        model_type: `model_type` in its `config.json`, a key of `FAMILIES`. None: it is not stated, and only
            BERT can be detected.

    Raises:
        UserError: the model is not supported, or no layout matches.
    """
    names = set(names)
    refuse_unsupported_model(names, path)
    if model_type is None:
        _refuse_without_config(names, path)
    layouts = [layout for layout in LAYOUTS if layout.model_type == (model_type or "bert")]
    for layout in layouts:
        marked = any(name.startswith(layout.marker) for name in names)
        if layout.encoder + WORD_EMBEDDINGS in names and marked:
            return layout
    expected = ", ".join(dict.fromkeys(layout.encoder + WORD_EMBEDDINGS for layout in layouts))
    raise UserError(
        f"{path}: no known layout matches. Its first tensors are {', '.join(sorted(names)[:3]) or 'none'}, but "
        f"a model of model_type {model_type or 'bert'} has one of {expected}."
    )


def _refuse_without_config(names: Iterable[str], path: str) -> None:
    """Raise `UserError` if the tensors belong to a family that needs a `config.json`."""
    for family, pattern in NEEDS_CONFIG:
        matches = sorted(name for name in names if re.search(pattern, name))
        if matches:
            raise UserError(
                f"{path}: {matches[0]} belongs to {family}, but no config.json states the model_type. Put the "
                "config.json beside the weights, or pass it to convert/torch_to_flax.py with --config."
            )


def refuse_unsupported_model(names: Iterable[str], path: str) -> None:
    """Raise `UserError` if the tensors belong to a model in `UNSUPPORTED_MODELS`."""
    for _, pattern, reason in UNSUPPORTED_MODELS:
        matches = sorted(name for name in names if re.search(pattern, name))
        if matches:
            raise UserError(
                f"{path}: {matches[0]} belongs to {reason}. Only {SUPPORTED} can be converted, with or without "
                "a softmax head for tagging."
            )


def refuse_model_type(model_type: str, path: str) -> None:
    """Raise `UserError` if `model_type`, stated in the `config.json` at `path`, is not in `FAMILIES`."""
    if model_type not in FAMILIES:
        reasons = {name: reason for name, _, reason in UNSUPPORTED_MODELS}
        reason = reasons.get(model_type, "it is another architecture")
        raise UserError(
            f"{path}: model_type is {model_type!r} ({reason}). Only {SUPPORTED} can be converted."
        )
