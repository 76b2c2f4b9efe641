"""Memory: what is taken off is freed at once, and a check needs no second copy of the weights."""

from __future__ import annotations

import copy
import gc
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from diffusers import StableDiffusionPipeline

from diffusers_erasure import load_erasure, set_erasure_scale, unload_erasure, verify_erasure
from diffusers_erasure.artifacts.fingerprint import leaf, leaves, quick_fingerprint, rounded
from diffusers_erasure.encoders import RobustEncoder
from diffusers_erasure.pipelines import ErasedStableDiffusionPipeline

Make = Callable[..., ErasedStableDiffusionPipeline]


@pytest.fixture
def uncollected() -> Iterator[None]:
    """Nothing is freed but what no name refers to."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


@pytest.mark.usefixtures("uncollected")
class TestFreedAtOnce:
    """A GPU's memory does not wait for the garbage collector."""

    @pytest.mark.parametrize("part", ["unet", "text_encoder"])
    def test_what_is_scaled_or_unloaded(
        self, tiny_pipe: StableDiffusionPipeline, unet_artifact: Path, text_artifact: Path, part: str
    ) -> None:
        name = load_erasure(tiny_pipe, unet_artifact if part == "unet" else text_artifact)
        verify_erasure(tiny_pipe).raise_unless_verified()
        first = weakref.ref(getattr(tiny_pipe, part))
        set_erasure_scale(tiny_pipe, name, 0.5)
        assert first() is None
        second = weakref.ref(getattr(tiny_pipe, part))
        unload_erasure(tiny_pipe)
        assert second() is None

    def test_a_deleted_pipeline(self, make_erased: Make, unet_artifact: Path, text_artifact: Path) -> None:
        pipe = make_erased(unet_artifact, text_artifact)
        pipe.verify_erasure().raise_unless_verified()
        held = [weakref.ref(pipe.unet), weakref.ref(pipe.text_encoder)]
        del pipe
        assert [module() for module in held] == [None, None]

    def test_a_saved_pipeline(self, make_erased: Make, unet_artifact: Path, tmp_path: Path) -> None:
        make_erased(unet_artifact).save_pretrained(tmp_path / "saved")
        pipe = ErasedStableDiffusionPipeline.from_pretrained(tmp_path / "saved")
        pipe.verify_erasure().raise_unless_verified()
        held = weakref.ref(pipe.unet)
        del pipe
        assert held() is None

    def test_a_robust_encoder(self, tiny_pipe: StableDiffusionPipeline) -> None:
        stated = {"method": "test", "concepts": ["church"]}
        robust = RobustEncoder.from_encoder(tiny_pipe.text_encoder, erasure=stated)
        held = weakref.ref(robust)
        del robust
        assert held() is None


def test_a_layer_that_is_gone_counts_as_changed() -> None:
    inner = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.ReLU())
    guard = quick_fingerprint(inner)
    assert guard.unchanged()
    twin = copy.deepcopy(inner)
    inner[1] = twin[1]
    assert not guard.unchanged()
    guard = quick_fingerprint(inner)
    del inner
    assert not guard.unchanged()
    assert not guard.only_moved()


class Counted(torch.Tensor):
    """A weight that notes which casts of such weights are alive, and how many were at most."""

    alive: ClassVar[list[int]] = []
    most: ClassVar[list[int]] = []

    def to(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        made = super().to(*args, **kwargs).as_subclass(torch.Tensor)
        if args[0] is torch.float32:
            Counted.alive.append(1)
            Counted.most.append(len(Counted.alive))
            weakref.finalize(made, Counted.alive.pop)
        return made


def test_casts_are_made_one_by_one() -> None:
    plain = {str(i): torch.randn(4, 4).half() for i in range(40)}
    counted = {name: tensor.as_subclass(Counted) for name, tensor in plain.items()}
    found = leaves(rounded(counted, torch.float32))
    assert found == {name: leaf(name, tensor.float()) for name, tensor in plain.items()}
    assert 0 < max(Counted.most) <= 8
    assert not Counted.alive
