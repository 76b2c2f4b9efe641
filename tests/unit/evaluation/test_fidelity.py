"""Fidelity: how near pictures of what should stay are to the base's, and the base's own to each other."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from diffusers_erasure.errors import ConfigError, EvaluationError
from diffusers_erasure.evaluation.fidelity import EVERYTHING, Fidelity, FidelityRow, Figure
from diffusers_erasure.evaluation.fidelity_measure import measure_fidelity, same_prompt_halves
from diffusers_erasure.evaluation.generate import Artist
from diffusers_erasure.evaluation.judges import Panel
from diffusers_erasure.evaluation.judges.embedded import load_concept_judge
from diffusers_erasure.evaluation.measure import Measured, measure_set
from diffusers_erasure.evaluation.metrics import (
    Extractor,
    embedded_extractor,
    judge_extractor,
    load_extractor,
)
from diffusers_erasure.evaluation.prompt_sets import JudgeRole, PromptItem, PromptSet, Purpose
from tests.reference import image_distances as reference

N, PROMPTS = 24, 6
Build = Callable[..., Measured]


def drawn(prompts: int, *, other: int = 0, count: int = N) -> Tensor:
    """Soft blots: what they are depends on the prompt, a little on the seed; `other` gives other seeds."""
    pictures = []
    for index in range(count):
        subject = torch.rand(1, 3, 4, 4, generator=torch.Generator().manual_seed(index % prompts))
        detail = torch.rand(1, 3, 8, 8, generator=torch.Generator().manual_seed(1000 + index + other))
        parts = [
            torch.nn.functional.interpolate(part, (64, 64), mode="bilinear") for part in (subject, detail)
        ]
        pictures.append((0.7 * parts[0] + 0.3 * parts[1])[0])
    return (torch.stack(pictures) * 255).to(torch.uint8)


def noise(count: int = N) -> Tensor:
    """What a damaged generator draws."""
    return torch.randint(0, 256, (count, 3, 64, 64), generator=torch.Generator().manual_seed(7)).to(
        torch.uint8
    )


@pytest.fixture
def measured(artist: Callable[..., Artist], panel: Panel) -> Build:
    """Builder of measured sets with pictures of the test's own."""

    def build(
        base: Tensor,
        erased: Tensor,
        *,
        name: str = "neighbours",
        purpose: Purpose = Purpose.IN_DOMAIN,
        prompts: int = PROMPTS,
    ) -> Measured:
        items = tuple(
            PromptItem(f"{name} {index % prompts}", index, "church", ("church",), JudgeRole.CONCEPT)
            for index in range(len(base))
        )
        painter = artist(lambda _: "church")
        found = measure_set(PromptSet(name, purpose, items), painter, painter, panel, retention_floor=0.8)
        return replace(found, base=base, erased=erased)

    return build


def fidelity(panel: Panel, *sets: Measured, extractor: Extractor | None = None) -> Fidelity:
    found, reason = measure_fidelity(sets, panel, extractor or embedded_extractor())
    assert isinstance(found, Fidelity), reason
    return found


def only(found: Fidelity) -> FidelityRow:
    (row,) = found.rows
    return row


def test_the_same_pictures_agree_entirely(measured: Build, panel: Panel) -> None:
    row = only(fidelity(panel, measured(drawn(PROMPTS), drawn(PROMPTS))))
    assert (row.name, row.pictures, row.prompts) == ("neighbours", N, PROMPTS)
    assert (row.agreement.value, row.agreement.low) == (
        pytest.approx(1, abs=1e-12),
        pytest.approx(1, abs=1e-12),
    )
    assert row.kid.value == pytest.approx(0, abs=1e-9)
    assert row.kid.low <= 1e-9
    assert row.kid.high >= -1e-9
    assert isinstance(row.other_seed, Figure)
    assert row.other_seed.high < 0.9999, "another seed is another picture"


def test_a_damaged_generator_is_told_from_a_whole_one(measured: Build, panel: Panel) -> None:
    base = drawn(PROMPTS)
    whole = only(fidelity(panel, measured(base, drawn(PROMPTS, other=500))))
    broken = only(fidelity(panel, measured(base, noise())))
    assert isinstance(whole.other_seed, Figure)
    assert isinstance(whole.base_kid, Figure)
    assert whole.agreement.value == pytest.approx(whole.other_seed.value, abs=0.02)
    assert broken.agreement.high < whole.agreement.low - 0.05
    assert broken.kid.low > 3 * max(whole.kid.high, whole.base_kid.high)
    assert whole.base_kid == broken.base_kid, "the level belongs to the base"


def test_black_pictures_are_no_agreement(measured: Build, panel: Panel) -> None:
    """Failed pictures are compared as they are, not left out."""
    some = drawn(PROMPTS)
    some[:12] = 0
    row, kept = only(fidelity(panel, measured(drawn(PROMPTS), some))), drawn(PROMPTS)
    assert row.pictures == N
    assert row.agreement.value < only(fidelity(panel, measured(kept, kept))).agreement.value - 0.05
    assert row.kid.value > 0


def colours(width: int = 2) -> Extractor:
    """Features that can be computed by hand: the mean colours, minus the middle."""
    return Extractor("colours", "0" * 64, lambda images: images.double().mean(dim=(2, 3))[:, :width] - 100)


def test_the_figures_follow_their_definitions(measured: Build, panel: Panel) -> None:
    base, erased = drawn(PROMPTS), drawn(PROMPTS, other=500)
    row = only(fidelity(panel, measured(base, erased), extractor=colours()))
    first, second = colours()(base), colours()(erased)
    cosines = [float(a @ b / (a.norm() * b.norm())) for a, b in zip(first, second, strict=True)]
    assert row.agreement.value == pytest.approx(sum(cosines) / N)
    assert row.kid.value == pytest.approx(reference.kid(first.numpy(), second.numpy(), paired=True), rel=1e-9)
    # Rows of one prompt are 6 apart: 0-5 stand beside 6-11, and 12-17 beside 18-23.
    left = torch.cat([first[:6], first[12:18]])
    right = torch.cat([first[6:12], first[18:]])
    assert isinstance(row.base_kid, Figure)
    assert row.base_kid.value == pytest.approx(
        reference.kid(left.numpy(), right.numpy(), paired=True), rel=1e-9
    )
    halves = [float(a @ b / (a.norm() * b.norm())) for a, b in zip(left, right, strict=True)]
    assert isinstance(row.other_seed, Figure)
    assert row.other_seed.value == pytest.approx(sum(halves) / 12)
    beside = torch.cat([second[6:12], second[18:]])
    assert row.fid == pytest.approx(reference.fid(left.numpy(), beside.numpy()), rel=1e-5)
    assert row.base_fid == pytest.approx(reference.fid(left.numpy(), right.numpy()), rel=1e-5)


def test_fid_waits_for_enough_pictures(measured: Build, panel: Panel) -> None:
    """Ten pictures in a half are enough for two features, and not for three."""
    same = measured(drawn(5, count=20), drawn(5, count=20), prompts=5)
    row = only(fidelity(panel, same, extractor=colours(2)))
    assert row.fid == row.base_fid != "not measured"
    wider = fidelity(panel, same, extractor=colours(3))
    assert only(wider).fid == only(wider).base_fid == "not measured"
    with pytest.raises(ValidationError, match=r"a FID of 20 pictures .* expected 30 or more for 3 features"):
        Fidelity(**{**dict(wider), "rows": (only(wider).model_copy(update={"fid": 1.0, "base_fid": 1.0}),)})


def test_the_erased_concept_is_left_out_and_the_rest_put_together(measured: Build, panel: Panel) -> None:
    base = drawn(PROMPTS)
    sets = [
        measured(base, noise(), name="own name", purpose=Purpose.ERASED),
        measured(base, base),
        measured(base, base, name="styles", purpose=Purpose.CROSS_DOMAIN),
    ]
    found = fidelity(panel, *sets)
    assert [(row.name, row.pictures) for row in found.rows] == [
        ("neighbours", N), ("styles", N), (EVERYTHING, 2 * N)
    ]  # fmt: skip
    assert all(row.agreement.value == pytest.approx(1) for row in found.rows)
    assert found.row("styles") == found.rows[1]
    assert found.row("own name") is None


def test_a_level_needs_two_seeds_of_a_prompt(measured: Build, panel: Panel) -> None:
    row = only(fidelity(panel, measured(drawn(N), drawn(N), prompts=N)))
    assert (row.other_seed, row.base_kid, row.fid) == ("not measured",) * 3
    assert same_prompt_halves(["a", "b", "a", "a", "b", "c", "a"]) == ([0, 1, 3], [2, 4, 6])


@pytest.mark.parametrize(
    ("count", "prompts", "purpose", "reason"),
    [
        (19, 6, Purpose.IN_DOMAIN, "19 pictures of what should stay are too few; 20 of two prompts or more"),
        (24, 1, Purpose.IN_DOMAIN, "24 pictures of what should stay are too few; 20 of two prompts or more"),
        (24, 6, Purpose.ERASED, "no prompt set of what should stay was drawn"),
    ],
)
def test_what_cannot_be_measured_says_why(
    measured: Build, panel: Panel, count: int, prompts: int, purpose: Purpose, reason: str
) -> None:
    pictures = drawn(prompts, count=count)
    sets = [measured(pictures, pictures, prompts=prompts, purpose=purpose)]
    found, said = measure_fidelity(sets, panel, embedded_extractor())
    assert found == "not measured"
    assert said.startswith(reason)


def test_a_judge_without_features_needs_an_extractor(measured: Build, panel: Panel) -> None:
    found, said = measure_fidelity([measured(drawn(PROMPTS), drawn(PROMPTS))], panel)
    assert found == "not measured"
    assert said.startswith("the judge 'corner' offers no features of pictures; give an extractor")


def test_the_embedded_judge_lends_its_features(measured: Build) -> None:
    panel = Panel(load_concept_judge("cpu"))
    lent, own = judge_extractor(panel.concept), embedded_extractor()
    assert lent is not None
    assert (lent.name, lent.sha256) == (own.name, own.sha256)
    assert torch.equal(lent(drawn(PROMPTS)), own(drawn(PROMPTS)))
    found, _ = measure_fidelity([measured(drawn(PROMPTS), noise())], panel)
    assert isinstance(found, Fidelity)
    assert (found.extractor, found.width) == ("embedded-concept", 192)


def test_a_black_extractor_is_no_extractor(measured: Build, panel: Panel) -> None:
    broken = Extractor("broken", "0" * 64, lambda images: torch.full((len(images), 2), float("nan")))
    with pytest.raises(EvaluationError, match="not finite"):
        measure_fidelity([measured(drawn(PROMPTS), drawn(PROMPTS))], panel, broken)


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ("inception", "expected embedded, clip:FOLDER_OR_ID, image-classifier:FOLDER_OR_ID"),
        ("embedded:somewhere", "brings its own weights"),
        ("clip", "named without its weights"),
    ],
)
def test_an_extractor_that_is_none_is_explained(asked: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_extractor(asked)
    assert load_extractor("embedded").name == "embedded-concept"


FIGURE = Figure(value=0.9, low=0.8, high=0.95)
ROW: dict[str, Any] = {
    "name": "neighbours", "pictures": 100, "prompts": 10, "agreement": FIGURE, "other_seed": FIGURE,
    "kid": FIGURE, "base_kid": FIGURE, "fid": "not measured", "base_fid": "not measured",
}  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"agreement": Figure(value=1.2, low=1.1, high=1.3)}, "expected a cosine"),
        ({"other_seed": Figure(value=0.9, low=-1.1, high=1)}, "expected a cosine"),
        ({"fid": 3.0}, "expected both or none"),
        ({"pictures": 19}, "greater than or equal to 20"),
    ],
)
def test_figures_that_cannot_be_are_refused(changes: dict[str, Any], message: str) -> None:
    FidelityRow(**ROW)
    with pytest.raises(ValidationError, match=message):
        FidelityRow(**{**ROW, **changes})
    with pytest.raises(ValidationError, match="lower bound first"):
        Figure(value=0, low=1, high=0)
