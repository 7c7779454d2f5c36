"""W&B runs read from a local server with its API, and comparisons logged offline."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import matplotlib.image
import pytest
import wandb

from lightning_modules.comparison.history import history_row, wandb_records
from lightning_modules.comparison.reading import CompareError
from lightning_modules.comparison.wandb_runs import read_wandb
from lightning_modules.tools import compare
from tests.helpers.comparison import SOURCES, write_folder
from tests.helpers.wandb_service import Service, serving

LEVELS = {f"song {number}": float(number) for number in range(8)}


def online_run(identity: str, name: str, group: str, seed: int, level: float) -> dict[str, Any]:
    """A run of the service: a summary, a config and rows of its history."""
    summary = {
        f"test/{metric}/{source}": level + number
        for metric in ("sdr", "isr", "sir", "sar", "usdr")
        for number, source in enumerate(SOURCES)
    }
    summary |= {"test/sdr": level + 1.5, "val/sdr": level, "val/sdr/vocals": level, "epoch": 3}
    history = [
        {"trainer/global_step": 10 * epoch + 9, "val/sdr": level + epoch, "val/sdr/vocals": "NaN"}
        for epoch in range(3)
    ]
    config = {"seed_everything": seed, "model": {"class_path": "UNet", "init_args": {"n": group}}}
    return {
        "name": identity,
        "displayName": name,
        "group": group,
        "config": json.dumps({"config": {"value": config}, "n_fft": {"value": 512}}),
        "summaryMetrics": json.dumps(summary),
        "history": history,
    }


RUNS = [
    online_run("aaa", "unet-0", "small", 0, 2.0),
    online_run("bbb", "unet-1", "small", 1, 4.0),
    online_run("ccc", "demucs", "large", 0, 6.0),
    online_run("ddd", "failed", "large", 0, 0.0) | {"summaryMetrics": "{}"},
]


class Project(Service):
    """A project with these runs."""

    def answer_Runs(self, variables: dict[str, Any]) -> dict[str, Any]:
        if (variables["entity"], variables["project"]) != ("me", "stems"):
            return {"project": None}
        filters = json.loads(variables["filters"])
        pattern = filters.get("displayName", {}).get("$regex", "")
        found = [
            run
            for run in RUNS
            if filters.get("group", run["group"]) == run["group"]
            and re.search(pattern, run["displayName"])
        ]
        begin = int(variables.get("cursor") or 0)  # one run per page, to test paging
        edges = [{"node": node(run), "cursor": str(begin + 1)} for run in found[begin : begin + 1]]
        more = begin + 1 < len(found)
        pages = {"edges": edges, "pageInfo": {"endCursor": str(begin + 1), "hasNextPage": more}}
        project = {"internalId": "1", "runCount": len(found), "readOnly": True, "runs": pages}
        return {"project": project}

    def answer_Run(self, variables: dict[str, Any]) -> dict[str, Any]:
        return {"project": {"run": node(of_identity(variables["name"]))}}

    def answer_RunSampledHistory(self, variables: dict[str, Any]) -> dict[str, Any]:
        (spec,) = map(json.loads, variables["specs"])
        rows = of_identity(variables["name"])["history"]
        kept = [
            {key: row[key] for key in spec["keys"]}
            for row in rows
            if all(key in row for key in spec["keys"])
        ]
        return {"project": {"run": {"sampledHistory": [kept[: spec["samples"]]]}}}


def of_identity(identity: str) -> dict[str, Any]:
    return next(run for run in RUNS if run["name"] == identity)


def node(run: dict[str, Any]) -> dict[str, Any]:
    """All fields that the client reads."""
    empty = dict.fromkeys(("sweepName", "jobType", "commit", "description", "notes", "heartbeatAt"))
    return {
        **empty,
        **{key: value for key, value in run.items() if key != "history"},
        "id": f"id-{run['name']}",
        "projectId": "1",
        "tags": [],
        "state": "finished",
        "readOnly": True,
        "createdAt": "2026-01-01T00:00:00Z",
        "systemMetrics": "{}",
        "historyLineCount": len(run["history"]),
        "historyKeys": {},
        "user": {"name": "me", "username": "me"},
    }


@pytest.fixture(autouse=True)
def _in_new_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WANDB_ERROR_REPORTING", "false")
    yield
    wandb.teardown()


@pytest.fixture
def service(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[dict[str, Any]]]:
    """The local server's list of requests."""
    wandb.teardown()
    monkeypatch.delenv("WANDB_MODE", raising=False)
    with serving(Project) as environment:
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        yield Project.asked


# ----------------------------------------------------------------------- reading


@pytest.mark.slow
def test_runs_of_a_group(service: list[dict[str, Any]]) -> None:
    runs = read_wandb("wandb:me/stems?group=small&name=^unet", "test")
    assert [run.name for run in runs] == ["unet-0", "unet-1"]
    (filters,) = {asked["filters"] for asked in service if asked["operation"] == "Runs"}
    assert json.loads(filters) == {"group": "small", "displayName": {"$regex": "^unet"}}
    first = runs[0]
    assert first.spread("SDR", "drums").median == 3
    assert first.spread("uSDR", "drums").mean == 3, "the mean over tracks is logged"
    assert first.config["seed_everything"] == 0
    assert first.history == {"val/sdr": {9: 2.0, 19: 3.0, 29: 4.0}}
    assert [run.name for run in read_wandb("it=wandb:me/stems?name=demucs", "test")] == ["it"]
    named = read_wandb("it=wandb:me/stems", "test")
    assert [run.name for run in named] == ["it/unet-0", "it/unet-1", "it/demucs"]


@pytest.mark.slow
def test_online_runs_beside_a_folder(
    service: list[dict[str, Any]], capsys: pytest.CaptureFixture[str]
) -> None:
    write_folder(Path("theirs"), LEVELS)
    arguments = ["wandb:me/stems", "theirs", "--figures", "out", "--all"]
    assert compare.main(arguments) == 0
    out = capsys.readouterr().out
    lines = [line.split() for line in out.splitlines()]
    assert any(line[:5] == ["unet", "x2", "3.00", "±", "1.41"] for line in lines)
    assert ["demucs", "6.00", "7.00", "8.00", "9.00", "7.50"] in lines
    assert ["theirs", "3.50", "4.50", "5.50", "6.50", "5.00"] in lines
    assert "model.init_args.n" in out
    assert "unet-0: from W&B's summary, without scores of tracks" in out
    assert Path("out/curves.png").stat().st_size > 10_000


@pytest.mark.slow
def test_mistakes_are_reported(
    service: list[dict[str, Any]], capsys: pytest.CaptureFixture[str]
) -> None:
    cases = [
        ("wandb:stems", "wandb:stems: expected wandb:entity/project, and filters as in ?group"),
        ("wandb:me/stems?groop=a", "expected wandb:entity/project"),
        ("wandb:me/stems?group=", "expected wandb:entity/project"),
        ("wandb:me/else", "me/else"),
        ("wandb:me/stems?group=none", "found 0 runs, none with scores test/sdr/..."),
        ("wandb:me/stems?name=failed", "found 1 run, none with scores"),
    ]
    for given, words in cases:
        assert compare.main([given]) == 2
        error = capsys.readouterr().err.strip().splitlines()[-1]
        assert error.startswith("error: wandb:"), error
        assert words in error


def test_error_when_not_logged_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wandb.teardown()
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.delenv("WANDB_MODE", raising=False)
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    with pytest.raises(CompareError, match="not logged in to Weights & Biases; run `wandb"):
        read_wandb("wandb:me/stems", "test")


# ----------------------------------------------------------------------- logging


@pytest.mark.slow
def test_comparison_is_logged_offline(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The run is read back from W&B's own files."""
    write_folder(Path("one"), LEVELS)
    write_folder(Path("two"), {name: level + 1.5 for name, level in LEVELS.items()})
    assert compare.main(["one", "two", "--metrics", "SDR", "--wandb"]) == 0
    error = capsys.readouterr().err
    wandb.teardown()
    (path,) = Path().glob("wandb/offline-run-*/*.wandb")
    assert f"upload it with: wandb sync {path.resolve().parent}" in error
    records = list(wandb_records(path))
    (run,) = [record.run for record in records if record.WhichOneof("record_type") == "run"][:1]
    assert (run.project, run.job_type) == ("stemlab", "compare")
    (row,) = [row for record in records if (row := history_row(record))]

    def media(name: str) -> Path:
        return path.parent / "files" / str(row[f"{name}.path"])

    table = json.loads(media("statistics").read_text())
    medians = {(system, source): median for system, _, source, _, median, *_ in table["data"]}
    assert table["columns"][:5] == ["system", "bound", "source", "metric", "median"]
    assert medians["one", "vocals"] == 3.5
    assert medians["two", "other"] == 8.0
    pairs = json.loads(media("pairs").read_text())
    assert len(pairs["data"]) == len(SOURCES)
    for name in ("scores", "tracks"):
        assert matplotlib.image.imread(media(name)).shape[1] == 1200
