"""The bank: the numbers of sampling one at a time, the law of its draws, its cost, and its files."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DDIMScheduler, StableDiffusionPipeline
from torch import Tensor

from diffusers_erasure.diffusion import (
    BankSettings,
    DiffusionComponents,
    NoisePredictor,
    Storage,
    TextPath,
    TrajectoryBank,
    frozen,
    partial_sample,
)
from diffusers_erasure.diffusion.bank_files import DiskTable
from diffusers_erasure.errors import ArtifactFormatError, ArtifactIntegrityError, ConfigError, TrainingError
from tests.reference import ddim as reference

STEPS = 5
PROMPTS = ["dog", "a cat"]
LEVELS = reference.alphas_cumprod(0.00085, 0.012, 1000)


@pytest.fixture
def components(tiny_pipe: StableDiffusionPipeline) -> DiffusionComponents:
    return DiffusionComponents.from_pipeline(tiny_pipe)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def settings(**values: Any) -> BankSettings:
    return BankSettings(steps=STEPS, **values)


def pool(**values: Any) -> BankSettings:
    return settings(mode="pool", trajectories_per_prompt=2, batch_size=3, **values)


def states(components: DiffusionComponents) -> tuple[Tensor, Tensor]:
    path = TextPath(components)
    with torch.no_grad():
        return path.encode(PROMPTS), path.encode("")


def same(first: Any, second: Any) -> bool:
    """Whether two draws are equal bit for bit."""
    return all(
        torch.equal(getattr(first, name), getattr(second, name))
        for name in ("latents", "timesteps", "target_conditional", "target_unconditional", "prompt_index")
    )


# What is in it


def test_fresh_draws_equal_literal_sampling_of_the_same_noise(components: DiffusionComponents) -> None:
    """Level 0: the whole draw is one batch, its numbers are those of one latent at a time."""
    bank = TrajectoryBank.build(components, PROMPTS, settings(mode="fresh"))
    draw = bank.draw(generator(), 4, prompts=[0, 1, 1, 0])
    again = generator()
    noise = torch.randn((4, 4, 8, 8), generator=again)
    indices = torch.randint(STEPS, (4, 1), generator=again).flatten().tolist()
    texts, empty = states(components)
    predict = reference.one_at_a_time(components.unet)
    assert draw.target_unconditional is not None
    for row, (index, prompt) in enumerate(zip(indices, [0, 1, 1, 0], strict=True)):
        latent, time = reference.aligned_sample(
            predict, noise[row], texts[prompt], empty[0], levels=LEVELS, steps=STEPS, index=index, scale=3.0
        )
        assert int(draw.timesteps[row]) == time
        for found, expected in (
            (draw.latents[row], latent),
            (draw.target_conditional[row], predict(latent, time, texts[prompt])),
            (draw.target_unconditional[row], predict(latent, time, empty[0])),
        ):
            torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4)
    assert bank.evaluations == 2 * sum(STEPS - index for index in indices)


@pytest.mark.parametrize("mode", ["fresh", "per_trajectory", "pool"])
@pytest.mark.parametrize("alignment", ["aligned", "compvis"])
@pytest.mark.parametrize("guidance_scale", [3.0, 1.0])
def test_targets_are_the_frozen_models_predictions(
    components: DiffusionComponents, mode: str, alignment: str, guidance_scale: float
) -> None:
    chosen = settings(mode=mode, alignment=alignment, guidance_scale=guidance_scale)
    draw = TrajectoryBank.build(components, PROMPTS, chosen).draw(generator(), 7)
    texts, empty = states(components)
    with torch.no_grad():
        conditional, without = NoisePredictor.of(components).both(
            draw.latents, draw.timesteps, texts[draw.prompt_index], empty
        )
    assert draw.target_unconditional is not None
    torch.testing.assert_close(draw.target_conditional, conditional, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(draw.target_unconditional, without, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("alignment", ["aligned", "compvis"])
def test_every_latent_of_a_trajectory_is_that_of_partial_sampling(
    components: DiffusionComponents, alignment: Any
) -> None:
    """Level 1 keeps all steps of one run; sampling anew until each step gives the same latents."""
    bank = TrajectoryBank.build(components, PROMPTS, settings(alignment=alignment))
    draw = bank.draw(generator(), STEPS, prompts=[1] * STEPS)
    noise = torch.randn((1, 4, 8, 8), generator=generator())
    texts, empty = states(components)
    latents, times = partial_sample(
        NoisePredictor.of(components),
        texts[1:2],
        empty,
        noise=noise.expand(STEPS, -1, -1, -1),
        step_index=range(STEPS),
        steps=STEPS,
        alignment=alignment,
        generator=generator(1),
    )
    share = 1000 // STEPS
    order = (draw.timesteps // share).argsort()
    torch.testing.assert_close(draw.latents[order], latents, rtol=1e-3, atol=1e-4)
    assert torch.equal(draw.timesteps[order] // share, times // share)


def test_gradients_of_a_step_from_the_bank_equal_those_of_a_step_without_it(
    components: DiffusionComponents, make_tiny_pipe: Callable[..., StableDiffusionPipeline]
) -> None:
    """One AdvUnlearn-like step of a student encoder, once from a stored draw, once with all sampled anew."""
    draw = TrajectoryBank.build(components, PROMPTS, pool()).draw(generator(), 3)
    student = TextPath(components, encoder=make_tiny_pipe(seed=5).text_encoder)
    predictor = NoisePredictor.of(components)
    texts, empty = states(components)

    def gradients(target: Tensor) -> list[Tensor]:
        student.encoder.zero_grad(set_to_none=True)
        with frozen(components.unet):
            asked = student.encode([PROMPTS[int(number)] for number in draw.prompt_index])
            noise = predictor(draw.latents, draw.timesteps, asked)
            (noise - target).square().mean().backward()
        return [weight.grad for weight in student.encoder.parameters() if weight.grad is not None]

    assert draw.target_unconditional is not None
    cached = gradients(2 * draw.target_unconditional - draw.target_conditional)
    with torch.no_grad():
        conditional, without = predictor.both(draw.latents, draw.timesteps, texts[draw.prompt_index], empty)
    uncached = gradients(2 * without - conditional)
    assert len(cached) == len(uncached) > 10
    largest = max(float(gradient.abs().max()) for gradient in uncached)
    for one, other in zip(cached, uncached, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-5 * largest)
    assert all(weight.grad is None for weight in components.unet.parameters())


def test_a_velocity_model_is_banked_as_noise(components: DiffusionComponents) -> None:
    scheduler = DDIMScheduler.from_config(components.scheduler.config, prediction_type="v_prediction")
    draw = TrajectoryBank.build(replace(components, scheduler=scheduler), PROMPTS, pool()).draw(
        generator(), 4
    )
    texts, _ = states(components)
    predict = reference.one_at_a_time(components.unet)
    for row in range(4):
        time = int(draw.timesteps[row])
        velocity = predict(draw.latents[row], time, texts[draw.prompt_index[row]])
        expected = reference.noise_of_velocity(velocity, draw.latents[row], LEVELS[time])
        torch.testing.assert_close(draw.target_conditional[row], expected, rtol=1e-3, atol=1e-4)


# The law of its draws


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


def test_a_sampler_in_training_makes_the_latents_and_the_frozen_model_the_targets(
    components: DiffusionComponents, make_tiny_pipe: Callable[..., StableDiffusionPipeline]
) -> None:
    sampler = NoisePredictor.of(components, unet=make_tiny_pipe(seed=1).unet)
    sampler.unet.train()
    bank = TrajectoryBank.build(components, PROMPTS, settings(mode="fresh"), sampler=sampler)
    draw = bank.draw(generator(), 3, prompts=[0, 1, 0])
    again = generator()
    noise = torch.randn((3, 4, 8, 8), generator=again)
    indices = torch.randint(STEPS, (3, 1), generator=again).flatten().tolist()
    texts, empty = states(components)
    chosen = texts[torch.tensor([0, 1, 0])]
    latents, _ = partial_sample(sampler, chosen, empty, noise=noise, step_index=indices, steps=STEPS)
    torch.testing.assert_close(draw.latents, latents, rtol=1e-4, atol=1e-5)
    with torch.no_grad():
        expected = NoisePredictor.of(components)(latents, draw.timesteps, chosen)
    torch.testing.assert_close(draw.target_conditional, expected, rtol=1e-4, atol=1e-5)
    assert sampler.unet.training
    with pytest.raises(ConfigError, match="set mode='fresh'"):
        TrajectoryBank.build(components, PROMPTS, settings(), sampler=sampler)


# What it costs


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


# Its files


@pytest.mark.parametrize("storage", ["memory", "disk"])
def test_a_pool_on_disk_is_the_pool_in_memory(
    components: DiffusionComponents, tmp_path: Path, storage: Storage
) -> None:
    plain = TrajectoryBank.build(components, PROMPTS, pool())
    built = TrajectoryBank.build(components, PROMPTS, pool(), folder=tmp_path / "built", storage=storage)
    saved = plain.save(tmp_path / "saved")
    loaded = TrajectoryBank.load(saved, components, PROMPTS, pool(), storage=storage)
    assert isinstance(loaded._table, DiskTable) is (storage == "disk")
    for bank in (built, loaded):
        assert bank.fingerprint == plain.fingerprint != ""
        assert len(bank) == len(plain)
        assert same(bank.draw(generator(), 9), plain.draw(generator(), 9))
    assert loaded.evaluations == 0
    assert {path.name for path in saved.iterdir()} == {path.name for path in (tmp_path / "built").iterdir()}


def test_a_stopped_build_goes_on_where_it_stopped(components: DiffusionComponents, tmp_path: Path) -> None:
    class StoppedError(Exception):
        pass

    seen: list[tuple[int, int]] = []

    def stop(done: int, total: int) -> None:
        seen.append((done, total))
        if done == 3:
            raise StoppedError

    with pytest.raises(StoppedError):
        TrajectoryBank.build(components, PROMPTS, pool(), folder=tmp_path, progress=stop)
    (tmp_path / ".part-00001.safetensors.partial-1-ab").write_bytes(b"half a part")
    bank = TrajectoryBank.build(
        components, PROMPTS, pool(), folder=tmp_path, progress=lambda *at: seen.append(at)
    )
    assert seen == [(3, 4), (3, 4), (4, 4)]
    assert bank.evaluations == 2 * STEPS
    assert same(
        bank.draw(generator(), 9), TrajectoryBank.build(components, PROMPTS, pool()).draw(generator(), 9)
    )
    finished = TrajectoryBank.build(components, PROMPTS, pool(), folder=tmp_path)
    assert finished.evaluations == 0


def _another_unet(parts: DiffusionComponents) -> tuple[DiffusionComponents, list[str], BankSettings]:
    with torch.no_grad():
        parts.unet.conv_in.weight[0, 0, 0, 0] += 1e-3
    return parts, PROMPTS, pool()


def _another_encoder(parts: DiffusionComponents) -> tuple[DiffusionComponents, list[str], BankSettings]:
    with torch.no_grad():
        parts.text_encoder.final_layer_norm.bias[0] += 1e-3
    return parts, PROMPTS, pool()


def _another_schedule(parts: DiffusionComponents) -> tuple[DiffusionComponents, list[str], BankSettings]:
    scheduler = DDIMScheduler.from_config(parts.scheduler.config, prediction_type="v_prediction")
    return replace(parts, scheduler=scheduler), PROMPTS, pool()


def _other_prompts(parts: DiffusionComponents) -> tuple[DiffusionComponents, list[str], BankSettings]:
    return parts, PROMPTS[::-1], pool()


def _other_settings(parts: DiffusionComponents) -> tuple[DiffusionComponents, list[str], BankSettings]:
    return parts, PROMPTS, pool(guidance_scale=4.0)


@pytest.mark.parametrize(
    ("change", "culprit"),
    [
        (_another_unet, "unet"),
        (_another_encoder, "text_encoder"),
        (_another_schedule, "schedule"),
        (_other_prompts, "prompts"),
        (_other_settings, "settings"),
    ],
)
@pytest.mark.parametrize("complete", [True, False])
def test_a_bank_of_another_origin_is_refused_and_says_which(
    components: DiffusionComponents,
    tmp_path: Path,
    change: Callable[[DiffusionComponents], tuple[DiffusionComponents, list[str], BankSettings]],
    culprit: str,
    complete: bool,
) -> None:
    TrajectoryBank.build(components, PROMPTS, pool(), folder=tmp_path)
    if not complete:
        (tmp_path / "bank.json").unlink()
    parts, prompts, chosen = change(components)
    with pytest.raises(ConfigError, match=f"made from another {culprit} "):
        TrajectoryBank.build(parts, prompts, chosen, folder=tmp_path)
    if complete:
        with pytest.raises(ConfigError, match=f"made from another {culprit} "):
            TrajectoryBank.load(tmp_path, parts, prompts, chosen)


def test_a_batch_size_only_matters_while_building(components: DiffusionComponents, tmp_path: Path) -> None:
    TrajectoryBank.build(components, PROMPTS, pool(), folder=tmp_path)
    other = pool().model_copy(update={"batch_size": 1})
    assert len(TrajectoryBank.load(tmp_path, components, PROMPTS, other)) == 20
    (tmp_path / "bank.json").unlink()
    with pytest.raises(ConfigError, match="batch_size that the build began with"):
        TrajectoryBank.build(components, PROMPTS, other, folder=tmp_path)


def test_damaged_files_are_refused(components: DiffusionComponents, tmp_path: Path) -> None:
    with pytest.raises(ArtifactFormatError, match=r"has no bank\.json"):
        TrajectoryBank.load(tmp_path, components, PROMPTS, pool())
    TrajectoryBank.build(components, PROMPTS, pool(), folder=tmp_path)
    listed = (tmp_path / "bank.json").read_text()
    part = tmp_path / "part-00000.safetensors"
    whole = part.read_bytes()
    part.write_bytes(whole[:-4] + b"\0\0\xc0\x7f")
    with pytest.raises(ArtifactIntegrityError, match=r"part-00000\.safetensors is not the file"):
        TrajectoryBank.load(tmp_path, components, PROMPTS, pool())
    part.unlink()
    with pytest.raises(ArtifactIntegrityError, match="lost, changed or corrupted"):
        TrajectoryBank.load(tmp_path, components, PROMPTS, pool())
    (tmp_path / "bank.json").write_text("{")
    with pytest.raises(ArtifactFormatError, match="is not JSON"):
        TrajectoryBank.load(tmp_path, components, PROMPTS, pool())
    (tmp_path / "bank.json").write_text(json.dumps({**json.loads(listed), "format": 2}))
    with pytest.raises(ArtifactFormatError, match="found 2"):
        TrajectoryBank.load(tmp_path, components, PROMPTS, pool())
    (tmp_path / "bank.json").unlink()
    part.write_bytes(b"no safetensors")
    with pytest.raises(ArtifactFormatError, match="is no part of a bank"):
        TrajectoryBank.build(components, PROMPTS, pool(), folder=tmp_path)


# What it refuses


@pytest.mark.parametrize("mode", ["fresh", "pool"])
def test_values_that_are_not_finite_are_refused(components: DiffusionComponents, mode: str) -> None:
    with torch.no_grad():
        components.unet.conv_out.bias[0] = torch.nan
    with pytest.raises(TrainingError, match="are not finite"):
        TrajectoryBank.build(components, PROMPTS, settings(mode=mode)).draw(generator(), 2)


def test_values_that_half_precision_cannot_hold_are_refused(components: DiffusionComponents) -> None:
    with torch.no_grad():
        components.unet.conv_out.bias[0] = 1e5
    chosen = pool(dtype="float16", guidance_scale=1.0)
    with pytest.raises(TrainingError, match="trajectories kept as float16"):
        TrajectoryBank.build(components, PROMPTS, chosen)
    TrajectoryBank.build(components, PROMPTS, pool(dtype="bfloat16", guidance_scale=1.0))


def test_half_precision_is_only_how_it_is_kept(components: DiffusionComponents) -> None:
    exact = TrajectoryBank.build(components, PROMPTS, pool()).draw(generator(), 9)
    kept = TrajectoryBank.build(components, PROMPTS, pool(dtype="float16")).draw(generator(), 9)
    assert kept.latents.dtype == torch.float32
    assert not torch.equal(kept.latents, exact.latents)
    torch.testing.assert_close(kept.latents, exact.latents, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(
    ("prompts", "values", "options", "message"),
    [
        ([], {}, {}, r"prompts \[\]"),
        ("dog", {}, {}, "prompts 'dog'"),
        (PROMPTS, {}, {"folder": "x"}, "per_trajectory bank keeps nothing in a folder"),
        (PROMPTS, {"mode": "pool"}, {"storage": "disk"}, "without a folder"),
        (PROMPTS, {"steps": 1000}, {}, "1000 sampling steps do not fit"),
    ],
)
def test_what_does_not_fit_together_is_refused(
    components: DiffusionComponents, prompts: list[str], values: dict[str, Any], options: Any, message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        TrajectoryBank.build(components, prompts, BankSettings(**values), **options)


@pytest.mark.parametrize(("count", "prompts"), [(0, None), (2, [0]), (1, [2]), (1, [-1])])
def test_draws_that_there_are_not_are_refused(
    components: DiffusionComponents, count: int, prompts: list[int] | None
) -> None:
    bank = TrajectoryBank.build(components, PROMPTS, settings(mode="fresh"))
    with pytest.raises(ConfigError, match="expected at least one row and a number below 2"):
        bank.draw(generator(), count, prompts=prompts)


def test_only_a_pool_in_memory_can_be_saved(components: DiffusionComponents, tmp_path: Path) -> None:
    for chosen, options in ((settings(), {}), (pool(), {"folder": tmp_path / "a", "storage": "disk"})):
        bank = TrajectoryBank.build(components, PROMPTS, chosen, **options)  # type: ignore[arg-type]
        with pytest.raises(ConfigError, match="has nothing to save"):
            bank.save(tmp_path / "b")


def test_latents_of_another_size(components: DiffusionComponents) -> None:
    draw = TrajectoryBank.build(components, PROMPTS, settings(mode="fresh", height=4, width=16)).draw(
        generator(), 2
    )
    assert draw.latents.shape == (2, 4, 4, 16)


def test_the_unets_weights_never_get_gradients(components: DiffusionComponents) -> None:
    for mode in ("fresh", "per_trajectory", "pool"):
        draw = TrajectoryBank.build(components, PROMPTS, settings(mode=mode)).draw(generator(), 2)
        assert not draw.latents.requires_grad
        assert not draw.target_conditional.requires_grad
    assert all(weight.grad is None for weight in components.unet.parameters())
    assert all(weight.requires_grad for weight in components.unet.parameters())
