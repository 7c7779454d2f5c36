"""Commands, settings, configs and Python code in README and docs work.

Commands of bash blocks and code spans run page by page in a folder that has the files they name,
with additional settings that make models and data small. Only parsed are commands that ``need``
GPUs or Weights & Biases, those passed to SLURM or torchrun, and those that other tests run.
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
from contextlib import redirect_stdout
from importlib import import_module
from pathlib import Path
from pkgutil import resolve_name
from unittest.mock import patch

import pytest
import soundfile
import torch
import yaml
from torch.distributed.run import get_args_parser

from datamodules import command_line
from lightning_modules import architectures, cli
from lightning_modules.architectures.htdemucs import HTDemucs
from lightning_modules.commands import CLI, COMMANDS
from lightning_modules.configuration import short_options
from lightning_modules.configuration.build import build_model
from lightning_modules.configuration.files import chain
from lightning_modules.evaluation import scorer
from lightning_modules.interop import demucs
from lightning_modules.interop.published import published_models
from lightning_modules.tools import benchmark, cascade, separate
from tests.helpers import msst_package
from tests.helpers.checkpoints import save
from tests.helpers.command_line import CSV, REPOSITORY, TINY
from tests.helpers.comparison import write_folder, write_run
from tests.helpers.light_runs import ScoringThreads
from tests.helpers.open_unmix_package import package_networks, write
from tests.helpers.tracks import write_track

PAGES = {
    str(path.relative_to(REPOSITORY)): path.read_text()
    for path in (REPOSITORY / "README.md", *sorted((REPOSITORY / "docs").glob("*.md")))
}
RUN = "stemlab "
TOOLS = "lightning_modules.tools"
# Run until stopped, take minutes at any setting, or need the internet.
PARSED_ONLY = ("tools.webapp", "tools.endurance", "tools.push", "demo.__main__")
# Arguments that make a benchmark a matter of seconds; of the others only the options are checked.
QUICK = {"separation": "--peers --track-seconds 1 --repeats 1"}


def blocks(text: str, language: str) -> list[str]:
    """Code blocks of a language, with the indentation of lists removed."""
    found = re.findall(rf"^( *)```{language}\n(.*?)```", text, re.DOTALL | re.MULTILINE)
    return [re.sub(rf"^{indent}", "", block, flags=re.MULTILINE) for indent, block in found]


def lines(page: str) -> Iterator[str]:
    """The commands in a page's bash blocks, with continuation lines and quotations joined."""
    for block in blocks(PAGES[page], "bash"):
        command = ""
        for line in block.replace("\\\n", " ").splitlines():
            command += line
            try:
                shlex.split(command, comments=True)
            except ValueError:  # an open quotation
                command += "\n"
                continue
            if command.strip():
                yield command
            command = ""


def is_python(line: str) -> bool:
    """Whether a line is a Python command that can run here."""
    return line.startswith("python -c ") or bool(re.search(r"^(.*\| )?stemlab ", line))


def spans(page: str) -> Iterator[str]:
    """The commands and settings in a page's code spans."""
    prose = re.sub(r"```.*?```", "", PAGES[page], flags=re.DOTALL)
    for span in re.findall(r"`([^`]+)`", prose):
        yield " ".join(span.split())


def commands(page: str) -> list[str]:
    """The different Python commands of a page that can run here, with alternatives expanded."""
    found = [line for line in lines(page) if is_python(line)]
    if page == "README.md":  # its list of tools leaves out the common prefix
        listed = re.findall(
            r"^- `(\w[^`]*)`", PAGES[page].partition("\n## Tools\n")[2], re.MULTILINE
        )
        assert listed
        found += [f"{RUN}{tool}" for tool in listed]
    found += [
        span
        for span in spans(page)
        if span.startswith(RUN) and not re.search(r"\.\.\.|COMMAND|NAME", span)
    ]
    expanded = [
        re.sub(r"\w+(\|\w+)+", choice, command) if choice else command
        for command in found
        for choice in (re.search(r" \w+(\|\w+)+", command) or [" "])[0].strip().split("|")
    ]
    return list(dict.fromkeys(expanded))


def small(arguments: list[str]) -> list[str]:
    """Settings that make the model and the data of a `cli` command small."""
    named = arguments[arguments.index("--config") + 1].removesuffix(".yaml")
    if named.endswith("/config"):
        return []  # the config of a run that was small
    config = Path("ensemble.yaml") if named == "ensemble" else chain(named)[1]
    kind = resolve_name(yaml.safe_load(config.read_text())["model"]["class_path"])
    settings = [f"--model.init_args.{key}={json.dumps(value)}" for key, value in kind.tiny.items()]
    settings += [word for word in TINY if not word.startswith("--model")]
    settings += ["--data.init_args.examples_per_epoch=4", "--data.init_args.batch_size=2"]
    return settings + (CSV if not any("logger" in word for word in arguments) else [])


def save_best(name: str, run_dir: Path) -> None:
    """Save the best checkpoint of a run of a small model."""
    settings = [
        word for word in small(["--config", name]) if word.startswith(("--model", "--data"))
    ]
    (run_dir / "checkpoints").mkdir(parents=True)
    save(build_model(name, settings).model, run_dir / "checkpoints/best.ckpt")


@pytest.fixture(scope="session")
def files(musdb_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with all files that the pages name."""
    here = tmp_path_factory.mktemp("docs")
    track = musdb_root / "test/Test - Song"
    for name in ("song.mp3", "song.wav", "albums/one.wav", "albums/more/two.m4a"):
        (here / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(track / "mixture.wav", here / name)  # the content decides, not the name
    shutil.copytree(track, here / "estimates" / track.name)
    for song in ("train/Band A - One", "train/Band B - Two", "test/Test - Song"):
        shutil.copytree(musdb_root / song, here / "songs" / song)
        for stem in ("guitar", "piano"):
            shutil.copy(musdb_root / song / "other.wav", here / f"songs/{song}/{stem}.wav")
        mixture, vocals = (
            soundfile.read(musdb_root / song / f"{name}.wav", dtype="int16")
            for name in ("mixture", "vocals")
        )
        soundfile.write(here / f"songs/{song}/instrumental.wav", mixture[0] - vocals[0], mixture[1])
    write_track(here / "others/train/Another - Song", seed=77)
    levels = {f"song {number}": 0.5 * number for number in range(9)}
    for number, name in enumerate(("unet", "unet-2", "unet-3", "demucs")):
        write_run(here / "runs" / name, levels, seed=number, channels=number)
    for name in ("published/STL2", "published/MIX", "scores/irm2/test"):
        write_folder(here / name, levels)
    for name in ("unet", "demucs"):
        save_best(name, here / "runs" / name)
    shutil.copy(here / "runs/unet/checkpoints/best.ckpt", here / "best.ckpt")
    (ensemble,) = blocks(PAGES["docs/separating.md"], "yaml")
    (here / "ensemble.yaml").write_text(ensemble)
    (here / "docs/pictures").mkdir(parents=True)
    (here / "umxhq").mkdir()
    write(package_networks(["vocals", "drums"]), here / "umxhq", nhop=128)
    (here / "demucs").mkdir()
    for file in ("955717e8-8726e21a", "f7e0c4bc-ba3fe64a"):
        torch.manual_seed(0)
        package_model = HTDemucs(
            ["drums", "bass", "other", "vocals"], segment_seconds=0.5, **HTDemucs.tiny
        )
        demucs.write(package_model, here / f"demucs/{file}.th")
    bag = "models: [955717e8, f7e0c4bc]\nweights: [[1, 0, 1, 1], [0, 1, 1, 1]]\n"
    (here / "demucs/htdemucs_ft.yaml").write_text(bag)
    msst_package.write(here / "msst", "bs_roformer", ["vocals", "drums", "bass", "other"])
    return here


@pytest.fixture
def place(files: Path, musdb_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of ``files`` as working directory; scores are computed in threads."""
    shutil.copytree(files, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MUSDB_PATH", str(musdb_root))
    monkeypatch.setenv("STEMLAB_CACHE", str(tmp_path / "cache"))
    for name in ("STEMLAB_COMMAND", "PYTHONSAFEPATH"):  # `stemlab` sets them
        monkeypatch.setenv(name, "1")
    for module in (cascade, scorer):
        monkeypatch.setattr(module, "ScoringPool", ScoringThreads)
    return tmp_path


def module_of(words: list[str]) -> tuple[str, list[str]]:
    """Module of a subcommand of ``stemlab``, and the arguments of its ``main``."""
    redirected = [number for number, word in enumerate(words) if word in (">", ">>")]
    words = words[: redirected[0]] if redirected else words
    for length in (1, 2):
        if (name := " ".join(words[:length])) in COMMANDS:
            module = COMMANDS[name].module
            return module, words if module == CLI else words[length:]
    return "lightning_modules.__main__", words


def words_of(command: str, data: Path) -> tuple[str, list[str]]:
    """Module and arguments of a command, with the test data set in place of its paths."""
    command = re.sub(r"/data/musdb18\w*(?!\S)", shlex.quote(str(data)), os.path.expandvars(command))
    for word, replacement in (
        ("/data/musdb18-wav", "musdb18-wav"),
        ("/data/medleydb slakh_redux:/data/slakh2100", "others"),
        (" ROOT", f" {shlex.quote(str(data))}"),
        (" CONFIG", " unet/small"),
    ):
        command = command.replace(word, replacement)
    module, arguments = module_of(shlex.split(command.partition(RUN)[2], comments=True))
    if module.endswith(".compare"):
        arguments = [
            found
            for word in arguments
            for found in (sorted(glob.glob(word)) if "*" in word else [word])
        ]
    return module, arguments


def needs_more(command: str) -> bool:
    """Whether the page says that a command needs hardware or a service."""
    return re.search(r"# needs (\d+ GPUs|Weights & Biases)", command) is not None


def parse(module: str, arguments: list[str]) -> None:
    """Parse arguments with the command's own parser, which exits if it refuses them."""
    if module.endswith(".cli"):
        assert print_config(arguments) == 0
        return
    with patch.object(command_line, "run", lambda work, stopped="": 0):
        assert import_module(module).main(arguments) == 0


def names_published_model(module: str, arguments: list[str]) -> bool:
    """Whether a command would download a model; tests/interop and tests/tools run such ones."""
    words = {part for word in arguments for part in re.split(r"[=,\[\]]", word)}
    by_default = module.endswith(".separate") and "--checkpoint" not in arguments
    shows = module.endswith(".models") and "--download" not in arguments
    return not shows and (by_default or not words.isdisjoint({*published_models()} - {"umxhq"}))


def execute(module: str, arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    main: Callable[[list[str]], int] = import_module(module).main
    if not arguments:  # a mention of the command
        with pytest.raises(SystemExit, match="0"):
            main(["--help"])
    elif module == CLI and "--config" not in arguments:  # `fit` and `fit --help`
        assert main([arguments[0], "--help"]) == 0
    elif names_published_model(module, arguments):
        parse(module, arguments)
    elif module.endswith(PARSED_ONLY) or {"torch_export", "onnx"} & set(arguments):
        parse(module, arguments)  # tests/tools/test_export.py runs the formats
    elif module.endswith(".benchmark"):
        quick = QUICK.get(arguments[0])
        if quick is None:
            measured = benchmark.COMMANDS[arguments[0]]
            monkeypatch.setattr(f"{measured}.compare", lambda options: {})
            monkeypatch.setattr(f"{measured}.table", lambda report: "")
        assert main([*arguments, *shlex.split(quick or "")]) == 0
    elif "--print_config" in arguments:
        parse(module, arguments)
    elif module.endswith(".cli"):
        # Short options may not be given beside the settings that they stand for.
        arguments = [arguments[0], *short_options.expand(arguments[1:])]
        assert main([*arguments, *small(arguments)]) == 0
    else:
        assert main(arguments) == 0


@pytest.mark.slow
@pytest.mark.parametrize(
    "page",
    [
        # Its last command reads a plot of the run.
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
            continue  # test_example_of_an_architecture_trains_and_separates
        if command.startswith("find "):
            found = subprocess.check_output(command.partition("|")[0], shell=True, text=True)
            monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(found.encode())))
        if "/dev/stdin" in arguments:
            shutil.copy("song.wav", "stdin.wav")
            arguments = [word.replace("/dev/stdin", "stdin.wav") for word in arguments]
        try:
            if needs_more(command):
                parse(module, arguments)
            else:
                execute(module, arguments, monkeypatch)
        except BaseException:
            print(f"{page}: {command}", capsys.readouterr().err[-3000:], file=sys.__stderr__)
            raise


@pytest.mark.slow
def test_commands_of_other_programs() -> None:
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
                check_launcher(words)
            elif words[:2] == ["wandb", "sweep"]:
                assert (REPOSITORY / words[-1]).is_file(), line
            elif words[:2] == ["pip", "install"]:
                project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
                extras = re.findall(r"\[(\w+)\]", line)
                assert set(extras) <= set(project["optional-dependencies"]), line
                assert words[2].startswith(("-e", ".", "git+")), f"{line}: it is in no registry"
            elif words[0] == "uv":
                assert words[1:4] == ["tool", "install", "."], line
            elif words[0] == "python":
                assert (REPOSITORY / words[1]).is_file(), line
                parse(Path(words[1]).stem, words[2:])
            elif words[0] == "/usr/bin/time":
                compile(words[words.index("-c") + 1], page, "exec")
            elif words[0].startswith("--"):
                parse_settings(line)
            elif words[0] == "ffmpeg":
                assert words[-1].startswith("new."), f"{page}: {line}"
            else:
                assert re.fullmatch(r"export \w+=\S+", " ".join(words)), f"{page}: {line}"
    assert {"make", "sbatch", "torchrun", "wandb", "export"} <= seen


@pytest.mark.slow
def test_commands_of_the_colab_notebook(place: Path) -> None:
    """They are parsed: Colab, its files and the internet are not here. Outputs are not stored."""
    notebook = json.loads((REPOSITORY / "docs/colab.ipynb").read_text())
    cells = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    names = set()
    for cell in cells:
        assert (cell["outputs"], cell["execution_count"]) == ([], None)
        source = "".join(cell["source"])
        compile(re.sub("^!.*$", "", source, flags=re.MULTILINE), "colab.ipynb", "exec")
        for command in re.findall("^!(.*)$", source, re.MULTILINE):
            if command.startswith("pip "):
                assert command.split()[-1] in PAGES["docs/installing.md"]
                continue
            module, arguments = module_of(shlex.split(command)[1:])
            names.add(command.split()[1])
            if arguments != ["--version"]:
                parse(module, arguments)
    assert {"separate", "fit", "test"} <= names


def check_launcher(words: list[str]) -> None:
    """Parse the arguments that SLURM or torchrun pass to ``fit``."""
    if words[0] == "torchrun":
        options = get_args_parser().parse_args(words[1:])
        assert (options.no_python, options.training_script) == (True, "stemlab")
        parse(CLI, options.training_script_args)
        return
    (script,) = [word for word in words if word.endswith(".sbatch")]
    assert (REPOSITORY / script).is_file()
    if script.endswith("train.sbatch"):
        parse("lightning_modules.cli", ["fit", *words[words.index(script) + 1 :]])


def parse_settings(settings: str) -> None:
    """Parse settings of ``fit``, which some architecture must accept."""
    words = shlex.split(settings.replace("/data/musdb18hq", "songs"))
    if words[::2] == ["--config"]:
        assert chain(words[1]), settings
        return
    for config in ["unet", "wave_unet", "conv_tasnet", "open_unmix"]:
        given = [] if "--config" in words else ["--config", config]
        if print_config(["fit", *given, *words]) == 0:
            return
    raise AssertionError(settings)


def print_config(arguments: list[str]) -> int:
    """Exit status of ``cli`` with ``--print_config``."""
    try:
        return cli.main([*arguments, "--print_config"])
    except SystemExit as shown:
        return int(shown.code or 0)


@pytest.mark.slow
def test_options_and_settings_in_the_text_exist(place: Path) -> None:
    """Settings with a value are parsed; of tools' options the names are checked."""
    known = options_of_all()
    found = {
        (page, span)
        for page in PAGES
        for span in spans(page)
        if span.startswith("--") and "mine" not in span
    }
    for span in {span for _, span in found if re.match(r"--config |--[a-z]+\.\S+=", span)}:
        parse_settings(span)
    for page, span in found:
        if page != "docs/slurm.md":  # which has options of SLURM
            for option in re.findall(r"(?:^| )(--[\w-]+)(?![\w.])", span):
                assert option in known, f"{page}: {span}"


def options_of_all() -> set[str]:
    """Options of all tools, from their help, and those of ``cli`` without a dot."""
    modules = [
        ".".join(path.relative_to(REPOSITORY).with_suffix("").parts)
        for folder in ("datamodules", "lightning_modules/tools")
        for path in (REPOSITORY / folder).rglob("*.py")
        if "command_line.Parser(" in path.read_text() and path.stem != "command_line"
    ]
    calls = [(module, ["--help"]) for module in modules]
    calls += [(f"{TOOLS}.benchmark", [name, "--help"]) for name in benchmark.COMMANDS]
    calls += [("datamodules.cache.folder", ["clear", "--help"])]
    with redirect_stdout(io.StringIO()) as output:
        for module, arguments in calls:
            with pytest.raises(SystemExit):
                import_module(module).main(arguments)
    found = set(re.findall(r"--[\w-]+", output.getvalue()))
    found |= set(re.findall(r"--[\w-]+", short_options.build_parser("fit").format_help()))
    return found | {"--config", "--run_dir", "--version"}


@pytest.mark.slow
def test_python_example_of_the_readme(place: Path) -> None:
    (code,) = blocks(PAGES["README.md"], "python")
    names = {"mixture": torch.zeros(2, 44100)}
    exec(compile(code, "README.md", "exec"), names)
    assert names["vocals"].shape == names["other"].shape == (2, 44100)


@pytest.mark.slow
def test_yaml_examples_are_accepted(place: Path) -> None:
    examples = [
        config
        for page, text in PAGES.items()
        if "adding" not in page
        for config in blocks(text, "yaml")
    ]
    assert len(examples) >= 4
    for config in examples:
        config = config.replace("/data/musdb18hq", "songs").replace("/data/extra", "albums")
        Path("shown.yaml").write_text(config)
        parent = "denoising_autoencoder" if "degradations" in config else "unet"
        words = ["--config", parent, "--config", "shown.yaml"]
        parse("lightning_modules.cli", ["fit", *words])


def test_linked_files_and_configs_exist() -> None:
    for page, text in PAGES.items():
        folder = (REPOSITORY / page).parent
        for target in re.findall(r"\]\((?!http)([^)#]+)\)", text):
            assert (folder / target).exists(), f"{page}: {target}"
        for config in re.findall(r"--config (\w[\w./]*\.yaml)", text):
            known = (REPOSITORY / "configs" / config).is_file() or config.startswith(
                ("mine", "runs/", "imported/", "ensemble.yaml")
            )
            assert known, f"{page}: {config}"


@pytest.mark.slow
def test_example_of_an_architecture_trains_and_separates(
    place: Path, musdb_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The two files of the docs, without ffmpeg or any other program."""
    page = PAGES["docs/adding_an_architecture.md"]
    (module,), (config,) = blocks(page, "python"), blocks(page, "yaml")
    Path("mine.py").write_text(module)
    Path("mine.yaml").write_text(config)
    monkeypatch.setattr(architectures, "__path__", [*architectures.__path__, str(place)])
    monkeypatch.setenv("PATH", str(place))
    tiny = [word for word in TINY if not word.startswith("--model")]
    assert cli.main(["fit", "--config", "mine.yaml", *tiny, *CSV]) == 0
    checkpoint = "runs/mine/checkpoints/best.ckpt"
    song = str(musdb_root / "test/Test - Song/mixture.wav")
    assert separate.main([song, "--checkpoint", checkpoint]) == 0
    assert Path("separated/Test - Song/vocals.wav").is_file()


@pytest.mark.slow
def test_a_page_of_the_api_reference(tmp_path: Path) -> None:
    (line,) = re.findall(r"pdoc (.*) lightning_modules", (REPOSITORY / "Makefile").read_text())
    options = [*shlex.split(line)[:-1], str(tmp_path), "lightning_modules.tools.requeue"]
    subprocess.run([sys.executable, "-m", "pdoc", *options], check=True, timeout=120)
    page = (tmp_path / "lightning_modules/tools/requeue.html").read_text()
    assert "reason_to_requeue" in page
    assert "Exit status of srun" in page
    assert "<strong>run_dir" in page, "arguments are a list, not a paragraph"
