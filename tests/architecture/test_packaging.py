"""The project's own papers agree with each other: version, changelog, pins, entry points."""

from __future__ import annotations

import re
import tomllib
from importlib.metadata import entry_points
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import diffusers_erasure

PIN = re.compile(r"^([A-Za-z0-9_.-]+)==(\S+)$")


@pytest.fixture(scope="module")
def project(repository: Path) -> dict[str, Any]:
    """The `[project]` table of `pyproject.toml`."""
    table: dict[str, Any] = tomllib.loads((repository / "pyproject.toml").read_text(encoding="utf-8"))
    return dict(table["project"])


@pytest.fixture(scope="module")
def pins(repository: Path) -> dict[str, str]:
    """Version by canonical name, from `constraints.txt`."""
    lines = (repository / "constraints.txt").read_text(encoding="utf-8").splitlines()
    matches = [PIN.match(line) for line in lines if line and not line.startswith("#")]
    assert all(matches), "every line of constraints.txt is NAME==VERSION"
    return {canonicalize_name(match[1]): match[2] for match in matches if match}


def requirements(project: dict[str, Any]) -> list[Requirement]:
    """Everything the project asks for, extras included, without its references to itself."""
    lines = list(chain(project["dependencies"], *project["optional-dependencies"].values()))
    return [requirement for line in lines if (requirement := Requirement(line)).name != project["name"]]


def test_every_dependency_is_pinned_within_its_range(project: dict[str, Any], pins: dict[str, str]) -> None:
    for requirement in requirements(project):
        version = pins.get(canonicalize_name(requirement.name))
        assert version, f"constraints.txt has no pin for {requirement.name}"
        assert requirement.specifier.contains(version, prereleases=True), f"{requirement} excludes {version}"


def test_nothing_needs_torchvision(pins: dict[str, str]) -> None:
    """Its builds pair with exactly one torch; a wrong pair makes importing diffusers fail."""
    assert "torchvision" not in pins


def test_the_console_script_is_the_command_line(project: dict[str, Any]) -> None:
    from diffusers_erasure.cli.main import main

    assert project["scripts"] == {"diffusers-erasure": "diffusers_erasure.cli.main:main"}
    (script,) = entry_points(group="console_scripts", name="diffusers-erasure")
    assert script.load() is main


def test_the_changelog_speaks_of_this_version(repository: Path) -> None:
    text = (repository / "CHANGELOG.md").read_text(encoding="utf-8")
    headings = re.findall(r"^## \[(.+?)\]", text, flags=re.MULTILINE)
    released = [heading for heading in headings if heading != "Unreleased"]
    assert headings[0] == "Unreleased"
    if ".dev" in diffusers_erasure.__version__:
        unreleased = text.split("## [Unreleased]")[1].split("\n## [")[0]
        assert re.search(r"^- ", unreleased, flags=re.MULTILINE), "say under Unreleased what is new"
    else:
        assert released[0] == diffusers_erasure.__version__
