"""Copy on write: what is loaded changes the pipeline, never the modules that the caller owns."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import StableDiffusionImg2ImgPipeline, StableDiffusionPipeline

from diffusers_erasure.artifacts.apply import (
    ErasureTransferWarning,
    list_erasures,
    load_erasure,
    set_erasure_scale,
    unload_erasure,
)
from diffusers_erasure.artifacts.artifact import Artifact
from diffusers_erasure.artifacts.edits import DeltaEdit, RightFactorEdit, WholeEdit
from diffusers_erasure.artifacts.fingerprint import fingerprint
from diffusers_erasure.artifacts.verify import ErasureState, guard_erasures, verify_loaded
from diffusers_erasure.errors import (
    ArtifactMismatchError,
    BaseModelMismatchError,
    ConfigError,
    ErasureNotActiveError,
)
from tests.unit.artifacts.conftest import equal, make_artifact, noise, text_edit, unet_edit, weights


def test_what_the_caller_owns_stays_as_it_was(tiny_pipe: Any, artifact: Artifact) -> None:
    encoder, unet = tiny_pipe.text_encoder, tiny_pipe.unet
    before = weights(encoder), weights(unet)
    sibling = StableDiffusionImg2ImgPipeline.from_pipe(tiny_pipe)
    assert load_erasure(tiny_pipe, artifact) == "church"
    assert tiny_pipe.text_encoder is not encoder
    assert tiny_pipe.unet is not unet
    assert sibling.text_encoder is encoder
    assert sibling.unet is unet
    tiny_pipe.text_encoder.half()
    tiny_pipe.unet.to(torch.bfloat16)
    assert equal(before[0], weights(encoder))
    assert equal(before[1], weights(unet))
    assert all(parameter.requires_grad for parameter in encoder.parameters())


def test_untouched_weights_share_memory_until_cast(tiny_pipe: Any, artifact: Artifact) -> None:
    base = dict(tiny_pipe.unet.named_parameters())
    load_erasure(tiny_pipe, artifact)
    for name, parameter in tiny_pipe.unet.named_parameters():
        edited = name in artifact.edits["unet"].targets
        assert (parameter.data_ptr() != base[name].data_ptr()) == edited


def test_the_result_is_what_was_trained(tiny_pipe: Any, artifact: Artifact) -> None:
    base = weights(tiny_pipe.unet)
    load_erasure(tiny_pipe, artifact)
    edit = artifact.edits["unet"]
    assert isinstance(edit, RightFactorEdit)
    assert edit.factor is not None
    for name, weight in tiny_pipe.unet.state_dict().items():
        if name not in edit.targets:
            assert torch.equal(weight, base[name])
            continue
        wanted = base[name].double() @ (torch.eye(edit.width, dtype=torch.float64) + edit.factor.double())
        torch.testing.assert_close(weight.double(), wanted, rtol=2e-6, atol=1e-7)
    for part, spec in artifact.manifest.components.items():
        assert fingerprint(getattr(tiny_pipe, part)) == spec.erased_fingerprint


def test_unload_gives_the_base_objects_back(tiny_pipe: Any, folder: Path) -> None:
    encoder, unet = tiny_pipe.text_encoder, tiny_pipe.unet
    before = weights(encoder), weights(unet)
    load_erasure(tiny_pipe, folder, name="first")
    set_erasure_scale(tiny_pipe, "first", 0.3)
    unload_erasure(tiny_pipe)
    assert tiny_pipe.text_encoder is encoder
    assert tiny_pipe.unet is unet
    assert equal(before[0], weights(encoder))
    assert equal(before[1], weights(unet))
    assert list_erasures(tiny_pipe) == ()


def test_unload_after_a_cast_gives_a_cast_copy(tiny_pipe: Any, artifact: Artifact) -> None:
    base = tiny_pipe.text_encoder
    before = weights(base)
    load_erasure(tiny_pipe, artifact)
    tiny_pipe.text_encoder.to(torch.bfloat16)
    unload_erasure(tiny_pipe)
    assert tiny_pipe.text_encoder is not base
    assert equal(weights(tiny_pipe.text_encoder), {k: v.to(torch.bfloat16) for k, v in before.items()})
    assert equal(before, weights(base))


def test_scale_zero_is_the_base_and_scales_are_linear(tiny_pipe: Any, artifact: Artifact) -> None:
    base = weights(tiny_pipe.text_encoder)
    load_erasure(tiny_pipe, artifact, scale=0.0)
    assert equal(base, weights(tiny_pipe.text_encoder))
    set_erasure_scale(tiny_pipe, "church", 0.25)
    for name, delta in artifact.edits["text_encoder"].tensors.items():
        torch.testing.assert_close(tiny_pipe.text_encoder.state_dict()[name], base[name] + 0.25 * delta)
    assert list_erasures(tiny_pipe)[0].scale == 0.25


@pytest.mark.parametrize("scale", [float("nan"), float("inf"), "1", True, None])
def test_scales_that_are_none(tiny_pipe: Any, artifact: Artifact, scale: Any) -> None:
    with pytest.raises(ConfigError, match="scale"):
        load_erasure(tiny_pipe, artifact, scale=scale)
    assert list_erasures(tiny_pipe) == ()


def test_names(tiny_pipe: Any, artifact: Artifact) -> None:
    load_erasure(tiny_pipe, artifact)
    with pytest.raises(ConfigError, match="already on this pipeline as 'church'"):
        load_erasure(tiny_pipe, artifact, name="again")
    other = make_artifact(tiny_pipe, {"text_encoder": text_edit(tiny_pipe, 9)})
    with pytest.raises(ConfigError, match="already on this pipeline"):
        load_erasure(tiny_pipe, other, name="church")
    with pytest.raises(ConfigError, match="is no name"):
        load_erasure(tiny_pipe, other, name="a/b")
    # It was made on the erased weights, while stacking is on the base.
    with pytest.warns(ErasureTransferWarning):
        assert load_erasure(tiny_pipe, other) == "church-2"
    with pytest.raises(ConfigError, match="no erasure 'dog'; expected one of: church, church-2"):
        unload_erasure(tiny_pipe, "dog")
    with pytest.raises(ConfigError, match="no erasure 'dog'"):
        set_erasure_scale(tiny_pipe, "dog", 1.0)


def test_transfer_is_said_and_recorded(make_tiny_pipe: Callable[..., Any], artifact: Artifact) -> None:
    other = make_tiny_pipe(seed=1)
    with pytest.warns(ErasureTransferWarning, match="text_encoder, unet"):
        load_erasure(other, artifact)
    assert list_erasures(other)[0].transfer
    report = verify_loaded(other)
    assert report.state is ErasureState.VERIFIED
    assert any("transferred" in note for note in report.notes)


def test_the_exact_base_in_half_precision_is_no_transfer(tiny_pipe: Any, artifact: Artifact) -> None:
    for dtype in (torch.float16, torch.bfloat16):
        pipe = copy.deepcopy(tiny_pipe)
        pipe.text_encoder.to(dtype)
        pipe.unet.to(dtype)
        with warnings.catch_warnings():
            warnings.simplefilter("error", ErasureTransferWarning)
            load_erasure(pipe, artifact)
        assert next(pipe.unet.parameters()).dtype is dtype
        assert verify_loaded(pipe).state is ErasureState.VERIFIED


def test_other_shapes_are_refused_and_nothing_is_changed(
    make_tiny_pipe: Callable[..., Any], artifact: Artifact
) -> None:
    wide = make_tiny_pipe(width=12)
    before = wide.text_encoder, wide.unet
    with pytest.raises(BaseModelMismatchError, match=r"shape \(24, 12\).*\(16, 8\)"):
        load_erasure(wide, artifact)
    assert (wide.text_encoder, wide.unet) == before
    only_unet = make_artifact(make_tiny_pipe(), {"unet": unet_edit(make_tiny_pipe())})
    with pytest.raises(BaseModelMismatchError, match="8"):
        load_erasure(wide, only_unet)


def test_missing_weights_and_components_are_named(tiny_pipe: Any, artifact: Artifact) -> None:
    del tiny_pipe.unet.mid_block
    with pytest.raises(BaseModelMismatchError, match=r"mid_block.*attn2.to_k"):
        load_erasure(tiny_pipe, artifact)
    tiny_pipe.text_encoder = None
    with pytest.raises(BaseModelMismatchError, match="edits text_encoder"):
        load_erasure(tiny_pipe, artifact)


def test_a_changed_config_of_the_exact_base_is_refused(tiny_pipe: Any, artifact: Artifact) -> None:
    tiny_pipe.text_encoder.config.layer_norm_eps = 1e9
    with pytest.raises(BaseModelMismatchError, match="layer_norm_eps"):
        load_erasure(tiny_pipe, artifact)


def test_a_patched_forward_of_the_exact_base_is_refused(tiny_pipe: Any, artifact: Artifact) -> None:
    tiny_pipe.text_encoder.final_layer_norm.eps = 0.5
    with pytest.raises(ArtifactMismatchError, match="canary"):
        load_erasure(tiny_pipe, artifact)
    assert list_erasures(tiny_pipe) == ()


def test_fused_projections_are_refused(tiny_pipe: Any, artifact: Artifact) -> None:
    tiny_pipe.unet.fuse_qkv_projections()
    with pytest.raises(BaseModelMismatchError, match="unfuse_qkv_projections"):
        load_erasure(tiny_pipe, artifact)


def test_lora_wrapped_layers_are_found(tiny_pipe: Any, artifact: Artifact) -> None:
    peft = pytest.importorskip("peft")
    plain = copy.deepcopy(tiny_pipe)
    load_erasure(plain, artifact)
    config = peft.LoraConfig(r=2, target_modules=["to_k", "to_v"], init_lora_weights="gaussian")
    tiny_pipe.unet.add_adapter(config)
    load_erasure(tiny_pipe, artifact)
    state = tiny_pipe.unet.state_dict()
    for name in artifact.edits["unet"].targets:
        assert torch.equal(
            state[name.replace(".weight", ".base_layer.weight")], plain.unet.state_dict()[name]
        )
    report = verify_loaded(tiny_pipe)
    assert report.state is ErasureState.VERIFIED
    assert any("LoRA" in note for note in report.notes)
    assert any("LoRA" in note for note in guard_erasures(tiny_pipe).notes)


def test_what_a_lora_adds_is_no_fault_of_the_weights(tiny_pipe: Any, artifact: Artifact) -> None:
    peft = pytest.importorskip("peft")
    config = peft.LoraConfig(r=2, target_modules=["to_k", "to_v"], init_lora_weights=False)
    tiny_pipe.unet.add_adapter(config)
    for name, weight in tiny_pipe.unet.named_parameters():
        if "lora_" in name:
            weight.data.mul_(20)
    load_erasure(tiny_pipe, artifact)
    assert verify_loaded(tiny_pipe).state is ErasureState.VERIFIED


def test_a_lora_loaded_later_stays_through_a_change_of_scale(tiny_pipe: Any, artifact: Artifact) -> None:
    peft = pytest.importorskip("peft")
    load_erasure(tiny_pipe, artifact)
    tiny_pipe.unet.add_adapter(peft.LoraConfig(r=2, target_modules=["to_k"]))
    set_erasure_scale(tiny_pipe, "church", 0.5)
    assert any("lora_A" in name for name in tiny_pipe.unet.state_dict())
    unload_erasure(tiny_pipe)
    assert any("lora_A" in name for name in tiny_pipe.unet.state_dict())
    assert verify_loaded(tiny_pipe, artifact).state is ErasureState.ABSENT


def test_a_fused_lora_is_modified_and_never_composed_away(tiny_pipe: Any, artifact: Artifact) -> None:
    peft = pytest.importorskip("peft")
    load_erasure(tiny_pipe, artifact)
    tiny_pipe.unet.add_adapter(peft.LoraConfig(r=2, target_modules=["to_k"], init_lora_weights=False))
    for layer in tiny_pipe.unet.modules():
        if isinstance(layer, peft.tuners.lora.LoraLayer):
            layer.merge()
    assert guard_erasures(tiny_pipe).state is ErasureState.MODIFIED
    with pytest.raises(ErasureNotActiveError, match="changed after church"):
        set_erasure_scale(tiny_pipe, "church", 0.5)


def test_tokens_added_by_textual_inversion_stay(tiny_pipe: Any, artifact: Artifact) -> None:
    load_erasure(tiny_pipe, artifact)
    tiny_pipe.load_textual_inversion(noise((8,), 3), token="xyz")
    assert guard_erasures(tiny_pipe).state is ErasureState.VERIFIED
    rows = tiny_pipe.text_encoder.get_input_embeddings().weight.shape[0]
    set_erasure_scale(tiny_pipe, "church", 0.5)
    assert tiny_pipe.text_encoder.get_input_embeddings().weight.shape[0] == rows
    unload_erasure(tiny_pipe)
    assert tiny_pipe.text_encoder.get_input_embeddings().weight.shape[0] == rows


def test_tokens_added_before_are_no_transfer(tiny_pipe: Any, artifact: Artifact) -> None:
    tiny_pipe.load_textual_inversion(noise((8,), 3), token="xyz")
    load_erasure(tiny_pipe, artifact)
    assert not list_erasures(tiny_pipe)[0].transfer


@pytest.mark.parametrize("call", ["enable_model_cpu_offload", "enable_sequential_cpu_offload"])
def test_offload_hooks_come_back(
    tiny_pipe: Any, artifact: Artifact, draw: Callable[..., Any], call: str
) -> None:
    plain = copy.deepcopy(tiny_pipe)
    load_erasure(plain, artifact)
    base = tiny_pipe.unet
    getattr(tiny_pipe, call)(device="cpu")
    load_erasure(tiny_pipe, artifact)
    assert hasattr(tiny_pipe.unet, "_hf_hook")
    assert not hasattr(base, "_hf_hook")
    assert verify_loaded(tiny_pipe).state is ErasureState.VERIFIED
    if call == "enable_model_cpu_offload":
        assert torch.equal(draw(tiny_pipe, "church"), draw(plain, "church"))
        assert guard_erasures(tiny_pipe).state is ErasureState.VERIFIED


def test_group_offload_hooks_come_back(tiny_pipe: Any, artifact: Artifact, draw: Callable[..., Any]) -> None:
    plain = copy.deepcopy(tiny_pipe)
    load_erasure(plain, artifact)
    tiny_pipe.unet.enable_group_offload(onload_device=torch.device("cpu"), offload_type="leaf_level")
    load_erasure(tiny_pipe, artifact)
    assert torch.equal(draw(tiny_pipe, "church"), draw(plain, "church"))
    assert verify_loaded(tiny_pipe).state is ErasureState.VERIFIED


def test_copies_are_erased_and_independent(tiny_pipe: Any, artifact: Artifact) -> None:
    load_erasure(tiny_pipe, artifact)
    twin = copy.deepcopy(tiny_pipe)
    assert verify_loaded(twin).state is ErasureState.VERIFIED
    unload_erasure(twin)
    assert list_erasures(twin) == ()
    assert verify_loaded(tiny_pipe).state is ErasureState.VERIFIED


def test_what_is_saved_is_stock_and_erased(
    tiny_pipe: Any, artifact: Artifact, tmp_path: Path, draw: Callable[..., Any]
) -> None:
    names = set(tiny_pipe.unet.state_dict())
    load_erasure(tiny_pipe, artifact)
    assert set(tiny_pipe.unet.state_dict()) == names
    tiny_pipe.save_pretrained(tmp_path / "pipe")
    again = StableDiffusionPipeline.from_pretrained(tmp_path / "pipe")
    assert verify_loaded(again, artifact).state is ErasureState.VERIFIED
    assert torch.equal(draw(again, "church"), draw(tiny_pipe, "church"))


def test_whole_weights(tiny_pipe: Any) -> None:
    trained = {k: v + noise(v.shape, 1, 0.05) for k, v in tiny_pipe.text_encoder.state_dict().items()}
    whole = make_artifact(tiny_pipe, {"text_encoder": WholeEdit(trained)})
    load_erasure(tiny_pipe, whole)
    assert equal(weights(tiny_pipe.text_encoder), trained)


def test_whole_weights_stay_the_artifacts_own(tiny_pipe: Any) -> None:
    whole = make_artifact(tiny_pipe, {"text_encoder": WholeEdit(noisy(tiny_pipe.text_encoder))})
    before = {name: weight.clone() for name, weight in whole.edits["text_encoder"].tensors.items()}
    load_erasure(tiny_pipe, whole)
    for weight in tiny_pipe.text_encoder.parameters():
        weight.data.add_(1)
    assert equal(dict(whole.edits["text_encoder"].tensors), before)


def test_only_vectors_of_whole_weights_may_be_zero(tiny_pipe: Any) -> None:
    trained = noisy(tiny_pipe.text_encoder)
    vector, matrix = (next(name for name in trained if trained[name].ndim == n) for n in (1, 2))
    make_artifact(
        tiny_pipe, {"text_encoder": WholeEdit({**trained, vector: torch.zeros_like(trained[vector])})}
    )
    zero = WholeEdit({**trained, matrix: torch.zeros_like(trained[matrix])})
    with pytest.raises(ArtifactMismatchError, match="is all zero"):
        make_artifact(tiny_pipe, {"text_encoder": zero})


def noisy(module: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Weights of a module that was trained on."""
    return {name: weight + noise(weight.shape, 1, 0.05) for name, weight in module.state_dict().items()}


def test_low_rank_factors(tiny_pipe: Any) -> None:
    full = unet_edit(tiny_pipe)
    left, right = noise((8, 2), 1, 0.5), noise((2, 8), 2, 0.5)
    low = make_artifact(tiny_pipe, {"unet": RightFactorEdit(left=left, right=right, targets=full.targets)})
    base = weights(tiny_pipe.unet)
    load_erasure(tiny_pipe, low)
    for name in full.targets:
        wanted = base[name].double() @ (torch.eye(8, dtype=torch.float64) + left.double() @ right.double())
        torch.testing.assert_close(tiny_pipe.unet.state_dict()[name].double(), wanted, rtol=2e-6, atol=1e-7)


def test_edits_that_cannot_be_are_refused_when_built(tiny_pipe: Any) -> None:
    name = text_edit(tiny_pipe).targets[0]
    for bad in (torch.full((16, 8), float("nan")), torch.full((16, 8), float("inf"))):
        with pytest.raises(ArtifactMismatchError, match="NaN or infinite"):
            make_artifact(tiny_pipe, {"text_encoder": DeltaEdit({name: bad})})
    with pytest.raises(ArtifactMismatchError, match="no tensor"):
        make_artifact(tiny_pipe, {"text_encoder": DeltaEdit({name: torch.zeros(16, 8)})})
    with pytest.raises(ArtifactMismatchError, match=r"dtype|int"):
        make_artifact(tiny_pipe, {"text_encoder": DeltaEdit({name: torch.ones(16, 8, dtype=torch.int64)})})
    with pytest.raises(BaseModelMismatchError, match="edits weights of shape"):
        make_artifact(tiny_pipe, {"text_encoder": DeltaEdit({name: torch.ones(3, 8)})})
    with pytest.raises(ConfigError, match="no component 'vae'"):
        make_artifact(tiny_pipe, {"vae": DeltaEdit({name: torch.ones(16, 8)})})
    with pytest.raises(ConfigError, match="both or neither"):
        RightFactorEdit(targets=("a",))
