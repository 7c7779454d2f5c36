"""The published models that can be used by name: list, search, and reading of ``published.yaml``.

Importing this module does not import torch.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import urlsplit

import yaml

from datamodules.errors import did_you_mean
from lightning_modules.base.description import CheckpointError, check_is_there
from lightning_modules.interop import hub

LIST_COMMAND = "stemlab models"
NOT_STATED = "not stated"
_FILE = Path(__file__).with_name("published.yaml")
# A word that can be a name; paths have other characters.
_NAME = re.compile(r"\w[\w-]*")


@dataclass(frozen=True)
class PublishedFile:
    """A file of a published model.

    Attributes:
        url: Its address.
        name: Its name in the folder of the model.
        sha256: The first digits of its SHA-256, or all; empty if its authors publish none.
        bytes: Its size; 0 if nobody publishes it.
    """

    url: str
    name: str
    sha256: str = ""
    bytes: int = 0


@dataclass(frozen=True)
class Scores:
    """Published scores of a model on the songs of a data set.

    Attributes:
        metric: ``cSDR``: median over songs of the median over frames of 1 s (BSS Eval v4);
            ``uSDR``: mean over songs of the ratio of energies of a whole song.
        data: The data set.
        values: Score of each source, dB; ``mean`` is that of all, where only it was published.
    """

    metric: str
    data: str
    values: Mapping[str, float]


@dataclass(frozen=True)
class PublishedModel:
    """A published model.

    Attributes:
        name: Its name here.
        family: Models that share authors and citation.
        importer: The importer: ``open_unmix``, ``demucs`` or ``msst``.
        architecture: Its config here.
        about: What it is, in a line.
        sources: Sources that it estimates.
        files: Files to download.
        code_licence: Licence of its authors' code.
        weights_licence: Licence of the weights; ``not stated`` if the authors state none.
        page: Address of its page.
        citation: The paper.
        scores: Published scores.
        training_data: Remark on its training data; empty if there is none.
        options: Options of the importer.
        weights: Weights of several networks for each source; without any, 1.
        chunk_seconds: Recommended chunk length, seconds; None for that of the importer.
        unsupported: Why it cannot be used here; empty if it can.
    """

    name: str
    family: str
    importer: str
    architecture: str
    about: str
    sources: list[str]
    files: list[PublishedFile]
    code_licence: str
    page: str
    citation: str
    weights_licence: str = NOT_STATED
    scores: list[Scores] = field(default_factory=list)
    training_data: str = ""
    options: dict[str, Any] = field(default_factory=dict)
    weights: dict[str, list[float]] | None = None
    chunk_seconds: float | None = None
    unsupported: str = ""

    @property
    def bytes(self) -> int:
        """Size of all files; 0 if that of weights is not known."""
        sizes = [file.bytes for file in self.files if not file.name.endswith(".yaml")]
        return sum(file.bytes for file in self.files) if all(sizes) else 0


@cache
def published_models() -> dict[str, PublishedModel]:
    """Return all published models, by name."""
    contents = _contents()
    return {
        name: _model(name, {**contents["families"][entry["family"]], **entry})
        for name, entry in contents["models"].items()
    }


def default_model() -> str:
    """Return the name of the model that ``separate`` uses if none is given."""
    return str(_contents()["default"])


def find(path: str | Path) -> PublishedModel | None:
    """Return the model that is meant by a name; None if it is a path.

    An existing file or folder wins over a name.

    Raises:
        CheckpointError: It is neither a path nor a known name; the message lists similar names.
    """
    if Path(path).exists() or not _NAME.fullmatch(str(path)):
        return None
    return find_by_name(str(path))


def find_by_name(name: str) -> PublishedModel:
    """Return a model.

    Raises:
        CheckpointError: There is none of this name; the message lists similar names.
    """
    models = published_models()
    if name not in models:
        raise CheckpointError(f"{name}: {_unknown(name)}")
    return models[name]


def check_supported(model: PublishedModel) -> None:
    """Raise ``CheckpointError`` if a model cannot be used here."""
    if model.unsupported:
        raise CheckpointError(
            f"{model.name}: cannot be used here: {model.unsupported}; use another model"
        )


def check_model(path: Path) -> None:
    """Check that there is a checkpoint or a published model; nothing is downloaded.

    A name of the Hub is not looked up.

    Raises:
        CheckpointError: There is neither, or the model cannot be used here.
    """
    model = find(path)
    if model is not None:
        check_supported(model)
    elif hub.find(path) is None:
        check_is_there(path)


def _unknown(name: str) -> str:
    hint = did_you_mean(name, published_models(), 3) or ";"
    return (
        f"there is no such file, folder or published model{hint} `{LIST_COMMAND}` lists the "
        "models, `fit` trains one"
    )


@cache
def _contents() -> dict[str, Any]:
    # The parser in C takes a tenth of the time.
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    contents: dict[str, Any] = yaml.load(_FILE.read_text(encoding="utf-8"), loader)
    return contents


def _model(name: str, entry: Mapping[str, Any]) -> PublishedModel:
    files = [
        PublishedFile(**{"name": PurePosixPath(urlsplit(file["url"]).path).name, **file})
        for file in entry["files"]
    ]
    scores = []
    for given in entry.get("scores", []):
        values = dict(given)
        scores.append(Scores(values.pop("metric"), values.pop("data"), values))
    return PublishedModel(**{**entry, "name": name, "files": files, "scores": scores})
