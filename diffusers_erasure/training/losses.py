"""Losses of erasure by gradients, as pure functions, and how named terms become what is minimised.

`e_theta(z_t | c)` is the noise that the model being trained predicts, `e_o` that of the frozen original; `0`
stands for the unconditional (empty) prompt.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from torch import Tensor
from torch.nn import functional as F

from diffusers_erasure.errors import TrainingError

TOTAL = "loss"
"""Name of the term that the loop minimises."""
TargetRule = Literal["paper", "code"]


def esd_target(
    concept: Tensor,
    unconditional: Tensor,
    negative_guidance: float,
    *,
    scope: Tensor | None = None,
    rule: TargetRule = "paper",
) -> Tensor:
    """What the erased model is to predict for the concept (ESD, arXiv:2303.07345).

        paper   o - η (e_o(c) - o)              with o = e_o(scope) where there is a scope, else e_o(0)
        code    o - η (e_o(c) - e_o(0))         with o = e_o(scope) where there is a scope, else e_o(c)

    The rules agree without a scope if the code's η is larger by one: o - (η + 1)(e_o(c) - e_o(0)) with
    o = e_o(c) is e_o(0) - η (e_o(c) - e_o(0)).

    Args:
        concept: `e_o(z_t | c)`, `(batch, channels, height, width)`.
        unconditional: `e_o(z_t | 0)`, likewise.
        negative_guidance: η.
        scope: `e_o(z_t | scope)`, likewise: the wider concept that stays.
        rule: Whose formula.
    """
    if rule == "paper":
        origin = unconditional if scope is None else scope
        return origin - negative_guidance * (concept - origin)
    origin = concept if scope is None else scope
    return origin - negative_guidance * (concept - unconditional)


def steering_target(concept: Tensor, unconditional: Tensor, guidance: float) -> Tensor:
    """F = e_0 + β (e_c - e_0): the amplified direction of a prompt (TRCE, arXiv:2503.07389).

    Args:
        concept: e_c, the original's noise for the prompt, `(batch, channels, height, width)`.
        unconditional: e_0, that for the unconditional prompt, likewise.
        guidance: β; the authors' code writes e_c + g (e_c - e_0), which is β = g + 1.
    """
    return unconditional + guidance * (concept - unconditional)


def steering_margin(predicted: Tensor, safe: Tensor, unsafe: Tensor) -> Tensor:
    """How much nearer a prediction is to the unsafe direction than to the safe one, `(batch,)`, float32.

    |e - f_safe|² - |e - f_unsafe|² as means over all entries; negative where the safe one is nearer.

    Args:
        predicted: e of the model in training, `(batch, channels, height, width)`.
        safe: f_safe of the safe prompt, likewise.
        unsafe: f_unsafe of the malicious prompt, likewise.
    """
    distances = [(predicted.float() - one.float()).square().mean((1, 2, 3)) for one in (safe, unsafe)]
    return distances[0] - distances[1]


def steering_hinge(margin: Tensor, delta: float) -> Tensor:
    """max(0, |e - f_safe|² - |e - f_unsafe|² + δ), mean over the batch, `()` (TRCE, stage 2).

    Args:
        margin: What `steering_margin` gives, `(batch,)`.
        delta: δ, by how much the safe direction has to be nearer.
    """
    return (margin + delta).clamp(min=0.0).mean()


def noise_loss(predicted: Tensor, target: Tensor) -> Tensor:
    """Mean squared error over all entries, in float32, `()`."""
    return F.mse_loss(predicted.float(), target.float())


def weighted_losses(
    terms: Mapping[str, Tensor], weights: Mapping[str, float] | None = None
) -> dict[str, Tensor]:
    """Named terms together with their weighted sum under the name "loss".

    Args:
        terms: Scalars, `()` each.
        weights: Weight by name; 1 for names that are not in it.

    Raises:
        TrainingError: There is no term, or a weight has no term.
    """
    given = dict(weights or {})
    if not terms or set(given) - set(terms) or TOTAL in terms:
        raise TrainingError(
            f"loss terms {sorted(terms)} do not go with weights for {sorted(given)}; expected at least one "
            f"term, none of them named {TOTAL!r}, and no weight without a term; name them alike"
        )
    weighted = [given.get(name, 1.0) * value for name, value in terms.items()]
    total = weighted[0]
    for value in weighted[1:]:
        total = total + value
    return {TOTAL: total, **terms}
