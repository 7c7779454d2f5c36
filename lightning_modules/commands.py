"""Subcommands of ``stemlab``."""

from __future__ import annotations

from typing import NamedTuple

_TOOLS = "lightning_modules.tools"
CLI = "lightning_modules.cli"


class Command(NamedTuple):
    """Module whose ``main`` is called, and its line in the help."""

    module: str
    summary: str


# In the order of the help. A name may have two words.
COMMANDS = {
    "separate": Command(f"{_TOOLS}.separate", "separate songs into stems"),
    "models": Command(f"{_TOOLS}.models", "list the published models that can be used by name"),
    "web": Command(f"{_TOOLS}.webapp", "serve a web page that separates songs"),
    "fit": Command(CLI, "train a model"),
    "validate": Command(CLI, "score a trained model on the validation tracks"),
    "test": Command(CLI, "score a trained model on the test tracks"),
    "predict": Command(CLI, "separate songs with the settings of a config"),
    "score": Command(f"{_TOOLS}.score", "score a folder of estimates of any system"),
    "compare": Command(f"{_TOOLS}.compare", "compare runs and published scores"),
    "cascade": Command(f"{_TOOLS}.cascade", "measure whether a denoiser helps a separator"),
    "doctor": Command(f"{_TOOLS}.doctor", "check a data set and plot what is found"),
    "convert": Command("datamodules.convert", "write a data set as WAV files, repaired"),
    "cache": Command("datamodules.cache.folder", "show or clear the cache of decoded files"),
    "corpus": Command("datamodules.demo.__main__", "render the data set of the demo"),
    "export": Command(f"{_TOOLS}.export", "write a model for other programs"),
    "push": Command(f"{_TOOLS}.push", "publish a model on the Hugging Face Hub"),
    "import msst": Command(f"{_TOOLS}.import_msst", "convert a model of MSST"),
    "import demucs": Command(f"{_TOOLS}.import_demucs", "convert weights of Demucs"),
    "import open_unmix": Command(f"{_TOOLS}.import_open_unmix", "convert weights of Open-Unmix"),
    "demo": Command(f"{_TOOLS}.demo", "train, score and try a small model in minutes"),
    "benchmark": Command(f"{_TOOLS}.benchmark", "measure speed on this machine"),
    "endurance": Command(f"{_TOOLS}.endurance", "check that killed trainings resume exactly"),
    "requeue": Command(f"{_TOOLS}.requeue", "requeue a SLURM job; called by slurm/train.sbatch"),
    "completion": Command(f"{_TOOLS}.completion", "print a script that completes by TAB"),
}
