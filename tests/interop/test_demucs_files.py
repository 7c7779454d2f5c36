"""Files of HTDemucs in the package's formats, bags of models, and what is refused."""

from __future__ import annotations

import json
from fractions import Fraction
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
import torch
import yaml
from safetensors.torch import save_file

from lightning_modules.architectures.htdemucs import HTDemucs
from lightning_modules.base.description import CheckpointError
from lightning_modules.base.separator import SourceSeparator
from lightning_modules.checkpoints.loading import load_separator
from lightning_modules.interop import demucs
from lightning_modules.interop.demucs_files import read_model
from lightning_modules.tools import import_demucs

SOURCES = ["drums", "bass", "other", "vocals"]


def model(seed: int = 0, **arguments: Any) -> HTDemucs:
    torch.manual_seed(seed)
    return HTDemucs(SOURCES, segment_seconds=0.2, **{**HTDemucs.tiny, **arguments}).eval()


def contents_of(theirs: HTDemucs, **options: Any) -> dict[str, Any]:
    """Contents of a file of the package with a model's weights."""
    settings = {"sources": SOURCES, "segment": Fraction(39, 5), "t_heads": 2, **options}
    return {"args": (), "kwargs": settings, "state": theirs.network.state_dict()}


def assert_same(found: SourceSeparator, theirs: HTDemucs) -> None:
    assert found.sources == ["vocals", "drums", "bass", "other"]
    mixture = 0.1 * torch.randn(1, 2, 3000)
    with torch.no_grad():
        difference = found(mixture) - theirs(mixture)[:, [3, 0, 1, 2]]
    assert not difference.any()


@pytest.mark.parametrize("bottleneck_channels", [0, 16])
def test_files_with_fractions_and_half_precision(bottleneck_channels: int, tmp_path: Path) -> None:
    theirs, path = model(bottleneck_channels=bottleneck_channels), tmp_path / "955717e8.th"
    theirs.network.half().float()  # rounds the weights
    contents = contents_of(theirs)
    contents["state"] = {name: value.half() for name, value in contents["state"].items()}
    torch.save(contents, path)
    found = demucs.from_package(path)
    assert found.segment_seconds == pytest.approx(7.8)
    assert found.hparams["heads"] == 2
    assert_same(found, theirs)


def test_safetensors_with_arguments_in_json(tmp_path: Path) -> None:
    theirs, path = model(), tmp_path / "955717e8.safetensors"
    segment = {"_type": "fraction", "numerator": 39, "denominator": 5}
    metadata = {
        "klass": "demucs.htdemucs.HTDemucs",
        "args": json.dumps([SOURCES]),
        "kwargs": json.dumps({"segment": segment, "t_heads": 2}),
    }
    state = {name: value.contiguous() for name, value in theirs.network.state_dict().items()}
    save_file(state, path, metadata)
    found = demucs.from_package(path)
    assert found.segment_seconds == pytest.approx(7.8)
    assert_same(found, theirs)
    save_file(state, path, {**metadata, "structure": "{}"})
    with pytest.raises(CheckpointError, match=r"quantised by DiffQ.*give the model without `_q`"):
        demucs.from_package(path)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"t_norm_first": False}, "t_norm_first is False: HTDemucs with t_norm_first True"),
        ({"t_emb": "cape"}, "t_emb is 'cape'"),
        ({"segment": "long"}, "could not convert"),
        ({"t_heads": 3}, "16 features.*3 heads"),
        ({"sources": SOURCES[:2]}, "has 16 channels, 4 for each of drums, bass were expected"),
    ],
)
def test_options_that_are_refused(change: dict[str, Any], words: str, tmp_path: Path) -> None:
    torch.save(contents_of(model(), **change), tmp_path / "x.th")
    with pytest.raises(CheckpointError, match=words) as error:
        demucs.from_package(tmp_path / "x.th")
    assert str(error.value).startswith(str(tmp_path / "x.th"))


class _Bomb:
    def __reduce__(self) -> Any:
        return Fraction, ("1e999999999",)


def test_fractions_are_short_numbers(tmp_path: Path) -> None:
    torch.save(contents_of(model(), segment=_Bomb()), tmp_path / "x.th")
    with pytest.raises(CheckpointError, match="a fraction is 1e999999999"):
        demucs.from_package(tmp_path / "x.th")


def test_bags_become_ensembles(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    read = Mock(wraps=read_model)
    monkeypatch.setattr(demucs, "read_model", read)
    members = [model(1), model(2)]
    for name, each in zip(("f7e0c4bc", "04573f0d"), members, strict=True):
        torch.save(contents_of(each), tmp_path / f"{name}-ba3fe64a.th")
    weights = [[1.0, 1.0, 1.0, 0.0], [0.0, 1.0, 3.0, 1.0]]
    bag = {"models": ["f7e0c4bc", "04573f0d"], "weights": weights}
    (tmp_path / "bag.yaml").write_text(yaml.dump(bag))
    output = tmp_path / "ensemble"
    assert import_demucs.main([str(tmp_path / "bag.yaml"), "-o", str(output)]) == 0
    assert capsys.readouterr().out.strip() == str(output / "ensemble.yaml")
    assert read.call_count == 2, "each file is read once"
    ensemble = load_separator(output / "ensemble.yaml")
    mixture = 0.1 * torch.randn(2, 4000)
    first, second = (
        load_separator(output / f"{name}-ba3fe64a.ckpt").separate(mixture)
        for name in ("f7e0c4bc", "04573f0d")
    )
    expected = torch.stack(
        [second[0], first[1], (first[2] + second[2]) / 2, (first[3] + 3 * second[3]) / 4]
    )
    assert torch.allclose(ensemble.separate(mixture), expected, atol=1e-6)


@pytest.mark.parametrize(
    ("bag", "words"),
    [
        ("models: [f7e0c4bc, 04573f0d]", "its model 04573f0d is missing; put the file 04573f0d-"),
        ("models: [../f7e0c4bc]", "its models are .*a bag of the package demucs was expected"),
        ("- 1", "its models are None"),
        ("models: [f7e0c4bc]\nweights: [[1], [2]]", "its weights are .* each of its 1 models"),
        ("models: [f7e0c4bc]\nweights: [[1, 2]]", "rows of 4 numbers were expected"),
        ("models: [f7e0c4bc]\nsegment: -1", "its segment is -1"),
        ("models: [", "cannot be read as YAML"),
    ],
)
def test_bags_that_are_refused(
    bag: str, words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.save(contents_of(model()), tmp_path / "f7e0c4bc-ba3fe64a.th")
    (tmp_path / "bag.yaml").write_text(bag)
    with pytest.raises(CheckpointError, match=words):
        demucs.write_ensemble(tmp_path / "bag.yaml", tmp_path / "out")
    assert import_demucs.main([str(tmp_path / "bag.yaml"), "-o", str(tmp_path / "new")]) == 2
    assert capsys.readouterr().err.startswith(f"error: {tmp_path / 'bag.yaml'}: ")


def test_exported_files_are_imported_again(tmp_path: Path) -> None:
    theirs = model(dropout=0.1)
    demucs.write(theirs, tmp_path / "x.th")
    found = demucs.from_package(tmp_path / "x.th")
    assert_same(found, theirs)
    same = {*theirs.hparams} - {"sources"}
    assert {name: found.hparams[name] for name in same} == {
        name: theirs.hparams[name] for name in same
    }
