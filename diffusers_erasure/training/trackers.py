"""Where the numbers of a run go: accelerate's trackers, and one of our own that needs no package.

`jsonl` writes one line of JSON a step to `<logging_dir>/<project>.jsonl`, readable for ever, and is kept by
every run that has a folder, named or not; `log_picture` draws it beside itself. A tracker whose package is
missing is an error; accelerate alone would leave it out without a word.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from accelerate.tracking import (  # type: ignore[import-untyped]
    GeneralTracker,
    get_available_trackers,
)
from accelerate.utils import LoggerType  # type: ignore[import-untyped]

from diffusers_erasure.durable import write_whole
from diffusers_erasure.errors import ConfigError, MissingDependencyError

logger = logging.getLogger(__name__)

JSON_LINES = "jsonl"


def read_rows(path: Path) -> list[dict[str, Any]]:
    """The steps of a log of JSON lines; a line that a killed run has left unfinished is passed over.

    Args:
        path: What `JsonLinesTracker` writes.
    """
    rows: list[dict[str, Any]] = []
    for number, line in enumerate(path.read_text(encoding="utf-8", errors="replace").splitlines(), 1):
        try:
            row = json.loads(line)
        except ValueError:
            row = None
        if isinstance(row, dict) and isinstance(row.get("step"), int):
            rows.append(row)
        else:
            logger.warning("line %d of %s is no step of a run; it is left out", number, path)
    return rows


class JsonLinesTracker(GeneralTracker):
    """One line of JSON for each step.

    Args:
        folder: Where the file goes.
        run_name: Name of the file.
        resumed_at: Lines of later steps are left over from a run that was stopped after its last
            checkpoint; they are dropped.
    """

    name = JSON_LINES
    requires_logging_directory = True
    main_process_only = True

    def __init__(self, folder: Path, run_name: str, *, resumed_at: int = 0) -> None:
        super().__init__()
        self.path = folder / f"{run_name}.jsonl"
        rows = read_rows(self.path) if resumed_at and self.path.is_file() else []
        kept = [json.dumps(row) for row in rows if row["step"] <= resumed_at]
        write_whole(self.path, "".join(f"{line}\n" for line in kept).encode())

    @property
    def tracker(self) -> Path:
        """The file."""
        return self.path

    def store_init_configuration(self, values: dict[str, Any]) -> None:
        """Settings stand in the artifact; the file holds steps alone."""

    def log(self, values: dict[str, Any], step: int | None = None, **kwargs: Any) -> None:
        """Append a step."""
        del kwargs
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"step": step, **values}) + "\n")

    def finish(self) -> None:
        """Nothing is open between steps."""


def choose_trackers(
    names: Sequence[str], folder: Path | None, run_name: str, *, resumed_at: int = 0, writes: bool = True
) -> list[str | GeneralTracker]:
    """What accelerate's `log_with` takes.

    Args:
        names: Trackers by name.
        folder: Where those go that write files.
        run_name: Name of the run.
        resumed_at: Steps that an earlier part of the run has done.
        writes: Whether this process is the one that writes.

    Raises:
        ConfigError: A tracker is unknown, or writes files and no folder is given.
        MissingDependencyError: Its package is not installed.
    """
    chosen: list[str | GeneralTracker] = [*known_trackers(names, folder)]
    if folder is not None and writes:
        chosen.append(JsonLinesTracker(folder, run_name, resumed_at=resumed_at))
    return chosen


def known_trackers(names: Sequence[str], folder: Path | None) -> list[str]:
    """The trackers that are accelerate's own, if all can be used.

    Args:
        names: Trackers by name.
        folder: Where those go that write files.

    Raises:
        ConfigError: A tracker is unknown, or writes files and no folder is given.
        MissingDependencyError: Its package is not installed.
    """
    known = [_known(name) for name in dict.fromkeys(names) if name != JSON_LINES]
    if folder is None and names:
        raise ConfigError(
            f"report_to names {', '.join(names)}, but there is no folder for it; expected a "
            f"logging_dir or an output_dir; give one of them"
        )
    return known


def _known(name: str) -> str:
    known = sorted(str(kind.value) for kind in LoggerType if kind is not LoggerType.ALL)
    if name not in known:
        raise ConfigError(
            f"there is no tracker {name!r}; known trackers are {', '.join([JSON_LINES, *known])}; choose one "
            f"of them in report_to"
        )
    if LoggerType(name) not in get_available_trackers():
        raise MissingDependencyError(
            f"the tracker {name!r} is not installed; expected its package; run `pip install {name}`, or "
            f"report to {JSON_LINES}, which needs none"
        )
    return name
