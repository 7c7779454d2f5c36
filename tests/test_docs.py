"""What README and docs tell a reader to do, done.

Commands of bash blocks and of code spans run as they stand, page by page, in a folder that has
what they name, with settings behind them that make models and data small. Parsed only is a line
that says what it ``needs`` (GPUs, Weights & Biases), and what is handed to SLURM or torchrun.
"""

from __future__ import annotations

import glob
import io
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from pkgutil import resolve_name
from unittest.mock import patch

import pytest
import torch
import yaml
from torch.distributed.run import get_args_parser

from datamodules import command_line
from lightning_modules import cli
from lightning_modules.configuration.build import build_model
from lightning_modules.configuration.files import chain
from lightning_modules.tools import benchmark
from tests.helpers.checkpoints import save
from tests.helpers.command_line import CSV, REPOSITORY, TINY
from tests.helpers.comparison import write_folder, write_run
from tests.helpers.open_unmix_package import package_networks, write

PAGES = {
    str(path.relative_to(REPOSITORY)): path.read_text()
    for path in (REPOSITORY / "README.md", *sorted((REPOSITORY / "docs").glob("*.md")))
}
RUN = "python -m "
TOOLS = "lightning_modules.tools"
# They end when somebody ends them, or take minutes whatever they are given: other tests run them.
PARSED_ONLY = ("tools.webapp",)
# Those of the benchmark that a second is enough for, and what makes it a second; tests/benchmark
# runs the others, whose options are parsed and checked here.
QUICK = {
    "separation": "--peers --track-seconds 1 --repeats 1",
    "convolution": "--segment-seconds 0.5 --response-seconds 0.01 --repeats 1",
}


def blocks(text: str, language: str) -> list[str]:
    """Blocks of code, also those of lists."""
    found = re.findall(rf"^( *)```{language}\n(.*?)```", text, re.DOTALL | re.MULTILINE)
    return [re.sub(rf"^{indent}", "", block, flags=re.MULTILINE) for indent, block in found]


def lines(page: str) -> Iterator[str]:
    """The lines of a page's bash blocks, continued ones joined."""
    for block in blocks(PAGES[page], "bash"):
        waiting = ""
        for line in block.replace("\\\n", " ").splitlines():
            waiting += line
            try:
                shlex.split(waiting, comments=True)
            except ValueError:  # a quotation goes on
                waiting += "\n"
                continue
            if waiting.strip():
                yield waiting
            waiting = ""


def is_python(line: str) -> bool:
    """Whether a line is a command of Python's that can be run here."""
    return line.startswith("python -c ") or (RUN in line and "torchrun" not in line)


def spans(page: str) -> Iterator[str]:
    """The commands and settings in a page's code spans."""
    prose = re.sub(r"```.*?```", "", PAGES[page], flags=re.DOTALL)
    for span in re.findall(r"`([^`]+)`", prose):
        yield " ".join(span.split())


def commands(page: str) -> list[str]:
    """What a page has of Python commands that can be run, alternatives one by one."""
    found = [line for line in lines(page) if is_python(line)]
    if page == "README.md":  # its list of tools leaves out what they have in common
        listed = re.findall(
            r"^- `(\w[^`]*)`", PAGES[page].partition("\n## Tools\n")[2], re.MULTILINE
        )
        assert listed
        found += [f"{RUN}{TOOLS}.{tool}" for tool in listed]
    found += [
        span
        for span in spans(page)
        if span.startswith(RUN) and not re.search(r"\.(\.\.|NAME)$", span)
    ]
    return [
        re.sub(r"\w+(\|\w+)+", choice, command) if choice else command
        for command in found
        for choice in (re.search(r" \w+(\|\w+)+", command) or [" "])[0].strip().split("|")
    ]


def small(arguments: list[str]) -> list[str]:
    """Settings that make the model and the data of a `cli` command small."""
    named = arguments[arguments.index("--config") + 1].removesuffix(".yaml")
    if named.endswith("/config"):
        return []  # that of a run, which was small
    kind = resolve_name(yaml.safe_load(chain(named)[1].read_text())["model"]["class_path"])
    settings = [f"--model.init_args.{key}={json.dumps(value)}" for key, value in kind.tiny.items()]
    settings += [word for word in TINY if not word.startswith("--model")]
    return settings + (CSV if not any("logger" in word for word in arguments) else [])


def trained(name: str, run_dir: Path) -> None:
    """The best checkpoint of a run of a small model."""
    settings = [
        word for word in small(["--config", name]) if word.startswith(("--model", "--data"))
    ]
    (run_dir / "checkpoints").mkdir(parents=True)
    save(build_model(name, settings).model, run_dir / "checkpoints/best.ckpt")


@pytest.fixture
def place(musdb_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with all that the pages name."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MUSDB_PATH", str(musdb_root))
    monkeypatch.setenv("STEMLAB_CACHE", str(tmp_path / "cache"))
    track = musdb_root / "test/Test - Song"
    for name in ("song.mp3", "song.wav", "albums/one.wav", "albums/more/two.m4a"):
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(track / "mixture.wav", name)  # what counts is what is in it
    shutil.copytree(track, f"estimates/{track.name}")
    for song in ("train/Band A - One", "train/Band B - Two", "test/Test - Song"):
        shutil.copytree(musdb_root / song, f"songs/{song}")
        for stem in ("guitar", "piano"):
            shutil.copy(musdb_root / song / "other.wav", f"songs/{song}/{stem}.wav")
    levels = {f"song {number}": 0.5 * number for number in range(9)}
    for number, name in enumerate(("unet", "unet-2", "unet-3", "demucs")):
        write_run(Path("runs", name), levels, seed=number, channels=number)
    for name in ("published/STL2", "published/MIX", "scores/irm2/test"):
        write_folder(Path(name), levels)
    for name in ("unet", "demucs"):
        trained(name, Path("runs", name))
    shutil.copy("runs/unet/checkpoints/best.ckpt", "best.ckpt")
    Path("docs/pictures").mkdir(parents=True)
    Path("umxhq").mkdir()
    write(package_networks(["vocals", "drums"]), Path("umxhq"), nhop=128)
    return tmp_path


def words_of(command: str, data: Path) -> tuple[str, list[str]]:
    """Module and arguments of a command, the data set's places put in."""
    command = re.sub(r"/data/musdb18\w*(?!\S)", shlex.quote(str(data)), os.path.expandvars(command))
    for word, stands_for in (
        ("/data/musdb18-wav", "musdb18-wav"),
        (" ROOT", f" {shlex.quote(str(data))}"),
        (" CONFIG", " unet/small"),
    ):
        command = command.replace(word, stands_for)
    module, *arguments = shlex.split(command.partition(RUN)[2], comments=True)
    if module.endswith(".compare"):
        arguments = [
            found
            for word in arguments
            for found in (sorted(glob.glob(word)) if "*" in word else [word])
        ]
    return module, arguments


def needs_more(command: str) -> bool:
    """Whether the page says that a command needs what is not everywhere."""
    return re.search(r"# needs (\d+ GPUs|Weights & Biases)", command) is not None


def parse(module: str, arguments: list[str]) -> None:
    """Hand arguments to the command's own parser, which ends the test if it refuses them."""
    if module.endswith(".cli"):
        assert cli_says(arguments) == 0
        return
    with patch.object(command_line, "run", lambda work, stopped="": 0):
        assert import_module(module).main(arguments) == 0


def execute(module: str, arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    main: Callable[[list[str]], int] = import_module(module).main
    if not arguments or module.endswith(PARSED_ONLY):
        # Without arguments only the name is meant; it must have a usage.
        if arguments:
            parse(module, arguments)
        else:
            with pytest.raises(SystemExit, match="0"):
                main(["--help"])
    elif module.endswith(".benchmark"):
        quick = QUICK.get(arguments[0])
        if quick is None:
            monkeypatch.setattr(benchmark.COMMANDS[arguments[0]], "compare", lambda options: {})
            monkeypatch.setattr(benchmark.COMMANDS[arguments[0]], "table", lambda report: "")
        assert main([*arguments, *shlex.split(quick or "")]) == 0
    elif "--print_config" in arguments:
        parse(module, arguments)
    elif module.endswith(".cli"):
        assert main([*arguments, *small(arguments)]) == 0
    else:
        assert main(arguments) == 0


@pytest.mark.slow
@pytest.mark.parametrize(
    "page",
    [
        # Its commands make a picture of a plot.
        pytest.param(name, marks=[pytest.mark.complete_run] * (name == "docs/README.md"))
        for name in PAGES
        if commands(name)
    ],
)
def test_commands_run(
    page: str,
    place: Path,
    musdb_root: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("builtins.input", lambda question: "y")
    for command in commands(page):
        if command.startswith("python -c "):
            exec(compile(shlex.split(command)[2], page, "exec"), {})
            continue
        module, arguments = words_of(command, musdb_root)
        if any("mine" in word for word in arguments):
            continue  # test_an_architecture_is_two_files
        if command.startswith("find "):
            found = subprocess.check_output(command.partition("|")[0], shell=True, text=True)
            monkeypatch.setattr(sys, "stdin", io.StringIO(found))
        try:
            if needs_more(command):
                parse(module, arguments)
            else:
                execute(module, arguments, monkeypatch)
        except BaseException:
            print(f"{page}: {command}", capsys.readouterr().err[-3000:], file=sys.__stderr__)
            raise


@pytest.mark.slow
def test_lines_for_other_programs() -> None:
    """What a reader is to type that is no Python command."""
    seen = set()
    for page in PAGES:
        for line in lines(page):
            if is_python(line):
                continue
            words = shlex.split(re.sub(r"^(\w+=\S+ )+", "", line), comments=True)
            seen.add(words[0])
            if words[0] == "make":
                assert f"\n{words[1]}:" in (REPOSITORY / "Makefile").read_text(), line
            elif words[0] in ("sbatch", "torchrun"):
                handed_on(words)
            elif words[:2] == ["wandb", "sweep"]:
                assert (REPOSITORY / words[-1]).is_file(), line
            elif words[:2] == ["pip", "install"]:
                project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
                extras = re.findall(r"\[(\w+)\]", line)
                assert set(extras) <= set(project["optional-dependencies"]), line
                assert words[2] == "-e", f"{line}: it is in no registry"
            elif words[0] == "python":
                assert (REPOSITORY / words[1]).is_file(), line
                parse(Path(words[1]).stem, words[2:])
            elif words[0] == "/usr/bin/time":
                compile(words[words.index("-c") + 1], page, "exec")
            elif words[0].startswith("--"):
                parse_settings(line)
            else:
                assert re.fullmatch(r"export \w+=\S+", " ".join(words)), f"{page}: {line}"
    assert {"make", "sbatch", "torchrun", "wandb", "export"} <= seen


def handed_on(words: list[str]) -> None:
    """Hold what SLURM or torchrun hand on to `fit` against its parser."""
    if words[0] == "torchrun":
        options = get_args_parser().parse_args(words[1:])
        assert (options.module, options.training_script) == (True, "lightning_modules.cli")
        parse("lightning_modules.cli", options.training_script_args)
        return
    (script,) = [word for word in words if word.endswith(".sbatch")]
    assert (REPOSITORY / script).is_file()
    if script.endswith("train.sbatch"):
        parse("lightning_modules.cli", ["fit", *words[words.index(script) + 1 :]])


def parse_settings(settings: str) -> None:
    """Hold settings of `fit` against the parser: some architecture must take them."""
    words = shlex.split(settings.replace("/data/musdb18hq", "songs"))
    for config in ["unet", "wave_unet", "conv_tasnet", "open_unmix"]:
        given = [] if "--config" in words else ["--config", config]
        if cli_says(["fit", *given, *words]) == 0:
            return
    raise AssertionError(settings)


def cli_says(arguments: list[str]) -> int:
    """Exit status of `cli` when it is to show the settings."""
    try:
        return cli.main([*arguments, "--print_config"])
    except SystemExit as shown:
        return int(shown.code or 0)


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES)
def test_settings_in_the_text_are_known(
    page: str, place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Options in code spans, with their values if those are told."""
    of_slurm = page == "docs/slurm.md"  # and so are its options
    known = set() if of_slurm else options_of_all(capsys)
    for span in spans(page):
        if not span.startswith("--") or "mine" in span:
            continue
        if re.match(r"--config |--[a-z]+\.\S+=", span):
            parse_settings(span)
        elif not of_slurm:
            for option in re.findall(r"(?:^| )(--[\w-]+)(?![\w.])", span):
                assert option in known, f"{page}: {span}"


def options_of_all(capsys: pytest.CaptureFixture[str]) -> set[str]:
    """Options of all tools, as their help tells, and those of `cli` without a dot."""
    modules = [
        f"{folder.name}.{path.stem}" if folder.name == "datamodules" else f"{TOOLS}.{path.stem}"
        for folder in (REPOSITORY / "datamodules", REPOSITORY / "lightning_modules/tools")
        for path in folder.glob("*.py")
        if "argparse.ArgumentParser(" in path.read_text() and path.stem != "command_line"
    ]
    calls = [(module, ["--help"]) for module in modules]
    calls += [(f"{TOOLS}.benchmark", [name, "--help"]) for name in benchmark.COMMANDS]
    calls += [("datamodules.cache.folder", ["clear", "--help"])]
    capsys.readouterr()
    for module, arguments in calls:
        with pytest.raises(SystemExit):
            import_module(module).main(arguments)
    found = set(re.findall(r"--[\w-]+", capsys.readouterr().out))
    return found | {"--config", "--run_dir", "--ckpt_path", "--seed_everything", "--print_config"}


@pytest.mark.slow
def test_python_of_the_readme_runs(place: Path) -> None:
    (code,) = blocks(PAGES["README.md"], "python")
    names = {"mixture": torch.zeros(2, 44100)}
    exec(compile(code, "README.md", "exec"), names)
    assert names["vocals"].shape == names["other"].shape == (2, 44100)


@pytest.mark.slow
def test_configs_in_the_guides_are_accepted(place: Path) -> None:
    seen = 0
    for page, text in PAGES.items():
        for config in blocks(text, "yaml") if "adding" not in page else []:
            config = config.replace("/data/musdb18hq", "songs").replace("/data/extra", "albums")
            Path("shown.yaml").write_text(config)
            parent = "denoising_autoencoder" if "degradations" in config else "unet"
            words = ["--config", parent, "--config", "shown.yaml"]
            parse("lightning_modules.cli", ["fit", *words])
            seen += 1
    assert seen >= 4


def test_files_that_the_docs_name_exist() -> None:
    for page, text in PAGES.items():
        folder = (REPOSITORY / page).parent
        for target in re.findall(r"\]\((?!http)([^)#]+)\)", text):
            assert (folder / target).exists(), f"{page}: {target}"
        for config in re.findall(r"--config (\w[\w./]*\.yaml)", text):
            known = (REPOSITORY / "configs" / config).is_file() or config.startswith(
                ("mine", "runs/")
            )
            assert known, f"{page}: {config}"


@pytest.mark.slow
def test_an_architecture_is_two_files(musdb_root: Path, tmp_path: Path) -> None:
    """The example of the docs, added to a copy of the project, trains and separates there."""
    copy = tmp_path / "project"
    copy.mkdir()
    for name in ("lightning_modules", "datamodules", "configs"):
        (copy / name).mkdir()
        for path in (REPOSITORY / name).rglob("*"):
            if path.is_file() and path.suffix in (".py", ".yaml"):
                target = copy / name / path.relative_to(REPOSITORY / name)
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(path.read_bytes())
    page = PAGES["docs/adding_an_architecture.md"]
    (module,), (config,) = blocks(page, "python"), blocks(page, "yaml")
    (copy / "lightning_modules/architectures/mine.py").write_text(module)
    (copy / "configs/mine.yaml").write_text(config)

    song = musdb_root / "test/Test - Song/mixture.wav"
    tiny = [word for word in TINY if not word.startswith("--model")]
    fit = ["-m", "lightning_modules.cli", "fit", "--config", "mine.yaml", *tiny, *CSV]
    separate = ["-m", "lightning_modules.tools.separate", str(song)]
    # No program is needed.
    environment = {**os.environ, "PYTHONPATH": str(copy), "PATH": str(tmp_path)}
    environment["MUSDB_PATH"] = str(musdb_root)
    for arguments in (fit, [*separate, "--checkpoint", "runs/mine/checkpoints/best.ckpt"]):
        subprocess.run(
            [sys.executable, *arguments],
            cwd=tmp_path,
            env=environment,
            check=True,
            capture_output=True,
            timeout=120,
        )
    assert (tmp_path / "separated/Test - Song/vocals.wav").is_file()


def test_reference_pages_show_what_the_code_says(tmp_path: Path) -> None:
    """A page of `make reference`, by its own options."""
    (line,) = re.findall(r"pdoc (.*) lightning_modules", (REPOSITORY / "Makefile").read_text())
    options = [*shlex.split(line)[:-1], str(tmp_path), "lightning_modules.inference.separation"]
    subprocess.run([sys.executable, "-m", "pdoc", *options], check=True, timeout=120)
    page = (tmp_path / "lightning_modules/inference/separation.html").read_text()
    assert "separate_stream" in page
    assert "Consecutive pieces of the mixture" in page
    assert "<strong>blocks" in page, "arguments are a list, not a paragraph"
