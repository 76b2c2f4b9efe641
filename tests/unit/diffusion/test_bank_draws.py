"""What is drawn from a bank, and at what cost: the law of its draws, and UNet evaluations counted."""

from __future__ import annotations

import pytest
import torch

from diffusers_erasure.diffusion import BankSettings, DiffusionComponents, NoisePredictor, TrajectoryBank
from diffusers_erasure.errors import ConfigError
from tests.unit.diffusion.banks import PROMPTS, STEPS, generator, pool, same, settings, states


@pytest.mark.parametrize("mode", ["fresh", "per_trajectory", "pool"])
def test_timesteps_are_uniform_and_starts_are_normal(components: DiffusionComponents, mode: str) -> None:
    each = 40 if mode == "pool" else 1
    chosen = settings(mode=mode, trajectories_per_prompt=each, unconditional=False, batch_size=200)
    bank = TrajectoryBank.build(components, ["dog"], chosen)
    draw = bank.draw(generator(), 200)
    counts = torch.bincount(draw.timesteps // (1000 // STEPS), minlength=STEPS)
    assert set(draw.timesteps.tolist()) == {1, 201, 401, 601, 801}
    expected = 200 / STEPS
    chi_square = float(((counts - expected) ** 2 / expected).sum())
    assert chi_square < 18.5  # 4 degrees of freedom: exceeded once in a thousand
    starts = draw.latents[draw.timesteps == 801]
    assert abs(float(starts.mean())) < 0.1
    assert abs(float(starts.std()) - 1) < 0.1
    assert draw.target_unconditional is None


@pytest.mark.parametrize("kept", [None, 2])
def test_the_first_draw_of_each_trajectory_is_uniform_too(
    components: DiffusionComponents, kept: int | None
) -> None:
    """A trajectory is not read from its noisy end on: every single draw has the law of a fresh one."""
    prompts = [f"{letter} {other}" for letter in "abcdefghij" for other in "abcdefghij"]
    chosen = settings(pairs_per_trajectory=kept, unconditional=False, batch_size=100)
    bank = TrajectoryBank.build(components, prompts, chosen)
    draw = bank.draw(generator(), 100, prompts=range(100))
    counts = torch.bincount(draw.timesteps // (1000 // STEPS), minlength=STEPS)
    assert float(((counts - 20) ** 2 / 20).sum()) < 18.5
    assert len(bank) == 100 * ((kept or STEPS) - 1)


def test_no_pair_of_a_trajectory_is_used_twice(components: DiffusionComponents) -> None:
    bank = TrajectoryBank.build(components, PROMPTS, settings())
    drawn = [bank.draw(generator(seed), 3) for seed in range(10)]
    latents = torch.cat([draw.latents for draw in drawn]).flatten(1)
    assert len(latents.unique(dim=0)) == 30


def test_each_trajectory_serves_every_step_once(components: DiffusionComponents) -> None:
    bank = TrajectoryBank.build(components, PROMPTS, settings(trajectories_per_prompt=2))
    times = torch.cat([bank.draw(generator(seed), 5, prompts=[0] * 5).timesteps for seed in range(2)])
    assert sorted(times.tolist()) == sorted([1, 201, 401, 601, 801] * 2)
    assert len(bank) == 0


def test_a_pool_holds_distinct_trajectories_of_every_prompt(components: DiffusionComponents) -> None:
    bank = TrajectoryBank.build(components, PROMPTS, pool(pairs_per_trajectory=2))
    assert len(bank) == 2 * 2 * 2
    draw = bank.draw(generator(), 100)
    assert set(draw.prompt_index.tolist()) == {0, 1}
    assert len(draw.latents.flatten(1).unique(dim=0)) == 8
    asked = bank.draw(generator(), 6, prompts=[1, 0, 1, 1, 0, 0])
    assert asked.prompt_index.tolist() == [1, 0, 1, 1, 0, 0]
    rows_of_one = draw.latents[draw.prompt_index == 1].flatten(1)
    for row in asked.latents[asked.prompt_index == 1].flatten(1):
        assert bool((rows_of_one == row).all(dim=1).any())


def test_draws_depend_on_the_generator_alone(components: DiffusionComponents) -> None:
    for mode in ("fresh", "pool"):
        bank = TrajectoryBank.build(components, PROMPTS, settings(mode=mode))
        torch.manual_seed(0)
        first = bank.draw(generator(3), 4)
        torch.manual_seed(1)
        assert same(first, bank.draw(generator(3), 4))
        assert not same(first, bank.draw(generator(4), 4))


def test_a_stopped_run_goes_on_with_the_same_draws(components: DiffusionComponents) -> None:
    bank = TrajectoryBank.build(components, PROMPTS, settings())
    bank.draw(generator(0), 3)
    state = bank.state()
    expected = [bank.draw(generator(seed), 3) for seed in (1, 2, 3)]
    resumed = TrajectoryBank.build(components, PROMPTS, settings())
    resumed.load_state(state)
    assert all(
        same(resumed.draw(generator(seed), 3), draw) for seed, draw in zip((1, 2, 3), expected, strict=True)
    )
    with pytest.raises(ConfigError, match=r"'7\.latents'"):
        resumed.load_state({"7.latents": torch.zeros(1)})


def test_a_pool_costs_two_evaluations_a_step_and_its_draws_none(components: DiffusionComponents) -> None:
    """On the grid the two halves of the guidance are the targets."""
    calls = []
    handle = components.unet.register_forward_hook(lambda _m, inputs, _o: calls.append(len(inputs[0])))
    bank = TrajectoryBank.build(components, PROMPTS, pool())
    assert bank.evaluations == sum(calls) == 2 * STEPS * len(PROMPTS) * 2
    bank.draw(generator(), 50)
    handle.remove()
    assert bank.evaluations == sum(calls)


def test_an_iteration_of_advunlearn_costs_what_the_bank_promises(components: DiffusionComponents) -> None:
    """31 concept and 5 retain draws: none from a warm pool, so the 36 of the student are all."""
    concept = TrajectoryBank.build(components, ["dog"], pool())
    retain = TrajectoryBank.build(components, PROMPTS, pool(unconditional=False))
    before = concept.evaluations + retain.evaluations
    predictor = NoisePredictor.of(components)
    texts, _ = states(components)
    for bank, count in [*[(concept, 1)] * 31, (retain, 5)]:
        draw = bank.draw(generator(), count)
        predictor(draw.latents, draw.timesteps, texts[draw.prompt_index])
    assert concept.evaluations + retain.evaluations == before
    assert predictor.evaluations == 36


def test_a_trajectory_that_serves_every_step_is_a_fraction_of_fresh_ones(
    components: DiffusionComponents,
) -> None:
    counts = {}
    for mode in ("fresh", "per_trajectory"):
        bank = TrajectoryBank.build(components, ["dog"], BankSettings(mode=mode, steps=20))  # type: ignore[arg-type]
        for seed in range(4):
            bank.draw(generator(seed), 10)
        counts[mode] = bank.evaluations
    assert counts["per_trajectory"] == 2 * (2 * 20)
    assert counts["fresh"] > 8 * counts["per_trajectory"]
