"""Links of README and docs, and the README's first screen and figures."""

from __future__ import annotations

import re
from pathlib import Path

from lightning_modules.interop.published import default_model, published_models
from tests.helpers.command_line import REPOSITORY

README = (REPOSITORY / "README.md").read_text()


def test_first_screen_has_install_separate_train_and_demo() -> None:
    first = README.partition("\n## Which model")[0]
    assert len(first.splitlines()) < 75
    assert len(README.splitlines()) < 220
    places = [
        first.index(word)
        for word in (
            "music source separation",
            "docs/pictures/",
            "pip install .",
            "stemlab separate",
            "zenodo.3338373",
            "stemlab fit",
            "make demo",
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
    files = (REPOSITORY / "docs").glob("*.*")
    pages = {path.name for path in files if path.suffix != ".json"}  # rows of tables
    listed = re.findall(r"^- \[.+?\]\((.+?)\)", index, re.MULTILINE)
    assert sorted(listed) == sorted(pages - {"README.md"})


def test_figures_of_published_models() -> None:
    """Scores, sizes and licences are those of ``published.yaml``."""
    table = README.partition("## Which model should I pick?")[2].partition("##")[0]
    rows = re.findall(r"^\| .*`(\w+)`.* \|$", table, re.MULTILINE)
    assert rows[0] == default_model()
    for line in re.findall(r"^\| .*`\w+`.* \|$", table, re.MULTILINE):
        _, name, scores, where, size, licence, _ = (each.strip() for each in line.split("|")[1:-1])
        model = published_models()[name.strip("`")]
        (published,) = [each for each in model.scores if f"{each.metric}, {each.data}" == where]
        values = [published.values.get(stem) for stem in ("vocals", "drums", "bass", "other")]
        assert scores == " / ".join("-" if each is None else f"{each:.2f}" for each in values)
        assert size == (f"{model.bytes / 1e6:.0f} MB" if model.bytes else "")
        assert licence == model.weights_licence
