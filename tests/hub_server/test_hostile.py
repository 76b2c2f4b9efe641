"""A Hub, or somebody between, that alters, cuts, hides and moves files: nothing wrong is ever accepted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest

from tests.hub_server.cases import ESCAPES, NO_BASES, OF_CODE, REPOS, Case, all_cases
from tests.hub_server.conftest import Hub
from tests.hub_server.hostile import Log, hostile_proxy
from tests.hub_server.processes import run_client

CASES = all_cases()
Outcome = dict[str, Any]


class Met:
    """What came of every case.

    Attributes:
        found: What the client's check of that name gave.
        log: What passed through the proxy.
    """

    def __init__(self, report: dict[str, dict[str, Any]], log: Log) -> None:
        faults = [check["fault"] for check in report.values() if check["fault"]]
        if faults:
            raise RuntimeError(faults[0])
        self.found = {name: check["found"] for name, check in report.items()}
        self.log = log

    def healthy(self, load: str) -> list[str]:
        """What a call gives when nothing is wrong: of the head, and of the tag before."""
        results: list[str] = self.found["healthy"][load]
        return results

    def accepts_wrongly(self, case: Case, outcome: Outcome) -> bool:
        """Whether a call gave something that nobody published."""
        return "error" not in outcome and outcome["result"] not in self.healthy(case.load)


@pytest.fixture(scope="module")
def met(hub: Hub, world: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Met]:
    """A victim's process that has met all cases."""
    with hostile_proxy(hub.endpoint, {**CASES, **{case.name: case for case in ESCAPES.values()}}) as proxy:
        home = tmp_path_factory.mktemp("victim")
        yield Met(run_client("hostile", endpoint=proxy.endpoint, home=home, facts=world), proxy.log)


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case.times is None])
def test_a_fault_is_refused_by_name(met: Met, name: str) -> None:
    (outcome,) = met.found[name]
    assert met.log.injected[name] >= 1
    assert "error" in outcome, outcome
    assert "ErasureError" in outcome["error"], outcome
    assert CASES[name].source in outcome["message"]


@pytest.mark.parametrize(
    "name", [name for name, case in CASES.items() if case.fault == "flip" and case.times]
)
def test_a_fault_that_passes_is_repaired_once(met: Met, name: str) -> None:
    assert met.log.injected[name] == 1
    for outcome in met.found[name]:
        assert outcome.get("result") == met.healthy(CASES[name].load)[0], outcome


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case.fault == "moving"])
def test_a_branch_that_moves_gives_one_commit_or_none(met: Met, name: str) -> None:
    """After the second request the first file is there, and all others come from its commit."""
    case, first = CASES[name], met.found[name][0]
    assert met.log.injected[name] == case.times
    if case.times == 1 and "error" in first:
        assert "ErasureError" in first["error"], first
        return
    assert first.get("result") in met.healthy(case.load), first
    assert case.times == 1 or first["result"] == met.healthy(case.load)[1]


def test_none_is_accepted(met: Met) -> None:
    injected, accepted = Counter[str](), Counter[str]()
    for name, case in CASES.items():
        injected[case.fault] += met.log.injected[name] > 0
        accepted[case.fault] += any(met.accepts_wrongly(case, outcome) for outcome in met.found[name])
    assert injected.total() == len(CASES)
    assert accepted.total() == 0, accepted


def test_the_healthy_are_told_apart(met: Met) -> None:
    for load in REPOS:
        assert len(set(met.healthy(load))) == 2


def test_code_in_a_repository_is_not_run(met: Met) -> None:
    found = met.found["code_beside_the_weights"]
    assert not found["ran"]
    for load in REPOS:
        assert found["outcomes"][load].get("result") == met.healthy(load)[0], found["outcomes"][load]
    for source in OF_CODE:
        for load in ("pipeline", "base", "named base"):
            outcome = found["outcomes"][f"{source}, {load}"]
            assert "ErasureError" in outcome["error"], outcome
            # They are pipelines that were saved erased: as an artifact's base they are refused before.
            words = "saved erased itself" if load == "named base" else "names program code of its own"
            assert words in outcome["message"]
    assert [line for line in met.log.requests if ".py" in line] == []


@pytest.mark.parametrize("base", NO_BASES)
def test_a_manifest_that_names_no_base_is_refused(met: Met, base: str) -> None:
    outcome = met.found["manifests_that_name_no_base"][base]
    assert "ErasureError" in outcome.get("error", ()), outcome
    assert base in outcome["message"]


def test_nothing_is_written_beside_the_cache(met: Met) -> None:
    found = met.found["names_that_leave_the_cache"]
    assert found["written"] == []
    for what, outcome in found["outcomes"].items():
        assert "ErasureError" in outcome.get("error", ()), (what, outcome)
        assert ESCAPES[what].source in outcome["message"]
