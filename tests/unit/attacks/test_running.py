"""What all attacks share: state, failures, shards, kept outcomes, progress, and the table of attacks."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DDPMScheduler, StableDiffusionPipeline

from diffusers_erasure.attacks import (
    Access,
    AttackConfig,
    AttackedPrompt,
    AttackOutcome,
    AttackProgress,
    AttackSpec,
    attack,
    attack_named,
    attacks,
    take,
)
from diffusers_erasure.attacks.store import outcome_from_json, outcome_to_json
from diffusers_erasure.errors import ConfigError, EvaluationError, NotFiniteError
from tests.conftest import copy_pipeline

Target = Callable[..., Any]
ITEMS = [AttackedPrompt("dog", seed, "dog") for seed in range(5)]


class Probe:
    """A search that answers every prompt, breaks at chosen seeds, and counts what it was given."""

    def __init__(self, breaks: tuple[int, ...] = (), batch: int = 1, fault: Exception | None = None) -> None:
        self.breaks, self.batch, self.given = breaks, batch, []
        self.fault = fault or RuntimeError("out of memory")

    def __call__(self, items: Any, *_: Any, report: Any, **__: Any) -> Iterator[Any]:
        while batch := take(items, self.batch):
            self.given += [item.seed for item in batch]
            if set(self.breaks) & {item.seed for item in batch}:
                raise self.fault
            for item in batch:
                report(1)
                picture = torch.full((3, 2, 2), item.seed, dtype=torch.uint8)
                yield AttackOutcome(item, success=item.seed % 2 == 0, ids=(1, 2), steps=1, picture=picture)

    @property
    def spec(self) -> AttackSpec:
        return AttackSpec("probe", AttackConfig, self, Access.NONE, False, "1", "", __name__)


def test_outcomes_come_in_the_order_of_the_prompts_with_the_state(make_target: Target) -> None:
    outcomes = Probe().spec.run(ITEMS, make_target())
    assert [outcome.seed for outcome in outcomes] == [0, 1, 2, 3, 4]
    assert {(outcome.state_before, outcome.state_after) for outcome in outcomes} == {("absent", "absent")}


def test_a_failure_takes_only_its_batch_and_is_never_left_out(make_target: Target) -> None:
    probe = Probe(breaks=(2,), batch=2)
    outcomes = probe.spec.run(ITEMS, make_target())
    assert [outcome.failed is not None for outcome in outcomes] == [False, False, True, True, False]
    assert "out of memory" in (outcomes[2].failed or "")
    assert [outcome.counts_as_success for outcome in outcomes] == [True, False, True, True, True]


def test_numbers_that_are_not_finite_fail_the_prompt_alone(make_target: Target) -> None:
    probe = Probe(breaks=(2,), fault=NotFiniteError("1 of 1 losses"))
    outcomes = probe.spec.run(ITEMS, make_target())
    assert [outcome.failed for outcome in outcomes] == [
        None,
        None,
        "NotFiniteError: 1 of 1 losses",
        None,
        None,
    ]


@pytest.mark.parametrize("fault", [NotImplementedError("no such kernel"), RecursionError("too deep")])
def test_what_no_prompt_is_to_blame_for_is_no_success(make_target: Target, fault: Exception) -> None:
    with pytest.raises(type(fault), match=str(fault)):
        Probe(breaks=(2,), fault=fault).spec.run(ITEMS, make_target())


def test_prompts_without_an_answer_count_as_failed(make_target: Target) -> None:
    def lazy(items: Any, *_: Any, **__: Any) -> Iterator[AttackOutcome]:
        for item in take(items, 2)[:1]:
            yield AttackOutcome(item, success=False)

    outcomes = replace(Probe().spec, search=lazy).run(ITEMS[:3], make_target())
    assert [outcome.failed for outcome in outcomes] == [
        None,
        "the attack gave no outcome for this prompt",
        "the attack ended before it took this prompt",
    ]


def test_an_answer_to_what_was_not_asked_is_refused(make_target: Target) -> None:
    def wrong(items: Any, *_: Any, **__: Any) -> Iterator[AttackOutcome]:
        yield AttackOutcome(AttackedPrompt("cat", 1, "cat"), success=False)

    with pytest.raises(EvaluationError, match="did not take"):
        replace(Probe().spec, search=wrong).run(ITEMS, make_target())


def test_a_run_goes_on_where_it_was(make_target: Target, tmp_path: Path) -> None:
    target = make_target()
    first = Probe(breaks=(3,))
    before = first.spec.run(ITEMS, target, store=tmp_path)
    second = Probe()
    after = second.spec.run(ITEMS, target, store=tmp_path)
    assert second.given == [3], "what failed is attacked again, what is finished is not"
    assert [outcome for outcome in after if outcome.seed != 3] == [one for one in before if one.seed != 3]
    assert after[4].picture is not None
    assert after[4].picture.unique().tolist() == [4]


def test_kept_outcomes_belong_to_weights_settings_scheduler_and_judge(
    make_target: Target, tiny_pipe: StableDiffusionPipeline, tmp_path: Path
) -> None:
    target = make_target()
    scheduled = copy_pipeline(tiny_pipe)
    scheduled.scheduler = DDPMScheduler.from_config(tiny_pipe.scheduler.config)
    Probe().spec.run(ITEMS, target, store=tmp_path)
    for other, config in (
        (make_target(judge_name="another"), AttackConfig()),
        (make_target(steps=3), AttackConfig()),
        (make_target(pipe=scheduled), AttackConfig()),
        (target, AttackConfig(seed=1)),
    ):
        probe = Probe()
        probe.spec.run(ITEMS, other, config, store=tmp_path)
        assert len(probe.given) == 5
    probe = Probe()
    probe.spec.run(ITEMS, target, AttackConfig(batch_size=2), store=tmp_path)
    assert not probe.given, "the batch size changes speed alone"
    with torch.no_grad():
        target.components.unet.conv_in.weight.add_(1)
    probe = Probe()
    probe.spec.run(ITEMS, make_target(), store=tmp_path)
    assert len(probe.given) == 5


def test_a_damaged_file_is_made_again(make_target: Target, tmp_path: Path) -> None:
    target = make_target()
    Probe().spec.run(ITEMS, target, store=tmp_path)
    for path in (tmp_path / "probe").glob("*.json"):
        path.write_text("{", encoding="utf-8")
    probe = Probe()
    assert len(probe.spec.run(ITEMS, target, store=tmp_path)) == 5
    assert len(probe.given) == 5


def test_shards_share_the_work_and_are_collected_from_the_store(make_target: Target, tmp_path: Path) -> None:
    target = make_target()
    given = []
    for index in range(2):
        probe = Probe()
        probe.spec.run(ITEMS, target, store=tmp_path, shard=(index, 2))
        given.append(probe.given)
    assert given == [[0, 2, 4], [1, 3]]
    probe = Probe()
    assert [one.seed for one in probe.spec.run(ITEMS, target, store=tmp_path)] == [0, 1, 2, 3, 4]
    assert not probe.given
    with pytest.raises(ConfigError, match="shard 2 of 2"):
        probe.spec.run(ITEMS, target, shard=(2, 2))


def test_a_pipeline_that_changes_under_attack_gives_no_outcomes(make_target: Target, tmp_path: Path) -> None:
    states = iter(["verified", *["verified"] * 5, "modified"])
    target = replace(make_target(), state=lambda _thorough: next(states))
    with pytest.raises(EvaluationError, match="verified before the attack probe and then modified"):
        Probe().spec.run(ITEMS, target, store=tmp_path)
    assert not list(tmp_path.rglob("*.json"))


def test_repeated_prompts_and_foreign_settings_are_refused(make_target: Target) -> None:
    class Other(AttackConfig):
        """Settings of another attack."""

    with pytest.raises(ConfigError, match="1 of 6 items"):
        Probe().spec.run([*ITEMS, ITEMS[0]], make_target())
    with pytest.raises(ConfigError, match="expected Other"):
        replace(Probe().spec, config=Other).run(ITEMS, make_target(), AttackConfig())


def test_progress_ends_at_everything(make_target: Target) -> None:
    seen: list[AttackProgress] = []
    Probe(breaks=(1,)).spec.run(ITEMS, make_target(), progress=seen.append)
    assert (seen[0].finished, seen[0].fraction) == (0, 0.0)
    assert (seen[-1].finished, seen[-1].fraction, seen[-1].successes) == (5, 1.0, 4)


def test_outcomes_survive_as_json() -> None:
    outcome = AttackOutcome(ITEMS[0], success=True, success_at=3, ids=(1, 2), details={"a": 1})
    assert outcome_from_json(outcome_to_json(outcome)) == outcome
    assert outcome.succeeded_within(3)
    assert not outcome.succeeded_within(2)


def test_a_judge_that_does_not_answer_every_picture_is_refused(make_target: Target) -> None:
    target = make_target(judge=lambda images: torch.zeros(1, dtype=torch.bool))
    with pytest.raises(EvaluationError, match="answered 2 pictures"):
        target.judged_texts(["dog", "cat"], [0, 1])


def test_every_attack_is_listed_and_unknown_names_are_refused() -> None:
    known = attacks()
    assert {"no_attack", "random_tokens", "seed_search", "soft_prompt", "unlearndiffatk"} <= set(known)
    assert all(spec.summary and issubclass(spec.config, AttackConfig) for spec in known.values())
    assert attack_named("random-tokens") is known["random_tokens"]
    with pytest.raises(ConfigError, match="did you mean 'unlearndiffatk'"):
        attack_named("unlearndifatk")


def test_a_name_belongs_to_one_attack() -> None:
    assert "no_attack" in attacks(), "all are known before one is added"

    def other(*_: Any, **__: Any) -> Iterator[AttackOutcome]:
        yield from ()

    with pytest.raises(ConfigError, match="two attacks are named 'no_attack'"):
        attack("no_attack", config=AttackConfig, access=Access.NONE)(other)


def test_unknown_settings_name_the_nearest() -> None:
    with pytest.raises(ConfigError, match="did you mean 'batch_size'"):
        AttackConfig.parse({"batch-sise": 3})
    with pytest.raises(ConfigError, match="batch_size"):
        AttackConfig.parse({"batch_size": 0})
