"""Puts the configs into the wheel; everything else about the package stands in pyproject.toml.

In: `configs/` of the checkout. Out: `rnr_dist/configs/` of the wheel. Invariant: there is one copy
in the sources, which a checkout, or an editable installation of it, reads where it lies.
"""

from pathlib import Path
from shutil import copytree, rmtree

from setuptools import setup
from setuptools.command.build_py import build_py


class WithConfigs(build_py):
    """The modules, and the configs beside them."""

    def run(self) -> None:
        super().run()
        if not self.editable_mode:
            folder = Path(self.build_lib) / "rnr_dist" / "configs"
            rmtree(folder, ignore_errors=True)  # of an earlier build
            copytree("configs", folder)


setup(cmdclass={"build_py": WithConfigs})
