"""A Hub on loopback for the tests of this folder: a foreign server, and the repositories that it serves."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.hub_server.repositories import Repositories
from tests.hub_server.server import ENVIRONMENT, is_required, running_server, server_python

if TYPE_CHECKING:
    from diffusers import StableDiffusionPipeline


@dataclass(frozen=True)
class Hub:
    """The server's address, and the repositories that it reads afresh at each request."""

    endpoint: str
    repositories: Repositories


@pytest.fixture(scope="session")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hub]:
    """The foreign server, started once; skipped where it is not set up, which `make test` never allows."""
    python = server_python()
    if python is None or shutil.which("git") is None:
        missing = "git" if python is not None else f"olah's environment (.venv-hub, or {ENVIRONMENT})"
        told = f"the foreign Hub server cannot run: {missing} was not found; `make hub-server` sets it up"
        if is_required():
            pytest.fail(told)
        pytest.skip(told)
    root = tmp_path_factory.mktemp("hub")
    with running_server(python, root) as endpoint:
        yield Hub(endpoint, Repositories(root))


@pytest.fixture(scope="session")
def world(
    hub: Hub,
    tiny_pipeline: StableDiffusionPipeline,
    tiny_pipe_folder: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> dict[str, Any]:
    """Repositories of a stranger on the server, and what a client has to find in them."""
    from tests.hub_server.world import World

    scratch = tmp_path_factory.mktemp("stranger")
    return World(hub.repositories, tiny_pipeline, tiny_pipe_folder, scratch).build()
