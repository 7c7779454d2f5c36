"""Types and checks shared by the readers of audio files."""

from __future__ import annotations

from dataclasses import dataclass
from os import PathLike
from pathlib import Path

import numpy as np
import numpy.typing as npt

from datamodules.errors import DataError

Audio = npt.NDArray[np.float32]
AnyPath = str | PathLike[str]


@dataclass(frozen=True, slots=True)
class AudioInfo:
    """Header of an audio file.

    Attributes:
        samples: Length, samples per channel. For songs it is what the file declares, up to a few
            thousand samples off in compressed formats; 0 if the file declares none.
        sample_rate: Sample rate, Hz.
        channels: Number of channels.
        subtype: Encoding, such as ``PCM_16`` or ``FLOAT``; ffmpeg's name of the codec for formats
            read by ffmpeg.
    """

    samples: int
    sample_rate: int
    channels: int
    subtype: str


def check_opens(path: Path) -> None:
    """Raise a ``DataError`` with the reason why a file cannot be opened, if it cannot."""
    # Decoders report all these reasons alike.
    try:
        with path.open("rb") as file:
            fault = "" if file.read(1) else "is empty (0 bytes)"
    except FileNotFoundError:
        fault = "does not exist"
    except IsADirectoryError:
        fault = "is a folder"
    except OSError as error:
        fault = f"cannot be opened ({error.strerror})"
    if fault:
        raise DataError(
            f"{path}: {fault}, expected an audio file; check the path, or copy or download the "
            "file again"
        )
