"""Files for other programs: citation, container, workflow."""

from __future__ import annotations

import datetime
import re
import tomllib
from typing import Any

import yaml

from tests.helpers.command_line import REPOSITORY

PROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]


def read_yaml(name: str) -> dict[str, Any]:
    content: dict[str, Any] = yaml.safe_load((REPOSITORY / name).read_text())
    return content


def test_citation_is_valid_and_of_this_version() -> None:
    """The fields that version 1.2.0 of the format requires or allows for software."""
    citation = read_yaml("CITATION.cff")
    assert {"cff-version", "message", "title", "authors"} <= set(citation)
    allowed = {
        "abstract", "cff-version", "commit", "contact", "date-released", "doi", "identifiers",
        "authors", "keywords", "license", "license-url", "message", "preferred-citation",
        "references", "repository", "repository-artifact", "repository-code", "title", "type",
        "url", "version",
    }  # fmt: skip
    assert set(citation) <= allowed
    assert (citation["cff-version"], citation["type"]) == ("1.2.0", "software")
    assert str(citation["version"]) == PROJECT["version"]
    assert citation["license"] == PROJECT["license"]
    released = datetime.date.fromisoformat(citation["date-released"])
    assert f"## [{PROJECT['version']}] - {released}" in (REPOSITORY / "CHANGELOG.md").read_text()
    for author in citation["authors"]:
        assert set(author) <= {"name", "given-names", "family-names", "orcid", "affiliation"}


def test_image_installs_what_the_project_has() -> None:
    text = (REPOSITORY / "Dockerfile").read_text()
    commands = re.sub(r"^#.*\n", "", text, flags=re.MULTILINE)
    assert re.findall(r"^ARG (\w+)=", commands, re.MULTILINE) == ["BASE", "TORCH_INDEX"]
    assert set(re.findall(r"--build-arg (\w+)=", text)) == {"BASE", "TORCH_INDEX"}
    for path in re.findall(r"/src/([\w./-]+)", commands):
        assert (REPOSITORY / path).exists(), path
    (extra,) = re.findall(r"/src\[(\w+)\]", commands)
    assert extra in PROJECT["optional-dependencies"]
    (entry,) = re.findall(r'^ENTRYPOINT \["(\w+)"\]$', commands, re.MULTILINE)
    assert entry in PROJECT["scripts"]


def test_workflow_runs_the_checks() -> None:
    (job,) = read_yaml(".github/workflows/ci.yml")["jobs"].values()
    scripts = [step["run"] for step in job["steps"] if "run" in step]
    assert scripts[-1] == ".ci/run"
    assert (REPOSITORY / scripts[-1]).stat().st_mode & 0o111
    (version,) = re.findall(r"python:3\.(\d+)-", job["container"])
    lowest, highest = re.findall(r"3\.(\d+)", PROJECT["requires-python"])
    assert int(lowest) <= int(version) < int(highest)
