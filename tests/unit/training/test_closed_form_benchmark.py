"""The speed benchmark of the closed form: what it compares computes the same, and counts what it says."""

from __future__ import annotations

import io

import pytest
import torch
from PIL import Image
from torch import Tensor

from benchmarks.closed_form import (
    FRAMES,
    PENALTIES,
    SUBJECTS,
    Stopwatch,
    copies,
    difference,
    fast,
    literal,
    oracle,
    pairs,
    solved,
    text_encoder,
    tokenizer,
)
from benchmarks.closed_form_growth import many_pairs, measure, plot, projections
from diffusers_erasure.diffusion import DiffusionComponents, TextProjection
from diffusers_erasure.prompts import PromptPair
from diffusers_erasure.training.closed_form import PriorStatistics
from diffusers_erasure.training.text_states import align_pairs, state_rows
from tests.reference.trce import mapped_weight

WIDTH = 64
KEPT = 90
FEW = pairs()[:7]


@pytest.fixture(scope="module")
def components() -> DiffusionComponents:
    torch.manual_seed(0)
    return DiffusionComponents(tokenizer(), text_encoder(WIDTH, 1).double(), None, None, None)


@pytest.fixture(scope="module")
def layers() -> list[TextProjection]:
    torch.manual_seed(1)
    return [
        TextProjection(name, torch.randn(size, WIDTH, dtype=torch.float64))
        for name, size in (("k", 24), ("v", 40))
    ]


@pytest.fixture(scope="module")
def kept() -> Tensor:
    return torch.randn(KEPT, WIDTH, generator=torch.Generator().manual_seed(2))


def test_the_pairs_are_twenty_concepts_in_ten_templates() -> None:
    found = pairs()
    assert (len(set(SUBJECTS)), len(set(FRAMES))) == (20, 10)
    assert len({pair.source for pair in found}) == 200
    assert {pair.source_word for pair in found} == set(SUBJECTS)


def test_every_word_is_one_token_as_in_clips_vocabulary() -> None:
    words = tokenizer()
    for pair in many_pairs(800):
        assert len(words(pair.source).input_ids) == len(pair.source.split()) + 2


def test_all_three_ways_give_the_weights_of_the_papers_formula(
    components: DiffusionComponents, layers: list[TextProjection], kept: Tensor
) -> None:
    prior = PriorStatistics.of(kept)
    (rows,) = state_rows(
        components, align_pairs(components, FEW, "eot"), "eot", batch_size=8, progress=lambda _: None
    )
    mapped = [(malicious, safe, 1.0) for malicious, safe in zip(rows.source, rows.target, strict=True)]
    expected = {
        layer.key: mapped_weight(
            layer.weight,
            mapped,
            list(kept),
            pairs=len(mapped),
            eta=PENALTIES.prior_weight,
            ridge=PENALTIES.ridge,
        )
        for layer in layers
    }
    factor, edited, _ = fast(components, layers, FEW, prior)
    by_loop, _ = literal(components, layers, FEW, prior)
    moved = difference({layer.key: layer.weight for layer in layers}, expected)
    assert moved > 1e-3
    assert difference(oracle(components, layers, FEW, prior), expected) < 1e-9
    assert difference(solved(layers, factor), expected) < 1e-9
    assert difference(edited, expected) < 0.01 * moved
    assert difference(by_loop, expected) < 1e-9  # in float64; the benchmark runs it in float32


def test_the_literal_schedule_encodes_each_pair_alone_at_the_full_length(
    components: DiffusionComponents,
    layers: list[TextProjection],
    kept: Tensor,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    shapes: list[tuple[int, ...]] = []
    handle = components.text_encoder.register_forward_pre_hook(
        lambda module, given: shapes.append(tuple(given[0].shape))
    )
    inverses: list[tuple[int, ...]] = []
    invert = torch.linalg.inv
    monkeypatch.setattr(
        torch.linalg, "inv", lambda matrix: (inverses.append(tuple(matrix.shape)), invert(matrix))[1]
    )
    try:
        _, watch = literal(components, layers, FEW, PriorStatistics.of(kept))
    finally:
        handle.remove()
    assert shapes == [(2, 77)] * len(FEW)
    assert inverses == [(WIDTH, WIDTH)] * len(layers)
    assert list(watch.phases) == ["encode", "values", "outer products", "inverse and apply"]


def test_seconds_add_up_by_phase() -> None:
    watch = Stopwatch()
    for name in ("a", "b", "a"):
        watch.lap(name)
    assert list(watch.phases) == ["a", "b"]
    assert watch.total[0] == pytest.approx(sum(wall for wall, _ in watch.phases.values()))
    assert copies(projections(WIDTH), 2).total[0] > 0


def test_more_pairs_are_all_different_and_begin_with_the_benchmarks_own() -> None:
    assert many_pairs(200) == pairs()
    assert len({pair.source for pair in many_pairs(800)}) == 800
    with pytest.raises(ValueError, match="801 pairs were asked for; expected 1 to 800"):
        many_pairs(801)


def test_growth_is_measured_by_phase_and_drawn(components: DiffusionComponents) -> None:
    found = measure(components, (5, 40), repeats=1)
    assert list(found) == [5, 40]  # solved by their rows, and by their Gram matrix
    assert all(list(seconds) == ["encode", "solve", "apply"] for seconds in found.values())
    with Image.open(io.BytesIO(plot(found, found))) as picture:
        assert picture.width > 400
        assert len(set(picture.convert("L").tobytes())) > 20


def test_a_shared_template_keeps_everything_but_the_concept() -> None:
    one = many_pairs(800)[-1]
    assert one == PromptPair(
        one.source, one.source.replace(one.source_word, one.target_word), one.source_word, one.target_word
    )
