"""Models by name, with files that the reference packages wrote, from a local server."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

import lightning_modules
from lightning_modules.architectures.demucs import Demucs
from lightning_modules.architectures.ensemble import Ensemble
from lightning_modules.architectures.open_unmix import OpenUnmix
from lightning_modules.base.description import CheckpointError
from lightning_modules.checkpoints.files import save_separator
from lightning_modules.checkpoints.loading import load_separator
from lightning_modules.interop import demucs, model_store, msst, open_unmix
from lightning_modules.interop.download import DownloadError, UnreachableError
from lightning_modules.interop.fine_tuning import load_pretrained
from lightning_modules.interop.published import PublishedModel, published_models
from tests.helpers import demucs_package, msst_package, open_unmix_package
from tests.helpers.file_server import serving
from tests.helpers.published import Publisher, publishing


@pytest.fixture
def publisher(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Publisher]:
    with publishing(tmp_path, monkeypatch) as found:
        yield found


@pytest.fixture
def umxhq(publisher: Publisher, tmp_path: Path) -> Path:
    """Publish Open-Unmix for two stems; returns the folder of its files."""
    folder = tmp_path / "umx"
    folder.mkdir()
    networks = open_unmix_package.package_networks(["vocals", "drums"])
    open_unmix_package.write(networks, folder, "-00112233")
    publisher.publish("umxhq", *sorted(folder.glob("*.pth")))
    return folder


def noise(samples: int = 8192, channels: int = 2) -> Tensor:
    return 0.1 * torch.randn(1, channels, samples, generator=torch.Generator().manual_seed(0))


def same(ours: torch.nn.Module, theirs: torch.nn.Module, mixture: Tensor) -> bool:
    with torch.no_grad():
        return torch.equal(ours(mixture), theirs(mixture))


def test_a_model_is_downloaded_once_and_gives_the_estimates_of_its_weights(
    publisher: Publisher, umxhq: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    separator = load_separator("umxhq")
    assert isinstance(separator, OpenUnmix)
    assert separator.sources == ["vocals", "drums"]
    assert not separator.training
    assert same(separator, open_unmix.from_package(umxhq), noise())
    told = capsys.readouterr().err
    assert "licence of the weights: MIT" in told
    assert "please cite: F.-R. Stöter" in told
    publisher.server.requests.clear()
    again = lightning_modules.load_separator("umxhq")
    assert same(separator, again, noise())
    assert publisher.server.requests == []
    assert capsys.readouterr().err == ""


def test_options_of_a_model_reach_the_importer(publisher: Publisher, tmp_path: Path) -> None:
    networks = open_unmix_package.package_networks(["speech", "noise"], 1024, 1)
    open_unmix_package.write(networks, tmp_path, "-00112233")
    publisher.publish("umxse", *sorted(tmp_path.glob("*.pth")))
    separator = load_separator("umxse")
    assert isinstance(separator, OpenUnmix)
    assert separator.sample_rate == 16000
    assert separator.hparams["hop_length"] == 512


def test_a_model_of_demucs_has_the_chunks_of_the_list(publisher: Publisher, tmp_path: Path) -> None:
    weights = tmp_path / "demucs-00112233.th"
    torch.save(demucs_package.network().state_dict(), weights)
    publisher.publish("demucs_v2", weights, chunk_seconds=3.0)
    separator = load_separator("demucs_v2")
    assert isinstance(separator, Demucs)
    assert separator.segment_seconds == separator.hparams["chunk_seconds"] == 3
    assert separator.separation_settings.normalise_mixture
    assert same(separator, demucs.from_package(weights), noise())


def test_several_networks_are_an_ensemble_with_weights(
    publisher: Publisher, tmp_path: Path
) -> None:
    files = [tmp_path / f"{number}.th" for number in range(2)]
    networks = [demucs_package.network() for _ in files]
    with torch.no_grad():
        for parameter in networks[1].parameters():
            parameter.mul_(1.1)
    for path, network in zip(files, networks, strict=True):
        torch.save(network.state_dict(), path)
    weights = {"vocals": [0, 1], "drums": [1, 0], "bass": [1, 1], "other": [3, 1]}
    publisher.publish("demucs_v2", *files, weights=weights)
    separator = load_separator("demucs_v2")
    assert isinstance(separator, Ensemble)
    first, second = (demucs.from_package(path) for path in files)
    with torch.no_grad():
        found, a, b = (model(noise()) for model in (separator, first, second))
    order = [separator.sources.index(name) for name in ("vocals", "drums", "bass", "other")]
    expected = torch.stack([b[:, 0], a[:, 1], (a + b)[:, 2] / 2, (3 * a + b)[:, 3] / 4], 1)
    assert first.sources == ["vocals", "drums", "bass", "other"]
    torch.testing.assert_close(found[:, order], expected)


def test_a_model_of_msst(publisher: Publisher, tmp_path: Path) -> None:
    _, config, weights = msst_package.write(tmp_path / "made", "scnet", ["drums", "vocals"])
    publisher.publish("scnet", config, weights)
    separator = load_separator("scnet")
    assert same(separator, msst.load(config, weights).model, noise())


def test_a_model_is_fine_tuned_by_name(publisher: Publisher, umxhq: Path) -> None:
    ours = open_unmix.from_package(umxhq)
    with torch.no_grad():
        for parameter in ours.parameters():
            parameter.zero_()
    report = load_pretrained(ours, "umxhq")
    assert not report.random
    assert same(ours, load_separator("umxhq"), noise())


def test_an_ensemble_names_models(umxhq: Path) -> None:
    separator = Ensemble(["umxhq", str(_checkpoint(umxhq))])
    assert same(separator, load_separator("umxhq"), noise())


def _checkpoint(umxhq: Path) -> Path:
    path = umxhq / "umx.ckpt"
    save_separator(open_unmix.from_package(umxhq), path)
    return path


def test_a_misspelt_name_is_told_in_python_too() -> None:
    with pytest.raises(CheckpointError, match=r"umxhk: .* did you mean umxhq"):
        load_separator("umxhk")


def test_wrong_files_are_refused(publisher: Publisher, umxhq: Path) -> None:
    publisher.server.files = dict.fromkeys(publisher.server.files, b"another file")
    with pytest.raises(DownloadError, match=r"drums-00112233.pth: the SHA-256"):
        load_separator("umxhq")
    assert not publisher.file("umxhq").exists()


def test_a_file_without_published_digest_is_pinned(publisher: Publisher, umxhq: Path) -> None:
    publisher.publish("umxhq", *sorted(umxhq.glob("*.pth")), digests=False)
    load_separator("umxhq")
    publisher.file("umxhq").unlink()
    path = next(iter(publisher.server.files))
    publisher.server.files[path] += b"more"
    with pytest.raises(DownloadError, match=r"drums-00112233.pth: the SHA-256 .* was expected"):
        load_separator("umxhq")


def test_files_that_were_copied_by_hand_are_checked(publisher: Publisher, umxhq: Path) -> None:
    folder = publisher.store / "umxhq"
    folder.mkdir(parents=True)
    for path in umxhq.glob("*.pth"):
        (folder / path.name).write_bytes(path.read_bytes())
    load_separator("umxhq")
    assert publisher.server.requests == []
    publisher.file("umxhq").write_bytes(b"damaged")
    with pytest.raises(CheckpointError, match=r"drums-00112233.pth: its SHA-256 .*delete it"):
        load_separator("umxhq")


def test_a_damaged_record_means_that_files_are_checked_again(
    publisher: Publisher, umxhq: Path
) -> None:
    load_separator("umxhq")
    record = publisher.store / "umxhq" / "checked.json"
    entries = json.loads(record.read_text())
    for damaged in ("", "[]", "{}"):
        record.write_text(damaged)
        load_separator("umxhq")
        assert json.loads(record.read_text()) == entries


def test_offline_says_what_to_copy_where(publisher: Publisher, umxhq: Path) -> None:
    with serving() as stopped:
        pass
    urls = [file.url for file in publisher.models["umxhq"].files]
    publisher.models["umxhq"] = _moved(publisher, stopped.url)
    with pytest.raises(UnreachableError) as found:
        load_separator("umxhq")
    told = str(found.value)
    assert f"copy these files to {publisher.store / 'umxhq'} by hand:" in told
    for url in urls:
        assert f"  {url.replace(publisher.server.url, stopped.url)}\n" in told
    assert model_store.MIRROR_VARIABLE in told


def _moved(publisher: Publisher, url: str) -> PublishedModel:
    model = publisher.models["umxhq"]
    files = [replace(f, url=f.url.replace(publisher.server.url, url)) for f in model.files]
    return replace(model, files=files)


def test_a_mirror_is_used(
    publisher: Publisher, umxhq: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    publisher.models["umxhq"] = _moved(publisher, "https://models.invalid")
    monkeypatch.setenv(model_store.MIRROR_VARIABLE, f"{publisher.server.url}/")
    load_separator("umxhq")
    assert ("/umxhq/vocals-00112233.pth", "") in publisher.server.requests


def test_weights_with_code_are_refused(publisher: Publisher, tmp_path: Path) -> None:
    class Malicious:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return os.system, (f"touch {tmp_path / 'executed'}",)

    path = tmp_path / "demucs.th"
    torch.save({"state": Malicious()}, path)
    publisher.publish("demucs_v2", path)
    with pytest.raises(CheckpointError, match="cannot be read as weights"):
        load_separator("demucs_v2")
    assert not (tmp_path / "executed").exists()


def test_an_unsupported_model_is_refused_before_its_download(
    publisher: Publisher, umxhq: Path
) -> None:
    publisher.publish("umxhq", *umxhq.glob("*.pth"), unsupported="it is a test")
    with pytest.raises(CheckpointError, match="umxhq: cannot be used here: it is a test"):
        load_separator("umxhq")
    assert publisher.server.requests == []


@pytest.mark.slow
def test_two_processes_download_a_file_once(publisher: Publisher) -> None:
    server, model = publisher.server, published_models()["scnet_xl"]
    server.files = {f"/{model.name}/{file.name}": file.name.encode() for file in model.files}
    server.delay = threading.Event()
    command = [sys.executable, "-m", "lightning_modules.tools.models", model.name, "--download"]
    environment = {**os.environ, model_store.MIRROR_VARIABLE: server.url}
    with ExitStack() as stack:
        for _ in range(2):
            process = subprocess.Popen(command, env=environment, text=True, stderr=-1, stdout=-1)
            stack.callback(process.kill)
            if not server.requests:
                first = process
                while not server.requests:  # the first one holds the lock
                    assert process.poll() is None
                    time.sleep(0.01)
        assert process.stderr
        assert process.stderr.readline() == "waiting for another download of scnet_xl\n"
        server.delay.set()
        outputs = [each.communicate(timeout=30) for each in (first, process)]
    assert (first.returncode, process.returncode) == (0, 0), outputs
    assert sorted(path for path, _ in server.requests) == sorted(server.files)
