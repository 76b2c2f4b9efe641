"""What AdvUnlearn holds: one frozen UNet in the precision asked for, and float32 for what is trained."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import StableDiffusionPipeline, UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor, AttnProcessor2_0
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef

from diffusers_erasure.artifacts.edits import DeltaEdit
from diffusers_erasure.artifacts.fingerprint import fingerprint
from diffusers_erasure.artifacts.manifest import BaseModelRef
from diffusers_erasure.artifacts.tensors import component_tensors
from diffusers_erasure.cli import train as train_command
from diffusers_erasure.diffusion import DiffusionComponents, NoisePredictor
from diffusers_erasure.training.advunlearn import train_advunlearn
from diffusers_erasure.training.advunlearn_settings import AdvUnlearnConfig
from diffusers_erasure.training.advunlearn_task import AdvUnlearnTask
from diffusers_erasure.training.concept_prompts import ScopedPrompt
from diffusers_erasure.training.draws import StepDraws
from diffusers_erasure.training.losses import TOTAL
from diffusers_erasure.training.registry import method
from diffusers_erasure.training.student import Student, frozen_unet, stored_as
from diffusers_erasure.training.validation import draw_pictures

BASE = BaseModelRef(id="tiny")
SMALL: dict[str, object] = {
    "concept": ["dog"],
    "preset": "nudity",
    "max_train_steps": 2,
    "attack_steps": 2,
    "num_inference_steps": 4,
    "pool_trajectories": 1,
    "max_retain_prompts": 6,
    "retain_pairs": 2,
}


def config(**values: object) -> AdvUnlearnConfig:
    return AdvUnlearnConfig.parse(SMALL | values)


def task_of(pipe: StableDiffusionPipeline, **values: object) -> AdvUnlearnTask:
    chosen = config(**values)
    components = DiffusionComponents.from_pipeline(pipe)
    student = Student.of(
        components, chosen.train_method, gradient_checkpointing=chosen.gradient_checkpointing
    )
    return AdvUnlearnTask(components, student, [ScopedPrompt("dog")], chosen, world="general")


def predictors(task: AdvUnlearnTask) -> Iterator[NoisePredictor]:
    """All that a task asks a UNet through."""
    yield from (task.teacher, task.pupil, task.erasing.bank.source.predictor, task.adversary.predictor)
    if task.retention is not None:
        yield task.retention.bank.source.predictor


def addresses(unet: Any) -> list[int]:
    return [weight.data_ptr() for weight in unet.parameters()]


def step_gradients(task: AdvUnlearnTask) -> dict[str, Tensor]:
    task.losses(StepDraws.at(0, 0, batch=1))[TOTAL].backward()
    return {name: weight.grad for name, weight in task.parameters().items() if weight.grad is not None}


@pytest.mark.parametrize("stored", [None, "bfloat16", "float16"])
def test_teacher_and_pupil_are_one_frozen_unet(
    tiny_pipe: StableDiffusionPipeline, stored: str | None
) -> None:
    task = task_of(tiny_pipe, frozen_dtype=stored)
    before = addresses(tiny_pipe.unet)
    found = [addresses(one.unet) for one in predictors(task)]
    assert all(one == found[0] for one in found)
    assert (found[0] == before) is (stored is None)
    assert task.pupil.unet.dtype == (getattr(torch, stored) if stored else torch.float32)
    assert tiny_pipe.unet.dtype == torch.float32


@pytest.mark.parametrize(("stored", "gone"), [("bfloat16", True), (None, False)])
def test_nothing_of_the_float32_unet_is_kept(
    make_tiny_pipe: Callable[..., StableDiffusionPipeline], stored: str | None, gone: bool
) -> None:
    """A caller who lets his UNet go gets its memory back; with the UNet's own precision the task needs it."""
    pipe = make_tiny_pipe(seed=3)
    held = [StorageWeakRef(weight.untyped_storage()) for weight in pipe.unet.parameters()]
    task = task_of(pipe, frozen_dtype=stored, gradient_checkpointing=True)
    del pipe
    gc.collect()
    assert [one.expired() for one in held] == [gone] * len(held)
    step_gradients(task)
    assert [one.expired() for one in held] == [gone] * len(held)


def test_a_unet_that_has_the_precision_is_not_copied(tiny_pipe: StableDiffusionPipeline) -> None:
    assert stored_as(tiny_pipe.unet, torch.float32) is tiny_pipe.unet
    tiny_pipe.unet.to(torch.bfloat16)
    assert stored_as(tiny_pipe.unet, torch.bfloat16) is tiny_pipe.unet


def test_pictures_are_drawn_where_only_the_unet_is_of_16_bits(tiny_pipe: StableDiffusionPipeline) -> None:
    tiny_pipe.unet.to(torch.bfloat16)
    components = DiffusionComponents.from_pipeline(tiny_pipe)
    student = Student.of(components, "text_encoder_full")
    pictures = draw_pictures(tiny_pipe, student, ["a dog"], world="embedded", seed=0)
    assert len(set(pictures[0].convert("L").tobytes())) > 1
    kept = (tiny_pipe.text_encoder.dtype, tiny_pipe.vae.dtype, student.module.dtype)
    assert kept == (torch.float32, torch.float32, torch.float32)


@pytest.mark.parametrize(
    ("flags", "unet"),
    [([], torch.float32), (["--frozen_dtype", "bfloat16"], torch.bfloat16)],
)
def test_the_command_loads_the_frozen_unet_as_it_is_wanted(
    tiny_pipe_folder: Path, tmp_path: Path, flags: list[str], unet: torch.dtype
) -> None:
    given: list[StableDiffusionPipeline] = []

    def look(pipe: StableDiffusionPipeline, *_: object, **__: object) -> None:
        given.append(pipe)
        raise KeyboardInterrupt

    spec = replace(method("advunlearn"), train=look)
    base = ["--pretrained_model_name_or_path", str(tiny_pipe_folder)]
    chosen = train_command.parse(spec, ["--concept", "dog", *base, *flags])
    assert isinstance(chosen, AdvUnlearnConfig)
    with pytest.raises(KeyboardInterrupt):
        train_command.train(spec, chosen, tmp_path / "out")
    (pipe,) = given
    assert (pipe.unet.dtype, pipe.text_encoder.dtype, pipe.vae.dtype) == (unet, torch.float32, torch.float32)
    assert pipe.safety_checker is None


@pytest.mark.parametrize("stored", ["bfloat16", "float16"])
def test_before_training_the_student_is_the_teacher(tiny_pipe: StableDiffusionPipeline, stored: str) -> None:
    """Both ask one UNet, so what is retained begins without a distance that rounding alone would make."""
    task = task_of(tiny_pipe, frozen_dtype=stored, attack_steps=0)
    losses = {name: float(one.detach()) for name, one in task.losses(StepDraws.at(0, 0, batch=1)).items()}
    assert losses["retain"] < 1e-5 < losses["erase"]


@pytest.mark.parametrize("group", ["text_encoder_full", "text_encoder_layer0", "xattn"])
@pytest.mark.parametrize("base", [torch.float16, torch.bfloat16])
def test_what_is_trained_is_float32_whatever_the_base_is_stored_in(
    tiny_pipe: StableDiffusionPipeline, group: str, base: torch.dtype
) -> None:
    tiny_pipe.to(base)
    student = Student.of(DiffusionComponents.from_pipeline(tiny_pipe), group)
    module = getattr(tiny_pipe, student.component)
    original = component_tensors(module)
    assert {weight.dtype for weight in student.module.parameters()} == {torch.float32}
    assert {weight.dtype for weight in module.parameters()} == {base}
    for name, weight in student.parameters.items():
        assert torch.equal(weight.detach(), original[name].float())
        assert weight.data_ptr() != original[name].data_ptr()


def test_a_float32_base_shares_what_is_not_trained(tiny_pipe: StableDiffusionPipeline) -> None:
    student = Student.of(DiffusionComponents.from_pipeline(tiny_pipe), "text_encoder_layer0")
    own, base = component_tensors(student.module), component_tensors(tiny_pipe.text_encoder)
    assert {name for name in own if own[name].data_ptr() != base[name].data_ptr()} == set(student.parameters)


@pytest.mark.parametrize("base", [torch.float16, torch.bfloat16])
def test_steps_that_the_stored_precision_cannot_hold_are_not_lost(
    tiny_pipe: StableDiffusionPipeline, base: torch.dtype
) -> None:
    """Two of Adam's steps at 1e-5 vanish beside most 16-bit weights; the artifact has them."""
    tiny_pipe.to(base)
    before = fingerprint(tiny_pipe.text_encoder)
    artifact = train_advunlearn(tiny_pipe, config(learning_rate=1e-5), base=BASE)
    edit = artifact.edits["text_encoder"]
    assert isinstance(edit, DeltaEdit)
    largest = [float(delta.abs().max()) for delta in edit.tensors.values()]
    assert {delta.dtype for delta in edit.tensors.values()} == {torch.float32}
    assert 0.9e-5 < max(largest) < 2.1e-5
    assert before == fingerprint(tiny_pipe.text_encoder) == artifact.spec("text_encoder").base_fingerprint


@pytest.mark.parametrize("stored", [None, "bfloat16", "float16"])
def test_checkpointing_changes_no_gradient(tiny_pipe: StableDiffusionPipeline, stored: str | None) -> None:
    plain = step_gradients(task_of(tiny_pipe, frozen_dtype=stored))
    spared = step_gradients(task_of(tiny_pipe, frozen_dtype=stored, gradient_checkpointing=True))
    assert plain.keys() == spared.keys() != set()
    for name, gradient in plain.items():
        torch.testing.assert_close(spared[name], gradient, atol=1e-7, rtol=1e-4)


@pytest.mark.parametrize("stored", ["bfloat16", "float16"])
def test_a_frozen_unet_of_16_bits_hardly_turns_the_gradient(
    tiny_pipe: StableDiffusionPipeline, stored: str
) -> None:
    """At the same adversarial prompt; a real batch's mean has gradients below what float16 holds."""
    exact = step_gradients(task_of(tiny_pipe, attack_steps=0))
    coarse = step_gradients(task_of(tiny_pipe, attack_steps=0, frozen_dtype=stored))
    flat = [torch.cat([one[name].flatten() for name in sorted(one)]) for one in (exact, coarse)]
    assert float(torch.nn.functional.cosine_similarity(*flat, dim=0)) > 0.98


@pytest.mark.parametrize(("side", "kind"), [(8, AttnProcessor), (64, AttnProcessor2_0)])
def test_large_latents_make_no_attention_maps(side: int, kind: type) -> None:
    with torch.device("meta"):
        unet = UNet2DConditionModel(
            sample_size=side,
            block_out_channels=(8, 16),
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
            cross_attention_dim=8,
            attention_head_dim=2,
            norm_num_groups=4,
        )
    unet.to_empty(device="cpu")
    assert {type(one) for one in frozen_unet(unet).attn_processors.values()} == {kind}
