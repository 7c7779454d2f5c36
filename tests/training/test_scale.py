"""Examples, weights and scores do not depend on the number of ranks."""

from __future__ import annotations

import json
from itertools import chain
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest
import torch
from pytorch_lightning import Trainer
from torch import Tensor, nn

from datamodules.batches import Batch, StemBatch
from datamodules.errors import DataError
from datamodules.musdb import MUSDBDataModule
from lightning_modules.base.separator import SourceSeparator
from lightning_modules.callbacks.bss_eval import BSSEval
from lightning_modules.evaluation.score_files import read_scores
from tests.helpers.ranks import several_ranks
from tests.helpers.tracks import write_track

EXAMPLES, BATCH = 20, 8  # the last four examples of an epoch are no complete batch


class Recording(MUSDBDataModule):
    """Records the examples of each rank."""

    def __init__(self, folder: Path, **arguments: Any) -> None:
        super().__init__(**arguments)
        self.folder = folder

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        if isinstance(batch, StemBatch):
            assert self.trainer is not None
            with (self.folder / f"{self.trainer.global_rank}.jsonl").open("a") as file:
                print(json.dumps(batch.positions.tolist()), file=file)
        return super().on_after_batch_transfer(batch, dataloader_idx)


class Separator(SourceSeparator):
    """One convolution, without batch statistics, which would depend on the split of a batch."""

    tiny: ClassVar[dict[str, Any]] = {}

    def __init__(self) -> None:
        super().__init__(["vocals", "drums", "bass", "other"], segment_seconds=0.1)
        torch.manual_seed(0)
        self.convolution = nn.Conv1d(2, 8, 3, padding=1)

    def forward(self, mixture: Tensor) -> Tensor:
        return torch.unflatten(self.convolution(mixture), 1, (4, 2))

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        return {"loss": nn.functional.mse_loss(self(batch.mixture), batch.targets)}


def fit(root: Path, folder: Path, ranks: int, num_workers: int = 0, accumulated: int = 1) -> None:
    folder.mkdir()
    data = Recording(
        folder,
        root=str(root),
        segment_seconds=0.1,
        batch_size=BATCH,
        examples_per_epoch=EXAMPLES,
        num_workers=num_workers,
        validation_tracks=["1", "3", "5"],  # the longest on one rank, the others on the other
    )
    trainer = Trainer(
        max_epochs=2,
        accelerator="cpu",
        devices=ranks,
        strategy=several_ranks() if ranks > 1 else "auto",
        accumulate_grad_batches=accumulated,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        num_sanity_val_steps=0,
        default_root_dir=folder,
        # Several ranks without blocking have the same scores.
        callbacks=[BSSEval(processes=1, blocking=ranks == 1)],
    )
    model = Separator()
    trainer.fit(model, data)
    torch.save(model.state_dict(), folder / "weights.pt")


def examples(folder: Path, ranks: int, accumulated: int) -> list[list[tuple[int, int]]]:
    """Positions of each optimiser step, over all ranks."""
    shares = [
        [json.loads(line) for line in (folder / f"{rank}.jsonl").read_text().splitlines()]
        for rank in range(ranks)
    ]
    parts = [list(chain.from_iterable(batches)) for batches in zip(*shares, strict=True)]
    return [
        [tuple(place) for part in parts[step : step + accumulated] for place in part]
        for step in range(0, len(parts), accumulated)
    ]


@pytest.mark.slow
@pytest.mark.complete_run
def test_two_ranks_equal_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    root = tmp_path / "data"
    for number in range(6):
        write_track(root / "train" / str(number), seconds=2.6 if number == 3 else 1.5, seed=number)
    sizes = {"one": (1, 0, 1), "two": (2, 1, 2)}
    for name, (ranks, workers, accumulated) in sizes.items():
        fit(root, tmp_path / name, ranks, workers, accumulated)

    expected = [
        [(epoch, index) for index in range(start, start + BATCH)]
        for epoch in range(2)
        for start in (0, BATCH)
    ]
    for name, (ranks, _, accumulated) in sizes.items():
        assert examples(tmp_path / name, ranks, accumulated) == expected, name

    alone = torch.load(tmp_path / "one" / "weights.pt")
    scores = {
        path.relative_to(tmp_path / "one"): read_scores(path)
        for path in sorted((tmp_path / "one" / "scores").rglob("*.json"))
    }
    assert scores
    weights = torch.load(tmp_path / "two" / "weights.pt")
    for key, value in alone.items():
        torch.testing.assert_close(weights[key], value, rtol=1e-5, atol=1e-7)
    found = sorted((tmp_path / "two" / "scores").rglob("*.json"))
    assert [path.relative_to(tmp_path / "two") for path in found] == list(scores)
    for path, score in zip(found, scores.values(), strict=True):
        for source, usdr in score.usdr.items():
            assert read_scores(path).usdr[source] == pytest.approx(usdr, abs=1e-3)


def test_tracks_are_distributed_over_ranks_by_length(musdb_root: Path) -> None:
    data = MUSDBDataModule(root=str(musdb_root), num_workers=0)
    data.setup("test")
    data.setup("validate")
    data.test_tracks = data.train_tracks + data.valid_tracks  # 3.3, 3.6, 3.9, 4.2 and 3 s
    shares = []
    for rank in range(2):
        data.trainer = SimpleNamespace(global_rank=rank, world_size=2)  # type: ignore[assignment]
        shares.append([track.name for track in data.test_dataloader()])
    assert shares == [
        ["Band A - One", "D - 4", "Actions - One Minute Smile"],
        ["Band B - Two", "Band C - Three"],
    ]


@pytest.mark.slow
@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.parametrize("ranks", [2, 4])
def test_ranks_get_disjoint_parts_of_each_batch(
    musdb_root: Path, ranks: int, num_workers: int
) -> None:
    """Each example once, with the same samples as on one rank."""

    def batches(rank: int, ranks: int, workers: int) -> list[StemBatch]:
        data = MUSDBDataModule(
            root=str(musdb_root),
            segment_seconds=0.1,
            batch_size=BATCH,
            examples_per_epoch=EXAMPLES,
            num_workers=workers,
        )
        data.setup("fit")
        size = {"global_rank": rank, "world_size": ranks, "accumulate_grad_batches": 1}
        data.trainer = SimpleNamespace(**size)  # type: ignore[assignment]
        return [
            StemBatch(batch.stems.clone(), batch.positions) for batch in data.train_dataloader()
        ]

    alone = batches(0, 1, 0)
    shares = [batches(rank, ranks, num_workers) for rank in range(ranks)]
    for whole, *parts in zip(alone, *shares, strict=True):
        assert torch.equal(whole.positions, torch.cat([part.positions for part in parts]))
        assert torch.equal(whole.stems, torch.cat([part.stems for part in parts]))


@pytest.mark.parametrize(
    ("batch_size", "nearest"), [(10, "8 or 12"), (3, "4"), (4, None), (16, None)]
)
def test_batch_size_must_be_divisible_by_ranks_and_accumulation(
    musdb_root: Path, batch_size: int, nearest: str | None
) -> None:
    trainer = Trainer(
        accelerator="cpu",
        devices=2,
        strategy="ddp_spawn",
        accumulate_grad_batches=2,
        logger=False,
        enable_checkpointing=False,
    )
    data = MUSDBDataModule(
        root=str(musdb_root), segment_seconds=0.1, batch_size=batch_size, examples_per_epoch=20
    )
    data.trainer = trainer
    if nearest:
        with pytest.raises(DataError, match=f"2 ranks times 2 accumulated batches.*{nearest}$"):
            data.setup("fit")
        return
    data.setup("fit")
    loader = data.train_dataloader()
    assert len(loader) == 20 // batch_size * 2
    assert next(iter(loader)).stems.shape[0] == batch_size // 4
