"""What is done to an erased model: rounding, fine-tuning, foreign inputs; always to copies."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from diffusers_erasure.artifacts import Artifact, load_erasure
from diffusers_erasure.artifacts.fingerprint import fingerprint
from diffusers_erasure.artifacts.record import record_of
from diffusers_erasure.attacks.reactivation import (
    FineTuned,
    FineTuningConfig,
    PictureInput,
    TuningPictures,
    centre_mask,
    denoising_loss,
    fine_tune,
    fine_tuning,
    int8_copy,
    int8_round_trip,
    private_copy,
    stock_pipeline,
)
from diffusers_erasure.attacks.reactivation.fine_tuning import Way
from diffusers_erasure.diffusion.components import DiffusionComponents
from diffusers_erasure.diffusion.noise import NoisePredictor
from diffusers_erasure.errors import ConfigError, MissingDependencyError
from tests.reference.int8 import int8_round_trip as literal_round_trip

CONFIG = FineTuningConfig(batch_size=2, learning_rate=0.003, lora_learning_rate=0.03)


@pytest.fixture
def data(tiny_pipe: Any) -> TuningPictures:
    generator = torch.Generator().manual_seed(3)
    return TuningPictures(torch.randn(3, 4, 8, 8, generator=generator), ("a dog", "a cat", "a dog"))


@pytest.mark.parametrize("shape", [(5, 7), (4, 3, 3, 3)])
def test_int8_is_what_a_loop_gives(shape: tuple[int, ...]) -> None:
    weight = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    weight[1] = 0
    weight[2] *= 1e-4
    assert torch.allclose(int8_round_trip(weight).double(), literal_round_trip(weight), rtol=1e-6, atol=0)


def test_int8_keeps_what_is_on_its_grid_and_moves_the_rest_by_half_a_step_at_most() -> None:
    grid = torch.arange(-127, 128).float().reshape(1, -1) / 127
    assert torch.allclose(int8_round_trip(grid), grid, rtol=1e-6, atol=0)
    weight = torch.randn(6, 50, generator=torch.Generator().manual_seed(1))
    step = weight.abs().amax(dim=1, keepdim=True) / 127
    assert ((int8_round_trip(weight) - weight).abs() <= step * 0.500001).all()


def test_int8_rounds_linear_and_convolution_weights_of_a_copy_and_nothing_else(tiny_pipe: Any) -> None:
    before = fingerprint(tiny_pipe.unet)
    copy = int8_copy(tiny_pipe.unet)
    assert fingerprint(tiny_pipe.unet) == before
    layers = dict(tiny_pipe.unet.named_modules())
    changed = set()
    for name, layer in copy.named_modules():
        for part, weight in layer.named_parameters(recurse=False):
            if not torch.equal(weight, getattr(layers[name], part)):
                changed.add((type(layer), part))
                assert torch.equal(weight, int8_round_trip(getattr(layers[name], part)))
    kinds = {(kind, part) for kind, part in changed if issubclass(kind, nn.Linear | nn.Conv2d)}
    assert changed == kinds
    assert {part for _, part in changed} == {"weight"}
    assert {nn.Linear, nn.Conv2d} <= {base for kind, _ in changed for base in kind.__mro__}


def test_a_private_copy_shares_no_weight_and_does_not_pass_for_erased(
    tiny_pipe: Any, tiny_artifact: Artifact
) -> None:
    load_erasure(tiny_pipe, tiny_artifact)
    copy = private_copy(tiny_pipe.unet)
    assert record_of(tiny_pipe.unet) is not None
    assert record_of(copy) is None
    assert fingerprint(copy) == fingerprint(tiny_pipe.unet)
    theirs = {weight.data_ptr() for weight in tiny_pipe.unet.parameters()}
    assert not theirs & {weight.data_ptr() for weight in copy.parameters()}


@pytest.mark.parametrize(("way", "share"), [("full", 0.9), ("lora", 0.97)])
def test_fine_tuning_lowers_its_loss_and_leaves_the_caller_alone(
    tiny_pipe: Any, data: TuningPictures, way: Way, share: float
) -> None:
    before = {name: fingerprint(getattr(tiny_pipe, name)) for name in ("unet", "text_encoder", "vae")}
    flags = [weight.requires_grad for weight in tiny_pipe.unet.parameters()]
    state = torch.get_rng_state()
    told: list[int] = []
    shown = list(_tuned(tiny_pipe, data, way, (2, 40), report=told.append))
    assert [one.steps for one in shown] == [2, 40]
    assert shown[0].loss_before == shown[1].loss_before
    assert shown[1].loss_after < share * shown[1].loss_before
    assert told == list(range(1, 41))
    assert {name: fingerprint(getattr(tiny_pipe, name)) for name in before} == before
    assert [weight.requires_grad for weight in tiny_pipe.unet.parameters()] == flags
    assert all(weight.grad is None for weight in tiny_pipe.unet.parameters())
    assert torch.equal(torch.get_rng_state(), state)
    assert not any("lora" in name for name, _ in tiny_pipe.unet.named_parameters())


def test_the_loss_is_the_mean_squared_error_of_the_noise(tiny_pipe: Any) -> None:
    predictor = NoisePredictor.of(DiffusionComponents.from_pipeline(tiny_pipe))
    generator = torch.Generator().manual_seed(0)
    latents, noise = torch.randn(2, 2, 4, 8, 8, generator=generator)
    states = torch.randn(2, 24, 8, generator=generator)
    times = torch.tensor([7, 900])
    level = predictor.alphas_cumprod[times].reshape(-1, 1, 1, 1)
    noisy = level.sqrt() * latents + (1 - level).sqrt() * noise
    with torch.no_grad():
        expected = (predictor(noisy, times, states) - noise).square().mean()
        assert torch.allclose(denoising_loss(predictor, latents, states, times, noise), expected)


def test_a_lora_begins_at_the_erased_model_and_only_it_is_trained(
    tiny_pipe: Any, data: TuningPictures
) -> None:
    (tuned,) = _tuned(tiny_pipe, data, "lora", (1,))
    trained = {name for name, weight in tuned.unet.named_parameters() if weight.requires_grad}
    assert trained
    assert all("lora_" in name for name in trained)
    assert {name.rpartition(".lora_")[0].rpartition(".")[2] for name in trained} == {
        "to_q", "to_k", "to_v", "0"
    }  # fmt: skip
    bases = {
        name.replace(".base_layer", ""): weight
        for name, weight in tuned.unet.named_parameters()
        if "lora_" not in name
    }
    assert all(torch.equal(weight, bases[name]) for name, weight in tiny_pipe.unet.named_parameters())


def test_the_text_encoder_is_trained_only_if_asked(tiny_pipe: Any, data: TuningPictures) -> None:
    before = fingerprint(tiny_pipe.text_encoder)
    (without,) = _tuned(tiny_pipe, data, "full", (1,))
    assert without.text_encoder is tiny_pipe.text_encoder
    config = CONFIG.model_copy(update={"train_text_encoder": True})
    (trained,) = _tuned(tiny_pipe, data, "full", (1,), config=config)
    assert fingerprint(trained.text_encoder) != before
    assert fingerprint(tiny_pipe.text_encoder) == before


def test_fine_tuning_can_be_repeated_and_its_seed_matters(tiny_pipe: Any, data: TuningPictures) -> None:
    def last(seed: int) -> float:
        config = CONFIG.model_copy(update={"seed": seed})
        (tuned,) = _tuned(tiny_pipe, data, "lora", (3,), config=config)
        loss: float = tuned.loss_after
        return loss

    assert last(1) == last(1) != last(2)


@pytest.mark.parametrize("way", ["full", "lora"])
def test_a_fine_tuning_that_is_interrupted_ends_as_if_it_had_not_been(
    tiny_pipe: Any, data: TuningPictures, way: Way, tmp_path: Path
) -> None:
    whole = _weights(list(_tuned(tiny_pipe, data, way, (2, 4, 6)))[-1])
    state, told = tmp_path / "states" / "it.safetensors", []
    begun = _tuned(tiny_pipe, data, way, (2, 4, 6), state=state)
    shown = [next(begun), next(begun)]
    del begun  # killed after four steps, before anybody kept what was seen there
    (fourth, last) = _tuned(tiny_pipe, data, way, (4, 6), state=state, report=told.append)
    assert [fourth.steps, last.steps] == [4, 6]
    assert told == [5, 6]
    assert (fourth.loss_before, fourth.loss_after) == (shown[1].loss_before, shown[1].loss_after)
    assert all(torch.equal(weight, whole[name]) for name, weight in _weights(last).items())
    assert not state.exists()


def test_a_kept_fine_tuning_that_is_of_no_use_is_begun_anew(
    tiny_pipe: Any, data: TuningPictures, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    state, told = tmp_path / "it.safetensors", []
    next(_tuned(tiny_pipe, data, "full", (3, 4), state=state))
    list(_tuned(tiny_pipe, data, "full", (1, 4), state=state, report=told.append))
    assert told == [1, 2, 3, 4]
    assert not caplog.text
    state.write_bytes(b"cut off")
    list(_tuned(tiny_pipe, data, "full", (1,), state=state))
    assert "it.safetensors cannot be used" in caplog.text


def test_a_long_fine_tuning_is_kept_between_its_milestones(
    tiny_pipe: Any, data: TuningPictures, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fine_tuning, "KEPT_EVERY", 0.0)
    state, told = tmp_path / "it.safetensors", []

    def stop(step: int) -> None:
        if step == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        list(_tuned(tiny_pipe, data, "full", (9,), state=state, report=stop))
    list(_tuned(tiny_pipe, data, "full", (5,), state=state, report=told.append))
    assert told == [4, 5]


def test_half_precision_is_refused(tiny_pipe: Any, data: TuningPictures) -> None:
    tiny_pipe.to(torch.float16)
    with pytest.raises(ConfigError, match="the weights are float16; fine-tuning needs float32"):
        next(_tuned(tiny_pipe, data, "full", (1,)))


def test_a_missing_peft_is_named(
    tiny_pipe: Any, data: TuningPictures, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(MissingDependencyError, match=r"diffusers-erasure\[lora\]"):
        next(_tuned(tiny_pipe, data, "lora", (1,)))


def _tuned(
    pipe: Any,
    data: TuningPictures,
    way: Way,
    milestones: tuple[int, ...],
    *,
    config: FineTuningConfig = CONFIG,
    report: Any = None,
    state: Path | None = None,
) -> Any:
    parts = DiffusionComponents.from_pipeline(pipe)
    found: Any = fine_tune(parts, data, config, way=way, milestones=milestones, report=report, state=state)
    return _typed(found)


def _weights(tuned: FineTuned) -> dict[str, Tensor]:
    return {name: weight.detach().clone() for name, weight in tuned.unet.named_parameters()}


def _typed(found: Any) -> Any:
    for one in found:
        assert isinstance(one, FineTuned)
        yield one


def test_the_mask_is_in_the_centre() -> None:
    mask = centre_mask(8, 16, 0.5)
    assert mask.shape == (1, 8, 16)
    assert mask.sum() == 4 * 8
    assert mask[0, 2:6, 4:12].all()


class RecordingPipe:
    """Notes what it is called with."""

    def __call__(self, **arguments: Any) -> SimpleNamespace:
        self.arguments = arguments
        return SimpleNamespace(images=arguments["image"])


def test_every_prompt_and_seed_gets_its_own_picture() -> None:
    pictures = {
        ("a", 1): torch.full((3, 8, 8), 10, dtype=torch.uint8),
        ("a", 2): torch.full((3, 8, 8), 20, dtype=torch.uint8),
    }
    pipe = RecordingPipe()
    given = PictureInput(pipe, pictures, 0.3, centre_mask(8, 8, 0.5))
    generators = [torch.Generator().manual_seed(seed) for seed in (2, 1)]
    images: Tensor = given(prompt=["a", "a"], generator=generators, num_inference_steps=2).images
    assert (images[:, 0, 0, 0] * 255).round().tolist() == [20, 10]
    assert pipe.arguments["num_inference_steps"] == 4, "strength 0.3 of 2 steps would be none"
    assert pipe.arguments["mask_image"].shape == (2, 1, 8, 8)
    assert (pipe.arguments["height"], pipe.arguments["width"]) == (8, 8)


def test_a_stock_pipeline_has_a_scheduler_of_its_own(tiny_pipe: Any) -> None:
    made = stock_pipeline(tiny_pipe)
    assert made.unet is tiny_pipe.unet
    assert made.scheduler is not tiny_pipe.scheduler
