"""What every client process does: run its checks one after another, and write down how each one ended.

A client is a fresh Python with a cache of its own, whose Hub is on loopback. It is started once and makes
many checks, since importing torch and diffusers takes longer than all of them. This module imports neither,
so that a test can ask a client for the names of its checks, and a client can begin without this package.
"""

from __future__ import annotations

import json
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

Facts = dict[str, Any]
"""What the test tells its client: names, commits, folders; see the fixtures."""
Check = Callable[[Facts], object]


class Checks(dict[str, Check]):
    """The checks of a client in the order in which they run; `add` is a decorator."""

    def add(self, function: Check) -> Check:
        """Take a function up under its name."""
        self[function.__name__] = function
        return function

    def run(self) -> None:
        """Run as `python -m client FACTS REPORT`, both JSON files."""
        facts: Facts = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
        report: Facts = {}
        for name, check in self.items():
            report[name] = _outcome(check, facts)
            Path(sys.argv[2]).write_text(json.dumps(report), encoding="utf-8")


def _outcome(check: Check, facts: Facts) -> Facts:
    started = time.perf_counter()
    try:
        found = {"found": check(facts), "fault": None}
    except Exception:  # noqa: BLE001 - the test that waits for this report raises it again
        found = {"found": None, "fault": traceback.format_exc()}
    return {**found, "seconds": round(time.perf_counter() - started, 2)}


def same(found: object, expected: object) -> None:
    """Fail unless both are equal."""
    if found != expected:
        raise AssertionError(f"found {found!r}; expected {expected!r}")


def refused(kind: type[Exception], call: Callable[[], object], *words: str) -> str:
    """The message of the error that a call must end with, which holds these words."""
    try:
        result = call()
    except kind as error:
        message = str(error)
        missing = [word for word in words if word not in message]
        if missing:
            raise AssertionError(f"{message!r} does not say {missing}") from error
        return message
    raise AssertionError(f"accepted: {result!r}; expected {kind.__name__}")


def picture(pipe: Any, prompt: str = "a church", *, steps: int = 3) -> torch.Tensor:
    """What a pipeline draws from a fixed seed, `(1, 3, height, width)`, values in [0, 1]."""
    import torch

    torch.set_num_threads(1)
    pipe.set_progress_bar_config(disable=True)
    generator = torch.Generator().manual_seed(0)
    options: dict[str, Any] = {"num_inference_steps": steps, "guidance_scale": 4.0, "output_type": "pt"}
    drawn: torch.Tensor = pipe(prompt, generator=generator, **options).images
    return drawn


def draws(pipe: Any, expected: str | Path) -> float:
    """Fail unless a pipeline draws the picture that was stored, bit for bit; returns the difference, 0.0."""
    from safetensors.torch import load_file

    wanted, found = load_file(expected)["picture"], picture(pipe)
    same((found.dtype, found.shape), (wanted.dtype, wanted.shape))
    difference = float((found - wanted).abs().max())
    same(difference, 0.0)
    return difference
