"""A component for spaCy: `nlp.add_pipe("flax_ner", config={"model": "runs/demo/best"})`.

spaCy imports this module through the entry point `spacy_factories` whenever a pipeline is made. So jax is
imported only when a model is loaded.
"""

import io
import shutil
import warnings
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory, mkdtemp
from typing import TYPE_CHECKING, Any, Literal
from zipfile import ZipFile

import numpy as np
from spacy.language import Language
from spacy.pipeline import Pipe
from spacy.pipeline.span_ruler import prioritize_existing_ents_filter, prioritize_new_ents_filter
from spacy.tokens import Doc, Span, SpanGroup
from spacy.util import minibatch

from flax_ner.arguments import check_probability
from flax_ner.text.examples import Entity

if TYPE_CHECKING:
    from flax_ner.inference.tagger import Tagger
    from flax_ner.weights.model_dir import ModelDir

AlignmentMode = Literal["strict", "contract", "expand"]
SCORES = "scores"  # attribute of the span group, as of spaCy's span categorizer


@Language.factory(
    "flax_ner",
    assigns=["doc.ents", "doc.spans", "token.ent_iob", "token.ent_type"],
    default_config={
        "scoring": "strict",
        "threshold": 0.0,
        "batch_size": 32,
        "alignment_mode": "expand",
        "spans_key": "flax_ner",
        "overwrite_ents": False,
        "scorer": {"@scorers": "spacy.ner_scorer.v1"},
    },
    default_score_weights={"ents_f": 1.0, "ents_p": 0.0, "ents_r": 0.0, "ents_per_type": None},
)
class FlaxNer(Pipe):
    """Set the entities that a flax_ner model predicts.

    `doc.spans[spans_key]` has all entities, nested ones too. Their scores are in the array
    `doc.spans[spans_key].attrs["scores"]`, in the same order. `doc.ents` has those that do not overlap; of
    overlapping entities, the longest.

    The model is loaded with the first text. A saved pipeline contains the model, and does not need `model`.

    Args:
        nlp: the pipeline; not used.
        name: name of the component.
        model: model to load, see `flax_ner.load`.
        scoring: how tags are read as entities, see `Tagger.__call__`.
        threshold: minimum score of an entity, in [0, 1].
        batch_size: maximum number of 128-token rows per batch, see `Tagger`. The number of texts per call of
            the tagger is the `batch_size` of `nlp.pipe`.
        alignment_mode: what to do with an entity that starts or ends inside a token of spaCy: `"expand"` it to
            whole tokens, `"contract"` it to the tokens inside, or drop it (`"strict"`).
        spans_key: key of `doc.spans`.
        overwrite_ents: whether an entity replaces those of earlier components that it overlaps. Otherwise
            those stay in `doc.ents`.
        scorer: function that `nlp.evaluate` calls.

    Raises:
        UserError: the threshold is not in [0, 1]. Errors of the model are raised when it is loaded.
    """

    def __init__(
        self,
        nlp: Language,
        name: str,
        model: str,
        scoring: str,
        threshold: float,
        batch_size: int,
        alignment_mode: AlignmentMode,
        spans_key: str,
        overwrite_ents: bool,
        scorer: Callable[..., dict[str, Any]] | None,
    ):
        self.name, self.model, self.scoring = name, model, scoring
        self.threshold = check_probability(threshold, "threshold")
        self.batch_size, self.alignment_mode = batch_size, alignment_mode
        self.spans_key, self.overwrite_ents, self.scorer = spans_key, overwrite_ents, scorer
        self._tagger: Tagger | None = None

    @property
    def tagger(self) -> "Tagger":
        """The tagger. It is loaded on first use, because spaCy calls `from_disk` on a new component."""
        if self._tagger is None:
            self._tagger = self._load(self.model)
        return self._tagger

    @property
    def labels(self) -> tuple[str, ...]:
        """The categories of the model."""
        return self.tagger.labels.categories

    @property
    def hide_labels(self) -> bool:
        """Whether spaCy leaves out the labels of this component: before the model is loaded."""
        return self._tagger is None

    def __call__(self, doc: Doc) -> Doc:
        """Set the entities of one document."""
        counts = _AlignmentCounts()
        try:
            self._annotate([doc], counts)
        except Exception as error:
            self.get_error_handler()(self.name, self, [doc], error)
        counts.warn(self.name, self.alignment_mode)
        return doc

    def pipe(self, stream: Iterable[Doc], *, batch_size: int = 128) -> Iterator[Doc]:
        """Set the entities of documents, with one call of the tagger per `batch_size` documents.

        Warns:
            UserWarning: entities do not match spaCy's tokens. Shown at the end, with their number.
        """
        counts = _AlignmentCounts()
        try:
            for docs in minibatch(stream, batch_size):
                try:
                    self._annotate(docs, counts)
                except Exception as error:
                    self.get_error_handler()(self.name, self, docs, error)
                else:
                    yield from docs
        finally:
            counts.warn(self.name, self.alignment_mode)

    def to_disk(self, path: str | Path, *, exclude: Iterable[str] = ()) -> None:
        """Write the model as a model directory or an ONNX export, which `flax_ner.load` reads too."""
        from flax_ner.inference.onnx_tagger import OnnxTagger
        from flax_ner.weights.export_folder import copy_export
        from flax_ner.weights.model_dir import save_model

        if isinstance(self.tagger, OnnxTagger):
            copy_export(self.tagger.folder, Path(path))
        else:
            save_model(path, self._model_dir())

    def from_disk(self, path: str | Path, *, exclude: Iterable[str] = ()) -> "FlaxNer":
        """Load the model that `to_disk` wrote."""
        self._tagger = self._load(str(path))
        return self

    def to_bytes(self, *, exclude: Iterable[str] = ()) -> bytes:
        """Return the folder of `to_disk` as a ZIP archive."""
        archive = io.BytesIO()
        with (
            TemporaryDirectory() as folder,
            ZipFile(archive, "w", strict_timestamps=False) as writer,
        ):
            root = Path(folder, "model")
            self.to_disk(root)
            for file in sorted(root.rglob("*")):
                writer.write(file, file.relative_to(root))
        return archive.getvalue()

    def from_bytes(self, data: bytes, *, exclude: Iterable[str] = ()) -> "FlaxNer":
        """Load the model that `to_bytes` returned."""
        from flax_ner.inference.onnx_tagger import OnnxTagger

        folder = mkdtemp()
        remove = weakref.finalize(self, shutil.rmtree, folder, ignore_errors=True)
        ZipFile(io.BytesIO(data)).extractall(folder)
        self.from_disk(folder)
        # The tagger of an ONNX export needs its folder to be saved or pickled, as long as `self`.
        if not isinstance(self._tagger, OnnxTagger):
            remove()
        return self

    def _load(self, path: str) -> "Tagger":
        from flax_ner.inference.tagger import load

        return load(path, batch_size=self.batch_size)

    def _model_dir(self) -> "ModelDir":
        import jax

        from flax_ner.weights.model_dir import ModelDir

        tagger, tokenizer = self.tagger, self.tagger.tokenizer
        # A tagger that computes in bfloat16 has its matrices in bfloat16, but files have float32.
        params = jax.tree.map(lambda x: np.asarray(x, np.float32), tagger.params)
        return ModelDir(
            tagger.config,
            tagger.labels,
            tokenizer.tokens,
            tagger.max_length,
            params,
            tokenizer.lower_case,
            tokenizer.kind,
            tokenizer.definition,
        )

    def _annotate(self, docs: Sequence[Doc], counts: "_AlignmentCounts") -> None:
        """Tag documents and set `doc.spans` and `doc.ents`."""
        texts = [doc.text for doc in docs]
        predicted = self.tagger(texts, self.scoring, self.threshold)
        choose = (
            prioritize_new_ents_filter if self.overwrite_ents else prioritize_existing_ents_filter
        )
        for doc, text, entities in zip(docs, texts, predicted, strict=True):
            spans = list[Span]()
            scores = list[float]()
            for entity in entities:
                span = self._align(doc, entity, len(text), counts)
                if span is not None:
                    spans.append(span)
                    scores.append(entity.score)
            attributes = {SCORES: np.array(scores, np.float64)}
            doc.spans[self.spans_key] = SpanGroup(
                doc, name=self.spans_key, attrs=attributes, spans=spans
            )
            doc.set_ents(choose(doc.ents, spans))

    def _align(
        self, doc: Doc, entity: Entity, length: int, counts: "_AlignmentCounts"
    ) -> Span | None:
        """Return the tokens of an entity, or None if `alignment_mode` drops it."""
        end = min(entity.end, length)  # MMOCR: an entity may end one past the text
        span = doc.char_span(
            entity.start, end, label=entity.type, alignment_mode=self.alignment_mode
        )
        counts.entities += 1
        if not span:  # None, or no token: the entity has only the space after a token
            counts.dropped += 1
            return None
        counts.moved += (span.start_char, span.end_char) != (entity.start, end)
        return span


@dataclass
class _AlignmentCounts:
    """How many entities there were, and how many did not match the tokens."""

    entities: int = 0
    moved: int = 0
    dropped: int = 0

    def warn(self, name: str, alignment_mode: str) -> None:
        if self.moved or self.dropped:
            remedy = ' Set alignment_mode to "expand" to keep them.' * (alignment_mode != "expand")
            warnings.warn(
                f"{name}: {self.moved + self.dropped} of {self.entities} entities do not start and end at "
                f"token boundaries of spaCy. Moved to whole tokens: {self.moved}. Dropped: {self.dropped} "
                f"(alignment_mode {alignment_mode!r}).{remedy}",
                stacklevel=3,
            )
