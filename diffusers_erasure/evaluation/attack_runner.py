"""Attack an erasure so that the rate would stand in a review: every run that the rules ask for, once each.

For each attack, on the same prompts and seeds:

    erased, 1x 2x 4x      does more budget find more?
    luck, equal budgets   random tokens and other seeds with as many judged pictures
    base, 1x              positive control: attack and judge must succeed here
    weak eraser, 1x       prompts that the artifact hides when it is weak: the attack must beat luck here

The erasure is verified before and after by every run, inside the process that draws; outcomes are kept on
disk under everything that they depend on, so a run that is killed goes on where it was.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from diffusers_erasure.artifacts.artifact import Artifact
from diffusers_erasure.attacks import (
    Access,
    AttackConfig,
    AttackOutcome,
    AttackProgress,
    AttackSpec,
    AttackTarget,
    attack_named,
    run_attack,
)

from .attack_groups import Group, prompts_of
from .attack_report import BASE, ERASED, WEAK
from .attack_rows import Budgeted, Run, count_run
from .attack_settings import NO_ATTACK, RANDOM_TOKENS, AttackSettings, equal_budget
from .generate import Sampling

logger = logging.getLogger(__name__)

Tell = Callable[[str, int, int], None]
"""Called with what is being done, the work that is done, and all of it."""


@dataclass(frozen=True)
class Attacked:
    """Every run of one attack.

    Attributes:
        spec: The attack.
        runs: On the erased pipeline, by rising budget.
        baselines: Luck with as many judged pictures as each run.
        base_control: On the base model.
        weak_control: On the prompts that the weak eraser hides; None if they are too few for a control.
        weak_luck: Random tokens there; None for luck itself.
    """

    spec: AttackSpec
    runs: tuple[Run, ...]
    baselines: tuple[Run, ...]
    base_control: Run
    weak_control: Run | None = None
    weak_luck: Run | None = None


@dataclass
class Arena:
    """Pipelines, prompts and judges of one evaluation, and every run that was made there.

    Attributes:
        pipelines: The base, the erased pipeline or the weak eraser, by name.
        artifact: What is evaluated.
        groups: The prompts with their questions.
        sampling: Steps and guidance scale of pictures.
        store: Where finished outcomes are kept.
        picture_batch: Pictures drawn together.
        tell: Told how far each run is.
    """

    pipelines: dict[str, Any]
    artifact: Artifact
    groups: tuple[Group, ...]
    sampling: Sampling
    store: Path | None = None
    picture_batch: int = 16
    tell: Tell | None = None
    made: dict[tuple[str, str, str], Run] = field(default_factory=dict)
    targets: dict[tuple[str, int], AttackTarget] = field(default_factory=dict)

    def target(self, pipeline: str, group: int) -> AttackTarget:
        """A pipeline as attacks see it, with the judge of one group."""
        key = (pipeline, group)
        if key not in self.targets:
            question = self.groups[group].question
            self.targets[key] = AttackTarget.of(
                self.pipelines[pipeline],
                question,
                steps=self.sampling.steps,
                guidance_scale=self.sampling.guidance_scale,
                judge_name=f"{question} {question.judge.sha256}",
                picture_batch=self.picture_batch,
            )
        return self.targets[key]

    def run(self, spec: AttackSpec, config: AttackConfig, factor: int = 1, pipeline: str = ERASED) -> Run:
        """Make one run, or give back the one that was made with the same settings."""
        key = (spec.name, config.model_dump_json(), pipeline)
        if key not in self.made:
            self.made[key] = self._run(spec, config, factor, pipeline)
        made = self.made[key]
        if made.record.factor == factor:
            return made
        return Run(made.record.model_copy(update={"factor": factor}), made.outcomes)

    def _run(self, spec: AttackSpec, config: AttackConfig, factor: int, pipeline: str) -> Run:
        outcomes: list[AttackOutcome] = []
        for index, group in enumerate(self.groups):
            outcomes += run_attack(
                spec,
                group.items,
                self.target(pipeline, index),
                config,
                base=self.target(BASE, index),
                progress=self._watcher(f"{spec.name} {factor}x, {pipeline}"),
                store=self.store,
            )
        digest = "" if pipeline == BASE else self.artifact.digest
        return count_run(Budgeted(spec, config, factor, pipeline, digest), prompts_of(self.groups), outcomes)

    def _watcher(self, name: str) -> Callable[[AttackProgress], None]:
        def watch(progress: AttackProgress) -> None:
            if self.tell is not None:
                self.tell(name, min(progress.work, progress.total_work), progress.total_work)

        return watch


def plain_run(arena: Arena, pipeline: str = ERASED) -> Run:
    """The plain prompts, without an attack: the pre-attack rate."""
    spec = attack_named(NO_ATTACK)
    return arena.run(spec, spec.config(), pipeline=pipeline)


def attack_all(arena: Arena, settings: AttackSettings, weak: Arena | None) -> list[Attacked]:
    """Make every run that the rules ask for.

    Args:
        arena: Pipelines, prompts and judges.
        settings: Which attacks, and how hard.
        weak: The weak eraser with the prompts that it hides; None if there is none.

    Raises:
        ErasureNotActiveError: The erasure was not verified all along; there is no row then.
        EvaluationError: A run is incomplete, or the judge did not keep to its threshold.
    """
    return [_attack(arena, settings, weak, spec, config) for spec, config in settings.planned()]


def _attack(
    arena: Arena, settings: AttackSettings, weak: Arena | None, spec: AttackSpec, config: AttackConfig
) -> Attacked:
    base = arena.run(spec, config, pipeline=BASE)
    controls = _weak_controls(weak, spec, config) if weak else ()
    runs, baselines = [], []
    for factor in settings.factors:
        scaled = config.scaled(factor)
        runs.append(arena.run(spec, scaled, factor))
        baselines += _luck(arena, settings, spec, scaled, factor)
    return Attacked(spec, tuple(runs), tuple(baselines), base, *controls)


def _weak_controls(weak: Arena, spec: AttackSpec, config: AttackConfig) -> list[Run]:
    """The attack on the weak eraser, and random tokens beside it unless it is luck itself."""
    beside = [] if spec.access is Access.NONE else equal_budget((RANDOM_TOKENS,), config)
    return [weak.run(one, settings, pipeline=WEAK) for one, settings in ((spec, config), *beside)]


def _luck(
    arena: Arena, settings: AttackSettings, spec: AttackSpec, config: AttackConfig, factor: int
) -> list[Run]:
    beside = equal_budget(settings.baselines, config)
    return [arena.run(luck, chosen, factor) for luck, chosen in beside if luck.name != spec.name]


def all_runs(plain: Sequence[Run], attacked: Sequence[Attacked]) -> list[Run]:
    """Every run, each once."""
    found: dict[int, Run] = {id(run.outcomes): run for run in plain}
    for one in attacked:
        for run in (*one.runs, *one.baselines, one.base_control, one.weak_control, one.weak_luck):
            if run is not None:
                found.setdefault(id(run.outcomes), run)
    return list(found.values())
