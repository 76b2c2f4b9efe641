"""Fidelity measured: from the pictures of an evaluation, drawn anyway, to the figures of `fidelity`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .bootstrap import bootstrap
from .fidelity import (
    EVERYTHING,
    FID_PICTURES_PER_FEATURE,
    LEAST_PICTURES,
    LEAST_REFERENCE,
    Fidelity,
    FidelityRow,
    Figure,
)
from .judges import Panel
from .measure import Measured
from .metrics.extractors import Extractor, judge_extractor
from .metrics.fid import fid, kid, kid_interval
from .prompt_sets import Purpose
from .records import NOT_MEASURED, NotMeasured, refusing

BOOTSTRAP_SEED = 20_240_611


@dataclass(frozen=True)
class _Pairs:
    """Features of base and erased pictures, row by row of one prompt and seed: `(pictures, width)` each."""

    name: str
    base: Tensor
    erased: Tensor
    prompts: tuple[str, ...]

    @property
    def enough(self) -> bool:
        """Whether a distance of these means anything, and each prompt can be left out."""
        return len(self.prompts) >= LEAST_PICTURES and _can_be_left_out(self.prompts)


def measure_fidelity(
    measured: Sequence[Measured], panel: Panel, extractor: Extractor | None = None
) -> tuple[Fidelity | NotMeasured, str]:
    """Compare the erased pipeline's pictures of what should stay with the base's.

    Args:
        measured: Every prompt set with its pictures; those of the erased concept are left out.
        panel: The judges; the one that names what should stay, or else concepts, lends its features.
        extractor: Makes features instead of the judge.

    Returns:
        The figures, or "not measured", and then the reason.
    """
    judge = panel.retention or panel.concept
    extractor = extractor or judge_extractor(judge)
    kept = [result for result in measured if result.row.purpose is not Purpose.ERASED]
    if extractor is None:
        return NOT_MEASURED, (
            f"the judge {judge.name!r} offers no features of pictures; give an extractor, such as "
            "--features clip:FOLDER_OR_ID"
        )
    if not kept:
        return NOT_MEASURED, "no prompt set of what should stay was drawn"
    pairs = [
        _Pairs(result.row.name, extractor(result.base), extractor(result.erased), result.prompt_set.prompts)
        for result in kept
    ]
    if len(pairs) > 1:
        pairs.append(_together(pairs))
    rows = [_row(one) for one in pairs if one.enough]
    if not rows:
        return NOT_MEASURED, (
            f"{max(len(one.prompts) for one in pairs)} pictures of what should stay are too few; "
            f"{LEAST_PICTURES} of two prompts or more are needed"
        )
    with refusing("the fidelity that was measured"):
        found = Fidelity(
            extractor=extractor.name,
            sha256=extractor.sha256,
            width=pairs[0].base.shape[1],
            rows=tuple(rows),
        )
    return found, ""


def _together(pairs: Sequence[_Pairs]) -> _Pairs:
    return _Pairs(
        EVERYTHING,
        torch.cat([one.base for one in pairs]),
        torch.cat([one.erased for one in pairs]),
        tuple(prompt for one in pairs for prompt in one.prompts),
    )


def _row(pairs: _Pairs) -> FidelityRow:
    first, second = same_prompt_halves(pairs.prompts)
    prompts = [pairs.prompts[row] for row in first]
    base, other = pairs.base[first], pairs.base[second]
    reference = len(first) >= LEAST_REFERENCE and _can_be_left_out(prompts)
    with_fid = reference and len(first) >= FID_PICTURES_PER_FEATURE * pairs.base.shape[1]
    return FidelityRow(
        name=pairs.name,
        pictures=len(pairs.prompts),
        prompts=len(set(pairs.prompts)),
        agreement=_agreement(pairs.base, pairs.erased, pairs.prompts),
        other_seed=_agreement(base, other, prompts) if reference else NOT_MEASURED,
        kid=_kid(pairs.base, pairs.erased, pairs.prompts),
        base_kid=_kid(base, other, prompts) if reference else NOT_MEASURED,
        fid=fid(base, pairs.erased[second]) if with_fid else NOT_MEASURED,
        base_fid=fid(base, other) if with_fid else NOT_MEASURED,
    )


def same_prompt_halves(prompts: Sequence[str]) -> tuple[list[int], list[int]]:
    """Rows in two halves, the i-th of both of one prompt, with another seed; rows without a partner are left.

    Args:
        prompts: The prompt of each row.
    """
    waiting: dict[str, int] = {}
    first, second = [], []
    for row, prompt in enumerate(prompts):
        if prompt in waiting:
            first.append(waiting.pop(prompt))
            second.append(row)
        else:
            waiting[prompt] = row
    return first, second


def _can_be_left_out(prompts: Sequence[str]) -> bool:
    """Whether two rows remain without any one prompt."""
    return all(len(prompts) - prompts.count(prompt) >= 2 for prompt in set(prompts))


def _agreement(first: Tensor, second: Tensor, prompts: Sequence[str]) -> Figure:
    """Mean cosine of rows, with its interval over prompts."""
    cosines = torch.cosine_similarity(first, second, dim=-1).clamp(-1, 1)
    found = bootstrap(cosines, prompts, generator=torch.Generator().manual_seed(BOOTSTRAP_SEED))
    value, low, high = (min(1.0, max(-1.0, one)) for one in (found.value, found.low, found.high))
    return Figure(value=value, low=low, high=high)


def _kid(first: Tensor, second: Tensor, prompts: Sequence[str]) -> Figure:
    low, high = kid_interval(first, second, prompts)
    return Figure(value=kid(first, second, paired=True), low=low, high=high)
