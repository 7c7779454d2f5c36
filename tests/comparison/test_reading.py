"""Run directories and folders of museval JSON: how they are found and named."""

from __future__ import annotations

from pathlib import Path

import pytest

from lightning_modules.comparison.reading import (
    CompareError,
    disambiguate_names,
    read_run,
    split_name,
    unify_track_names,
)
from lightning_modules.comparison.systems import Run
from tests.helpers.comparison import write_folder, write_run


@pytest.fixture(autouse=True)
def _in_new_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_run_directory() -> None:
    write_run(Path("runs/unet"), {"a": 1.0, "b": 2.0}, seed=3)
    run = read_run("runs/unet", "test")
    assert run.name == "unet"
    assert run.values("SDR", "vocals") == {"a": 1.0, "b": 2.0}
    assert run.values("nSDR", "vocals") == {"a": 3.0, "b": 4.0}
    assert run.config["seed_everything"] == 3
    assert run.history["val/sdr/vocals"] == {9: 4.0, 19: 5.0, 29: 6.0}
    assert run.notes == []
    # The mixture is also found next to the folder of its scores.
    part = read_run("mine=runs/unet/scores/estimate", "test")
    assert (part.name, part.config) == ("mine", {})
    assert part.values("nSDR", "vocals") == {"a": 3.0, "b": 4.0}


def test_letter_case_and_unicode_form_of_names_do_not_separate_tracks() -> None:
    names = ["\u00e9 one", "Two", "two"], ["E\u0301 ONE", "Two", "two"], ["TWO", "new"]
    folders = [write_folder(Path(str(n)), dict.fromkeys(each, 1.0)) for n, each in enumerate(names)]
    runs = [read_run(str(folder), "test") for folder in folders]
    unify_track_names(runs)
    found = [sorted(run.values("SDR", "vocals")) for run in runs]
    assert found == [["Two", "two", "\u00e9 one"]] * 2 + [["Two", "new"]]


def test_last_validation_of_a_run() -> None:
    folder = write_run(Path("unet"), {"a": 1.0})
    with pytest.raises(CompareError, match=r"no val scores .*scores/estimate/test"):
        read_run("unet", "val")
    write_folder(folder / "scores/epoch_001-step_000020/val", {"v": 1.0})
    write_folder(folder / "scores/epoch_003-step_000040/val", {"v": 2.0})
    run = read_run("unet", "val")
    assert run.values("SDR", "vocals") == {"v": 2.0}
    assert run.notes == ["scores of its last validation, epoch_003-step_000040"]
    assert read_run("unet/scores/epoch_001-step_000020", "val").values("SDR", "bass") == {"v": 3.0}
    write_folder(folder / "scores/estimate/val", {"v": 5.0})
    assert read_run("unet", "val").values("SDR", "vocals") == {"v": 5.0}


def test_folders_of_museval_json() -> None:
    """Files in the folder itself or in museval's layout; missing scores as NaN or null."""
    write_folder(Path("STL2"), {"a. b": 1.0})
    text = Path("STL2/a. b.json").read_text()
    assert "NaN" in text
    write_folder(Path("store/test"), {"c": 2.0})
    Path("store/test/c.json").write_text(
        Path("store/test/c.json").read_text().replace("NaN", "null")
    )
    assert read_run("STL2", "test").values("SDR", "vocals") == {"a. b": 1.0}
    assert read_run("store", "test").values("SDR", "drums") == {"c": 3.0}
    write_folder(Path("store/mixture/test"), {"c": 0.0})  # as written by tools.score --mixture
    assert read_run("store", "test").values("nSDR", "drums") == {"c": 2.0}


def test_errors_name_folder_and_remedy() -> None:
    with pytest.raises(CompareError, match="gone: is not a folder; expected"):
        read_run("gone", "test")
    Path("empty").mkdir()
    with pytest.raises(CompareError, match=r"empty: contains no test scores .*score the system"):
        read_run("empty", "test")
    write_folder(Path("all/STL2"), {"a": 1.0})
    write_folder(Path("all/RGT1/test"), {"a": 1.0})
    with pytest.raises(CompareError, match="RGT1/test, STL2 contain scores: give such a folder"):
        read_run("all", "test")
    Path("all/STL2/a.json").write_text('{"targets": [{"name": "voc')
    with pytest.raises(ValueError, match=r"all/STL2/a.json: expected a museval score file"):
        read_run("all/STL2", "test")
    write_run(Path("unet"), {"a": 1.0})
    Path("unet/config.yaml").write_text("model: [")
    with pytest.raises(CompareError, match=r"unet/config.yaml: not readable as YAML"):
        read_run("unet", "test")


def test_names_from_arguments_and_paths() -> None:
    assert split_name("a=b/c") == ("a", "b/c")
    assert split_name("runs/lr=3") == (None, "runs/lr=3")
    assert split_name("wandb:me/stems?group=a") == (None, "wandb:me/stems?group=a")
    assert split_name("mine=wandb:me/stems?group=a") == ("mine", "wandb:me/stems?group=a")
    Path("a=b").mkdir()
    assert split_name("a=b") == (None, "a=b"), "an existing path has no name"

    def named(*places: str) -> list[str]:
        runs = [Run(Path(place).name, place) for place in places]
        disambiguate_names(runs)
        return [run.name for run in runs]

    assert named("x/unet", "y/unet", "z") == ["x/unet", "y/unet", "z"]
    assert named("x/1/test", "y/1/test") == ["x/1/test", "y/1/test"]
    with pytest.raises(CompareError, match=r"'.*x/unet' is given twice; .*NAME=FOLDER"):
        named("x/unet", "x/unet")
