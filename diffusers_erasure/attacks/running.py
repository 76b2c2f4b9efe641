"""What all attacks share: the erasure's state around them, failures, shards, kept outcomes, progress."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any, Protocol

from diffusers_erasure.errors import ConfigError, EvaluationError

from .base import AttackedPrompt, AttackOutcome, AttackTarget
from .config import AttackConfig
from .progress import AttackProgress, AttackProgressCallback, silent
from .store import OutcomeStore

logger = logging.getLogger(__name__)

CAUGHT = (RuntimeError, FloatingPointError)
"""What makes a prompt count as failed: values that are not finite (`NotFiniteError`), and what torch raises
where it has no memory: on the CPU and in CUDA's libraries a plain RuntimeError, which no class tells from its
other faults. All other errors of this package stop the run."""
UNWRITTEN = (NotImplementedError, RecursionError)
"""RuntimeErrors that stop the run too: they are faults of the code or of the device, no prompt's."""


class Search(Protocol):
    """An attack's own part: from prompts to outcomes."""

    def __call__(
        self,
        items: Iterator[AttackedPrompt],
        target: AttackTarget,
        config: Any,
        *,
        base: AttackTarget | None,
        report: Callable[[int], None],
    ) -> Iterator[AttackOutcome]:
        """Attack.

        Args:
            items: Prompts, to be taken only as they are begun (`progress.take`): if the attack fails, those
                that were taken and have no outcome count as failed, and the others go on.
            target: The pipeline under attack.
            config: Settings, of the class that the attack registered.
            base: The un-erased pipeline, where there is one.
            report: Told how many steps were done, summed over prompts.
        """


class Runnable(Protocol):
    """What is known of an attack here; `registry.AttackSpec` says more."""

    @property
    def name(self) -> str:
        """What the user types."""

    @property
    def version(self) -> str:
        """Raised when its results change; outcomes that were kept are then made again."""

    @property
    def config(self) -> type[AttackConfig]:
        """Its settings class."""

    @property
    def needs_base(self) -> bool:
        """It cannot run without the un-erased pipeline."""

    @property
    def search(self) -> Search:
        """The attack itself."""


def run_attack(
    spec: Runnable,
    items: Sequence[AttackedPrompt],
    target: AttackTarget,
    config: AttackConfig | None = None,
    *,
    base: AttackTarget | None = None,
    progress: AttackProgressCallback = silent,
    store: Path | None = None,
    shard: tuple[int, int] = (0, 1),
) -> list[AttackOutcome]:
    """Attack prompts, and say of every one what came of it.

    A prompt whose attack cannot be computed is reported as failed, never left out.

    Args:
        spec: The attack.
        items: What to attack; each item once.
        target: The pipeline under attack.
        config: Settings; the attack's defaults unless given.
        base: The un-erased pipeline, for attacks that need it.
        progress: Told after every step.
        store: Folder in which finished outcomes are kept and looked for.
        shard: `(i, n)`: attack every n-th item, from the i-th on. Run with `(0, 1)` on the same store to
            collect what all shards found.

    Returns:
        One outcome per item of the shard, in their order.

    Raises:
        ConfigError: Settings of another attack, a repeated item, a shard that does not exist, no base.
        EvaluationError: The erasure's state changed while the attack ran; nothing of this run is kept.
    """
    config = config if config is not None else spec.config()
    mine = _shard_of(items, shard)
    _check(spec, config, items, base)
    shelf = OutcomeStore(store / spec.name, _identity(spec, config, target, base)) if store else None
    run = _Run(spec, config, target, base, shelf, progress, total=len(mine), state=target.state(True))
    run.recall(mine)
    run.attack([item for item in mine if item not in run.finished])
    run.confirm()
    return [run.finished[item] for item in mine]


def _shard_of(items: Sequence[AttackedPrompt], shard: tuple[int, int]) -> list[AttackedPrompt]:
    index, count = shard
    if not 0 <= index < count:
        raise ConfigError(
            f"shard {index} of {count} does not exist; expected 0 to {count - 1} of at least 1; number "
            "shards from 0"
        )
    return list(items[index::count])


def _check(
    spec: Runnable, config: AttackConfig, items: Sequence[AttackedPrompt], base: AttackTarget | None
) -> None:
    if not isinstance(config, spec.config):
        raise ConfigError(
            f"attack {spec.name!r} was given {type(config).__name__}; expected {spec.config.__name__}; pass "
            "settings of its own class"
        )
    if len(set(items)) != len(items):
        raise ConfigError(
            f"{len(items) - len(set(items))} of {len(items)} items to attack are repetitions; expected each "
            "once; give a repeated prompt another seed"
        )
    if spec.needs_base and base is None:
        raise ConfigError(
            f"attack {spec.name!r} was given no base; expected the un-erased pipeline, which it compares "
            "with; pass base=AttackTarget.of(base_pipeline, ...)"
        )


def _identity(
    spec: Runnable, config: AttackConfig, target: AttackTarget, base: AttackTarget | None
) -> dict[str, object]:
    return {
        "attack": spec.name,
        "version": spec.version,
        "config": config.model_dump(mode="json", exclude={"batch_size"}),
        "target": target.identity,
        "base": base.identity if base is not None else None,
        "versions": {name: version(name) for name in ("torch", "diffusers", "transformers")},
    }


@dataclass
class _Run:
    """One run: what is finished, and how much was done."""

    spec: Runnable
    config: AttackConfig
    target: AttackTarget
    base: AttackTarget | None
    shelf: OutcomeStore | None
    progress: AttackProgressCallback
    total: int
    state: str
    finished: dict[AttackedPrompt, AttackOutcome] = field(default_factory=dict)
    fresh: list[AttackedPrompt] = field(default_factory=list)
    work: int = 0
    started: float = field(default_factory=time.monotonic)

    def recall(self, items: Sequence[AttackedPrompt]) -> None:
        """Take what an earlier run kept."""
        for item in items:
            outcome = self.shelf.read(item) if self.shelf else None
            if outcome is not None:
                self.finished[item] = outcome
                self.work += self.config.work
        self.tell()

    def attack(self, items: Sequence[AttackedPrompt]) -> None:
        """Attack the rest; what fails takes only the prompts with it that were being attacked."""
        waiting = iter(items)
        begun: set[AttackedPrompt] = set()
        more = bool(items)
        while more:
            error = self._until_failure(_noted(waiting, begun), begun)
            for item in begun:
                self._finish(item, error or "the attack gave no outcome for this prompt")
            begun.clear()
            rest = list(waiting)
            more = bool(rest) and error is not None
            waiting = iter(rest)
        for item in items:
            if item not in self.finished:
                self._finish(item, "the attack ended before it took this prompt")

    def _until_failure(self, items: Iterator[AttackedPrompt], begun: set[AttackedPrompt]) -> str | None:
        """Collect outcomes until all are there, or until the attack breaks; then say why."""
        search = self.spec.search(items, self.target, self.config, base=self.base, report=self.did)
        try:
            for outcome in search:
                _strike(outcome, begun)
                self._finish(outcome.item, outcome)
        except UNWRITTEN:
            raise
        except CAUGHT as error:
            logger.warning("the attack %s failed on %d prompts: %s", self.spec.name, len(begun), error)
            return f"{type(error).__name__}: {error}"
        return None

    def did(self, steps: int) -> None:
        """Count steps of the search."""
        self.work += steps
        self.tell()

    def _finish(self, item: AttackedPrompt, found: AttackOutcome | str) -> None:
        outcome = AttackOutcome(item, success=False, failed=found) if isinstance(found, str) else found
        now = self.target.state(False)
        self.finished[item] = replace(outcome, state_before=self.state, state_after=now)
        self.fresh.append(item)
        self.work += max(0, self.config.work - outcome.steps)
        if self.shelf:
            self.shelf.keep(item, self.finished[item])
        self.tell()

    def confirm(self) -> None:
        """Compare all weights once more; outcomes of a pipeline that changed are worth nothing."""
        after = self.target.state(True) if self.fresh else self.state
        states = {self.finished[item].state_after for item in self.fresh} | {after}
        if states <= {self.state}:
            return
        for item in self.fresh:
            if self.shelf:
                self.shelf.forget(item)
        raise EvaluationError(
            f"the erasure was {self.state} before the attack {self.spec.name} and then "
            f"{', '.join(sorted(states))}; expected it unchanged, since otherwise nobody knows what was "
            "attacked; load the pipeline again, and change nothing while it is attacked"
        )

    def tell(self) -> None:
        """Say how far the run is."""
        self.progress(
            AttackProgress(
                attack=self.spec.name,
                finished=len(self.finished),
                total=self.total,
                successes=sum(outcome.counts_as_success for outcome in self.finished.values()),
                work=self.work,
                total_work=self.total * self.config.work,
                seconds=time.monotonic() - self.started,
            )
        )


def _noted(items: Iterator[AttackedPrompt], begun: set[AttackedPrompt]) -> Iterator[AttackedPrompt]:
    """Hand items on, and remember which were taken."""
    for item in items:
        begun.add(item)
        yield item


def _strike(outcome: AttackOutcome, begun: set[AttackedPrompt]) -> None:
    """The item of an outcome is no longer being attacked."""
    if outcome.item not in begun:
        raise EvaluationError(
            f"the attack gave an outcome for {outcome.prompt!r} with seed {outcome.seed}, which it did not "
            "take or had answered before; expected one outcome per prompt that it took; correct the attack"
        )
    begun.remove(outcome.item)
