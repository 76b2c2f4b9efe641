"""Everything that can be read from a Hub, read from a server that nobody here wrote, by a fresh process."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.hub_server.clients import offline, reading
from tests.hub_server.conftest import Hub
from tests.hub_server.processes import run_client

NOWHERE = "http://127.0.0.1:9"

Report = dict[str, dict[str, Any]]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The stranger's cache, empty at first."""
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def online_report(hub: Hub, world: dict[str, Any], home: Path) -> Report:
    """How the checks ended in a process with a network."""
    return run_client("reading", endpoint=hub.endpoint, home=home, facts=world)


@pytest.fixture(scope="module")
def offline_report(online_report: Report, world: dict[str, Any], home: Path) -> Report:
    """How they ended in the next one, which has none."""
    return run_client("offline", endpoint=NOWHERE, home=home, facts=world, offline=True)


@pytest.mark.parametrize("name", reading.CHECKS)
def test_a_stranger_reads(online_report: Report, name: str) -> None:
    assert online_report[name]["fault"] is None, online_report[name]["fault"]


@pytest.mark.parametrize("name", offline.CHECKS)
def test_what_was_read_is_at_hand_without_a_network(offline_report: Report, name: str) -> None:
    assert offline_report[name]["fault"] is None, offline_report[name]["fault"]
