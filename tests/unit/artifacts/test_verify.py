"""VERIFIED, MODIFIED, ABSENT: every way to lose an erasure that we know of is seen."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from diffusers_erasure.artifacts.apply import (
    ErasureTransferWarning,
    load_erasure,
    set_erasure_scale,
    unload_erasure,
)
from diffusers_erasure.artifacts.artifact import Artifact
from diffusers_erasure.artifacts.canary import floor
from diffusers_erasure.artifacts.fingerprint import SAMPLES_PER_TENSOR, quick_fingerprint
from diffusers_erasure.artifacts.verify import ErasureState, guard_erasures, verify_loaded
from diffusers_erasure.errors import ConfigError, ErasureNotActiveError, ErasureStateError
from tests.unit.artifacts.conftest import make_artifact, text_edit

VERIFIED, MODIFIED, ABSENT = ErasureState


def key(pipe: Any) -> torch.nn.Parameter:
    return pipe.unet.mid_block.attentions[0].transformer_blocks[0].attn2.to_k.weight


@torch.no_grad()
def in_place(pipe: Any) -> None:
    key(pipe)[0, 0] += 0.01


def through_data(pipe: Any) -> None:
    key(pipe).data.mul_(1.001)


def data_replaced(pipe: Any) -> None:
    key(pipe).data = key(pipe).data * 1.001


def parameter_replaced(pipe: Any) -> None:
    pipe.text_encoder.final_layer_norm.weight = torch.nn.Parameter(torch.zeros(8))


def layer_replaced(pipe: Any) -> None:
    pipe.text_encoder.final_layer_norm = torch.nn.LayerNorm(8, elementwise_affine=False)


@torch.no_grad()
def untouched_weight(pipe: Any) -> None:
    pipe.unet.conv_in.weight += 0.1


@torch.no_grad()
def the_base_itself(pipe: Any) -> None:
    pipe.unet.erasure_record.base.conv_in.weight += 0.1


def state_dict_of_another(pipe: Any) -> None:
    pipe.unet.load_state_dict({name: tensor * 1.01 for name, tensor in pipe.unet.state_dict().items()})


@pytest.mark.parametrize(
    "change",
    [
        in_place,
        through_data,
        data_replaced,
        parameter_replaced,
        layer_replaced,
        untouched_weight,
        the_base_itself,
        state_dict_of_another,
    ],
)
def test_changes_are_modified(tiny_pipe: Any, artifact: Artifact, change: Callable[[Any], None]) -> None:
    load_erasure(tiny_pipe, artifact)
    assert guard_erasures(tiny_pipe).state is VERIFIED
    change(tiny_pipe)
    for report in (guard_erasures(tiny_pipe), verify_loaded(tiny_pipe)):
        assert report.state is MODIFIED
        with pytest.raises(ErasureNotActiveError, match=r"expected \w+, found \w+.*unload_erasure"):
            report.raise_unless_verified()


def test_a_change_between_the_sampled_values_is_noticed(tiny_pipe: Any, artifact: Artifact) -> None:
    """Its version tells, though none of the values that are looked at has changed."""
    load_erasure(tiny_pipe, artifact)
    weight = key(tiny_pipe)
    assert weight.numel() >= 2 * SAMPLES_PER_TENSOR
    with torch.no_grad():
        weight.view(-1)[1] += 0.01
    assert guard_erasures(tiny_pipe).state is MODIFIED


def test_a_copy_is_guarded_by_its_own_weights(tiny_pipe: Any, artifact: Artifact) -> None:
    load_erasure(tiny_pipe, artifact)
    twin = copy.deepcopy(tiny_pipe)
    in_place(twin)
    assert guard_erasures(twin).state is MODIFIED
    assert guard_erasures(tiny_pipe).state is VERIFIED


def test_weights_that_lie_elsewhere_cost_no_full_comparison(tiny_pipe: Any, artifact: Artifact) -> None:
    load_erasure(tiny_pipe, artifact)
    key(tiny_pipe).data = key(tiny_pipe).data.clone()
    for _ in range(2):
        assert guard_erasures(tiny_pipe).message == "nothing has changed since it was verified"


def test_a_component_of_before_the_second_erasure_is_seen(tiny_pipe: Any, artifact: Artifact) -> None:
    load_erasure(tiny_pipe, artifact)
    before = tiny_pipe.text_encoder
    other = make_artifact(tiny_pipe, {"text_encoder": text_edit(tiny_pipe, 50)}, concept="dog")
    with pytest.warns(ErasureTransferWarning):
        load_erasure(tiny_pipe, other)
    assert guard_erasures(tiny_pipe).state is VERIFIED
    tiny_pipe.text_encoder = before
    assert guard_erasures(tiny_pipe).state is not VERIFIED


@pytest.mark.parametrize("epsilon", [0.5, float("nan")])
def test_right_weights_with_another_answer_are_modified(
    tiny_pipe: Any, artifact: Artifact, epsilon: float
) -> None:
    load_erasure(tiny_pipe, artifact)
    tiny_pipe.text_encoder.final_layer_norm.eps = epsilon
    report = verify_loaded(tiny_pipe).components["text_encoder"]
    assert report.state is MODIFIED
    assert "the weights are right, but the answer to the canary" in report.note


def test_asking_the_canary_leaves_training_on(tiny_pipe: Any, artifact: Artifact) -> None:
    tiny_pipe.text_encoder.train()
    load_erasure(tiny_pipe, artifact)
    assert verify_loaded(tiny_pipe).state is VERIFIED
    assert all(layer.training for layer in tiny_pipe.text_encoder.modules())


def test_copying_the_base_back_is_absent(tiny_pipe: Any, artifact: Artifact) -> None:
    base = {part: copy.deepcopy(getattr(tiny_pipe, part).state_dict()) for part in artifact.edits}
    load_erasure(tiny_pipe, artifact)
    for part, state in base.items():
        getattr(tiny_pipe, part).load_state_dict(state)
    assert guard_erasures(tiny_pipe).state is ABSENT


def test_an_exchanged_component_is_seen(tiny_pipe: Any, make_tiny_pipe: Any, artifact: Artifact) -> None:
    base = tiny_pipe.text_encoder
    load_erasure(tiny_pipe, artifact)
    erased = tiny_pipe.text_encoder
    tiny_pipe.text_encoder = base
    report = guard_erasures(tiny_pipe)
    assert report.state is MODIFIED
    assert report.components["text_encoder"].state is ABSENT
    assert report.components["unet"].state is VERIFIED
    tiny_pipe.text_encoder = make_tiny_pipe(seed=3).text_encoder
    assert guard_erasures(tiny_pipe).components["text_encoder"].state is MODIFIED
    tiny_pipe.register_modules(text_encoder=erased)
    assert guard_erasures(tiny_pipe).state is VERIFIED


def test_without_and_after_an_erasure(tiny_pipe: Any, artifact: Artifact, folder: Path) -> None:
    assert verify_loaded(tiny_pipe).state is ABSENT
    assert guard_erasures(tiny_pipe).state is ABSENT
    assert verify_loaded(tiny_pipe, folder).state is ABSENT
    load_erasure(tiny_pipe, artifact)
    assert verify_loaded(tiny_pipe, folder).state is VERIFIED
    set_erasure_scale(tiny_pipe, "church", 0.0)
    assert guard_erasures(tiny_pipe).state is ABSENT
    set_erasure_scale(tiny_pipe, "church", 0.5)
    assert guard_erasures(tiny_pipe).notes == (
        "church is at scale 0.5 on text_encoder",
        "church is at scale 0.5 on unet",
    )
    unload_erasure(tiny_pipe, "church")
    assert verify_loaded(tiny_pipe, folder).state is ABSENT
    with pytest.raises(ConfigError, match="no erasure 'church'"):
        verify_loaded(tiny_pipe, name="church")


def test_the_wrong_artifact_is_not_verified(tiny_pipe: Any, artifact: Artifact) -> None:
    other = make_artifact(tiny_pipe, {"text_encoder": text_edit(tiny_pipe, 50)}, concept="dog")
    load_erasure(tiny_pipe, artifact)
    assert verify_loaded(tiny_pipe, other).state is MODIFIED


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_change_of_dtype_is_followed_and_remembered(
    tiny_pipe: Any, artifact: Artifact, dtype: torch.dtype
) -> None:
    load_erasure(tiny_pipe, artifact)
    for target in (dtype, torch.float32):
        tiny_pipe.text_encoder.to(target)
        tiny_pipe.unet.to(target)
        record = tiny_pipe.unet.erasure_record
        assert not record.guard.unchanged()
        assert guard_erasures(tiny_pipe).state is VERIFIED
        assert record.guard.unchanged()
    through_data(tiny_pipe)
    assert guard_erasures(tiny_pipe).state is MODIFIED


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_pipelines_that_were_erased_elsewhere(tiny_pipe: Any, artifact: Artifact, dtype: torch.dtype) -> None:
    plain = copy.deepcopy(tiny_pipe)
    load_erasure(tiny_pipe, artifact)
    for pipe, state in ((tiny_pipe, VERIFIED), (plain, ABSENT)):
        for part in ("text_encoder", "unet"):
            vars(getattr(pipe, part)).pop("erasure_record", None)
            getattr(pipe, part).to(dtype)
        assert verify_loaded(pipe, artifact).state is state
        for part in ("text_encoder", "unet"):
            getattr(pipe, part).to(torch.float32)
        assert verify_loaded(pipe, artifact).state is state
    in_place(tiny_pipe)
    assert verify_loaded(tiny_pipe, artifact).state is MODIFIED


def test_an_erasure_put_on_half_precision_elsewhere_is_told_by_the_canary(
    tiny_pipe: Any, artifact: Artifact
) -> None:
    tiny_pipe.text_encoder.half()
    tiny_pipe.unet.half()
    load_erasure(tiny_pipe, artifact)
    for part in ("text_encoder", "unet"):
        vars(getattr(tiny_pipe, part)).pop("erasure_record")
    assert verify_loaded(tiny_pipe, artifact).state is VERIFIED
    with torch.no_grad():
        key(tiny_pipe).zero_()
    assert verify_loaded(tiny_pipe, artifact).components["unet"].state is MODIFIED


def test_the_canary_is_not_asked_through_an_adapter(tiny_pipe: Any, artifact: Artifact) -> None:
    """One that changes nothing yet would answer for weights that nothing else knows."""
    peft = pytest.importorskip("peft")
    tiny_pipe.unet.half()
    tiny_pipe.text_encoder.half()
    load_erasure(tiny_pipe, artifact)
    vars(tiny_pipe.unet).pop("erasure_record")
    assert verify_loaded(tiny_pipe, artifact).components["unet"].state is VERIFIED
    tiny_pipe.unet.add_adapter(peft.LoraConfig(r=2, target_modules=["to_k"]))
    assert verify_loaded(tiny_pipe, artifact).components["unet"].state is MODIFIED


def test_the_guard_is_cheap_at_the_size_of_stable_diffusion() -> None:
    from transformers import CLIPTextConfig, CLIPTextModel

    config = CLIPTextConfig(
        hidden_size=768, intermediate_size=3072, num_hidden_layers=12, num_attention_heads=12
    )
    with torch.device("meta"):
        shapes = CLIPTextModel(config)
    encoder = shapes.to_empty(device="cpu")
    for parameter in encoder.parameters():
        torch.nn.init.constant_(parameter, 0.5)
    assert sum(parameter.numel() for parameter in encoder.parameters()) > 120e6
    guard = quick_fingerprint(encoder)
    times = []
    for _ in range(30):
        start = time.perf_counter()
        assert guard.unchanged()
        times.append(time.perf_counter() - start)
    assert min(times) < 2e-3


@pytest.mark.parametrize("storage", [torch.float8_e4m3fn, torch.float8_e5m2, torch.bfloat16])
def test_weights_kept_in_another_dtype_than_they_compute_in_are_verified(
    tiny_pipe: Any, artifact: Artifact, draw: Callable[..., Any], storage: torch.dtype
) -> None:
    name = load_erasure(tiny_pipe, artifact)
    tiny_pipe.unet.enable_layerwise_casting(storage_dtype=storage, compute_dtype=torch.float32)
    assert guard_erasures(tiny_pipe).state is VERIFIED
    draw(tiny_pipe, "dog")
    report = verify_loaded(tiny_pipe)
    assert report.state is VERIFIED
    assert report.components["unet"].note == "in another dtype"
    with pytest.raises(ErasureStateError, match=r"hooked by diffusers \(layerwise_casting\)"):
        set_erasure_scale(tiny_pipe, name, 0.5)
    key(tiny_pipe).data = (key(tiny_pipe).data.float() * 1.5).to(storage)
    assert verify_loaded(tiny_pipe).state is MODIFIED


@pytest.mark.parametrize(
    ("storage", "share"),
    [(torch.float8_e5m2, 1 / 4), (torch.float8_e4m3fn, 1 / 8), (torch.bfloat16, 1 / 32), (None, 1e-4)],
)
def test_the_canary_allows_for_rounding_alone(
    tiny_pipe: Any, artifact: Artifact, storage: torch.dtype | None, share: float
) -> None:
    if storage is not None:
        tiny_pipe.unet.enable_layerwise_casting(storage_dtype=storage, compute_dtype=torch.float32)
        with pytest.raises(ErasureStateError, match="hooked by diffusers"):
            load_erasure(tiny_pipe, artifact)
    assert floor(torch.ones(4), tiny_pipe.unet) == pytest.approx(2 * share)
    assert floor(torch.ones(4), tiny_pipe.text_encoder) == pytest.approx(2e-4)


def test_a_rounding_that_is_known_needs_no_canary(tiny_pipe: Any, artifact: Artifact) -> None:
    load_erasure(tiny_pipe, artifact)
    for part in ("text_encoder", "unet"):
        vars(getattr(tiny_pipe, part)).pop("erasure_record")
        getattr(tiny_pipe, part).half().float()
    found = verify_loaded(tiny_pipe, artifact)
    assert {(one.state, one.note) for one in found.components.values()} == {(VERIFIED, "")}
