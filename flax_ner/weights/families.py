"""Families of encoders with BERT's layers, as transformers names them."""

from dataclasses import dataclass

# Source name, target path, and slot among query, key and value of a tensor.
Rule = tuple[str, str, int | None]
SUPPORTED = "BERT, RoBERTa, XLM-RoBERTa, CamemBERT, ELECTRA and ERNIE"


def _masked_lm(dense: str, norm: str, bias: str) -> list[Rule]:
    """The layers that score tokens, whole names: of an encoder that was trained to guess hidden ones."""
    return [
        (f"{dense}.weight", "transform/kernel", None),
        (f"{dense}.bias", "transform/bias", None),
        (f"{norm}.weight", "norm/scale", None),
        (f"{norm}.bias", "norm/bias", None),
        (bias, "bias", None),
    ]


@dataclass(frozen=True)
class Family:
    """Models of transformers with BERT's layers.

    Attributes:
        name: what names of their classes begin with.
        encoder: what names of the encoder begin with in models that have a head.
        masked_lm: rules for the layers that score tokens.
        offset_positions: whether positions are counted from `pad_token_id` + 1.
    """

    name: str
    encoder: str
    masked_lm: list[Rule]
    offset_positions: bool = False

    @property
    def token_bias(self) -> str:
        """The tensor that has an element for each token."""
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
