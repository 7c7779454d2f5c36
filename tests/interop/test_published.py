from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

from lightning_modules.base.description import CheckpointError
from lightning_modules.configuration.files import CONFIGS
from lightning_modules.interop import model_store
from lightning_modules.interop.published import (
    Scores,
    check_model,
    default_model,
    find,
    published_models,
)
from tests.helpers.command_line import REPOSITORY

MODELS = published_models()


@pytest.mark.parametrize("name", MODELS)
def test_an_entry_is_complete(name: str) -> None:
    model = MODELS[name]
    assert re.fullmatch("[a-z0-9_]+", name)
    assert model.about
    assert model.citation
    assert model.page.startswith("https://")
    assert model.importer in model_store.IMPORTERS
    assert len({file.name for file in model.files}) == len(model.files) > 0
    for file in model.files:
        assert file.url.startswith("https://")
        assert re.fullmatch("([0-9a-f]{8}|[0-9a-f]{64})?", file.sha256), file
        # The name of these files ends with the first digits of their digest.
        suffix = re.search(r"[-_]([0-9a-f]{8})\.p?th$", file.url)
        assert suffix is None or suffix[1] == file.sha256
    for scores in model.scores:
        assert scores.metric in ("cSDR", "uSDR")
        assert {*scores.values} <= {*model.sources, "mean"}
        assert all(0 < value < 20 for value in scores.values.values())
    for weights in (model.weights or {}).values():
        assert len(weights) == len(model.files)
    if model.importer == "msst":
        config, _ = model.files
        assert config.name.endswith(".yaml")


def test_the_default_separates_four_stems_and_can_be_used() -> None:
    model = MODELS[default_model()]
    assert {*model.sources} == {"vocals", "drums", "bass", "other"}
    assert not model.unsupported


@pytest.mark.parametrize("name", sorted({m.architecture for m in MODELS.values()}))
def test_the_architecture_of_usable_models_has_a_config(name: str) -> None:
    unusable = all(m.unsupported for m in MODELS.values() if m.architecture == name)
    assert unusable or (CONFIGS / f"{name}.yaml").is_file()


def test_the_size_is_known_if_that_of_all_weights_is() -> None:
    assert MODELS["htdemucs_ft"].bytes == 4 * 84141271
    assert MODELS["mel_band_roformer_kim"].bytes == 1721 + 913106900
    assert MODELS["bs_roformer_viperx_1297"].bytes == 0


def test_names_of_files_are_those_of_addresses_unless_given() -> None:
    assert MODELS["htdemucs"].files[0].name == "955717e8-8726e21a.th"
    assert [file.name for file in MODELS["umxse"].files] == [
        "speech-f5e0d9f9.pth",
        "noise-04a6fc2d.pth",
    ]


def test_scores_are_read_by_source() -> None:
    scores = MODELS["umxhq"].scores
    values = {"vocals": 6.25, "drums": 6.04, "bass": 5.07, "other": 4.28}
    assert scores == [Scores("cSDR", "MUSDB18", values)]


def test_an_existing_file_or_folder_wins_over_a_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert find("htdemucs") is MODELS["htdemucs"]
    (tmp_path / "htdemucs").mkdir()
    assert find("htdemucs") is None


@pytest.mark.parametrize("path", ["runs/htdemucs", "htdemucs.ckpt", "./htdemucs", "a b"])
def test_a_path_is_no_name(path: str) -> None:
    assert find(path) is None


@pytest.mark.parametrize(
    ("name", "meant"),
    [("htdemcus", "htdemucs"), ("HTDemucs", "htdemucs"), ("ht-demucs_ft", "htdemucs_ft"),
     ("scnet_xlihf", "scnet_xl_ihf"), ("umxh", "umxhq")],
)  # fmt: skip
def test_a_misspelt_name_is_guessed(name: str, meant: str) -> None:
    message = rf"{name}: .* did you mean (.* or )?{meant}\b"
    with pytest.raises(CheckpointError, match=message):
        check_model(Path(name))


def test_other_words_are_not_guessed() -> None:
    with pytest.raises(CheckpointError, match=r"model; `stemlab models` lists the models"):
        check_model(Path("zzzz"))


def test_a_missing_file_and_an_unsupported_model_are_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="there is no such checkpoint"):
        check_model(tmp_path / "none.ckpt")
    unsupported = [model for model in MODELS.values() if model.unsupported]
    for model in unsupported:
        with pytest.raises(CheckpointError, match=f"{model.name}: cannot be used here"):
            check_model(Path(model.name))


def test_the_list_is_part_of_the_package() -> None:
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())
    data = project["tool"]["setuptools"]["package-data"]
    assert "published.yaml" in data["lightning_modules.interop"]
