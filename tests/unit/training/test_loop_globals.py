"""What the loop sets for a whole process, in torch and in accelerate, is afterwards as it was found."""

from __future__ import annotations

import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, GradientState, PartialState

from diffusers_erasure.training.draws import derived_seed
from diffusers_erasure.training.loop import _generators_left, _global_generators, _tf32
from tests.device.second_device import SECOND, second_device
from tests.unit.training.toy import AtStep, ToyTask, train


def test_accelerates_state_is_left_as_it_was_found() -> None:
    kinds = (PartialState, AcceleratorState, GradientState)
    found = [dict(kind._shared_state) for kind in kinds]
    try:
        for kind in kinds:
            kind._reset_state()
        train(max_train_steps=1)
        assert [kind._shared_state for kind in kinds] == [{}, {}, {}]
        theirs = Accelerator(cpu=True, gradient_accumulation_steps=3)
        train(max_train_steps=1)
        assert theirs.device.type == "cpu"
        assert theirs.gradient_accumulation_steps == 3
        assert PartialState().device.type == "cpu"
    finally:
        for kind, state in zip(kinds, found, strict=True):
            kind._shared_state.clear()
            kind._shared_state.update(state)


def test_global_generators_are_left_as_they_were_found() -> None:
    torch.manual_seed(11)
    before = torch.get_rng_state()
    seen: list[int] = []
    train(None, AtStep(1, lambda: seen.append(torch.initial_seed())), max_train_steps=1)
    assert seen == [derived_seed(0, 0, "dropout", 0)]
    assert torch.equal(torch.get_rng_state(), before)


def test_generators_of_other_devices_are_not_touched(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor is a state read on a device that the run does not need, which would open it."""
    task, reached = ToyTask(), list[str]()
    for name in ("manual_seed_all", "get_rng_state"):
        monkeypatch.setattr(torch.cuda, name, lambda *_, name=name: reached.append(name))
    train(task=task, max_train_steps=1)
    assert not reached


def test_the_generator_of_its_own_device_is_seeded_and_left_as_it_was() -> None:
    with second_device() as device:
        (there,) = torch.get_device_module(SECOND.type).default_generators
        there.manual_seed(5)
        before = there.get_state()
        task, seen = ToyTask(), list[int]()
        task.network.to(device)
        with _generators_left(task):
            for generator in _global_generators(task):
                generator.manual_seed(9)
            seen.append(there.initial_seed())
        assert seen == [9]
        assert torch.equal(there.get_state(), before)


@pytest.mark.parametrize("allow", [False, True])
@pytest.mark.parametrize(
    "theirs",
    [
        "pass",
        "torch.backends.fp32_precision = 'tf32'",
        "torch.backends.fp32_precision = 'ieee'",
        "torch.backends.cuda.matmul.fp32_precision = 'tf32'",
        "torch.backends.cuda.matmul.fp32_precision = 'ieee'",
        "torch.set_float32_matmul_precision('high')",
        "torch.backends.cuda.matmul.allow_tf32 = True",
    ],
)
def test_tf32_is_set_beside_any_setting_of_the_callers(theirs: str, allow: bool) -> None:
    matmul = torch.backends.cuda.matmul
    try:
        exec(theirs, {"torch": torch})
        before, readable = matmul.fp32_precision, _old_tf32()
        with _tf32(allow):
            assert matmul.fp32_precision == ("tf32" if allow else before)
            if readable is not None:
                assert _old_tf32() is (allow or readable)
        assert matmul.fp32_precision == before
        assert _old_tf32() is readable
        if "backends.fp32" in theirs:  # and matrix products still take after it
            torch.backends.fp32_precision = "none"
            assert matmul.fp32_precision == "none"
    finally:
        torch.set_float32_matmul_precision("highest")
        for place in (torch.backends, torch.backends.mkldnn.matmul, matmul):
            place.fp32_precision = "none"


def _old_tf32() -> bool | None:
    """The old setting; None where torch refuses to read it beside the new one."""
    try:
        return torch.backends.cuda.matmul.allow_tf32
    except RuntimeError:
        return None
