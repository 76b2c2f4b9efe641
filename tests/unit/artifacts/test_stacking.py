"""Several erasures on one pipeline: sums in any order, and taking one off leaves the others."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch

from diffusers_erasure.artifacts.apply import (
    list_erasures,
    load_erasure,
    unload_erasure,
)
from diffusers_erasure.artifacts.artifact import Artifact
from diffusers_erasure.artifacts.edits import DeltaEdit
from diffusers_erasure.artifacts.verify import ErasureState, verify_loaded
from diffusers_erasure.errors import (
    ErasureNotActiveError,
)
from tests.unit.artifacts.conftest import equal, make_artifact, noise, text_edit, unet_edit, weights


def test_a_stack_is_a_sum_in_any_order(tiny_pipe: Any, artifact: Artifact) -> None:
    others = [
        make_artifact(
            tiny_pipe,
            {"text_encoder": text_edit(tiny_pipe, s), "unet": unet_edit(tiny_pipe, s)},
            concept=f"c{s}",
        )
        for s in (20, 40)
    ]
    pipes = [copy.deepcopy(tiny_pipe) for _ in range(2)]
    for order, pipe in zip(([artifact, *others], [*reversed(others), artifact]), pipes, strict=True):
        for item in order:
            load_erasure(pipe, item)
    for part in ("text_encoder", "unet"):
        assert equal(weights(getattr(pipes[0], part)), weights(getattr(pipes[1], part)))
    assert [applied.name for applied in list_erasures(pipes[0])] == ["church", "c20", "c40"]
    assert verify_loaded(pipes[0]).state is ErasureState.VERIFIED
    unload_erasure(pipes[0], "church")
    unload_erasure(pipes[1], "church")
    unload_erasure(pipes[0], "c40")
    alone = copy.deepcopy(tiny_pipe)
    load_erasure(alone, others[0])
    assert equal(weights(pipes[0].unet), weights(alone.unet))


def test_taking_off_one_gives_back_what_only_that_one_edits(tiny_pipe: Any, artifact: Artifact) -> None:
    names = [name for name in tiny_pipe.text_encoder.state_dict() if name.endswith("fc2.weight")]
    deltas = {name: noise(tiny_pipe.text_encoder.state_dict()[name].shape, 60) for name in names}
    other = make_artifact(tiny_pipe, {"text_encoder": DeltaEdit(deltas)}, concept="dog")
    load_erasure(tiny_pipe, artifact)
    before = weights(tiny_pipe.text_encoder)
    load_erasure(tiny_pipe, other)
    assert not equal(weights(tiny_pipe.text_encoder), before)
    unload_erasure(tiny_pipe, "dog")
    assert equal(weights(tiny_pipe.text_encoder), before)
    assert verify_loaded(tiny_pipe).state is ErasureState.VERIFIED


def test_taking_off_one_never_composes_a_change_away(tiny_pipe: Any, artifact: Artifact) -> None:
    other = make_artifact(tiny_pipe, {"text_encoder": text_edit(tiny_pipe, 20)}, concept="dog")
    for item in (artifact, other):
        load_erasure(tiny_pipe, item)
    changed = tiny_pipe.text_encoder
    with torch.no_grad():
        next(changed.parameters()).add_(0.1)
    with pytest.raises(ErasureNotActiveError, match="changed after church, dog"):
        unload_erasure(tiny_pipe, "dog")
    assert tiny_pipe.text_encoder is changed


def test_large_changes_that_cancel_add_up_alike_in_any_order(tiny_pipe: Any) -> None:
    """Float64 rounds 0.1 + 2**40: in another order of the same sums other digits are lost."""
    name = text_edit(tiny_pipe).targets[0]
    small = text_edit(tiny_pipe).deltas[name].double()
    sizes = {"up": small * 0 + 2.0**40, "small": small, "down": small * 0 - 2.0**40}
    made = {
        concept: make_artifact(tiny_pipe, {"text_encoder": DeltaEdit({name: delta})}, concept=concept)
        for concept, delta in sizes.items()
    }
    found = []
    for order in (("up", "down", "small"), ("small", "up", "down"), ("up", "small", "down")):
        pipe = copy.deepcopy(tiny_pipe)
        for concept in order:
            load_erasure(pipe, made[concept])
        found.append(weights(pipe.text_encoder))
    assert equal(found[0], found[1])
    assert equal(found[0], found[2])
