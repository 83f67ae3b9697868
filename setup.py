"""Copy configs/ into the package, so that `flax-ner train --config NAME` finds the files after installation."""

import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py


class BuildWithConfigs(build_py):
    def run(self) -> None:
        super().run()
        if not self.editable_mode:  # an editable install uses the files of the checkout
            target = Path(self.build_lib) / "flax_ner" / "configs"
            target.mkdir(parents=True, exist_ok=True)
            for file in Path(__file__).with_name("configs").glob("*.py"):
                shutil.copy(file, target)


setup(cmdclass={"build_py": BuildWithConfigs})
