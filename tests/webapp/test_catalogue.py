"""Models of the page: names, loading and downloads."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from datamodules.errors import DataError
from lightning_modules.architectures.unet import UNet
from lightning_modules.interop.published import default_model, published_models
from lightning_modules.webapp.catalogue import (
    Catalogue,
    ModelEntry,
    given_models,
    known_models,
    model_names,
)
from tests.helpers import open_unmix_package
from tests.helpers.checkpoints import save
from tests.helpers.published import publishing
from tests.helpers.webapp import tiny

CPU = torch.device("cpu")


def test_models_have_the_shortest_names_that_differ() -> None:
    for paths, expected in (
        (["runs/unet/checkpoints/best.ckpt"], ["unet"]),
        (["runs/unet/checkpoints/epoch_000-step_000075.ckpt"], ["unet"]),
        (["a.ckpt", "b.ckpt"], ["a", "b"]),
        (["htdemucs", "runs/unet/checkpoints/best.ckpt"], ["htdemucs", "unet"]),
        (["runs/unet/checkpoints/best.ckpt", "runs/unet/checkpoints/last.ckpt"],
         ["unet/best", "unet/last"]),
        (["one/unet.ckpt", "two/unet.ckpt", "three.ckpt"],
         ["one/unet", "two/unet", f"{Path.cwd().name}/three"]),
        (["unet.ckpt", "unet.yaml"], ["unet.ckpt", "unet.yaml"]),
    ):  # fmt: skip
        assert model_names([Path(path) for path in paths]) == expected
    with pytest.raises(DataError, match="given twice"):
        model_names([Path("a.ckpt"), Path("./a.ckpt")])


def test_models_used_last_are_kept() -> None:
    loads: list[str] = []

    def entry(name: str) -> ModelEntry:
        def load(progress: object) -> UNet:
            loads.append(name)
            return tiny()

        return ModelEntry(load, name)

    catalogue = Catalogue({name: entry(name) for name in "abc"}, kept=2)
    for name in "abacab":
        catalogue.load(name)
    assert "".join(loads) == "abcb"


def test_given_models_are_loaded_at_once(tmp_path: Path) -> None:
    folder = tmp_path / "runs/unet/checkpoints"
    folder.mkdir(parents=True)
    path = save(tiny(), folder / "best.ckpt")
    catalogue = given_models([path], CPU)
    assert list(catalogue.entries) == ["unet"]
    path.unlink()
    assert catalogue.load("unet").sources == ["vocals", "other"]


def test_runs_and_published_models_are_known(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for run, files in {"mine": ("best", "last"), "umxhq": ("last",), "empty": ()}.items():
        folder = tmp_path / "runs" / run / "checkpoints"
        folder.mkdir(parents=True)
        for name in files:
            (folder / f"{name}.ckpt").touch()  # loaded when it is first used
    names = list(known_models(CPU).entries)
    usable = [model.name for model in published_models().values() if not model.unsupported]
    assert names[0] == default_model()
    assert sorted(names[1:3]) == ["mine", "runs/umxhq"]
    assert sorted([names[0], *names[3:]]) == sorted(usable)


def test_published_model_is_downloaded_with_progress(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "files").mkdir()
    open_unmix_package.write(open_unmix_package.package_networks(), tmp_path / "files")
    with publishing(tmp_path, monkeypatch) as publisher:
        publisher.publish("umxhq", *sorted((tmp_path / "files").glob("*.pth")), options={})
        catalogue = known_models(CPU)
        entry = catalogue.entries["umxhq"]
        assert "Licence of the weights" in entry.about
        assert entry.label == "umxhq (4 stems)"
        assert catalogue.needs_download("umxhq")
        parts: list[float] = []
        assert set(catalogue.load("umxhq", parts.append).sources) == set(entry.sources)
        assert parts == sorted(parts)
        assert parts[-1] == 1
        assert any(0.25 < part < 0.5 for part in parts)
        assert not catalogue.needs_download("umxhq")
        assert not known_models(CPU).needs_download("umxhq")
