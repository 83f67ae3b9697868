"""Train a tagger: python train.py --config configs/cluener.py --workdir runs/cluener [--config.FIELD=VALUE ...]

Repeat the same command to resume an interrupted run.
"""

import sys

from flax_ner.garbage import collect_seldom
from flax_ner.huge_pages import use_huge_pages

if __name__ == "__main__":
    use_huge_pages()  # before jax is imported
    collect_seldom()

from flax_ner.cli.train_command import run

if __name__ == "__main__":
    run("train.py", sys.argv[1:])
