"""The tables of docs/models.md: ``python docs/make/models_table.py``.

They show what ``lightning_modules/interop/published.yaml`` says.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from datamodules import command_line
from datamodules.markdown import markdown
from lightning_modules.interop.published import PublishedModel, published_models
from table_pages import DOCS, with_table

SCRIPT = "docs/make/models_table.py"
_STEMS = ("vocals", "drums", "bass", "other")


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the tables; return the exit status: 0, or 2 for a mistake."""
    parser = argparse.ArgumentParser(prog=f"python {SCRIPT}", description=__doc__)
    parser.add_argument("--docs", type=Path, default=DOCS, help="folder of the page")
    page = parser.parse_args(arguments).docs / "models.md"
    return command_line.run(lambda: _update(page))


def _update(page: Path) -> int:
    page.write_text(with_table(page, SCRIPT, tables()))
    return 0


def tables() -> list[str]:
    """Return the models, and their scores, as lines of Markdown."""
    models = published_models().values()
    facts = [["name", "what it is", "stems", "MB", "licence of the weights"]]
    facts += [_facts(model) for model in models]
    scores = [["name", "metric", "songs", *_STEMS, "others"]]
    scores += [row for model in models for row in _scores(model)]
    return [*markdown(facts), "", *markdown(scores)]


def _facts(model: PublishedModel) -> list[str]:
    about = f"[{model.about}]({model.page})"
    if model.training_data:
        about += f"; training data: {model.training_data}"
    if model.unsupported:
        about += f"; **cannot be used here**: {model.unsupported}"
    size = f"{model.bytes / 1e6:.0f}" if model.bytes else ""
    return [f"`{model.name}`", about, ", ".join(model.sources), size, model.weights_licence]


def _scores(model: PublishedModel) -> list[list[str]]:
    rows = []
    for scores in model.scores:
        others = {k: v for k, v in scores.values.items() if k not in _STEMS}
        stems = [f"{scores.values[s]:.2f}" if s in scores.values else "" for s in _STEMS]
        rest = ", ".join(f"{name} {value:.2f}" for name, value in others.items())
        rows.append([f"`{model.name}`", scores.metric, scores.data, *stems, rest])
    return rows


if __name__ == "__main__":
    sys.exit(main())
