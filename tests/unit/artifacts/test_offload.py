"""Components that are offloaded: exchanged with their hooks, or refused before anything changes."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import dispatch_model
from accelerate.hooks import remove_hook_from_module
from diffusers.hooks import apply_group_offloading

from diffusers_erasure.artifacts.apply import (
    list_erasures,
    load_erasure,
    set_erasure_scale,
    unload_erasure,
)
from diffusers_erasure.artifacts.artifact import Artifact
from diffusers_erasure.artifacts.verify import ErasureState, guard_erasures, verify_loaded
from diffusers_erasure.errors import ErasureNotActiveError, ErasureStateError

CPU = torch.device("cpu")


def dispatch(pipe: Any) -> None:
    for name in ("unet", "text_encoder", "vae"):
        dispatch_model(getattr(pipe, name), {"": "cpu"}, main_device="cpu", force_hooks=True)


class TestOnDisk:
    """Between calls, weights that group offloading keeps on disk have no values in memory."""

    def test_loading_is_refused(
        self, tiny_pipe: Any, artifact: Artifact, draw: Callable[..., Any], tmp_path: Path
    ) -> None:
        before, unet, encoder = draw(tiny_pipe, "church"), tiny_pipe.unet, tiny_pipe.text_encoder
        unet.enable_group_offload(
            onload_device=CPU, offload_type="leaf_level", offload_to_disk_path=str(tmp_path)
        )
        with pytest.raises(ErasureStateError, match=r"unet are offloaded to disk .* without offload_to_disk"):
            load_erasure(tiny_pipe, artifact)
        assert (tiny_pipe.unet, tiny_pipe.text_encoder) == (unet, encoder)
        assert list_erasures(tiny_pipe) == ()
        assert torch.equal(draw(tiny_pipe, "church"), before)

    def test_of_another_component_is_let_be(
        self, tiny_pipe: Any, artifact: Artifact, draw: Callable[..., Any], tmp_path: Path
    ) -> None:
        plain = copy.deepcopy(tiny_pipe)
        load_erasure(plain, artifact)
        tiny_pipe.vae.enable_group_offload(
            onload_device=CPU, offload_type="leaf_level", offload_to_disk_path=str(tmp_path)
        )
        load_erasure(tiny_pipe, artifact)
        assert torch.equal(draw(tiny_pipe, "church"), draw(plain, "church"))

    def test_an_erased_one_cannot_be_verified_or_changed(
        self, tiny_pipe: Any, artifact: Artifact, tmp_path: Path
    ) -> None:
        load_erasure(tiny_pipe, artifact)
        unet = tiny_pipe.unet
        unet.enable_group_offload(
            onload_device=CPU, offload_type="leaf_level", offload_to_disk_path=str(tmp_path)
        )
        for call in (
            verify_loaded,
            guard_erasures,
            unload_erasure,
            lambda pipe: set_erasure_scale(pipe, "church", 0.5),
        ):
            with pytest.raises(ErasureNotActiveError, match="unet are offloaded to disk"):
                call(tiny_pipe)
        assert tiny_pipe.unet is unet
        assert [erasure.scale for erasure in list_erasures(tiny_pipe)] == [1.0]


def test_settings_of_group_offload_come_back(tiny_pipe: Any, artifact: Artifact) -> None:
    apply_group_offloading(
        tiny_pipe.unet,
        onload_device=CPU,
        offload_type="block_level",
        num_blocks_per_group=1,
        block_modules=["mid_block"],
        exclude_kwargs=["cross_attention_kwargs"],
    )
    before = tiny_pipe.unet._diffusers_hook.get_hook("group_offloading").config
    load_erasure(tiny_pipe, artifact)
    assert tiny_pipe.unet._diffusers_hook.get_hook("group_offloading").config == before


class TestDeviceMap:
    """Its hooks are of the kind that sequential offloading puts on, and cannot be put back."""

    def test_of_a_pipeline_is_refused(self, tiny_pipe: Any, artifact: Artifact) -> None:
        dispatch(tiny_pipe)
        tiny_pipe.hf_device_map = dict.fromkeys(("unet", "text_encoder", "vae"), "cpu")
        unet = tiny_pipe.unet
        with pytest.raises(ErasureStateError, match=r"reset_device_map\(\)"):
            load_erasure(tiny_pipe, artifact)
        assert tiny_pipe.unet is unet
        assert unet._hf_hook is not None
        assert list_erasures(tiny_pipe) == ()
        tiny_pipe.reset_device_map()
        load_erasure(tiny_pipe, artifact)
        assert verify_loaded(tiny_pipe).state is ErasureState.VERIFIED

    def test_of_components_is_refused(self, tiny_pipe: Any, artifact: Artifact) -> None:
        dispatch(tiny_pipe)
        with pytest.raises(ErasureStateError, match=r"text_encoder.* pipe\.remove_all_hooks\(\)"):
            load_erasure(tiny_pipe, artifact)
        tiny_pipe.remove_all_hooks()
        load_erasure(tiny_pipe, artifact)
        tiny_pipe.enable_sequential_cpu_offload(device="cpu")
        set_erasure_scale(tiny_pipe, "church", 0.5)
        assert hasattr(tiny_pipe.unet, "_hf_hook")


def test_nothing_is_half_done_where_hooks_cannot_come_back(
    tiny_pipe: Any, artifact: Artifact, draw: Callable[..., Any]
) -> None:
    unet, encoder, before = tiny_pipe.unet, tiny_pipe.text_encoder, draw(tiny_pipe, "church")
    tiny_pipe.enable_sequential_cpu_offload(device="cpu")
    remove_hook_from_module(tiny_pipe.vae, recurse=True)
    tiny_pipe.vae.enable_group_offload(onload_device=CPU, offload_type="leaf_level")
    with pytest.raises(
        ErasureStateError, match=r"could not be put back onto the new .*unet.*group offloading"
    ):
        load_erasure(tiny_pipe, artifact)
    assert (tiny_pipe.unet, tiny_pipe.text_encoder) == (unet, encoder)
    assert list_erasures(tiny_pipe) == ()
    assert torch.equal(draw(tiny_pipe, "church"), before)
    load_erasure(tiny_pipe, artifact)
    assert verify_loaded(tiny_pipe).state is ErasureState.VERIFIED
