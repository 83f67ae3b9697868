"""Pick the texts that are worth annotating next: those that the model is least sure of."""

from collections import Counter, defaultdict
from collections.abc import Sequence

import numpy as np

from flax_ner.inference.tagger import Tagger

MAX_OVERLAP = 0.5  # of the character pairs of a text with one that is already picked


def select_texts(tagger: Tagger, texts: Sequence[str], count: int) -> list[int]:
    """Return the indices of the texts to annotate, the least certain first.

    The certainty of a text is the probability of its predicted tags together, as a mean per word so that long
    texts are not preferred (Shen et al. 2017, "MNLP"). A text that shares more than half of its character
    pairs with one that is already picked is put off, so that the picked texts differ.

    Args:
        tagger: a model with any head except global_pointer.
        texts: unlabelled texts.
        count: number of texts to pick; all texts if there are fewer.

    Raises:
        UserError: the head predicts spans instead of tags, or a text is not a string.
    """
    certainty = np.array(
        [log_prob / max(words, 1) for log_prob, words in tagger.sequence_log_probs(texts)]
    )
    picked, put_off = list[int](), list[int]()
    pairs_of: dict[str, list[int]] = defaultdict(list)  # pair -> picked texts that have it
    for i in np.argsort(certainty, kind="stable").tolist():
        if len(picked) == count:
            break
        pairs = {texts[i][j : j + 2] for j in range(max(len(texts[i]) - 1, 1))}
        shared = Counter(other for pair in pairs for other in pairs_of[pair])
        if shared and max(shared.values()) > MAX_OVERLAP * len(pairs):
            put_off.append(i)
            continue
        picked.append(i)
        for pair in pairs:
            pairs_of[pair].append(i)
    return (picked + put_off)[:count]
