"""Divide labelled texts into parts: training, dev and test data, or folds."""

from collections import Counter, defaultdict
from collections.abc import Sequence

import numpy as np

from flax_ner.text.examples import Example


def split_examples(
    examples: Sequence[Example], shares: Sequence[float], seed: int = 0
) -> list[list[Example]]:
    """Divide examples at random, with about the same share of every category in each part.

    Examples with the same text stay together, so that no text is in two parts. Source: iterative
    stratification, Sechidis et al. 2011.

    Args:
        examples: labelled or unlabelled examples.
        shares: share of the examples for each part; they sum to 1.
        seed: seed of the random order.

    Returns:
        The examples of each part, in the order of `examples`.
    """
    texts: dict[str, list[int]] = defaultdict(list)  # text -> indices of its examples
    for i, example in enumerate(examples):
        texts[example.text].append(i)
    groups = list(texts.values())
    np.random.default_rng(seed).shuffle(groups)
    categories = [_count_categories([examples[i] for i in group]) for group in groups]
    totals = Counter[str]()
    for counts in categories:
        totals.update(counts)
    # What each part still lacks, by category; "" counts its examples.
    lacking = [
        {name: total * share for name, total in (totals | {"": len(examples)}).items()}
        for share in shares
    ]
    parts: list[list[int]] = [[] for _ in shares]
    waiting = set(range(len(groups)))
    # The rarest category first: later ones leave more freedom.
    for category in sorted(totals, key=lambda name: (totals[name], name)):
        for group in sorted(g for g in waiting if categories[g][category]):
            part = max(range(len(shares)), key=lambda p: (lacking[p][category], lacking[p][""], -p))
            parts[part] += groups[group]
            waiting.remove(group)
            lacking[part][""] -= len(groups[group])
            for name, count in categories[group].items():
                lacking[part][name] -= count
    return [[examples[i] for i in sorted(part)] for part in parts]


def _count_categories(examples: Sequence[Example]) -> Counter[str]:
    """Return the number of entities by category. A text without entities has one of the category "O"."""
    counts = Counter(entity.type for example in examples for entity in example.entities or ())
    return counts or Counter({"O": len(examples)})
