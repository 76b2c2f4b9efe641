"""Starting a client: a fresh Python with a fresh cache, whose Hub is an address on loopback."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.conftest import REPOSITORY

CLIENT_SECONDS = 300


def run_client(
    name: str, *, endpoint: str, home: Path, facts: dict[str, Any], offline: bool = False
) -> dict[str, dict[str, Any]]:
    """How the checks of a client ended, by name: `fault` (None where all was well), `found`, `seconds`.

    Args:
        name: Module in `clients`.
        endpoint: Address of the Hub.
        home: Its `HF_HOME`, which holds the cache.
        facts: What the checks need to know; JSON.
        offline: Forbid it the network, as a user would.
    """
    home.mkdir(parents=True, exist_ok=True)
    told, report = home / f"{name}-facts.json", home / f"{name}-report.json"
    told.write_text(json.dumps({"folder": str(home), **facts}), encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-m", f"tests.hub_server.clients.{name}", told, report],
        cwd=REPOSITORY,
        env=_environment(endpoint, home, offline=offline),
        capture_output=True,
        text=True,
        timeout=CLIENT_SECONDS,
        check=False,
    )
    if done.returncode != 0:
        raise RuntimeError(f"the client {name} ended with {done.returncode}: {done.stderr[-4000:]}")
    found: dict[str, dict[str, Any]] = json.loads(report.read_text(encoding="utf-8"))
    return found


def _environment(endpoint: str, home: Path, *, offline: bool) -> dict[str, str]:
    mine = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "HUGGING"))}
    return {
        **mine,
        "HF_ENDPOINT": endpoint,
        "HF_HOME": str(home),
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_OFFLINE": "1" if offline else "0",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "NO_PROXY": "127.0.0.1,localhost",
        "PYTHONDONTWRITEBYTECODE": "1",
    }
