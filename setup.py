"""Writes the commit into wheels and source archives, for ``stemlab --version``."""

import runpy
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py
from setuptools.command.sdist import sdist

COMMIT = "lightning_modules/commit.txt"


def write_commit(folder):
    """Write the commit of this checkout, or of the source archive, below a folder."""
    commit = runpy.run_path("lightning_modules/version.py")["commit"]()
    if commit:
        Path(folder, COMMIT).write_text(f"{commit}\n")


class BuildWithCommit(build_py):
    """Build the package with its commit."""

    def run(self):
        """Build, then write the commit; an editable installation asks git."""
        super().run()
        if not self.editable_mode:
            write_commit(self.build_lib)


class ArchiveWithCommit(sdist):
    """Write a source archive with its commit."""

    def make_release_tree(self, base_dir, files):
        """Copy the files, then write the commit."""
        super().make_release_tree(base_dir, files)
        write_commit(base_dir)


setup(cmdclass={"build_py": BuildWithCommit, "sdist": ArchiveWithCommit})
