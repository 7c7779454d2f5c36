"""Jobs on a real SLURM cluster: preempted, killed, requeued, and nothing lost."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.helpers.slurm_cluster import REPOSITORY, Cluster, unavailable_reason

REASON = unavailable_reason()
pytestmark = [pytest.mark.slow, pytest.mark.skipif(REASON is not None, reason=str(REASON))]

TRAIN = str(REPOSITORY / "slurm/train.sbatch")
EVALUATE = str(REPOSITORY / "slurm/evaluate.sbatch")
SWEEP = str(REPOSITORY / "slurm/sweep.sbatch")
STEPS_PER_EPOCH, STEPS, BATCH_SIZE = 5, 15, 8
TINY: dict[str, Any] = {
    "trainer": {
        "accelerator": "cpu",
        "max_epochs": 3,
        "logger": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "callbacks": [
            {"class_path": "lightning_modules.callbacks.checkpoints.Checkpoints"},
            {"class_path": "tests.helpers.record.Recorder"},
        ],
    },
    "model": {"init_args": {"channels": [4, 8], "n_fft": 512, "hop_length": 256, "dropout": 0.0}},
    "data": {
        "class_path": "datamodules.musdb.MUSDBDataModule",
        "init_args": {
            "segment_seconds": 0.5,
            "batch_size": BATCH_SIZE,
            "examples_per_epoch": STEPS_PER_EPOCH * BATCH_SIZE + 3,
            "validation_crops_per_track": 2,
            "num_workers": 0,
        },
    },
}


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    with Cluster() as started:
        yield started


@pytest.fixture
def config(tmp_path: Path, musdb_root: Path) -> list[str]:
    """Arguments of a training that takes no time."""
    TINY["data"]["init_args"]["root"] = str(musdb_root)
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(TINY))
    return ["--config", "unet.yaml", "--config", "tiny.yaml"]


def record(run_dir: Path, rank: int) -> list[dict[str, Any]]:
    lines = (run_dir / f"record-{rank}.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def by_step(lines: list[dict[str, Any]]) -> dict[int, tuple[Any, float]]:
    return {line["step"]: (line["ids"], line["loss"]) for line in lines}


def test_two_nodes_through_a_signal_and_a_crash(
    cluster: Cluster, tmp_path: Path, config: list[str]
) -> None:
    """Stopped by SIGUSR1 and killed by SIGKILL, a job sees what an unbroken one sees."""
    nodes = ["--nodes=2", "--ntasks-per-node=1"]
    whole = cluster.submit(*nodes, TRAIN, *config, folder=tmp_path)
    assert cluster.wait(whole) == "COMPLETED", (tmp_path / f"{whole}.out").read_text()
    expected = [record(tmp_path / f"runs/train-{whole}", rank) for rank in (0, 1)]
    for step in range(STEPS):
        epoch, batch = divmod(step, STEPS_PER_EPOCH)
        first = batch * BATCH_SIZE
        seen = [tuple(place) for lines in expected for place in lines[step]["ids"]]
        assert seen == [(epoch, first + number) for number in range(BATCH_SIZE)]

    # Stopped with one rank ahead of the other; then one rank is killed.
    wandb = ["--trainer.logger=WandbLogger", "--data.init_args.num_workers=1"]
    job = cluster.submit(
        *nodes, TRAIN, *config, *wandb, folder=tmp_path, PAUSE="0:0:7 1:1:12", WANDB_MODE="offline"
    )
    run_dir, log = tmp_path / f"runs/train-{job}", tmp_path / f"{job}.out"
    cluster.until((run_dir / "paused-0").exists, "the first pause", 180)
    cluster.run("scancel", "--signal=USR1", job, check=True)
    cluster.until(lambda: cluster.field(job, "Restarts") == "1", "the requeue", 120)
    assert f"Requeue of {job}: stopped by a signal" in log.read_text()

    def at_the_second_pause() -> bool:
        cluster.hasten(job)
        return (run_dir / "paused-1").exists()

    cluster.until(at_the_second_pause, "the second pause", 180)
    os.kill(int((run_dir / "paused-1").read_text()), signal.SIGKILL)
    # Its sibling waits in a collective, and must not do so for long.
    cluster.until(lambda: cluster.field(job, "Restarts") == "2", "the requeue after a crash", 120)
    assert "crash number 1 of 5" in log.read_text()
    assert cluster.wait(job) == "COMPLETED", log.read_text()

    for rank in (0, 1):
        lines = record(run_dir, rank)
        starts = {line["start"]: [] for line in lines}  # type: ignore[var-annotated]
        for line in lines:
            starts[line["start"]].append(line["step"])
            assert by_step([line])[line["step"]] == by_step(expected[rank])[line["step"]]
        # No step is lost or done twice at the signal; the crash falls back to the epoch's end.
        assert list(starts[0] + starts[1]) == list(range(1, 13))
        assert starts[2] == list(range(11, STEPS + 1))
    # Its last state is scored by another job.
    scored = ["--config", str(run_dir / "config.yaml"), "--ckpt_path", "last"]
    scored += [
        "--trainer.logger=false",
        "--trainer.callbacks+=lightning_modules.callbacks.bss_eval.BSSEval",
    ]
    test = cluster.submit(EVALUATE, *scored, folder=tmp_path)
    runs = list((run_dir / "wandb").glob("offline-run-*"))
    identity = (run_dir / "wandb_run_id").read_text().strip()
    assert len(runs) == 3
    assert all(path.name.endswith(identity) for path in runs)
    assert cluster.wait(test) == "COMPLETED", (tmp_path / f"{test}.out").read_text()
    assert (run_dir / "scores/estimate/test/Test - Song.json").is_file()


def test_an_array_is_requeued_task_by_task(
    cluster: Cluster, tmp_path: Path, config: list[str]
) -> None:
    (tmp_path / "sweep").write_text("--seed_everything 3\n--seed_everything=4\n")
    array = cluster.submit(
        "--array=1-2",
        "--job-name=sweep",
        TRAIN,
        *config,
        folder=tmp_path,
        SWEEP="sweep",
        PAUSE="0:0:3",
    )
    tasks = [f"{array}_{number}" for number in (1, 2)]
    run_dirs = [tmp_path / f"runs/sweep-{task}" for task in tasks]
    for run_dir in run_dirs:
        cluster.until((run_dir / "paused-0").exists, f"the pause of {run_dir.name}", 180)
    seeds = [
        yaml.safe_load((run_dir / "config.yaml").read_text())["seed_everything"]
        for run_dir in run_dirs
    ]
    assert seeds == [3, 4]

    cluster.run("scancel", "--signal=USR1", tasks[0], check=True)
    cluster.until(lambda: cluster.field(tasks[0], "Restarts") == "1", "the requeue", 120)
    assert cluster.field(tasks[1], "JobState") == "RUNNING"
    assert cluster.field(tasks[1], "Restarts") == "0"

    # Nobody else may write where the second task works.
    intruder = cluster.submit(TRAIN, *config, folder=tmp_path, STEMLAB_RUN_DIR=str(run_dirs[1]))
    assert cluster.wait(intruder) == "FAILED"
    said = (tmp_path / f"{intruder}.out").read_text()
    assert f"another run works in this directory (SLURM job {tasks[1]}, process" in said

    cluster.run("scontrol", "update", f"jobid={tasks[1]}", "Requeue=0", check=True)
    cluster.run("scancel", "--signal=USR1", tasks[1], check=True)
    assert cluster.wait(tasks[1]) == "FAILED"
    assert cluster.field(tasks[1], "ExitCode") == "75:0"
    assert "SLURM refused it" in (tmp_path / f"{tasks[1]}.out").read_text()
    assert cluster.wait(tasks[0]) == "COMPLETED"
    assert [line["step"] for line in record(run_dirs[0], 0)] == list(range(1, STEPS + 1))
    assert cluster.field(tasks[1], "Restarts") == "0"


def test_jobs_that_cannot_work_say_so(cluster: Cluster, tmp_path: Path) -> None:
    fit = [TRAIN, "--config", "unet.yaml"]
    two = ["--nodes=2", "--ntasks-per-node=1"]
    nowhere = cluster.submit(*two, *fit, folder=tmp_path, MUSDB_PATH="/nowhere")
    directory = cluster.submit(*fit, "--run_dir=here", folder=tmp_path)
    missing = cluster.submit("--array=3", *fit, folder=tmp_path, SWEEP="/dev/null")
    for job, words in (
        (nowhere, ["data root '/nowhere' is not a folder on node node", "Not requeued: "]),
        (directory, ["--run_dir=here: this script sets it", "STEMLAB_RUN_DIR"]),
        (f"{missing}_3", ["/dev/null has no line 3"]),
    ):
        assert cluster.wait(job, 60) == "FAILED"
        said = (tmp_path / f"{job}.out").read_text()
        assert all(word in said for word in words), said


def test_agents_of_a_sweep(cluster: Cluster, tmp_path: Path) -> None:
    """Each task of the array starts an agent with its sweep and count, and hands signals on."""
    (tmp_path / "bin").mkdir()
    agent = tmp_path / "bin/wandb"
    agent.write_text(
        "#!/bin/bash\n"
        "trap 'echo terminated >> agent-$SLURM_ARRAY_TASK_ID; exit 0' TERM\n"
        'echo "$*" > agent-$SLURM_ARRAY_TASK_ID\n'
        "[ $SLURM_ARRAY_TASK_ID = 1 ] || while :; do sleep 0.2; done\n"
    )
    agent.chmod(0o755)
    path = f"{tmp_path}/bin:{cluster.environment['PATH']}"
    array = cluster.submit(
        "--array=1-2", SWEEP, "me/stemlab/x", folder=tmp_path, PATH=path, COUNT="3"
    )
    said = [tmp_path / f"agent-{number}" for number in (1, 2)]
    assert cluster.wait(f"{array}_1") == "COMPLETED", (tmp_path / f"{array}_1.out").read_text()
    cluster.until(said[1].exists, "the second agent", 60)
    cluster.run("scancel", "--signal=TERM", f"{array}_2", check=True)
    cluster.wait(f"{array}_2")
    assert said[0].read_text() == "agent --forward-signals --count 3 me/stemlab/x\n"
    assert said[1].read_text() == said[0].read_text() + "terminated\n"
    none = cluster.submit(SWEEP, folder=tmp_path, PATH=path)
    assert cluster.wait(none, 60) == "FAILED"
    assert "give one sweep" in (tmp_path / f"{none}.out").read_text()
