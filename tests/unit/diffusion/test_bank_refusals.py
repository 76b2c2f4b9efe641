"""What a bank refuses: values that are not finite, and requests that do not fit together."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from diffusers_erasure.diffusion import BankSettings, DiffusionComponents, TrajectoryBank
from diffusers_erasure.errors import ConfigError, TrainingError
from tests.unit.diffusion.banks import PROMPTS, generator, pool, settings


@pytest.mark.parametrize("mode", ["fresh", "pool"])
def test_values_that_are_not_finite_are_refused(components: DiffusionComponents, mode: str) -> None:
    with torch.no_grad():
        components.unet.conv_out.bias[0] = torch.nan
    with pytest.raises(TrainingError, match="are not finite"):
        TrajectoryBank.build(components, PROMPTS, settings(mode=mode)).draw(generator(), 2)


def test_values_that_half_precision_cannot_hold_are_refused(components: DiffusionComponents) -> None:
    with torch.no_grad():
        components.unet.conv_out.bias[0] = 1e5
    chosen = pool(dtype="float16", guidance_scale=1.0)
    with pytest.raises(TrainingError, match="trajectories kept as float16"):
        TrajectoryBank.build(components, PROMPTS, chosen)
    TrajectoryBank.build(components, PROMPTS, pool(dtype="bfloat16", guidance_scale=1.0))


@pytest.mark.parametrize(
    ("prompts", "values", "options", "message"),
    [
        ([], {}, {}, r"prompts \[\]"),
        ("dog", {}, {}, "prompts 'dog'"),
        (PROMPTS, {}, {"folder": "x"}, "per_trajectory bank keeps nothing in a folder"),
        (PROMPTS, {"mode": "pool"}, {"storage": "disk"}, "without a folder"),
        (PROMPTS, {"steps": 1000}, {}, "1000 sampling steps do not fit"),
    ],
)
def test_what_does_not_fit_together_is_refused(
    components: DiffusionComponents, prompts: list[str], values: dict[str, Any], options: Any, message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        TrajectoryBank.build(components, prompts, BankSettings(**values), **options)


@pytest.mark.parametrize(("count", "prompts"), [(0, None), (2, [0]), (1, [2]), (1, [-1])])
def test_draws_that_there_are_not_are_refused(
    components: DiffusionComponents, count: int, prompts: list[int] | None
) -> None:
    bank = TrajectoryBank.build(components, PROMPTS, settings(mode="fresh"))
    with pytest.raises(ConfigError, match="expected at least one row and a number below 2"):
        bank.draw(generator(), count, prompts=prompts)
