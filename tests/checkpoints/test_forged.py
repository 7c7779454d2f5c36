"""Checkpoints and folders that somebody else made: one clear error, and nothing is executed."""

from __future__ import annotations

import io
import json
import pickle
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch

from lightning_modules.architectures.cascade import Cascade
from lightning_modules.architectures.fnn import FNN
from lightning_modules.base.description import CONFIG, KEY, WEIGHTS, CheckpointError, describe
from lightning_modules.checkpoints.hub_folder import write_folder
from lightning_modules.checkpoints.loading import load_separator, read_checkpoint
from lightning_modules.inference.stem_files import StemFiles
from lightning_modules.tools import export, separate
from tests.helpers.checkpoints import SOURCES, model
from tests.helpers.webapp import write_song

UNET = "lightning_modules.architectures.unet.UNet"
ARGUMENTS = describe(model())["init_args"]
STATE = model().state_dict()


def forge(path: Path, description: Any, state: Any = None) -> Path:
    torch.save({KEY: description, "state_dict": STATE if state is None else state}, path)
    return path


def with_arguments(**changes: Any) -> dict[str, Any]:
    return {"class_path": UNET, "init_args": {**ARGUMENTS, **changes}}


def refusal(path: Path) -> str:
    """The message of a refused checkpoint, which is one line and names the file."""
    with pytest.raises(CheckpointError) as error:
        load_separator(path)
    message = str(error.value)
    assert message.startswith(str(path))
    assert message.isprintable()
    assert len(message) < 700
    return message


def loop() -> list[Any]:
    endless: list[Any] = []
    endless.append(endless)
    return endless


def billion() -> list[Any]:
    part: list[Any] = ["ha"]
    for _ in range(40):
        part = [part, part]
    return part


@pytest.mark.parametrize(
    ("description", "words"),
    [
        (None, "expected class_path"),
        ({}, "expected class_path"),
        ([], "expected class_path"),
        ("UNet", "expected class_path"),
        (7, "expected class_path"),
        ({"init_args": {}}, "expected class_path"),
        ({"class_path": UNET}, "expected class_path"),
        ({"class_path": None, "init_args": {}}, "expected class_path"),
        ({"class_path": [UNET], "init_args": {}}, "expected class_path"),
        ({"class_path": UNET, "init_args": []}, "expected class_path"),
        ({"class_path": UNET, "init_args": None}, "expected class_path"),
        ({"class_path": UNET, "init_args": {3: 4}}, "does not fit"),
        ({"class_path": UNET, "init_args": {"self": 4}}, "does not fit"),
        ({"class_path": UNET, "init_args": {"unknown": 4}}, "does not fit"),
        ({"class_path": UNET, "init_args": {"sources": torch.ones(2)}}, "contains a Tensor"),
        ({"class_path": UNET, "init_args": {"sources": loop()}}, "50 levels"),
        ({"class_path": UNET, "init_args": {"channels": billion()}}, "100,000 values"),
        ({"class_path": "", "init_args": {}}, "from outside"),
        ({"class_path": "os.system", "init_args": {"command": "true"}}, "from outside"),
        ({"class_path": "builtins.exec", "init_args": {}}, "from outside"),
        ({"class_path": "lightning_modules.cli.main", "init_args": {}}, "from outside"),
        ({"class_path": "lightning_modules.tools.webapp.main", "init_args": {}}, "from outside"),
        ({"class_path": f"{UNET}.__init__", "init_args": {}}, "does not have"),
        ({"class_path": f"{UNET}s", "init_args": {}}, "does not have"),
        ({"class_path": f"{UNET}\n", "init_args": {}}, "from outside"),
        ({"class_path": "lightning_modules.architectures..UNet", "init_args": {}}, "does not have"),
        ({"class_path": "lightning_modules.architectures.../x.UNet", "init_args": {}}, "outside"),
        ({"class_path": "lightning_modules.architectures.unet.math", "init_args": {}}, "is not a"),
        ({"class_path": "lightning_modules.architectures.unet.nn.Linear",
          "init_args": {}}, "does not have"),
    ],
)  # fmt: skip
def test_invalid_descriptions(tmp_path: Path, description: Any, words: str) -> None:
    assert words in refusal(forge(tmp_path / "a.ckpt", description))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"sources": []}, "sources is []"),
        ({"sources": None}, "sources is None"),
        ({"sources": "vocals"}, "sources is 'vocals'"),
        ({"sources": ["/../evil", "b"]}, "sources has '/../evil'"),
        ({"sources": ["vocals", "vocals"]}, "names that differ"),
        ({"sources": ["vocals", 3]}, "sources has 3"),
        ({"sources": ["vocals", "mixture"]}, "the song itself"),
        ({"segment_seconds": 1e9}, "segment_seconds is 1000000000.0"),
        ({"segment_seconds": float("inf")}, "segment_seconds is inf"),
        ({"segment_seconds": float("nan")}, "segment_seconds is nan"),
        ({"segment_seconds": -1}, "segment_seconds is -1"),
        ({"segment_seconds": None}, "segment_seconds is None"),
        ({"segment_seconds": 10**400}, "segment_seconds is 1000000"),
        ({"chunk_seconds": float("inf")}, "chunk_seconds is inf"),
        ({"chunk_seconds": "6"}, "chunk_seconds is '6'"),
        ({"sample_rate": 0}, "sample_rate is 0"),
        ({"sample_rate": 7}, "sample_rate is 7"),
        ({"sample_rate": -44100}, "sample_rate is -44100"),
        ({"sample_rate": 44100.5}, "sample_rate is 44100.5: expected an integer"),
        ({"sample_rate": True}, "sample_rate is True"),
        ({"sample_rate": "44100"}, "sample_rate is '44100'"),
        ({"audio_channels": -1}, "audio_channels is -1"),
        ({"audio_channels": 10**6}, "audio_channels is 1000000"),
        ({"chunks_at_once": 10**9}, "chunks_at_once is 1000000000"),
        ({"overlap": float("nan")}, "overlap is nan"),
        ({"overlap": "much"}, "does not fit"),
        ({"shifts": -1}, "shifts is -1"),
        ({"postprocessing": {"softness": float("nan")}}, "softness"),
        ({"postprocessing": [1]}, "postprocessing is [1]"),
        ({"channels": [10**7, 10**7]}, "more weights than the file contains"),
        ({"channels": 4}, "does not fit"),
        ({"n_fft": 2**40, "hop_length": 2**38}, "n_fft is 1099511627776"),
        ({"n_fft": -2}, "does not fit"),
        ({"kernel_size": 10**6}, "does not fit"),
    ],
)
def test_invalid_arguments(tmp_path: Path, changes: dict[str, Any], words: str) -> None:
    assert words in refusal(forge(tmp_path / "a.ckpt", with_arguments(**changes)))


FIRST = next(iter(STATE))


@pytest.mark.parametrize(
    ("state", "words"),
    [
        (3, "weights are of type int"),
        ([], "weights are of type list"),
        ({}, "Missing key"),
        ({**STATE, FIRST: 3}, "of type int"),
        ({**STATE, FIRST: None}, "of type NoneType"),
        ({3: STATE[FIRST]}, "of type Tensor"),
        ({**STATE, FIRST: STATE[FIRST].to_sparse()}, "sparse"),
        ({**STATE, FIRST: STATE[FIRST].to(torch.complex64)}, "complex"),
        ({**STATE, FIRST: torch.ones(1).expand(STATE[FIRST].shape)}, "but fewer numbers"),
        ({**STATE, FIRST: torch.ones(1).expand(10**6, 10**6)}, "but fewer numbers"),
        ({**STATE, FIRST: torch.ones(3)}, "size mismatch"),
    ],
)
def test_invalid_weights(tmp_path: Path, state: Any, words: str) -> None:
    assert words in refusal(forge(tmp_path / "a.ckpt", with_arguments(), state))


def repacked(path: Path, compression: int, **parts: bytes) -> Path:
    """Write the archive again, with valid checksums and other contents of its parts."""
    with zipfile.ZipFile(path) as old:
        contents = {info.filename: old.read(info) for info in old.infolist()}
    with zipfile.ZipFile(path, "w", compression) as new:
        for name, content in contents.items():
            new.writestr(name, parts.get(Path(name).name.replace(".", "_"), content))
    return path


@pytest.mark.parametrize(
    "code",
    [
        b"", b".", b"\x80", b"\x80\x02.", b"\x80\x02}q\x00", b"\x80\x02h\x63.", b"\x80\x02]q\x00e.",
        b"\x80\x02X\xff\xff\xff\xffabc.", b"\x80\x02(((u.", b"\x80\x02cos\nsystem\nq\x00.",
        b"\x80\x02K\x01Q.", b"cposix\nsystem\n(S'true'\ntR.", b"\x80\x02Nb.",
        pickle.dumps({KEY: {}}, 5), b"\xff" * 50, b"\x80\x02]" + b"\x85" * 10_000 + b".",
    ],
)  # fmt: skip
def test_changed_pickles(tmp_path: Path, code: bytes) -> None:
    path = repacked(forge(tmp_path / "a.ckpt", with_arguments()), zipfile.ZIP_STORED, data_pkl=code)
    with pytest.raises(CheckpointError, match=r"a\.ckpt"):
        read_checkpoint(path)


def test_zip_bomb(tmp_path: Path) -> None:
    path = forge(tmp_path / "a.ckpt", with_arguments())
    repacked(path, zipfile.ZIP_DEFLATED, version=bytes(10**7))
    assert "its parts would have 10," in refusal(path)


def test_missing_part(tmp_path: Path) -> None:
    path = forge(tmp_path / "a.ckpt", with_arguments())
    content = io.BytesIO(path.read_bytes())
    with zipfile.ZipFile(content) as old, zipfile.ZipFile(path, "w") as new:
        for info in old.infolist()[:-4]:
            new.writestr(info.filename, old.read(info))
    assert "cannot be read as a checkpoint" in refusal(path)


def test_name_that_pytorch_refuses_for_a_module(tmp_path: Path) -> None:
    state = FNN(["vocals", "rest"], **FNN.tiny).state_dict()
    for name in ("a.b", "keys", "type"):
        description = {
            "class_path": "lightning_modules.architectures.fnn.FNN",
            "init_args": {"sources": ["vocals", name], **FNN.tiny},
        }
        path = forge(tmp_path / "a.ckpt", description, state)
        assert f"sources has '{name}': PyTorch does not accept it" in refusal(path)


@pytest.mark.parametrize(
    "text",
    [
        "", "null", "[]", "3", "{}", '{"class_path": null, "init_args": {}}',
        '{"class_path": "os.system", "init_args": {"command": "true"}}', "[" * 100_000,
        json.dumps(with_arguments(sources=["/../evil", "b"])), "\ufeff{}", '{"init_args": NaN}',
        json.dumps(with_arguments(segment_seconds=float("inf"))), "9" * 5000,
        json.dumps(with_arguments(sample_rate=0)), json.dumps({KEY: with_arguments()}),
    ],
)  # fmt: skip
def test_invalid_config_of_a_folder(tmp_path: Path, text: str) -> None:
    write_folder(model(), tmp_path / "folder")
    (tmp_path / "folder" / CONFIG).write_text(text)
    refusal(tmp_path / "folder")


@pytest.mark.parametrize(
    "header",
    [
        b"", b"{}", b"[]", b"{", b'{"a": 3}',
        b'{"a":{"dtype":"F32","shape":[-1],"data_offsets":[0,4]}}',
        b'{"a":{"dtype":"F32","shape":[1000000,1000000],"data_offsets":[0,4]}}',
        b'{"a":{"dtype":"X","shape":[1],"data_offsets":[0,4]}}',
        b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[4,0]}}',
        b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}',
    ],
)  # fmt: skip
def test_invalid_weights_of_a_folder(tmp_path: Path, header: bytes) -> None:
    write_folder(model(), tmp_path / "folder")
    content = len(header).to_bytes(8, "little") + header + bytes(4)
    (tmp_path / "folder" / WEIGHTS).write_bytes(content)
    refusal(tmp_path / "folder")


@pytest.mark.parametrize("kind", ["checkpoint", "folder"])
def test_separate_and_export_write_nothing_outside(
    kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    forged = with_arguments(sources=["/../../evil", "../evil"])
    path = tmp_path / "a.ckpt"
    if kind == "folder":
        write_folder(model(), path)
        (path / CONFIG).write_text(json.dumps(forged))
    else:
        forge(path, forged)
    song = write_song(tmp_path / "in" / "song.wav", 0.1)
    before = sorted(tmp_path.iterdir())
    output = tmp_path / "out"
    for main, words in (
        (separate.main, [str(song), "--checkpoint", str(path), "-o", str(output)]),
        (export.main, [str(path), "--format", "safetensors", "-o", str(output)]),
    ):
        assert main(words) == 2
        (error,) = capsys.readouterr().err.strip().splitlines()
        assert "sources has '/../../evil'" in error
    assert [path for path in tmp_path.iterdir() if path not in before] in ([], [output])
    assert not output.exists() or not any(output.iterdir())
    with pytest.raises(CheckpointError, match="sources has"):
        Cascade(path, path)


def test_the_writer_refuses_names_that_leave_its_folder(tmp_path: Path) -> None:
    for name in ("../evil", "/evil", "a/b", "..", "Vocals"):
        with pytest.raises(ValueError, match="stems has"):
            StemFiles(tmp_path / "song", ["vocals", name], 44100, 2)
    for file in ("../evil.wav", "/evil.wav", "a/../../evil.wav"):
        with pytest.raises(ValueError, match="is not in"):
            StemFiles(tmp_path / "song", ["a"], 44100, 2, files=[tmp_path / "song" / file])
    assert not any(tmp_path.iterdir())


def test_the_model_still_loads(tmp_path: Path) -> None:
    assert load_separator(forge(tmp_path / "a.ckpt", with_arguments())).sources == SOURCES
