"""Encoder families of transformers whose layers are those of BERT."""

from dataclasses import dataclass

# Source name, target path, and slot of the target (index in `QKV_SLOTS`) or None.
Rule = tuple[str, str, int | None]
SUPPORTED = "BERT, RoBERTa, XLM-RoBERTa, CamemBERT, ELECTRA and ERNIE"


def _masked_lm(dense: str, norm: str, bias: str) -> list[Rule]:
    """Return the rules of a masked language modelling head; names are complete, without a prefix."""
    return [
        (f"{dense}.weight", "transform/kernel", None),
        (f"{dense}.bias", "transform/bias", None),
        (f"{norm}.weight", "norm/scale", None),
        (f"{norm}.bias", "norm/bias", None),
        (bias, "bias", None),
    ]


@dataclass(frozen=True)
class Family:
    """A family of encoders in transformers.

    Attributes:
        name: prefix of its class names.
        encoder: prefix of the encoder's tensors in models with a head.
        masked_lm: rules of its masked language modelling head.
        offset_positions: whether positions are counted from `pad_token_id` + 1.
    """

    name: str
    encoder: str
    masked_lm: list[Rule]
    offset_positions: bool = False

    @property
    def token_bias(self) -> str:
        """Name of the bias with one element per token of the vocabulary."""
        return self.masked_lm[-1][0]


_BERTS = _masked_lm(
    "cls.predictions.transform.dense", "cls.predictions.transform.LayerNorm", "cls.predictions.bias"
)
_ROBERTAS = _masked_lm("lm_head.dense", "lm_head.layer_norm", "lm_head.bias")
_ELECTRAS = _masked_lm(
    "generator_predictions.dense", "generator_predictions.LayerNorm", "generator_lm_head.bias"
)
FAMILIES = {  # by `model_type`, as in `model.bert.MODEL_TYPES`
    "bert": Family("Bert", "bert.", _BERTS),
    "roberta": Family("Roberta", "roberta.", _ROBERTAS, offset_positions=True),
    "xlm-roberta": Family("XLMRoberta", "roberta.", _ROBERTAS, offset_positions=True),
    "camembert": Family("Camembert", "roberta.", _ROBERTAS, offset_positions=True),
    "electra": Family("Electra", "electra.", _ELECTRAS),
    "ernie": Family("Ernie", "ernie.", _BERTS),
}
