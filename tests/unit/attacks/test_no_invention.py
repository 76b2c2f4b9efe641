"""The control "no invention": its oracle teacher, how successes are counted, and its verdict."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch

from benchmarks.no_invention import KNOWN, Arm, DrawingTarget, verdict
from benchmarks.no_invention_judge import NEVER_LEARNED, mush
from diffusers_erasure.attacks import AttackedPrompt, AttackOutcome, attack_named
from diffusers_erasure.attacks.soft_attack import SoftAttackConfig
from diffusers_erasure.diffusion.sampling import SamplingPath
from diffusers_erasure.diffusion.schedule import ddim_step
from diffusers_erasure.embedded.vocabulary import CONCEPTS
from diffusers_erasure.evaluation.proportion import Proportion

if TYPE_CHECKING:
    from diffusers_erasure.attacks import AttackTarget

Build = Callable[..., "AttackTarget"]
SHARP = {name: Proportion.of(70, 70) for name in NEVER_LEARNED}


def drawings(target: AttackTarget, *, seed: int = 0) -> dict[str, torch.Tensor]:
    unet = target.components.unet.config
    size = (unet.in_channels, unet.sample_size, unet.sample_size)
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.randn(size, generator=generator) for name in ("whale", "anchor")}


@pytest.mark.parametrize("steps", [1, 10, 50])
def test_ddim_with_the_oracle_arrives_at_the_drawing_from_any_start(make_target: Build, steps: int) -> None:
    known = drawings(make_target())
    oracle = DrawingTarget.teaching(make_target(), known)
    levels = oracle.predictor.alphas_cumprod.double()
    wanted = torch.stack([known["anchor"], known["whale"]]).double()
    start = torch.randn(wanted.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    states, latents, noise = oracle.encode(["anchor", "whale"]), start, start
    for timestep, previous in SamplingPath(steps, len(levels)).moves:
        noise, unconditional = oracle.predictor.both(
            latents, torch.tensor(timestep), states, oracle.unconditional
        )
        assert torch.equal(noise, unconditional)
        latents = ddim_step(latents, noise, timestep, previous, levels)
    assert levels[0] > 0.99
    assert torch.allclose(latents - (1 - levels[0]).sqrt() * noise, levels[0].sqrt() * wanted, atol=1e-5)


def test_the_oracle_undoes_the_noise_of_each_row_at_its_own_timestep(make_target: Build) -> None:
    known = drawings(make_target())
    oracle = DrawingTarget.teaching(make_target(), known)
    noise = torch.randn((2, *known["whale"].shape), generator=torch.Generator().manual_seed(2))
    rows = []
    for row, timestep, name in ((0, 30, "whale"), (1, 900, "anchor")):
        level = float(oracle.predictor.alphas_cumprod[timestep])
        rows.append(level**0.5 * known[name] + (1 - level) ** 0.5 * noise[row])
    told = oracle.predictor(torch.stack(rows), torch.tensor([30, 900]), oracle.encode(["whale", "anchor"]))
    assert torch.allclose(told, noise, atol=1e-4)


def test_the_registered_attack_takes_the_oracle_as_its_base(make_target: Build) -> None:
    target = make_target()
    item = AttackedPrompt("a whale", 3, "whale", "whale")
    losses = []
    for seed in (0, 1):
        oracle = DrawingTarget.teaching(target, drawings(target, seed=seed))
        config = SoftAttackConfig(steps=2, checkpoints=1, sampling_steps=2)
        (outcome,) = attack_named("soft_prompt").run([item], target, config, base=oracle)
        assert outcome.failed is None
        losses.append(outcome.loss_first)
    assert losses[0] != losses[1]


def test_outcomes_of_another_drawing_are_not_recalled() -> None:
    arm, blank = Arm("known", {"dog": "cat"}), np.zeros((64, 64, 3), np.uint8)
    item = arm.item("dog", 5, blank)
    assert item.prompt == "a drawing of a cat"
    assert item == arm.item("dog", 5, blank.copy())
    assert item != arm.item("dog", 5, blank + 1)


def test_what_was_never_learned_is_not_in_the_vocabulary() -> None:
    words = {
        word for entry in CONCEPTS.values() for name in (entry.name, *entry.synonyms) for word in name.split()
    }
    assert not words & set(NEVER_LEARNED)
    assert set(KNOWN) | set(KNOWN.values()) <= set(CONCEPTS)
    assert all(taught != named for taught, named in KNOWN.items())


def test_each_arm_counts_against_the_claim() -> None:
    item = AttackedPrompt("a drawing of a cat", 0, "dog")
    outcomes = [
        AttackOutcome(item, success=True, success_at=1),
        AttackOutcome(item, success=True, success_at=3),
        AttackOutcome(item, success=False),
        AttackOutcome(item, success=False, failed="no memory"),
    ]
    assert Arm("never learned", {}).brought(outcomes) == 3
    assert Arm("known", {}).brought(outcomes) == 1


@pytest.mark.parametrize(
    ("unknown", "known", "judge", "code", "said"),
    [
        ((0, 100), (90, 100), (70, 70), 0, "whole interval: 0/100"),
        ((6, 100), (90, 100), (70, 70), 0, "reaches above"),
        ((10, 100), (90, 100), (70, 70), 1, "claim fails"),
        ((0, 100), (49, 100), (70, 70), 2, "known concepts: 49/100"),
        ((0, 100), (50, 100), (70, 70), 0, "stay under"),
        ((0, 100), (90, 100), (63, 70), 2, "whale 63/70"),
        ((50, 100), (10, 100), (10, 70), 2, "void"),
    ],
)
def test_the_verdict_needs_a_sharp_judge_and_an_attack_that_works(
    unknown: tuple[int, int], known: tuple[int, int], judge: tuple[int, int], code: int, said: str
) -> None:
    sharp = {**SHARP, "whale": Proportion.of(*judge)}
    found, lines = verdict(Proportion.of(*unknown), Proportion.of(*known), sharp)
    assert found == code
    assert said in "; ".join(lines)


@pytest.mark.parametrize("seed", range(6))
def test_mush_keeps_the_shape_and_is_neither_picture(seed: int) -> None:
    first, second = torch.rand((2, 4, 3, 64, 64), generator=torch.Generator().manual_seed(0))
    made = mush(first, second, torch.Generator().manual_seed(seed))
    assert made.shape == first.shape
    assert 0 <= made.min() <= made.max() <= 1
    assert not torch.allclose(made, first, atol=0.1)
    assert not torch.allclose(made, second, atol=0.1)
