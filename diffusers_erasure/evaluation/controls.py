"""Broken pictures, which must never be counted as an erasure that works.

A pipeline whose weights are random or NaN draws nothing that a judge could recognise, and would look
perfectly erased. So every picture passes here before it is judged: one that is not finite, (nearly) of one
colour, or noise is *failed*, and failed pictures are counted against the erasure. The same blank and noise
pictures are shown to the judge as a negative control: it must not see a concept in them.
"""

from __future__ import annotations

import torch
from torch import Tensor

BLANK_DEVIATION = 1.0
"""Standard deviation (of 0...255) in every channel under which a picture counts as blank."""
NOISE_CORRELATION = 0.35
"""Correlation of neighbouring pixels under which a picture counts as noise; drawings have 0.8 and more."""


def picture_fault(image: Tensor) -> str:
    """What is broken about a picture: "blank", "noise", or "" for nothing.

    Args:
        image: `(3, height, width)`, uint8.
    """
    pixels = image.double()
    if float(pixels.flatten(1).std(dim=1, correction=0).max()) < BLANK_DEVIATION:
        return "blank"
    if neighbour_correlation(pixels) < NOISE_CORRELATION:
        return "noise"
    return ""


def neighbour_correlation(image: Tensor) -> float:
    """Correlation between horizontally and vertically neighbouring pixels, -1 to 1.

    Args:
        image: `(channels, height, width)`, float, not constant.
    """
    centred = image - image.mean(dim=(1, 2), keepdim=True)
    variance = centred.square().mean()
    across = (centred[:, :, 1:] * centred[:, :, :-1]).mean()
    down = (centred[:, 1:, :] * centred[:, :-1, :]).mean()
    return float((across + down) / (2 * variance))


def control_pictures(count: int, size: tuple[int, int], *, generator: torch.Generator) -> Tensor:
    """Pictures that show nothing: plain colours, uniform noise and smooth noise in turn.

    Args:
        count: How many.
        size: `(height, width)`.
        generator: Source of the colours and the noise.

    Returns:
        `(count, 3, height, width)`, uint8.
    """
    pictures = [_control_picture(index % 3, size, generator) for index in range(count)]
    return (torch.stack(pictures) * 255).round().to(torch.uint8)


def _control_picture(kind: int, size: tuple[int, int], generator: torch.Generator) -> Tensor:
    if kind == 0:
        return torch.rand(3, 1, 1, generator=generator).expand(3, *size)
    if kind == 1:
        return torch.rand(3, *size, generator=generator)
    coarse = torch.rand(1, 3, max(2, size[0] // 8), max(2, size[1] // 8), generator=generator)
    smooth: Tensor = torch.nn.functional.interpolate(coarse, size=size, mode="bilinear", align_corners=False)
    return smooth[0]
