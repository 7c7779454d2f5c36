"""List the published models that can be used by name: ``stemlab models``.

``separate song.mp3 --model htdemucs``, ``webapp``, ``load_separator("htdemucs")`` and
``fit --model.init_args.pretrained=htdemucs`` download a model when it is first used.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from datamodules import command_line
from datamodules.errors import DataError
from datamodules.tables import format_table
from lightning_modules.base.description import CheckpointError
from lightning_modules.interop import model_store, published
from lightning_modules.interop.published import PublishedModel, Scores


def main(arguments: Sequence[str] | None = None) -> int:
    """List or show models; return the exit status: 0, or 2 for a mistake explained on stderr."""
    options = build_parser().parse_args(arguments)
    return command_line.run(lambda: _run(options), "stopped; the same command continues")


def build_parser() -> command_line.Parser:
    """Build the parser of the command line."""
    parser = command_line.Parser(
        "lightning_modules.tools.models",
        description="List the published models that can be used by name, or show some of them.",
        epilog=f"Models are kept in {model_store.models_folder()}; "
        f"{model_store.FOLDER_VARIABLE} sets another folder.",
    )
    add = parser.add_argument
    add("names", nargs="*", metavar="NAME", help="models to show; by default a table of all")
    add("--stem", action="append", default=[], metavar="STEM", help="only models with this stem; "
        "several times: with all these stems")  # fmt: skip
    add("--licence", "--license", metavar="TEXT", help="only models whose weights have a licence "
        "with this text, such as MIT")  # fmt: skip
    add("--max-mb", type=float, metavar="N", help="only models that are known to be this small")
    add("--downloaded", action="store_true", help="only models that are on this computer")
    add("--json", action="store_true", help="print all facts as JSON")
    add("--download", action="store_true", help="download the models that are shown, to use them "
        "later without internet; needs names")  # fmt: skip
    return parser


def _run(options: argparse.Namespace) -> int:
    if options.download and not options.names:
        raise DataError("--download: give the names of the models to download")
    known = published.published_models()
    named = [published.find_by_name(name) for name in options.names] or known.values()
    chosen = [model for model in named if _matches(model, options)]
    if not chosen:
        raise CheckpointError("no model has all that is asked for: leave out an option")
    if options.download:
        for model in chosen:
            model_store.fetch(model)
    if options.json:
        print(json.dumps([_facts(model) for model in chosen], indent=2, ensure_ascii=False))
    elif options.names:
        print("\n\n".join(_page(model) for model in chosen))
    else:
        print(_table(chosen))
    return 0


def _matches(model: PublishedModel, options: argparse.Namespace) -> bool:
    licence = (options.licence or "").casefold()
    return (
        {*options.stem} <= {*model.sources}
        and licence in model.weights_licence.casefold()
        and (options.max_mb is None or 0 < model.bytes <= options.max_mb * 1e6)
        and (not options.downloaded or model_store.is_complete(model))
    )


def _table(models: Sequence[PublishedModel]) -> str:
    header = ["model", "stems", "licence of weights", "here", "MB", "vocals", "mean", "SDR in dB"]
    rows = [
        [
            model.name,
            " ".join(model.sources),
            model.weights_licence,
            "yes" if model_store.is_complete(model) else "",
            _megabytes(model.bytes),
            *(_summary(model.scores[0], model.sources) if model.scores else ["", "", ""]),
        ]
        for model in models
    ]
    notes = [f"not usable here: {m.name}: {m.unsupported}" for m in models if m.unsupported]
    return "\n".join([format_table(header, rows, labels=4), *notes])


def _page(model: PublishedModel) -> str:
    folder = model_store.folder_of(model)
    lines = [model_store.notice(model), f"  stems: {', '.join(model.sources)}"]
    if model.training_data:
        lines.append(f"  trained on: {model.training_data}")
    lines += [f"  {_score_line(scores)}" for scores in model.scores]
    lines.append(f"  files, in {folder}:")
    for file in model.files:
        digest = f"SHA-256 {file.sha256}" if file.sha256 else "no published SHA-256"
        size = f"{_megabytes(file.bytes)} MB, " if file.bytes else ""
        here = ", here" if (folder / file.name).is_file() else ""
        lines += [f"    {file.url}", f"      {size}{digest}{here}"]
    if model.unsupported:
        return "\n".join([*lines, f"  cannot be used here: {model.unsupported}"])
    model_option = "" if model.name == published.default_model() else f" --model {model.name}"
    lines.append(f"  stemlab separate song.mp3{model_option}")
    return "\n".join(lines)


def _score_line(scores: Scores) -> str:
    values = ", ".join(f"{name} {value:.2f}" for name, value in scores.values.items())
    return f"{scores.metric} in dB, {scores.data}: {values}"


def _summary(scores: Scores, sources: Sequence[str]) -> list[str]:
    """Return the score of vocals, the mean over all sources if each has one, and the metric."""
    values = scores.values
    mean = values.get("mean")
    if {*sources} <= {*values}:
        mean = sum(values[name] for name in sources) / len(sources)
    shown = ["" if value is None else f"{value:.2f}" for value in (values.get("vocals"), mean)]
    return [*shown, f"{scores.metric}, {scores.data}"]


def _megabytes(size: int) -> str:
    return f"{size / 1e6:,.1f}" if size else ""


def _facts(model: PublishedModel) -> dict[str, object]:
    folder: Path = model_store.folder_of(model)
    here = model_store.is_complete(model)
    return {**asdict(model), "bytes": model.bytes, "folder": str(folder), "downloaded": here}


if __name__ == "__main__":
    sys.exit(main())
