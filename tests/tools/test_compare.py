"""The compare tool from the command line."""

from __future__ import annotations

import csv
import json
import os
import sys
from pathlib import Path

import pytest
import wandb

from lightning_modules import cli
from lightning_modules.tools import compare
from tests.helpers.command_line import TINY
from tests.helpers.comparison import write_folder, write_run

LEVELS = {f"song {number}": 0.5 * number for number in range(9)}


@pytest.fixture(autouse=True)
def _in_new_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def higher(by: float) -> dict[str, float]:
    return {name: level + by + 0.1 * level for name, level in LEVELS.items()}


def rows_of(path: str) -> list[dict[str, str]]:
    return list(csv.DictReader(Path(path).read_text().splitlines()))


@pytest.mark.slow
def test_runs_folders_seeds_and_bounds(capsys: pytest.CaptureFixture[str]) -> None:
    write_run(Path("runs/small"), LEVELS, channels=8)
    write_run(Path("runs/large-0"), higher(1.0), seed=0, channels=16)
    write_run(Path("runs/large-1"), higher(1.5), seed=1, channels=16)
    write_folder(Path("oracles/test"), higher(6.0))
    write_folder(Path("theirs"), dict(list(LEVELS.items())[:8]))
    runs = ["runs/small", "runs/large-0", "runs/large-1", "THEM=theirs"]
    words = [*runs, "--bounds", "irm2=oracles", "--all"]
    assert compare.main([*words, "--format", "markdown", "-o", "out/all.md"]) == 0
    assert compare.main([*words, "--format", "csv", "-o", "out/all.csv"]) == 0
    _, err = capsys.readouterr()
    assert compare.main(words) == 0
    out = capsys.readouterr().out
    assert "large x2  3.45 ± 0.35" in out
    assert "irm2" in out
    assert "mixture" in out
    assert "model.init_args.channels" in out
    assert "large x2: large-0, large-1, which differ only by seed and the path" in out
    assert "THEM: has no scores of 1 of 9 tracks" in out
    assert "data.init_args" not in out
    assert err.splitlines() == [
        f"wrote {Path('out', name)}" for name in ("all.md", "all.csv", "all_pairs.csv")
    ]
    text = Path("out/all.md").read_text()
    assert text.startswith("## SDR, dB: median over tracks")
    assert "- THEM: has no scores of 1 of 9 tracks" in text
    rows = {(row["system"], row["metric"], row["source"]): row for row in rows_of("out/all.csv")}
    assert rows["small", "SDR", "vocals"]["median"] == "2"
    assert rows["small", "nSDR", "vocals"]["median"] == "4"
    assert rows["large x2", "SDR", "vocals"]["seeds"] == "2"
    assert rows["mixture", "SDR", "vocals"]["median"] == "-2"
    tested = [
        row
        for row in rows_of("out/all_pairs.csv")
        if (row["metric"], row["source"]) == ("SDR", "vocals")
    ]
    assert [row["tracks"] for row in tested] == ["9", "8", "8"]

    assert compare.main([*runs[:3], "--no-pool", "--metrics", "SDR"]) == 0
    out = capsys.readouterr().out
    assert "large-0" in out
    assert "only by seed" not in out
    assert "SIR" not in out
    assert compare.main([*runs, "--common-tracks", "--metrics", "SDR", "--all"]) == 0
    out = capsys.readouterr().out
    assert "has no scores" not in out
    assert "8 of 24" in out


TWO = {"one_a": 0.0, "two": 1.0}


@pytest.fixture
def two_systems() -> list[str]:
    for name, by in TWO.items():
        write_run(Path("runs", name), higher(by), channels=int(by))
    return [f"runs/{name}" for name in TWO]


def test_one_table_and_its_pairs_by_default(
    two_systems: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert compare.main(two_systems) == 0
    titles = [line for line in capsys.readouterr().out.splitlines() if ", dB" in line]
    assert [title.partition(":")[0] for title in titles] == [
        *("SDR, dB", "SDR, paired differences over tracks, dB"),
    ]
    assert compare.main([*two_systems, "--all"]) == 0
    out = capsys.readouterr().out
    for text in ("ISR, dB", "uSDR over tracks, dB", "nSDR, paired", "Settings that differ"):
        assert text in out


def test_markdown(two_systems: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert compare.main([*two_systems, "--format", "markdown"]) == 0
    out = capsys.readouterr().out
    assert "## SDR, dB: median over tracks of the median over frames\n\n|  " in out
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in out.splitlines()]
    assert ["one_a", "2.20", "3.20", "4.20", "5.20", "3.70"] in rows
    assert ["two", *(f"**{value}**" for value in ("3.20", "4.20", "5.20", "6.20", "4.70"))] in rows
    assert ["mixture", "-2.00", "-1.00", "0.00", "1.00", "-0.50"] in rows, "a bound is not best"


def test_latex(two_systems: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert compare.main([*two_systems, "--format", "latex"]) == 0
    out = capsys.readouterr().out
    assert out.startswith(
        r"""\begin{table}
  \centering
  \caption{SDR, dB: median over tracks of the median over frames.}
  \begin{tabular}{lrrrrr}
    \toprule
     & vocals & drums & bass & other & mean of 4 \\
    \midrule
    one\_a & 2.20 & 3.20 & 4.20 & 5.20 & 3.70 \\
    two & \textbf{3.20} & \textbf{4.20} & \textbf{5.20} & \textbf{6.20} & \textbf{4.70} \\
    \midrule
    mixture & $-$2.00 & $-$1.00 & 0.00 & 1.00 & $-$0.50 \\
    \bottomrule
  \end{tabular}
\end{table}
"""
    )
    assert r"95\% interval" in out
    assert out.count(r"\begin{table}") == out.count(r"\end{table}") == 2
    assert out.count("{") == out.count("}")
    assert r"one\_a minus two & $-$1.00" in out
    assert "% needs \\usepackage{booktabs}" in out.splitlines()


def test_csv_and_json(two_systems: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert compare.main([*two_systems, "--format", "csv"]) == 0
    rows = list(csv.DictReader(capsys.readouterr().out.splitlines()))
    assert compare.main([*two_systems, "--format", "json"]) == 0
    parts = json.loads(capsys.readouterr().out)
    assert set(parts) == {"statistics", "pairs", "remarks"}
    assert [(row["system"], row["metric"], row["source"]) for row in parts["statistics"]] == [
        (row["system"], row["metric"], row["source"]) for row in rows
    ]
    assert {row["metric"] for row in rows} == {
        *("SDR", "ISR", "SIR", "SAR", "uSDR", "nSDR", "nSIR"),
    }
    (first,) = [
        row
        for row in parts["statistics"]
        if (row["system"], row["metric"], row["source"]) == ("two", "SDR", "vocals")
    ]
    assert first["median"] == pytest.approx(3.2)
    assert first["seed_deviation"] is None
    pair = parts["pairs"][0]
    assert (pair["first"], pair["second"], pair["first_ahead"]) == ("one_a", "two", 0)


def test_best_scores_are_bold_in_a_terminal(
    two_systems: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(type(sys.stdout), "isatty", lambda stream: True)
    for no_color in (False, True):
        if no_color:
            monkeypatch.setenv("NO_COLOR", "1")
        assert compare.main(two_systems) == 0
        bold = [line for line in capsys.readouterr().out.splitlines() if "\x1b[1m" in line]
        assert [line.partition(" ")[0] for line in bold] == ([] if no_color else ["two"])


def test_mixture_option(capsys: pytest.CaptureFixture[str]) -> None:
    write_folder(Path("theirs"), LEVELS)
    write_folder(Path("MIX"), dict.fromkeys(LEVELS, -1.0))
    assert compare.main(["theirs", "--mixture", "MIX", "--metrics", "nSDR", "nSIR"]) == 0
    out = capsys.readouterr().out
    assert "nSDR, dB: median over tracks of SDR minus that of the mixture" in out
    assert "theirs    3.00   3.00  3.00   3.00       3.00" in out
    assert "SAR" not in out


@pytest.mark.slow
def test_plots(capsys: pytest.CaptureFixture[str]) -> None:
    write_run(Path("runs/a"), LEVELS)
    write_run(Path("runs/b"), higher(1.0), channels=16)
    assert (
        compare.main(["runs/a", "runs/b", "--figures", "out", "--figure-format", "png", "svg"]) == 0
    )
    names = ["curves", "improvement", "scores", "tracks"]
    found = sorted(path.name for path in Path("out").iterdir())
    assert found == [f"{name}.{suffix}" for name in names for suffix in ("png", "svg")]
    capsys.readouterr()
    assert compare.main(["runs/a", "--figures", "out"]) == 2
    assert "out/scores.png already exists" in capsys.readouterr().err
    write_folder(Path("theirs"), LEVELS)
    assert compare.main(["theirs", "--figures", "theirs_out", "--metrics", "SAR"]) == 0
    assert sorted(os.listdir("theirs_out")) == ["scores.png", "tracks.png"]


def test_run_named_mixture(capsys: pytest.CaptureFixture[str]) -> None:
    write_run(Path("runs/a"), LEVELS)
    arguments = ["runs/a", "runs/a/scores/mixture", "--metrics", "SDR"]
    assert compare.main(arguments) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["mixture", "-2.00", "-1.00", "0.00", "1.00", "-0.50"] in lines
    assert ["mixture", "as", "estimate", "-2.00", "-1.00", "0.00", "1.00", "-0.50"] in lines


def test_force_is_needed_to_overwrite(capsys: pytest.CaptureFixture[str]) -> None:
    write_folder(Path("one"), LEVELS)
    write_folder(Path("two"), LEVELS)
    Path("old.md").write_text("mine")
    Path("old_pairs.csv").write_text("mine")
    for option in (["-o", "old.md"], ["--format", "csv", "-o", "old.csv"]):
        assert compare.main(["one", "two", *option]) == 2
        error = capsys.readouterr().err
        assert "already exists; give another name, or --force" in error
    assert Path("old.md").read_text() == Path("old_pairs.csv").read_text() == "mine"
    assert compare.main(["one", "two", "-o", "old.md", "--force"]) == 0
    assert "ns" in Path("old.md").read_text()


def test_mistakes_are_reported(capsys: pytest.CaptureFixture[str]) -> None:
    write_folder(Path("one"), {"a": 1.0})
    write_folder(Path("two"), {"b": 1.0})
    write_folder(Path("broken"), {"a": 1.0})
    Path("broken/a.json").write_text('{"targets": [{"name": "voc')
    Path("array").mkdir()
    Path("array/a.json").write_text("[1, 2]")
    Path("empty").mkdir()
    Path("hollow").mkdir()
    Path("hollow/a.json").write_text('{"targets": []}')
    write_run(Path("run"), {"a": 1.0})
    Path("run/config.yaml").write_text("seed_everything: 1\nseed_everything: 2\n")
    cases = [
        (["gone"], ["gone: is not a folder", "museval"]),
        (["one", "x=gone"], ["gone: is not a folder"]),
        (["one/a.json"], ["one/a.json: is not a folder"]),
        (["empty"], ["empty: contains no test scores", "score the system first"]),
        (["one", "broken"], ["broken/a.json: expected a museval score file"]),
        (["hollow"], ["hollow: its score files contain no source; score"]),
        (["one", "--figures", "one/a.json"], ["--figures one/a.json: one/a.json is not a folder"]),
        (["array"], ["array/a.json: expected a museval score file"]),
        (["run"], ["run/config.yaml", "duplicate key"]),
        (["one", "one"], ["is given twice", "NAME=FOLDER"]),
        (["one", "--bounds", "gone"], ["gone: is not a folder"]),
        (["one", "--mixture", "gone"], ["gone: is not a folder"]),
        (["one", "two", "--common-tracks"], ["no track has scores of all systems"]),
        (["one", "--metrics", "nSDR"], ["--metrics nSDR: no run has such scores"]),
    ]
    for arguments, words in cases:
        assert compare.main(arguments) == 2, arguments
        out, err = capsys.readouterr()
        assert out == ""
        (error,) = err.strip().splitlines()
        assert error.startswith("error: "), error
        assert all(word in error for word in words), error
    for arguments in ([], ["one", "--metrics", "SDRR"], ["one", "--subset", "train"]):
        with pytest.raises(SystemExit) as usage:
            compare.main(arguments)
        assert usage.value.code == 2


@pytest.mark.slow
def test_trained_seeds_are_pooled(
    musdb_root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Compare the files of real runs, with curves from W&B's files."""
    monkeypatch.setenv("MUSDB_PATH", str(musdb_root))
    for seed in (0, 1):
        fit = ["fit", "--config", "unet.yaml", *TINY, f"--seed_everything={seed}"]
        assert cli.main([*fit, f"--run_dir=runs/seed-{seed}"]) == 0
        assert cli.main(["test", "--config", f"runs/seed-{seed}/config.yaml"]) == 0
    wandb.teardown()
    capsys.readouterr()
    assert compare.main(["runs/seed-0", "runs/seed-1", "--figures", "out", "--all"]) == 0
    out = capsys.readouterr().out
    assert "seed x2" in out
    assert "seed-0, seed-1, which differ only by seed\n" in out
    assert "mixture" in out
    assert "nSDR" in out
    assert Path("out/curves.png").is_file()


@pytest.mark.slow
@pytest.mark.skipif("STEMLAB_TEST_DATA" not in os.environ, reason="STEMLAB_TEST_DATA is not set")
def test_published_medians_of_sisec_2018(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = Path(os.environ["STEMLAB_TEST_DATA"], "scores")
    arguments = [str(folder / "STL2"), str(folder / "RGT1"), "--mixture", str(folder / "MIX")]
    assert compare.main([*arguments, "--format", "csv", "-o", "out.csv"]) == 0
    assert compare.main(arguments) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["STL2", "3.25", "4.22", "3.21", "2.25", "3.23"] in lines
    assert ["RGT1", "3.85", "3.44", "2.70", "2.63", "3.16"] in lines
    rows = rows_of("out.csv")
    assert {row["tracks"] for row in rows} == {"50"}
    assert {row["system"]: row["bound"] for row in rows} == {"STL2": "0", "RGT1": "0", "MIX": "1"}
    tested = rows_of("out_pairs.csv")
    assert len(tested) == 4 * 6  # four sources; four metrics and two over the mixture
    assert {row["first_ahead"] for row in tested if row["metric"] == "SDR"} == {
        *("14", "37", "35", "12"),
    }
