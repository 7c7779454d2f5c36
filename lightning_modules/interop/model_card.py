"""Model card of an exported separator: the page that the Hugging Face Hub displays.

Scores, data and settings come from the run of the checkpoint: its ``scores/estimate/test`` and its
``config.yaml``. Paths are shortened to their last part, so that none of this machine is published.
"""

from __future__ import annotations

import inspect
import math
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePath
from typing import Any

import yaml

from datamodules.errors import counted
from datamodules.markdown import markdown
from lightning_modules.base.description import CARD, describe
from lightning_modules.base.separator import SourceSeparator
from lightning_modules.configuration.files import read_config
from lightning_modules.evaluation.score_files import read_folder
from lightning_modules.evaluation.scores import METRICS, Summary, TrackScores, aggregate
from lightning_modules.interop.hub import PLACEHOLDER
from lightning_modules.version import version

TRAINING = "training.yaml"
UNKNOWN_LICENCE = "unknown"  # one of the Hub's identifiers
_TESTED = "best.ckpt"
# Authors and year before a title in quotation marks, as docstrings of architectures give papers.
_AUTHOR = r"[^\W\d_a-z][\w-]+"
_PAPER = re.compile(
    rf"(?P<authors>{_AUTHOR}(?:, {_AUTHOR})*(?: and {_AUTHOR})?(?: \d{{4}})?)(?:, | \()"
    r'(?P<title>"[^"]+")(?P<number>, arXiv:\d+\.\d+)?'
)


@dataclass(frozen=True)
class Training:
    """What is known of the training of a checkpoint.

    Attributes:
        config: Settings of its run; empty if they are unknown.
        scores: Scores of its estimates of the test tracks.
        mixture: Scores of the mixture as estimate of each source.
        no_scores: Why there are no scores.
    """

    config: Mapping[str, Any] = field(default_factory=dict)
    scores: Sequence[TrackScores] = ()
    mixture: Sequence[TrackScores] = ()
    no_scores: str = ""


def find_training(checkpoint: Path, scores: Path | None = None) -> Training:
    """Find the settings and the test scores of a checkpoint.

    Scores of the run count only for ``best.ckpt``, which ``test`` uses, and only if they are newer
    than it: a resumed run has another best checkpoint.

    Args:
        checkpoint: A checkpoint in a run's directory, or another file or folder.
        scores: Folder of score files to use in place of the run's.

    Raises:
        ValueError: A score file or the run's config is corrupted, or ``scores`` has no files.
    """
    run = checkpoint.resolve().parent.parent
    path = run / "config.yaml"
    config = read_config(path) if checkpoint.is_file() and path.is_file() else {}
    if scores is not None:
        return Training(config, read_folder(scores))
    if not config:
        return Training(no_scores="no run of this checkpoint was found")
    folder, mixture = (run / "scores" / method / "test" for method in ("estimate", "mixture"))
    files = list(folder.glob("*.json"))
    if not files:
        return Training(config, no_scores="`test` was not run")
    if checkpoint.name != _TESTED:
        return Training(config, no_scores=f"`test` scores {_TESTED}, and this is another one")
    if min(file.stat().st_mtime for file in files) < checkpoint.stat().st_mtime:
        return Training(config, no_scores="the run was continued after `test`")
    baseline = read_folder(mixture) if any(mixture.glob("*.json")) else []
    return Training(config, read_folder(folder), baseline)


def write_card(
    model: SourceSeparator,
    folder: Path,
    training: Training,
    licence: str = UNKNOWN_LICENCE,
    data: str | None = None,
) -> None:
    """Write the card, and the settings of the training if they are known, to an exported folder.

    Args:
        model: The separator.
        folder: The folder that holds it.
        training: What is known of its training.
        licence: Licence of the weights, as an identifier of the Hub such as ``mit``.
        data: Name of the data set, by default that of its folder.
    """
    data = data or data_set(training.config)
    summary = aggregate(training.scores) if training.scores else None
    name = type(model).__name__
    parts = [
        "---",
        _front_matter(model, licence, data, summary),
        "---",
        "",
        f"# {name}: {', '.join(model.sources)}",
        "",
        _about(model),
        "",
        _USE.format(name=PLACEHOLDER, unpacked=_unpacked(model.sources)),
        "## Scores",
        "",
        *_scores(training, summary, data),
        "",
        "## Training",
        "",
        *_training(training.config, data),
        "",
        "## Citation",
        "",
        *(f"- {paper}" for paper in papers(type(model))),
        "",
        f"Exported by Stemlab {version()}.",
    ]
    (folder / CARD).write_text("\n".join(parts) + "\n", encoding="utf-8")
    if training.config:
        text = yaml.safe_dump(_without_paths(_kept(training.config)), sort_keys=False)
        (folder / TRAINING).write_text(text, encoding="utf-8")


_USE = """## Use

With Stemlab installed:

```bash
stemlab separate song.mp3 --model {name} -o separated
```

```python
from lightning_modules import load_separator

separator = load_separator("{name}")
{unpacked} = separator.separate(mixture, sample_rate)  # mixture: (channels, samples)
```

A copy of this folder does in place of the name, and `{name}@revision` is a certain commit or tag.
"""


def data_set(config: Mapping[str, Any]) -> str:
    """Name of the data set of a run: that of its folder; empty if it is unknown."""
    root = _at(config, "data", "init_args", "root")
    roots = list(root) if isinstance(root, Mapping) else [root] if root else []
    return ", ".join(PurePath(str(each)).name for each in roots)


def _front_matter(model: SourceSeparator, licence: str, data: str, summary: Summary | None) -> str:
    """Metadata that the Hub reads."""
    kind = type(model).__name__
    facts: dict[str, Any] = {
        "license": licence,
        "library_name": "stemlab",
        "pipeline_tag": "audio-to-audio",
        "tags": ["audio-source-separation", "music-source-separation", "music", kind.lower()],
    }
    if "/" in data:  # its name on the Hub
        facts["datasets"] = [data]
    if summary is not None:
        found = {"mean": summary.mean("SDR")} | {
            source: scores["SDR"] for source, scores in summary.scores.items()
        }
        metrics = [
            {"type": "sdr", "name": f"SDR of {source}, dB", "value": round(value, 2)}
            for source, value in found.items()
            if math.isfinite(value)
        ]
        name = data or "unknown"
        result = {
            "task": {"type": "audio-to-audio", "name": "music source separation"},
            "dataset": {"type": name, "name": name, "split": "test"},
            "metrics": metrics,
        }
        facts["metrics"] = ["sdr"]
        facts["model-index"] = [{"name": kind, "results": [result]}]
    return yaml.safe_dump(facts, sort_keys=False, allow_unicode=True).rstrip()


def _about(model: SourceSeparator) -> str:
    channels = {1: "mono", 2: "stereo"}.get(
        model.audio_channels, f"{model.audio_channels} channels"
    )
    parameters = sum(parameter.numel() for parameter in model.parameters())
    return (
        f"Separates music into {', '.join(model.sources)}. Sample rate {model.sample_rate:,} Hz, "
        f"{channels}; music with another rate is resampled.\n\n"
        f"Architecture: `{describe(model)['class_path']}`, {parameters:,} parameters. "
        f"{_documentation(type(model)).partition(chr(10))[0]}"
    )


def _unpacked(sources: Sequence[str]) -> str:
    names = [re.sub(r"\W", "_", source) for source in sources]
    return ", ".join(names) + "," * (len(names) == 1)


def _scores(training: Training, summary: Summary | None, data: str) -> list[str]:
    if summary is None:
        return [f"None: {training.no_scores}."]
    baseline = aggregate(training.mixture).scores if training.mixture else {}
    rows = [["source", *METRICS, "uSDR", "SDR of the mixture"]]
    for source, scores in summary.scores.items():
        values = [scores[metric] for metric in (*METRICS, "uSDR")]
        values.append(baseline.get(source, {}).get("SDR", math.nan))
        rows.append([source, *map(_number, values)])
    means = [summary.mean(metric) for metric in (*METRICS, "uSDR")]
    if len(summary.disjoint_sources) > 1:
        rows.append(["mean", *map(_number, means), ""])
    of = f" of {data}" if data else ""
    return [
        *markdown(rows),
        "",
        f"In dB, on {counted(summary.tracks, 'test track')}{of}; BSS Eval v4: {summary.rule}. The "
        "last column has the scores of the unprocessed mixture as estimate.",
    ]


def _number(value: float) -> str:
    return f"{value:.2f}" if math.isfinite(value) else "-"


def _training(config: Mapping[str, Any], data: str) -> list[str]:
    if not config:
        return [f"Data: {data or 'unknown'}. The settings are unknown."]
    arguments = ("data", "init_args")
    facts = {
        "data": data or "not recorded",
        "sources": ", ".join(_at(config, *arguments, "sources") or []),
        "example": _with_unit(_at(config, *arguments, "segment_seconds"), "s"),
        "batch size": _at(config, *arguments, "batch_size"),
        "epochs": _at(config, "trainer", "max_epochs"),
        "precision": _at(config, "trainer", "precision"),
        "optimiser": _class_of(_at(config, "model", "init_args", "optimizer")),
        "learning rate": _at(config, "model", "init_args", "optimizer", "init_args", "lr"),
        "augmentations": ", ".join(map(_class_of, _at(config, *arguments, "augmentations") or [])),
        "seed": _at(config, "seed_everything"),
    }
    shown = [f"- {name}: {value}" for name, value in facts.items() if value not in (None, "")]
    return [*shown, "", f"All settings are in [{TRAINING}]({TRAINING})."]


def _with_unit(value: Any, unit: str) -> str:
    return "" if value is None else f"{value} {unit}"


def _class_of(entry: Any) -> str:
    return str(_at(entry, "class_path") or "").rpartition(".")[2]


def _at(config: Any, *keys: str) -> Any:
    """Value at nested keys; None if there is none."""
    for key in keys:
        config = config.get(key) if isinstance(config, Mapping) else None
    return config


def papers(kind: type[SourceSeparator]) -> list[str]:
    """Return the papers that the documentation of an architecture names."""
    found = _PAPER.finditer(" ".join(_documentation(kind).split()))
    return [f"{paper['authors']}, {paper['title']}{paper['number'] or ''}" for paper in found]


def _documentation(kind: type[SourceSeparator]) -> str:
    return inspect.getdoc(sys.modules[kind.__module__]) or ""


def _kept(config: Mapping[str, Any]) -> dict[str, Any]:
    """The settings without loggers, which name accounts and projects."""
    kept = {key: config[key] for key in ("seed_everything", "model", "data") if key in config}
    trainer = config.get("trainer") or {}
    kept["trainer"] = {key: trainer[key] for key in trainer if key not in ("logger", "plugins")}
    return kept


def _without_paths(value: Any) -> Any:
    """Shorten absolute paths, and those of the home folder, to their last part."""
    if isinstance(value, Mapping):
        return {_without_paths(key): _without_paths(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_without_paths(each) for each in value]
    if isinstance(value, str) and value.startswith(("/", "~", "\\", "./", "../")):
        return PurePath(value).name
    return value
