"""Mistakes on command lines are answered by one line and change no files.

A row has the arguments of a command and parts of the expected message: the file or option, what
was found, and what was expected or what to do.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path

import pytest

from lightning_modules.cli import SUBCOMMANDS
from lightning_modules.tools.benchmark import COMMANDS
from tests.helpers.command_line import CSV, REPOSITORY, TINY
from tests.helpers.faulty_files import write_faulty_files

FIT = "fit --config unet.yaml TINY --data.init_args.root data"
TWO = "--config two.yaml TINY --data.init_args.root data --ckpt_path model.ckpt"
SEPARATE = "song.wav --checkpoint model.ckpt"
CASCADE = "--denoiser denoiser.ckpt --separator model.ckpt --root data"

CLI = [
    ("", ["no subcommand given", "fit, validate, test, predict"]),
    ("train --config unet.yaml", ["'train'", "fit, validate, test, predict"]),
    ("fit", ["no config given", "fit --config unet.yaml"]),
    ("fit --config unett.yaml", ["'unett.yaml' does not exist", "did you mean unet?"]),
    ("fit --config void", ["'void' does not exist", "open_unmix.yaml"]),
    ("fit --config variant.yaml", ["names no model", "--config unet.yaml --config variant.yaml"]),
    ("fit --config typo.yaml", ["typo.yaml: unknown key 'modle'", "did you mean model?"]),
    ("fit --config twice.yaml", ["twice.yaml", "duplicate key 'trainer'; keep one"]),
    ("fit --config number.yaml", ["number.yaml: trainer is 5", "expected a mapping"]),
    ("fit --config song.wav", ["song.wav: not readable as YAML"]),
    ("fit --config unet.yaml --data gone", ["'gone' is not a folder", "give --data"]),
    ("MUSDB_PATH=taken fit --config unet.yaml", ["'taken' is not a folder", "set MUSDB_PATH"]),
    ("fit --config unet.yaml --traner.max_epochs=1", ["unrecognized", "--traner.max_epochs=1"]),
    ("fit --config unet.yaml --model.init_args.chanels=[4]", ["did you mean channels?"]),
    ("fit --config unet.yaml --data.init_args.sources=[vocal]", ["'vocal'", "known stems are"]),
    (
        "fit --config unet.yaml --model=lightning_modules.architectures.unet.Unet",
        ["model", "unet.Unet"],
    ),
    (f"{FIT} --data.init_args.root=void", ["void: has no folder 'train'", "check the path"]),
    (
        f"{FIT} --data.init_args.missing_as_unknown=true --data.init_args.missing_as_silence=true",
        ["missing_as_silence and missing_as_unknown are both set", "set one of them"],
    ),
    (f"{FIT} --data.init_args.root=folder:gone", ["'folder' is no layout", "known are list"]),
    (f"{FIT} --data.init_args.root=list.csv", ["list.csv: its first line", "expected the names"]),
    (f"{FIT} --data.init_args.root=bare_data", ["bare_data/train: no tracks in it", "copy"]),
    (f"{FIT} --data.init_args.root=nan_data", ["bass.wav: holds NaN", "sample 7", "remove"]),
    (f"{FIT} --data.init_args.root=cut_data", ["bass.wav: declares", "truncated", "copy or"]),
    (f"{FIT} --data.init_args.root=rate_data", ["bass.wav: has 48000 Hz", "has 44100 Hz"]),
    (f"{FIT} --data.init_args.batch_size=0", ["batch_size is 0", "at least 1"]),
    (f"{FIT} --data.init_args.segment_seconds=-1", ["segment_seconds is -1", "from 0.0001 to 600"]),
    (f"{FIT} --data.init_args.num_workers=-1", ["num_workers is -1", "at least 0"]),
    (f"{FIT} --data.init_args.sample_rate=0", ["sample_rate is 0"]),
    (f"{FIT} --model.init_args.channels=[]", ["channels is []", ">= 1"]),
    (f"{FIT} --model.init_args.channels=[0]", ["channels is [0]"]),
    (f"{FIT} --model.init_args.pretrained=gone.ckpt", ["gone.ckpt: there is no such checkpoint"]),
    (f"{FIT} --model.init_args.pretrained=denoiser.ckpt", ["are of a Denoising", "a UNet"]),
    (f"{FIT} --trainer.max_epochs=ten", ["trainer.max_epochs", "int", "ten"]),
    (f"{FIT} --trainer.max_epochs=-5", ["trainer.max_epochs is -5", "-1 for no limit"]),
    (f"{FIT} --run_dir=", ["--run_dir is empty", "give a path"]),
    (f"{FIT} --ckpt_path=", ["--ckpt_path is empty"]),
    (f"{FIT} --data.init_args.root=", ["root is empty", "or omit it"]),
    (f"{FIT} --data.init_args.root='{{data: 1'", ["'{data: 1' is not a folder"]),
    (f"{FIT} --data.init_args.sample_rate=7", ["sample_rate is 7", "from 1000 to"]),
    (f"{FIT} --data.init_args.segment_seconds=100", ["segment_seconds is 100", "mostly silence"]),
    (f"{FIT} --data.init_args.augmentations+=datamodules.augmentations.LowShelf "
     "--data.init_args.augmentations.highest_hz=99999", ["LowShelf", "99999", "up to 22050 Hz"]),
    (f"{FIT} --config interpolation.yaml", ["'nope' not found", "trainer.max_epochs"]),
    (f"{FIT} --model.init_args.optimizer.init_args.lr=-1", ["init_args.optimizer", "rate: -1"]),
    (f"{FIT} --trainer.callbacks+=EarlyStopping --trainer.callbacks.monitor=val/lss",
     ["EarlyStopping", "'val/lss'", "val/loss"]),
    (f"{FIT} --trainer.callbacks+=lightning_modules.callbacks.bss_eval.BSSEval",
     ["trainer.callbacks has BSSEval 2 times", "give a list with one"]),
    (f"{FIT} --trainer.val_check_interval=1000", ["val_check_interval", "1000"]),
    (f"{FIT} --trainer.devices=[0]", ["trainer.devices", "--trainer.devices=1"]),
    (f"{FIT} --trainer.devices=-5", ["trainer.devices '-5'"]),
    (f"{FIT} --seed_everything=false", ["seed_everything is false"]),
    (f"{FIT} --weights_only=false", ["weights_only", "omit it"]),
    (f"{FIT} --trainer.devices=0", ["trainer.devices", "--trainer.devices=1"]),
    (f"{FIT} --trainer.accelerator=gpuu", ["'gpuu'", "--trainer.accelerator=cpu"]),
    (f"{FIT} --trainer.accelerator=tpu", ["'tpu'", "give what this machine has"]),
    (f"{FIT} --seed_everything=-1", ["seed_everything: -1", "from 0 to"]),
    (f"{FIT} --run_dir taken", ["--run_dir taken", "is not a folder", "give another"]),
    (f"{FIT} --run_dir taken/deep", ["--run_dir taken/deep: taken is not a folder"]),
    (f"{FIT} --run_dir runs/raw", ["runs/raw already holds a run", "--ckpt_path last"]),
    (f"{FIT} --ckpt_path text.ckpt", ["text.ckpt: 5 bytes that cannot be read", "last.ckpt"]),
    (f"{FIT} --ckpt_path denoiser.ckpt", ["architectures.denoising", "the config"]),
    (f"{FIT} --ckpt_path last --run_dir new", ["new/checkpoints: there is no last.ckpt", "fit"]),
    ("validate --config unet.yaml TINY", ["there is no last.ckpt; train first", "--ckpt_path"]),
    ("validate --config unet.yaml --ckpt_path gone.ckpt", ["'gone.ckpt' does not", "last or best"]),
    ("test --config unet.yaml TINY --run_dir runs/one", ["runs/one/checkpoints", "no last.ckpt"]),
    (
        "fit --config ensemble.yaml --data.init_args.sources=[vocals,other]",
        ["Ensemble consists of trained models", "train these"],
    ),
    (
        "test --config ensemble.yaml --ckpt_path model.ckpt",
        ["ckpt_path: Ensemble loads the weights", "omit it"],
    ),
    ("test --config unet.yaml TINY --ckpt_path other.ckpt", ["other.ckpt: contains no separator"]),
    ("test --config unet.yaml TINY --ckpt_path model.ckpt", ["sources (['vocals', 'other'] in"]),
    (f"test {TWO} --data.init_args.root=train_data", ["train_data: has no folder 'test'"]),
    (f"predict {TWO} --data.init_args.predict_paths=[gone.wav]", ["gone.wav: does not exist"]),
    (f"predict {TWO} --data.init_args.predict_paths=[text.wav]", ["text.wav: is not audio"]),
    (f"predict {TWO} --data.init_args.predict_paths=[void]", ["void: no audio file in this"]),
    (f"predict {TWO} --run_dir out --data.init_args.predict_paths=[nan.wav]",
     ["nan.wav: holds NaN or infinity, first at 0.000 s"]),
]  # fmt: skip

TOOLS = {
    "separate": [
        ("song.wav --model htdemcus", ["htdemcus: there is no such", "did you mean htdemucs"]),
        ("song.wav --model mdx_extra", ["mdx_extra: cannot be used here", "another model"]),
        ("gone.wav --checkpoint model.ckpt", ["gone.wav: does not exist", "check the path"]),
        ("empty.wav --checkpoint model.ckpt", ["empty.wav: is empty (0 bytes)", "copy or"]),
        ("text.wav --checkpoint model.ckpt", ["text.wav: is not audio", "check that it is"]),
        ("nan.wav --checkpoint model.ckpt -o out", ["nan.wav: holds NaN or infinity, first at 0."]),
        ("song.wav --checkpoint broken.ckpt -o out", ["its estimates are NaN", "another checkp"]),
        ("void --checkpoint model.ckpt", ["void: no audio file in this folder (.wav, "]),
        ("'*.mp3' --checkpoint model.ckpt", ["*.mp3: no audio file matches"]),
        (f"{SEPARATE} --name '{{song}}'", ["--name '{song}': lacks {stem}", "{song} - {stem}"]),
        (f"{SEPARATE} --name '{{sog}}/{{stem}}'", ["unknown field {sog}", "{folder}, {song}"]),
        (f"{SEPARATE} --name '../{{song}}/{{stem}}'", ["expected a path below the folder of -o"]),
        (f"{SEPARATE} --name '{{song'", ["--name '{song': expected '}'", "the fields are"]),
        ("song.wav --checkpoint gone.ckpt", ["gone.ckpt: there is no such", "model.ckpt"]),
        ("song.wav --checkpoint void", ["void: there is no such checkpoint"]),
        ("song.wav --checkpoint text.ckpt", ["text.ckpt: 5 bytes", "use another checkpoint"]),
        ("song.wav --checkpoint cut.ckpt", ["cut.ckpt: 3000 bytes that cannot be read"]),
        ("song.wav --checkpoint other.ckpt", ["contains no separator", "`lightning_modules"]),
        (
            f"{SEPARATE} --denoiser model.ckpt",
            ["model.ckpt: the model has the sources vocals", "swap"],
        ),
        (f"{SEPARATE} -o taken", ["-o taken", "is not a folder", "give another"]),
        (f"{SEPARATE} --jobs ten", ["argument --jobs", "'ten'"]),
        (f"{SEPARATE} --jobs 0", ["--jobs", "at least 1", "'0'"]),
        (f"{SEPARATE} --overlap nan", ["overlap is nan", "from 0 to below 1"]),
        (f"{SEPARATE} --shifts -1", ["shifts is -1", "give 0"]),
        (f"{SEPARATE} --ensemble mean", ["--ensemble combines several", "--checkpoint for each"]),
        (f"{SEPARATE} --checkpoint gone.ckpt", ["gone.ckpt: there is no such checkpoint"]),
        (f"{SEPARATE} --checkpoint model.ckpt --ensemble avg", ["--ensemble", "'avg'", "median"]),
        ("song.wav --checkpoint two.yaml", ["two.yaml: is the config of a UNet", "checkpoint of"]),
        (f"{SEPARATE} --overlap-window hamming", ["--overlap-window", "'hamming'", "triangle"]),
        (f"{SEPARATE} --batch-size 0", ["batch_size is 0", "at least 1"]),
        (f"{SEPARATE} --chunk-seconds 0", ["chunk_seconds is 0", "from 0.01 to 600"]),
        (f"{SEPARATE} --precision bf16", ["--precision", "'bf16'", "bf16-mixed"]),
        (f"{SEPARATE} --device cpu --precision 16-mixed", ["--precision 16-mixed", "bf16-mixed"]),
        (f"{SEPARATE} --devices cpu,gpu", ["--device gpu", "try cpu"]),
        (f"{SEPARATE} --wiener -1", ["--wiener is -1", "0 or more"]),
        (f"{SEPARATE} --two-stems drums", ["'drums'", "vocals, other"]),
        (f"{SEPARATE} --format flac --bits 32", ["bits is 32", "16 or 24"]),
        (f"{SEPARATE} --bits 12", ["bits is 12 with wav", "16 or 24 or 32"]),
        (f"{SEPARATE} --format mp3 --bitrate 9000", ["9000 kbit/s", "32 to 320"]),
        (f"{SEPARATE} --format ogg", ["--format", "'ogg'", "opus"]),
        (f"{SEPARATE} --format alac --bits 32", ["bits is 32 with alac", "16 or 24"]),
        (f"{SEPARATE} --name '{{artist}}'", ["--name '{artist}': lacks {stem}"]),
        (f"{SEPARATE} --stems vocal", ["'vocal'", "vocals, other"]),
        (f"{SEPARATE} --stems other --two-stems vocals", ["--stems and --two-stems", "one of"]),
        (f"{SEPARATE} --instrumental --stems other", ["--stems and --instrumental", "one of"]),
        (f"{SEPARATE} --other-method add", ["--other-method add", "with --two-stems"]),
        (f"{SEPARATE} --two-stems vocals --other-method sum", ["invalid choice: 'sum'", "minus"]),
        (f"{SEPARATE} --two-stems vocals --residual", ["--residual: no_vocals", "leave it out"]),
        (f"{SEPARATE} --force --resume", ["--resume: not allowed with argument --force"]),
        (f"{SEPARATE} --device cuda:99", ["--device cuda:99", "try cpu"]),
        (f"{SEPARATE} --postprocessing '{{softnes: 4}}'", ["'softnes'", "softness"]),
        (f"{SEPARATE} --postprocessing '{{softness: ['", ["--postprocessing is", "expected"]),
    ],
    "score": [
        ("estimates -o out", ["ESTIMATES and ROOT, or --oracle NAME and only ROOT"]),
        ("gone data -o out", ["gone: is not a folder", "check the path"]),
        ("void data -o out", ["void: expected folders named after tracks", "'C - 3'", "rename"]),
        ("estimates taken -o out", ["taken: is not a folder", "check the path of the root"]),
        ("estimates train_data -o out", ["train_data: has no test tracks", "--subset train"]),
        ("estimates data -o taken", ["-o taken", "is not a folder"]),
        ("estimates data -o out --window-seconds ten", ["--window-seconds", "0.001 s", "ten"]),
        ("estimates data -o out --hop-seconds nan", ["--hop-seconds", "0.001 s or more", "nan"]),
        ("estimates data -o out --processes 0", ["--processes", "at least 1", "'0'"]),
        ("--oracle irm3 data -o out", ["--oracle irm3: unknown", "irm1, irm2"]),
    ],
    "compare": [
        ("gone", ["gone: is not a folder", "museval"]),
        ("void", ["void: contains no test scores", "score the system first"]),
        ("runs/raw", ["runs/raw: contains no test scores", "a run by `test`"]),
        ("broken", ["broken/a.json: expected a museval score file", "delete it"]),
        ("runs/one runs/one", ["is given twice", "NAME=FOLDER"]),
        ("runs/one --metrics SDRR", ["--metrics: invalid choice: 'SDRR'", "'SDR'"]),
        ("runs/one -o void", ["--output void: is a folder", "name of a file"]),
        ("runs/one -o taken/x.md", ["--output taken", "is not a folder"]),
        ("runs/one --figures taken", ["--figures taken", "is not a folder"]),
        ("runs/one --output taken", ["taken already exists", "--force"]),
        ("wandb:mine", ["wandb:mine: expected wandb:entity/project"]),
        ("wandb:me/mine", ["wandb:me/mine: not logged in", "wandb login"]),
    ],
    "models": [
        ("htdemcus", ["htdemcus: there is no such", "did you mean htdemucs"]),
        ("--stem vocal", ["no model has all that is asked for", "leave out an option"]),
        ("--max-mb x", ["--max-mb", "'x'"]),
    ],
    "doctor": [
        ("gone", ["gone: does not exist", "check the path"]),
        ("data/train", ["data/train: has no folder 'train'", "the folder above it"]),
        ("data -o taken", ["-o taken", "is not a folder"]),
        ("data --json void", ["--json void: is a folder"]),
        ("data --workers 0", ["--workers", "at least 1", "'0'"]),
    ],
    "export": [
        (
            "ensemble.yaml --format safetensors -o out",
            ["ensemble.yaml: Ensemble consists of several models", "one by one"],
        ),
        ("model.ckpt", ["arguments are required: -o"]),
        ("gone.ckpt -o out", ["gone.ckpt: there is no such checkpoint"]),
        ("text.ckpt -o out", ["text.ckpt: 5 bytes that cannot be read as a checkpoint"]),
        ("model.ckpt -o out --format tflite", ["'tflite'", "'safetensors', 'torch_export'"]),
        ("model.ckpt -o taken", ["taken already exists", "another name, or --force"]),
        ("model.ckpt -o taken --force", ["-o taken: taken is not a folder"]),
        ("model.ckpt -o out.onnx --format torch_export", ["a name that ends in .pt2"]),
        ("model.ckpt -o out --seconds 0", ["--seconds is 0.0", "above 0"]),
        ("model.ckpt -o out --license MIT", ["--license is 'MIT'", "an identifier of the Hub"]),
        ("model.ckpt -o out --scores void", ["--scores void", "a folder with score files"]),
    ],
    "push": [
        ("gone.ckpt me/model", ["gone.ckpt: there is no such checkpoint"]),
        ("model.ckpt model", ["model: give the name", "as user/name"]),
        ("model.ckpt me/model --license MIT", ["--license is 'MIT'"]),
        ("HF_TOKEN= model.ckpt me/model", ["not logged in", "hf auth login"]),
    ],
    "cascade": [
        ("--separator model.ckpt -o out", ["arguments are required: --denoiser"]),
        ("--denoiser gone.ckpt --separator model.ckpt -o out", ["gone.ckpt: there is no such"]),
        ("--denoiser model.ckpt --separator denoiser.ckpt -o out", ["swap the two"]),
        (f"{CASCADE} -o data", ["data is not empty", "--force"]),
        (f"{CASCADE} -o taken", ["-o taken", "is not a folder"]),
        (f"{CASCADE} -o out --processes 0", ["--processes", "at least 1"]),
        (f"{CASCADE} -o out --lowest-db nan", ["lowest_db is nan", "finite"]),
        (f"{CASCADE} -o out --lowest-db 30", ["lowest_db 30.0 is above highest_db", "swap"]),
        (f"{CASCADE} -o out --noise gone", ["gone: does not exist", "folder of noise"]),
        (f"{CASCADE} -o out --paper-excerpts", ["has 26,460 samples", "leave --paper-excerpts"]),
        (f"{CASCADE} -o out --device gpu", ["--device gpu", "try cpu"]),
    ],
    "webapp": [
        ("--checkpoint", ["argument --checkpoint/--model: expected at least one argument"]),
        ("--checkpoint gone.ckpt", ["gone.ckpt: there is no such checkpoint", "model.ckpt"]),
        ("--checkpoint model.ckpt --port http", ["argument --port", "'http'"]),
        ("--checkpoint model.ckpt --port 99999", ["--port is 99999", "0 to 65535"]),
        ("--checkpoint model.ckpt --jobs 0", ["--jobs is 0", "from 1 on"]),
        ("--checkpoint model.ckpt --max-mb nan", ["--max-mb is nan", "above 0"]),
    ],
    "import_open_unmix": [
        ("package", ["arguments are required: -o"]),
        ("gone -o out.ckpt", ["gone: is not a folder", ".pth files"]),
        ("void -o out.ckpt", ["void: its .pth files are none", "vocals.pth"]),
        ("text_package -o out.ckpt", ["vocals-1.pth: cannot be read as weights", "copy or"]),
        ("package -o taken", ["taken already exists", "another name"]),
        ("package -o taken/x.ckpt", ["-o taken: taken is not a folder"]),
    ],
    "import_msst": [
        ("config.yaml", ["arguments are required: weights, -o"]),
        ("gone.yaml text.ckpt -o out", ["gone.yaml: there is no such file", "config and weights"]),
        ("text.ckpt text.ckpt -o model.ckpt", ["model.ckpt", "exists"]),
    ],
    "import_demucs": [
        ("gone.th -o out.ckpt", ["gone.th: there is no such file"]),
        ("void -o out.ckpt", ["void: there is no such file"]),
        ("text.ckpt -o out.ckpt", ["text.ckpt: cannot be read as weights", "copy or"]),
        ("song.wav -o out.ckpt", ["song.wav: cannot be read as weights"]),
        ("other.ckpt -o out.ckpt", ["other.ckpt: has no encoder.0.0.weight", "were expected"]),
        ("demucs.th -o out.ckpt --sources a b c", ["each of a, b, c", "in the file's order"]),
        ("demucs.th -o out.ckpt --sources a a", ["sources has 'a' and 'a'", "names that differ"]),
        ("demucs.th -o taken", ["taken already exists"]),
        ("gone.yaml -o out", ["gone.yaml: there is no such file"]),
    ],
    "benchmark": [
        ("lader", ["invalid choice: 'lader'", "'loader'"]),
        ("loader --root gone", ["gone: does not exist", "check the path"]),
        ("loader --tracks 1", ["--tracks is 1", "give 2 or more"]),
        ("step gone", ["'gone' does not exist", "unet.yaml"]),
        ("step unet/small --batch-size two", ["--batch-size", "'two'"]),
        ("step unet/small --device gpu", ["--device gpu", "try cpu"]),
        ("step unet/small --json void", ["--json void: is a folder"]),
        ("step unet/small --also model.init_args.chanels=[4]", ["did you mean channels?"]),
        ("ranks unet/small --ranks 2", ["--ranks is [2]: begin with 1"]),
        ("ranks unet/small --ranks 1 9999", ["--ranks has 9999", "give no more"]),
        ("separation unet/small --track-seconds nan", ["--track-seconds is nan", "above 0"]),
        ("scorer --seconds -3", ["--seconds has -3", "above 0"]),
        ("epoch --epochs 1", ["--epochs is 1", "or more"]),
        ("epoch --config unett", ["did you mean unet?"]),
        ("transfer --workers -1", ["--workers has -1", "0 or more"]),
        ("gpu --seconds 0", ["--seconds is 0", "above 0"]),
        ("gpu --only stepp", ["--only stepp", "there is no such part"]),
    ],
    "endurance": [
        ("--minutes 0", ["--minutes is 0", "above 0"]),
        ("--minutes nan", ["--minutes is nan", "above 0"]),
        ("--runs 0", ["--runs", "at least 1", "'0'"]),
        ("--seed -1", ["--seed", "at least 0", "'-1'"]),
        ("-o taken", ["-o taken", "is not a folder"]),
    ],
    "demo": [
        ("--config gone.yaml", ["'gone.yaml' does not exist"]),
        ("STEMLAB_CACHE=taken", ["STEMLAB_CACHE taken/", "taken is not a folder"]),
    ],
    "completion": [("fish", ["invalid choice: 'fish'", "'bash'", "'zsh'"])],
    "requeue": [
        ("one --run_dir runs/one", ["status", "'one'"]),
        ("1 --run_dir gone", ["--run_dir gone: has no file 'started'", "slurm/train.sbatch"]),
        ("75 --run_dir runs/raw", ["SLURM_JOB_ID is not set", "submit slurm/train.sbatch"]),
    ],
}

DATA = {
    "convert": [
        ("data", ["arguments are required: OUT"]),
        ("gone out", ["gone: does not exist", "check the path"]),
        ("data data/inside", ["data/inside: overlaps", "OUT must be a folder outside"]),
        ("data taken", ["OUT taken", "is not a folder"]),
        ("data out --subtype PCM_8", ["'PCM_8'", "'PCM_16'"]),
        ("data out --workers -1", ["--workers", "at least 1", "'-1'"]),
        ("nan_data out", ["bass.wav: holds NaN or infinity", "sample 7"]),
        ("rate_data out --strict", ["bass.wav: has 48000 Hz", "export them again"]),
        ("missing_data out", ["B - 2: no bass.wav", "restore the file"]),
    ],
    "doctor": [
        ("void", ["void: has no folder 'train'", "check the path"]),
        ("data --json taken/x.json", ["--json taken: taken is not a folder"]),
        ("data --workers nan", ["--workers", "at least 1", "'nan'"]),
        ("folder:gone", ["'folder' is no layout", "known are list, moisesdb"]),
        ("data --others gone", ["gone: does not exist", "check the path"]),
        ("data --others data --fast", ["--others compares the audio", "leave one of them out"]),
        ("slakh_redux:data", ["redux.json: does not exist", "copy it there"]),
        ("list.csv", ["list.csv: its first line is", "expected the names of columns"]),
        ("data --fats", ["unrecognized arguments: --fats"]),
    ],
    "cache": [
        ("", ["arguments are required: command"]),
        ("shw", ["invalid choice: 'shw'", "'show', 'clear'"]),
        ("clear gone --yes", ["gone: does not exist", "`show` lists"]),
        ("STEMLAB_CACHE=taken show", ["STEMLAB_CACHE taken", "is not a folder"]),
        ("STEMLAB_CACHE=taken clear --yes", ["STEMLAB_CACHE taken", "is not a folder"]),
    ],
    "demo": [
        ("taken", ["ROOT taken", "is not a folder"]),
        ("out --seed -1", ["--seed", "at least 0", "'-1'"]),
        ("out --songs 17", ["--songs", "at least 18", "'17'"]),
    ],
}

MISTAKES = [
    (command, typed, words)
    for package, table in (
        ("lightning_modules", {"cli": CLI}),
        ("lightning_modules.tools", TOOLS),
        ("datamodules", DATA),
    )
    for name, rows in table.items()
    for command in [f"{package}.{name}"]
    for typed, words in rows
]

# Other lines that may appear: usage, progress, messages of Lightning at its start.
_BESIDE = re.compile(
    r"usage: |  |(GPU|TPU) available|Seed set|\S+: +\d+%\||\d+ of \d+ songs|\d+ songs?,"
)


def _main(command: str) -> Callable[[list[str]], int]:
    module = import_module(command)
    is_package = hasattr(module, "__path__")
    main: Callable[[list[str]], int] = (
        import_module(f"{command}.__main__").main if is_package else module.main
    )
    return main


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with valid and invalid files of every kind that the rows name."""
    folder = tmp_path_factory.mktemp("mistakes")
    write_faulty_files(folder)
    return folder


def _words(typed: str, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Set the environment variables of a row and return its arguments."""
    words = shlex.split(typed)
    while words and re.match("[A-Z_]+=", words[0]):
        monkeypatch.setenv(*words.pop(0).split("=", 1))
    return [part for word in words for part in ([*TINY, *CSV] if word == "TINY" else [word])]


def _files(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize(
    ("command", "typed", "words"),
    [
        pytest.param(
            *row,
            # Lightning builds model and data, which takes a second.
            marks=[pytest.mark.slow] * ("TINY" in row[1]),
            id=" ".join(row[:2]).removeprefix("lightning_modules."),
        )
        for row in MISTAKES
    ],
)
def test_mistake_is_answered_by_one_line_and_changes_no_files(
    command: str,
    typed: str,
    words: list[str],
    place: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(place)
    monkeypatch.setenv("STEMLAB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HOME", str(tmp_path))  # not logged in to W&B
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    before = _files(place)
    try:
        status: str | int | None = _main(command)(_words(typed, monkeypatch))
    except SystemExit as usage:
        status = usage.code
    out, err = capsys.readouterr()
    assert status not in (0, None)
    assert "Traceback" not in out + err
    plain = err.replace("\x1b[A", "")
    lines = [line for line in re.split("[\r\n]+", plain) if line and not _BESIDE.match(line)]
    assert len(lines) == 1, err
    error = lines[0].partition("error: ")[2]
    assert error, lines[0]
    assert all(word in error for word in words), error
    assert len(error) < 600, error
    after = _files(place)
    assert {path: after.get(path) for path in before} == before
    made = {path.relative_to(place).parts[0] for path in after.keys() - before.keys()}
    shutil.rmtree(place / "out", ignore_errors=True)
    assert made <= {"out"}, "only the requested output may be left"


def test_every_command_has_rows() -> None:
    commands = {
        ".".join(path.relative_to(REPOSITORY).with_suffix("").parts).removesuffix(".__main__")
        for package in ("lightning_modules", "datamodules")
        for path in (REPOSITORY / package).rglob("*.py")
        if '__name__ == "__main__"' in path.read_text()
    }
    # tests/test_stemlab.py has those of `stemlab`.
    assert {command for command, _, _ in MISTAKES} == commands - {"lightning_modules"}
    for names, rows in (
        (SUBCOMMANDS, CLI),
        (COMMANDS, TOOLS["benchmark"]),
        (("show", "clear"), DATA["cache"]),
    ):
        assert set(names) <= {word for typed, _ in rows for word in typed.split()[:2]}
    assert len(MISTAKES) >= 40


@pytest.mark.parametrize(
    ("command", "typed", "words"),
    [
        ("lightning_modules.cli", "fit --config unett.yaml", "did you mean unet?"),
        ("lightning_modules.tools.separate", "gone.wav --checkpoint model.ckpt", "gone.wav"),
        ("datamodules.convert", "gone out", "gone: does not exist"),
    ],
)
def test_mistakes_in_a_shell(place: Path, command: str, typed: str, words: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", command, *typed.split()],
        cwd=place,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stdout) == (2, "")
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: ")
    assert words in line


# Rows that are answered without importing torch.
_LIGHT = [
    ("lightning_modules.cli", "fit --config unett.yaml"),
    ("lightning_modules.tools.separate", "gone.wav --checkpoint model.ckpt"),
    ("lightning_modules.tools.score", "gone data -o out"),
    ("lightning_modules.tools.compare", "gone"),
    ("lightning_modules.tools.cascade", f"{CASCADE} -o taken"),
    ("lightning_modules.tools.import_open_unmix", "gone -o out.ckpt"),
    ("lightning_modules.tools.import_demucs", "gone.th -o out.ckpt"),
    ("lightning_modules.tools.import_msst", "gone.yaml gone.ckpt -o out"),
    ("lightning_modules.tools.webapp", "--checkpoint gone.ckpt"),
    ("lightning_modules.tools.export", "gone.ckpt -o out"),
    ("lightning_modules.tools.push", "gone.ckpt me/model"),
    ("lightning_modules.tools.requeue", "1 --run_dir gone"),
    ("datamodules.convert", "gone out"),
    ("datamodules.doctor.__main__", "gone"),
    ("datamodules.cache.folder", "clear gone --yes"),
]


@pytest.mark.slow
def test_mistakes_are_reported_before_slow_imports(place: Path, tmp_path: Path) -> None:
    script = (
        "import sys; from importlib import import_module\n"
        f"for command, typed in {_LIGHT!r}:\n"
        "    assert import_module(command).main(typed.split()) == 2, command\n"
        "    assert 'torch' not in sys.modules, command\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "STEMLAB_CACHE": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=place,
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert len(done.stderr.splitlines()) == len(_LIGHT)
