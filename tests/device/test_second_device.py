"""The second device is one: it computes what the CPU computes, and refuses what a GPU refuses."""

from __future__ import annotations

import copy
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import Tensor, nn

from diffusers_erasure.diffusion.precision import double, widest
from tests.device.second_device import SECOND, SecondTensor, second_device

ROW = torch.tensor([1.0, 2.0, 3.0])


@pytest.mark.parametrize(
    "fault",
    [
        lambda there: there + ROW,
        lambda there: torch.cat([there, ROW]),
        lambda there: ROW[(there > 1)],
        lambda there: there.index_put_((torch.tensor([0]),), ROW[:1]),
        nn.Linear(3, 1),
        lambda there: there.numpy(),
        lambda there: torch.stack([ROW, there]),
    ],
)
def test_what_lies_apart_does_not_meet(fault: Callable[[Tensor], object]) -> None:
    with second_device() as device, pytest.raises(RuntimeError):
        fault(ROW.to(device))


def test_numbers_and_indices_may_lie_on_the_cpu() -> None:
    with second_device() as device:
        there = ROW.to(device)
        for found, expected in (
            (there * torch.tensor(2.0), ROW * 2),
            (there[torch.tensor([2, 0])], ROW[[2, 0]]),
            (there[[True, False, True]], ROW[[0, 2]]),
            (torch.tensor([1.0], device=device) + there, ROW + 1),
            (torch.zeros_like(there) + 1, torch.ones(3)),
            (torch.arange(3, device=device) + there, ROW + torch.arange(3)),
        ):
            assert found.device == SECOND
            assert torch.equal(found.cpu(), expected)
        assert there.tolist() == ROW.tolist()
        assert (there.sum().item(), bool((there > 2).any())) == (6.0, True)


def test_what_is_changed_in_place_is_changed_in_its_views() -> None:
    with second_device() as device:
        table = torch.zeros(3, 2, device=device)
        table[1:, 0] = 5
        table[torch.tensor([0]), 1] = table[1, 0]
        table.select(1, 1).add_(1)
        assert table.tolist() == [[0.0, 6.0], [5.0, 1.0], [5.0, 1.0]]


def test_modules_are_moved_trained_and_copied() -> None:
    torch.manual_seed(0)
    here = nn.Sequential(nn.Linear(3, 4), nn.GroupNorm(2, 4), nn.Linear(4, 1))
    with second_device() as device:
        there = copy.deepcopy(here).to(device)
        weights = list(there.parameters())
        assert all(isinstance(one, nn.Parameter) and isinstance(one, SecondTensor) for one in weights)
        for module, rows in ((here, ROW.expand(2, 3)), (there, ROW.to(device).expand(2, 3))):
            optimizer = torch.optim.Adam(module.parameters(), lr=0.1)
            module(rows).square().sum().backward()
            optimizer.step()
        copied = copy.deepcopy(there)
        with torch.no_grad():
            there[0].weight.zero_()
        back = copied.cpu()
    for name, tensor in here.state_dict().items():
        torch.testing.assert_close(back.state_dict()[name], tensor)


def test_threads_and_inference_see_the_same_rules() -> None:
    with second_device() as device:
        there = ROW.to(device)
        with ThreadPoolExecutor(1) as pool:
            assert torch.equal(pool.submit(there.cpu).result(), ROW)
            with pytest.raises(RuntimeError, match="on one device"):
                pool.submit(torch.add, there, ROW).result()
        with torch.inference_mode():
            assert torch.equal((ROW.to(device) * there).cpu(), ROW * ROW)
            with pytest.raises(RuntimeError, match="on one device"):
                there + ROW


def test_it_is_gone_afterwards() -> None:
    with second_device():
        pass
    assert not hasattr(torch, SECOND.type)
    with pytest.raises(Exception, match=r"(?i)privateuse"):
        ROW.to(SECOND)


def test_it_has_64_bits_or_not() -> None:
    for float64, home, dtype in ((True, SECOND, torch.float64), (False, torch.device("cpu"), torch.float32)):
        with second_device(float64=float64) as device:
            there = ROW.to(device)
            assert (double(there).device, double(there).dtype) == (home, torch.float64)
            assert widest(device) is dtype
            if not float64:
                with pytest.raises(TypeError, match=r"has no torch\.float64"):
                    there.double()
    assert double(ROW).device.type == "cpu"
