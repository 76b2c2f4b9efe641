"""Broken pictures are recognised, drawings are not."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from diffusers_erasure.evaluation.controls import control_pictures, neighbour_correlation, picture_fault


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def drawing(size: int = 64) -> Tensor:
    """A disc on a plain ground, as an emoji is."""
    across = torch.linspace(-1, 1, size)
    disc = (across[:, None] ** 2 + across[None, :] ** 2 < 0.5).float()
    colour = torch.tensor([0.9, 0.2, 0.3])[:, None, None]
    return ((disc * colour + (1 - disc)) * 255).to(torch.uint8)


def test_a_drawing_is_whole() -> None:
    assert picture_fault(drawing()) == ""
    assert picture_fault(drawing(16)) == ""


@pytest.mark.parametrize("level", [0, 127, 255])
def test_one_colour_is_blank(level: int) -> None:
    assert picture_fault(torch.full((3, 64, 64), level, dtype=torch.uint8)) == "blank"


def test_one_colour_with_a_speck_of_noise_is_blank() -> None:
    speck = torch.randint(0, 2, (3, 64, 64), generator=generator()) + 120
    assert picture_fault(speck.to(torch.uint8)) == "blank"


def test_noise_is_noise() -> None:
    noise = torch.randint(0, 256, (3, 64, 64), generator=generator()).to(torch.uint8)
    assert picture_fault(noise) == "noise"
    assert abs(neighbour_correlation(noise.double())) < 0.05


def test_half_noise_over_a_drawing_is_still_a_drawing() -> None:
    noise = torch.randint(-30, 31, (3, 64, 64), generator=generator())
    assert picture_fault((drawing().int() + noise).clamp(0, 255).to(torch.uint8)) == ""


def test_control_pictures_come_in_three_kinds_and_repeat() -> None:
    pictures = control_pictures(30, (64, 64), generator=generator(3))
    assert pictures.shape == (30, 3, 64, 64)
    assert pictures.dtype == torch.uint8
    faults = [picture_fault(picture) for picture in pictures]
    assert faults[0::3] == ["blank"] * 10
    assert faults[1::3] == ["noise"] * 10
    assert torch.equal(pictures, control_pictures(30, (64, 64), generator=generator(3)))


def test_one_channel_without_a_drawing_leaves_it_whole() -> None:
    picture = drawing()
    picture[2] = 0
    assert picture_fault(picture) == ""


@pytest.mark.parametrize("lying", [True, False])
def test_stripes_are_whole_whichever_way_they_lie(lying: bool) -> None:
    """Neighbours along a stripe are equal, those across it are noise."""
    lines = torch.randint(0, 256, (3, 64, 1), generator=generator()).expand(3, 64, 64).to(torch.uint8)
    stripes = lines if lying else lines.mT
    assert neighbour_correlation(stripes.double()) == pytest.approx(0.5, abs=0.1)
    assert picture_fault(stripes) == ""
