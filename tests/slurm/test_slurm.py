"""Jobs on a SLURM cluster of two nodes: stopped, killed, requeued and resumed."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.helpers.record import BATCH_SIZE, EPOCHS, STEPS_PER_EPOCH, write_config
from tests.helpers.slurm_cluster import REPOSITORY, Cluster, unavailable_reason

REASON = unavailable_reason()
pytestmark = [pytest.mark.slow, pytest.mark.skipif(REASON is not None, reason=str(REASON))]

TRAIN = str(REPOSITORY / "slurm/train.sbatch")
EVALUATE = str(REPOSITORY / "slurm/evaluate.sbatch")
SWEEP = str(REPOSITORY / "slurm/sweep.sbatch")
STEPS = STEPS_PER_EPOCH * EPOCHS
BSS_EVAL = "{class_path: lightning_modules.callbacks.bss_eval.BSSEval, init_args: {processes: 1}}"


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    with Cluster() as started:
        yield started


@pytest.fixture
def config(tmp_path: Path, musdb_root: Path) -> list[str]:
    """Arguments of a training of seconds."""
    return write_config(tmp_path, musdb_root)


def record(run_dir: Path, rank: int) -> list[dict[str, Any]]:
    lines = (run_dir / f"record-{rank}.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def test_two_nodes_resume_after_a_signal_and_a_crash(
    cluster: Cluster, tmp_path: Path, config: list[str]
) -> None:
    """A job that gets SIGUSR1 and then loses a rank trains on each example once.

    That resumed runs are bit-identical is tested in tests/callbacks/test_resume.py.
    """
    nodes = ["--nodes=2", "--ntasks-per-node=1"]
    options = ["--trainer.logger=WandbLogger", "--data.init_args.num_workers=1"]
    # First stopped while one rank is ahead of the other; then one rank is killed.
    pauses = "0:0:7 1:1:12"
    job = cluster.submit(
        *nodes, TRAIN, *config, *options, folder=tmp_path, PAUSE=pauses, WANDB_MODE="offline"
    )
    run_dir, log = tmp_path / f"runs/train-{job}", tmp_path / f"{job}.out"
    cluster.until((run_dir / "paused-0").exists, "the first pause", 180)
    cluster.run("scancel", "--signal=USR1", job, check=True)
    cluster.until(lambda: cluster.field(job, "Restarts") == "1", "the requeue", 120)
    assert f"Requeue of {job}: stopped by a signal" in log.read_text()

    def second_pause() -> bool:
        cluster.hasten(job)
        return (run_dir / "paused-1").exists()

    cluster.until(second_pause, "the second pause", 180)
    os.kill(int((run_dir / "paused-1").read_text()), signal.SIGKILL)
    # The other rank waits in a collective, and must be ended soon.
    cluster.until(lambda: cluster.field(job, "Restarts") == "2", "the requeue after a crash", 120)
    assert "crash number 1 of 5" in log.read_text()
    assert cluster.wait(job) == "COMPLETED", log.read_text()

    ids: list[list[Any]] = [[] for _ in range(STEPS)]
    for rank in (0, 1):
        by_start: dict[int, dict[int, Any]] = {0: {}, 1: {}, 2: {}}
        for line in record(run_dir, rank):
            by_start[line["start"]][line["step"]] = (line["ids"], line["loss"])
        # No step is lost or repeated after the signal; the crash resumes at the epoch's start.
        assert [*by_start[0], *by_start[1]] == list(range(1, 13))
        assert list(by_start[2]) == list(range(11, STEPS + 1))
        for step in (11, 12):
            assert by_start[1][step] == by_start[2][step]
        for step, (examples, _) in (by_start[0] | by_start[1] | by_start[2]).items():
            ids[step - 1] += examples
    for step, seen in enumerate(ids):
        epoch, batch = divmod(step, STEPS_PER_EPOCH)
        assert seen == [[epoch, batch * BATCH_SIZE + number] for number in range(BATCH_SIZE)]
    runs = list((run_dir / "wandb").glob("offline-run-*"))
    identity = (run_dir / "wandb_run_id").read_text().strip()
    assert len(runs) == 3
    assert all(path.name.endswith(identity) for path in runs)

    # Another job scores its last state.
    scored = ["--config", str(run_dir / "config.yaml"), "--ckpt_path", "last"]
    scored += ["--trainer.logger=false", f"--trainer.callbacks+={BSS_EVAL}"]
    test = cluster.submit(EVALUATE, *scored, folder=tmp_path)
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

    cluster.run("scontrol", "update", f"jobid={tasks[1]}", "Requeue=0", check=True)
    cluster.run("scancel", "--signal=USR1", tasks[1], check=True)
    assert cluster.wait(tasks[1]) == "FAILED"
    assert cluster.field(tasks[1], "ExitCode") == "75:0"
    assert "SLURM refused it" in (tmp_path / f"{tasks[1]}.out").read_text()
    assert cluster.wait(tasks[0]) == "COMPLETED"
    assert [line["step"] for line in record(run_dirs[0], 0)] == list(range(1, STEPS + 1))
    assert cluster.field(tasks[1], "Restarts") == "0"


def test_jobs_with_mistakes_fail_with_a_message(cluster: Cluster, tmp_path: Path) -> None:
    fit = [TRAIN, "--config", "unet.yaml"]
    two = ["--nodes=2", "--ntasks-per-node=1"]
    typo = cluster.submit(*two, TRAIN, "--config", "unett.yaml", folder=tmp_path)
    directory = cluster.submit(*fit, "--run_dir=here", folder=tmp_path)
    missing = cluster.submit("--array=3", *fit, folder=tmp_path, SWEEP="/dev/null")
    for job, words in (
        (typo, ["did you mean unet", "Not requeued: "]),
        (directory, ["--run_dir=here: this script sets it", "STEMLAB_RUN_DIR"]),
        (f"{missing}_3", ["/dev/null has no line 3"]),
    ):
        assert cluster.wait(job, 60) == "FAILED"
        output = (tmp_path / f"{job}.out").read_text()
        assert all(word in output for word in words), output


def test_agents_of_a_sweep(cluster: Cluster, tmp_path: Path) -> None:
    """Each task of an array starts an agent of the sweep, with its count, and forwards signals."""
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
    outputs = [tmp_path / f"agent-{number}" for number in (1, 2)]
    assert cluster.wait(f"{array}_1") == "COMPLETED", (tmp_path / f"{array}_1.out").read_text()
    cluster.until(outputs[1].exists, "the second agent", 60)
    cluster.run("scancel", "--signal=TERM", f"{array}_2", check=True)
    cluster.wait(f"{array}_2")
    assert outputs[0].read_text() == "agent --forward-signals --count 3 me/stemlab/x\n"
    assert outputs[1].read_text() == outputs[0].read_text() + "terminated\n"
    none = cluster.submit(SWEEP, folder=tmp_path, PATH=path)
    assert cluster.wait(none, 60) == "FAILED"
    assert "give one sweep" in (tmp_path / f"{none}.out").read_text()
