"""The folders of the code: which may import which, and that their ``__init__.py`` are empty."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

from tests.helpers.command_line import REPOSITORY

PACKAGES = ("datamodules", "lightning_modules")
FILES = sorted(path for package in PACKAGES for path in (REPOSITORY / package).rglob("*.py"))


def module_of(name: str) -> str:
    return name.replace("/", ".").removesuffix(".py").removesuffix(".__init__")


MODULES = {module_of(path.relative_to(REPOSITORY).as_posix()): path for path in FILES}


def imported(module: str) -> Iterator[str]:
    """The project's own modules that a module imports, also inside functions."""
    for node in ast.walk(ast.parse(MODULES[module].read_text())):
        if isinstance(node, ast.ImportFrom) and node.module in MODULES:
            for alias in node.names:
                name = f"{node.module}.{alias.name}"
                yield name if name in MODULES else node.module


def room_of(module: str) -> str:
    """Package and folder of a module; a module outside of folders is a room of its own."""
    return ".".join(module.split(".")[:2])


def test_the_data_package_does_not_import_the_model_package() -> None:
    for module in MODULES:
        if module.startswith("datamodules"):
            assert not any(name.startswith("lightning_modules") for name in imported(module)), (
                module
            )


@pytest.mark.slow
def test_rooms_do_not_import_each_other_in_a_circle() -> None:
    needs: dict[str, set[str]] = {}
    for module in MODULES:
        others = {room_of(name) for name in imported(module)} - {room_of(module)}
        needs.setdefault(room_of(module), set()).update(others)
    assert len(needs) > 30
    tuple(TopologicalSorter(needs).static_order())  # raises CycleError with the rooms


def test_only_benchmarks_and_their_tool_import_a_benchmark_folder() -> None:
    for module in MODULES:
        if ".benchmark" not in module:
            found = [name for name in imported(module) if ".benchmark." in name]
            assert not found, module


@pytest.mark.parametrize(
    "path",
    [path for path in FILES if path.name == "__init__.py"],
    ids=lambda path: path.parent.relative_to(REPOSITORY).as_posix(),
)
def test_a_folder_says_in_one_line_what_it_is_for(path: Path) -> None:
    module = ast.parse(path.read_text())
    docstring = ast.get_docstring(module)
    assert docstring
    assert "\n" not in docstring
