"""Links and the first screen of README and docs."""

from __future__ import annotations

import re
from pathlib import Path

from tests.helpers.command_line import REPOSITORY

README = (REPOSITORY / "README.md").read_text()


def test_first_screen_has_install_train_separate_and_results() -> None:
    first = README.partition("\n## A run")[0]
    assert len(first.splitlines()) < 75
    places = [
        first.index(word)
        for word in (
            "music source separation",
            "docs/pictures/",
            "make demo",
            "stemlab separate",
            "stemlab fit",
            "the mixture as estimate",
        )
    ]
    assert places == sorted(places)


def test_picture_is_small() -> None:
    (picture,) = re.findall(r"!\[.+\]\((.+)\)", README)
    assert 20_000 < (REPOSITORY / picture).stat().st_size < 300_000


def anchors(page: Path) -> set[str]:
    """Link targets of a page's headings."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading).lower().replace(" ", "-") for heading in headings}


def test_links_to_headings() -> None:
    found = 0
    for page in (REPOSITORY / "README.md", *(REPOSITORY / "docs").glob("*.md")):
        for name, anchor in re.findall(r"\]\((?!http)([^)#]*)#(.+?)\)", page.read_text()):
            found += 1
            assert anchor in anchors(page.parent / name if name else page), f"{page.name}: {anchor}"
    assert found > 10


def test_index_lists_every_page() -> None:
    index = (REPOSITORY / "docs/README.md").read_text()
    pages = {path.name for path in (REPOSITORY / "docs").glob("*.*")}
    listed = re.findall(r"^- \[.+?\]\((.+?)\)", index, re.MULTILINE)
    assert sorted(listed) == sorted(pages - {"README.md", "architectures.json", "export.json"})
