"""Tables of a comparison: scores, bounds, statistics, paired tests, remarks."""

from __future__ import annotations

import csv
import io

import pytest

from lightning_modules.comparison import data_files, tables
from lightning_modules.comparison.pairs import pairs
from lightning_modules.comparison.systems import Run, System
from lightning_modules.comparison.table import Table
from tests.helpers.comparison import track

PAIR = ("vocals", "accompaniment")


def system(name: str, levels: list[float], bound: bool = False, **more: object) -> System:
    tracks = [track(f"t{number}", level) for number, level in enumerate(levels)]
    return System(name, [Run(name, name, tracks, **more)], bound)  # type: ignore[arg-type]


def cells(table: Table, *names: str) -> list[str]:
    (row,) = [row for row in table.rows if row[: len(names)] == list(names)]
    return row[len(names) :]


def test_overview_with_bounds_last() -> None:
    found = [system("irm2", [9.0], bound=True), system("one", [1.0, 3.0])]
    table = tables.overview(found, "SDR")
    assert table.header == ["", "vocals", "drums", "bass", "other", "mean of 4"]
    assert table.rows == [
        ["one", "2.00", "3.00", "4.00", "5.00", "3.50"],
        ["irm2", "9.00", "10.00", "11.00", "12.00", "10.50"],
    ]
    assert table.notes == []
    assert tables.metrics_of(found) == ["SDR", "ISR", "SIR", "SAR", "uSDR"]
    found[1].runs[0].mixture = found[0].runs[0].tracks
    assert tables.metrics_of(found)[-2:] == ["nSDR", "nSIR"]
    normalised = tables.overview(found, "nSDR")
    assert normalised.title == "nSDR, dB: median over tracks of SDR minus that of the mixture"
    assert [row[0] for row in normalised.rows] == ["one"], (
        "normalised scores of bounds are not shown"
    )


def test_overview_of_four_stems_and_of_vocals_with_accompaniment() -> None:
    pair = System("pair", [Run("pair", "", [track("t0", 4.0, PAIR)])])
    table = tables.overview([system("four", [1.0]), pair], "SDR")
    assert table.header[1:] == [
        *("vocals", "drums", "bass", "other", "accompaniment"),
        *("mean of 4", "mean of 2"),
    ]
    assert cells(table, "four") == ["1.00", "2.00", "3.00", "4.00", "-", "2.50", "-"]
    assert cells(table, "pair") == ["4.00", "-", "-", "-", "5.00", "-", "4.50"]
    assert any("vocals of pair were scored with accompaniment" in note for note in table.notes)


def test_deviation_over_seeds_and_remarks() -> None:
    runs = [Run(str(level), "", [track("a", level)]) for level in (1.0, 3.0)]
    table = tables.overview([System("both", runs)], "SDR")
    assert cells(table, "both")[0] == "2.00 ± 1.41"
    assert table.notes == ["±: standard deviation over seeds"]
    assert tables.remarks([System("both", runs)]) == ["both: 1.0, 3.0, which differ only by seed"]
    for run, root in zip(runs, ("/a", {"/b": 1}), strict=True):
        run.config = {"data": {"init_args": {"root": root}}}
    runs[0].tracks[0].window_seconds = 0.5
    assert tables.remarks([System("both", runs)]) == [
        'both: 1.0, 3.0, which differ only by seed and the path of their data: /a, {"/b": 1}',
        "not scored alike, so these scores cannot be compared: length of frames 0.5 s (1.0); "
        "1 s (3.0)",
    ]


def test_statistics_of_one_source() -> None:
    table = tables.statistics([system("one", [1.0, 2.0, 3.0, 3.0, 3.0, 4.0, 10.0])], "SDR")
    median, interval, *others = cells(table, "vocals", "one")
    assert median == "3.00"
    low, _, high = interval.partition(" to ")
    assert 1 <= float(low) < 3 <= float(high) <= 10
    assert others == ["2.50 to 3.50", "3.71", "1", "7", "7 of 21"]
    assert cells(tables.statistics([system("one", [1.0])], "uSDR"), "vocals", "one") == [
        *("0.00", "-", "0.00 to 0.00", "0.00", "1", "1", "-"),
    ]


def test_p_values_are_corrected_per_source() -> None:
    levels = [float(level) for level in range(12)]
    found = [
        system("one", levels),
        system("two", [level + 0.1 * level + 0.1 for level in levels]),
        system("three", levels),
        system("mixture", levels, bound=True),
    ]
    tested = pairs(found, "SDR", "vocals")
    names = [(pair.first, pair.second) for pair in tested]
    assert names == [("one", "two"), ("one", "three"), ("two", "three")]
    assert tested[0].corrected_p == pytest.approx(3 * tested[0].difference.p)
    table = tables.paired(tested)
    assert cells(table, "vocals", "one minus two") == [
        *("-0.65", "-0.95 to -0.35", "0 of 12", "0.0015", ""),
    ]
    assert cells(table, "", "one minus three")[-3:] == ["0 of 12", "1", "ns"]
    assert len(table.notes) == 1
    few = [system("one", [1.0, 2.0, 3.0]), system("two", [2.0, 3.0, 4.5])]
    assert tables.too_few_tracks(tested) == []
    assert tables.too_few_tracks(pairs(few, "SDR", "vocals")) == [
        "3 tracks are too few for any difference to reach p < 0.01"
    ]
    single = [system("one", [1.0]), system("two", [2.0])]
    assert tables.too_few_tracks(pairs(single, "SDR", "vocals")) == [
        "1 track is too few for paired differences, which need two or more"
    ]


def test_pairs_use_common_tracks_and_remarks_name_the_others() -> None:
    one, two = system("one", [1.0, 2.0, 3.0]), system("two", [1.0, 1.0])
    (pair,) = pairs([one, two], "SDR", "vocals")
    assert pair.difference.tracks == 2
    assert tables.remarks([one, two]) == [
        "two: has no scores of 1 of 3 tracks, which are excluded from its paired differences: t2"
    ]
    two.runs[0].tracks = [track("else", 1.0)]
    assert pairs([one, two], "SDR", "vocals") == []


@pytest.mark.parametrize(
    ("field", "values", "words"),
    [
        ("sample_rate", (22050, 44100), "sample rate 22050 Hz (one); 44100 Hz (two)"),
        ("channels", (1, 2), "channels 1 (one); 2 (two)"),
        ("hop_seconds", (0.5, 1.0), "distance of frames 0.5 s (one); 1 s (two)"),
    ],
)
def test_systems_that_were_scored_unlike_have_no_paired_differences(
    field: str, values: tuple[float, float], words: str
) -> None:
    found = [system("one", [1.0, 2.0, 3.0]), system("two", [2.0, 3.0, 4.0])]
    for each, value in zip(found, values, strict=True):
        for scores in each.runs[0].tracks:
            setattr(scores, field, value)
    assert pairs(found, "SDR", "vocals") == []
    (line,) = tables.remarks(found)
    assert line == f"not scored alike, so these scores cannot be compared: {words}"
    for scores in found[1].runs[0].tracks:
        setattr(scores, field, values[0])
    assert len(pairs(found, "SDR", "vocals")) == 1
    assert tables.remarks(found) == []


def test_settings_that_differ() -> None:
    one = system("one", [1.0], config={"seed_everything": 1, "model": {"depth": 3}})
    two = system("two", [1.0], config={"seed_everything": 2, "model": {"depth": 4}})
    table = tables.settings([one, two, system("folder", [1.0])])
    assert table is not None
    assert table.header == ["", "one", "two"]
    assert table.rows == [["model.depth", "3", "4"]]
    assert tables.settings([one]) is None
    assert tables.settings([one, one]) is None


def test_text_and_markdown() -> None:
    table = Table("Title", ["", "SDR"], [["a|b", "1.00"], ["c", "d" * 30 + "e" * 30]], ["a note"])
    lines = table.text().splitlines()
    assert lines[0] == "Title"
    assert lines[4] == "a|b" + " " * 30 + "1.00"
    assert lines[5] == "c    " + "d" * 15 + "…" + "e" * 16
    assert lines[-1] == "a note"
    heading, _, *rows, _, note = table.markdown().splitlines()
    assert (heading, note) == ("## Title", "a note")
    cells = [[cell.strip() for cell in row.split(" |")] for row in rows]
    assert cells[0][1] == "SDR"
    assert cells[2][:2] == [r"| a\|b", "1.00"]
    assert cells[3][:2] == ["| c", "d" * 30 + "e" * 30]


def test_csv_has_six_digits() -> None:
    found = [system("one, two", [1.123456]), system("mixture", [0.0], bound=True)]
    rows = data_files.statistics_rows(found, "SDR", "vocals")
    read = list(csv.DictReader(io.StringIO(data_files.as_csv(rows))))
    assert [row["system"] for row in read] == ["one, two", "mixture"]
    assert float(read[0]["median"]) == pytest.approx(1.123456, abs=1e-5)
    assert (read[0]["interval_low"], read[1]["bound"]) == ("", "1")
    assert (read[0]["tracks"], read[0]["skipped_frames"], read[0]["frames"]) == ("1", "1", "3")
    tested = pairs([system("a", [1.0, 2.0]), system("b", [0.0, 0.5])], "SDR", "bass")
    (row,) = csv.DictReader(io.StringIO(data_files.as_csv(data_files.pair_rows(tested))))
    assert (row["first"], row["median_difference"], row["p"]) == ("a", "1.25", "0.5")
    assert data_files.as_csv([]) == ""
