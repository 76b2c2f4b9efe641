"""Pipelines with two text encoders: their states, and a closed-form edit from them, from end to end.

The pipeline is the tiny SDXL of `tests/tiny_xl.py`.
"""

from __future__ import annotations

import logging
import string
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import StableDiffusionPipeline, StableDiffusionXLPipeline
from torch import Tensor

from diffusers_erasure.artifacts.apply import load_erasure, unload_erasure
from diffusers_erasure.artifacts.artifact import Artifact, build_artifact
from diffusers_erasure.artifacts.edits import RightFactorEdit
from diffusers_erasure.artifacts.manifest import BaseModelRef
from diffusers_erasure.artifacts.store import save_artifact
from diffusers_erasure.artifacts.verify import ErasureState
from diffusers_erasure.concepts import resolve_concepts
from diffusers_erasure.diffusion import (
    DiffusionComponents,
    distinct,
    encode,
    evaluating,
    text_projections,
    tokenize,
)
from diffusers_erasure.errors import ConfigError
from diffusers_erasure.pipelines.verifying import verify_erasure
from diffusers_erasure.training.closed_form import MappingStatistics, Penalties, PriorStatistics, solve
from tests.tiny_xl import END, TOKENS, WIDTHS, tokenizer

PROMPTS = ["a dog", "", "owl!", "a longer prompt", "a" * 40]
CONCEPT, ANCHOR = "a dog", "a cat"
RETAINED = ["", "an owl", "two cars", "red tree", "a blue cup"]


@pytest.fixture
def both(tiny_xl: StableDiffusionXLPipeline) -> DiffusionComponents:
    return DiffusionComponents.from_pipeline(tiny_xl, second_encoder=True)


def of_the_pipeline(pipe: StableDiffusionXLPipeline, text: str) -> tuple[Tensor, Tensor]:
    """States `(tokens, width)` and pooled state `(width,)` as the pipeline computes them."""
    with torch.no_grad():
        states, _, pooled, _ = pipe.encode_prompt(text, device="cpu", do_classifier_free_guidance=False)
    return states[0], pooled[0]


def states_of(components: DiffusionComponents, texts: list[str], *, padded: bool) -> list[Tensor]:
    """States of each prompt, in order; without padding unless it is asked for."""
    prompts, numbers = distinct(
        [tokenize(components.tokenizer, text, max_tokens=components.max_tokens) for text in texts]
    )
    found: dict[int, Tensor] = {}
    for batch in encode(components, prompts, padded=padded, batch_size=2):
        for index, states, length in zip(batch.indices, batch.states, batch.lengths, strict=True):
            found[index] = states if padded else states[:length]
    return [found[number] for number in numbers]


def test_the_bundle_knows_both_encoders(both: DiffusionComponents) -> None:
    assert both.text_width == sum(WIDTHS)
    assert both.max_tokens == TOKENS
    assert [encoder.config.hidden_size for _, encoder in both.text_encoders] == list(WIDTHS)
    assert text_projections(both.unet, text_width=both.text_width)


def test_full_length_states_are_those_of_the_pipeline(
    tiny_xl: StableDiffusionXLPipeline, both: DiffusionComponents
) -> None:
    for text, states in zip(PROMPTS, states_of(both, PROMPTS, padded=True), strict=True):
        expected = of_the_pipeline(tiny_xl, text)[0]
        assert states.shape == (TOKENS, sum(WIDTHS))
        torch.testing.assert_close(states, expected, rtol=0, atol=1e-6)


def test_states_at_own_length_are_the_same_up_to_the_end_token(
    tiny_xl: StableDiffusionXLPipeline, both: DiffusionComponents
) -> None:
    for text, states in zip(PROMPTS, states_of(both, PROMPTS, padded=False), strict=True):
        length = min(len(text.replace(" ", "")) + 2, TOKENS)
        assert states.shape == (length, sum(WIDTHS))
        torch.testing.assert_close(states, of_the_pipeline(tiny_xl, text)[0][:length], rtol=0, atol=1e-6)


def test_each_encoder_gets_its_own_padding(both: DiffusionComponents) -> None:
    (as_it_is,) = states_of(both, ["a dog"], padded=True)
    other = replace(both, tokenizer_2=tokenizer(END))
    (other_padding,) = states_of(other, ["a dog"], padded=True)
    words = 6  # start, a, d, o, g, end
    torch.testing.assert_close(as_it_is[:words], other_padding[:words], rtol=0, atol=1e-6)
    torch.testing.assert_close(as_it_is[:, : WIDTHS[0]], other_padding[:, : WIDTHS[0]], rtol=0, atol=1e-6)
    assert (as_it_is[words:, WIDTHS[0] :] - other_padding[words:, WIDTHS[0] :]).abs().max() > 1e-2


def test_states_have_the_dtype_that_the_pipeline_gives_them(
    tiny_xl: StableDiffusionXLPipeline, both: DiffusionComponents
) -> None:
    both.text_encoder_2.to(torch.bfloat16)  # type: ignore[union-attr]
    (states,) = states_of(both, ["a dog"], padded=True)
    expected = of_the_pipeline(tiny_xl, "a dog")[0]
    assert states.dtype == expected.dtype == torch.bfloat16
    torch.testing.assert_close(states, expected, rtol=0, atol=1e-2)


def test_without_the_keyword_two_encoders_are_refused(tiny_xl: StableDiffusionXLPipeline) -> None:
    with pytest.raises(ConfigError, match="StableDiffusionXLPipeline has two text encoders"):
        DiffusionComponents.from_pipeline(tiny_xl)


def test_with_the_keyword_one_encoder_is_as_before(
    tiny_pipe: StableDiffusionPipeline, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        found = DiffusionComponents.from_pipeline(tiny_pipe, second_encoder=True)
    assert found == DiffusionComponents.from_pipeline(tiny_pipe)
    assert found.tokenizer_2 is None
    assert found.text_encoder_2 is None
    assert not caplog.records


def test_a_warning_says_what_is_not_seen(
    tiny_xl: StableDiffusionXLPipeline, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        DiffusionComponents.from_pipeline(tiny_xl, second_encoder=True)
    (record,) = caplog.records
    assert "pooled text state of text_encoder_2 of StableDiffusionXLPipeline" in record.getMessage()
    assert record.getMessage().count(";") == 2


def test_tokenizers_that_disagree_are_refused(both: DiffusionComponents) -> None:
    swapped = replace(both, tokenizer_2=tokenizer("!", letters=string.ascii_lowercase[::-1]))
    with pytest.raises(ConfigError, match=r"'a dog' as 6 tokens \[.*\], the first as 6 tokens .*; change"):
        states_of(swapped, ["a dog"], padded=False)


def test_a_prompt_that_one_tokenizer_splits_otherwise_is_refused(both: DiffusionComponents) -> None:
    """A tokenizer whose pad token is "!" takes every "!" for one; another may join them."""
    joining = replace(both, tokenizer=tokenizer(END, merges=[("!", "!</w>")]))
    with pytest.raises(ConfigError, match=r"'a!!' as 5 tokens \[.*\], the first as 4 tokens"):
        states_of(joining, ["a!!"], padded=True)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda pipe: setattr(pipe, "tokenizer_2", None),
            "a text_encoder_2 but no tokenizer_2; .*; load",
        ),
        (
            lambda pipe: setattr(pipe, "tokenizer_2", tokenizer("!", length=TOKENS - 1)),
            "read 16 and 15 tokens; .*; load",
        ),
        (
            lambda pipe: setattr(pipe.text_encoder_2.config, "model_type", "t5"),
            "are 'clip_text_model' and 't5'; .*; choose",
        ),
    ],
)
def test_a_second_encoder_that_does_not_go_with_the_first_is_refused(
    tiny_xl: StableDiffusionXLPipeline, change: Callable[[Any], None], message: str
) -> None:
    change(tiny_xl)
    with pytest.raises(ConfigError, match=message):
        DiffusionComponents.from_pipeline(tiny_xl, second_encoder=True)


def edit_of(components: DiffusionComponents) -> RightFactorEdit:
    """The closed form that hears a dog as a cat, at every position of the padded prompt."""
    source, target = states_of(components, [CONCEPT, ANCHOR], padded=True)
    prior = PriorStatistics.of(torch.cat(states_of(components, RETAINED, padded=True)))
    factor = solve(MappingStatistics.of(source, target), prior, Penalties(prior_weight=0.01))
    targets = tuple(projection.key for projection in text_projections(components.unet))
    return RightFactorEdit(factor=factor.dense.to(torch.float32), targets=targets)


def artifact_of(pipe: StableDiffusionXLPipeline, edit: RightFactorEdit, prompts: Sequence[str]) -> Artifact:
    return build_artifact(
        pipe,
        {"unet": edit},
        method="uce",
        method_version="1",
        settings={},
        concepts=resolve_concepts(["dog"]),
        base=BaseModelRef(id="tiny-xl"),
        seed=0,
        steps=0,
        canary_prompts=prompts,
    )


@pytest.fixture
def artifact(tiny_xl: StableDiffusionXLPipeline, both: DiffusionComponents) -> Artifact:
    return artifact_of(tiny_xl, edit_of(both), [CONCEPT, "a big dog"])


def drawn(pipe: StableDiffusionXLPipeline, prompt: str) -> Tensor:
    """A picture `(1, 3, 16, 16)` in [0, 1]."""
    generator = torch.Generator().manual_seed(0)
    pictures = pipe(prompt, generator=generator, output_type="pt", num_inference_steps=2).images
    assert isinstance(pictures, Tensor)
    return pictures


def noise(pipe: StableDiffusionXLPipeline, states: Tensor, pooled: Tensor) -> Tensor:
    """What the UNet says about one noisy latent, `(1, 4, 8, 8)`."""
    latents = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    told = {"text_embeds": pooled[None], "time_ids": torch.tensor([[16.0, 16, 0, 0, 16, 16]])}
    with evaluating(pipe.unet):
        found: Tensor = pipe.unet(
            latents, 500, encoder_hidden_states=states[None], added_cond_kwargs=told
        ).sample
    return found


def test_a_closed_form_edit_goes_on_works_and_comes_off(
    tiny_xl: StableDiffusionXLPipeline, artifact: Artifact, tmp_path: Path
) -> None:
    base, before = tiny_xl.unet, {name: value.clone() for name, value in tiny_xl.unet.state_dict().items()}
    (states, pooled), (anchor, _) = of_the_pipeline(tiny_xl, CONCEPT), of_the_pipeline(tiny_xl, ANCHOR)
    was, picture = noise(tiny_xl, states, pooled), drawn(tiny_xl, CONCEPT)
    wanted = noise(tiny_xl, anchor, pooled)

    save_artifact(artifact, tmp_path / "erased")
    name = load_erasure(tiny_xl, tmp_path / "erased")
    report = verify_erasure(tiny_xl)
    assert report.state is ErasureState.VERIFIED, report.message
    heard = noise(tiny_xl, states, pooled)
    assert (heard - wanted).norm() < 0.2 * (was - wanted).norm()
    assert (drawn(tiny_xl, CONCEPT) - picture).abs().max() > 1e-3
    assert torch.equal(of_the_pipeline(tiny_xl, CONCEPT)[1], pooled)
    assert torch.equal(of_the_pipeline(tiny_xl, CONCEPT)[0], states)

    unload_erasure(tiny_xl, name)
    assert tiny_xl.unet is base
    assert all(torch.equal(value, before[key]) for key, value in tiny_xl.unet.state_dict().items())
    assert torch.equal(drawn(tiny_xl, CONCEPT), picture)
    assert verify_erasure(tiny_xl, artifact).state is ErasureState.ABSENT


def test_the_canary_asks_what_the_pipeline_would_say(
    tiny_xl: StableDiffusionXLPipeline, artifact: Artifact
) -> None:
    asked = artifact.asked("unet")["states"]
    for row, prompt in zip(asked, artifact.manifest.canary.prompts, strict=True):
        length = len(prompt.replace(" ", "")) + 2
        torch.testing.assert_close(
            row[:length], of_the_pipeline(tiny_xl, prompt)[0][:length], rtol=0, atol=1e-6
        )
    answers = artifact.canary["unet.base"]
    assert artifact.span("unet") > 0.01 * answers.norm()


def test_a_canary_asks_random_states_where_the_encoders_do_not_go_together(
    tiny_xl: StableDiffusionXLPipeline, both: DiffusionComponents
) -> None:
    tiny_xl.tokenizer_2 = tokenizer("!", length=TOKENS // 2)
    made = artifact_of(tiny_xl, edit_of(both), ["a long prompt"])
    assert made.asked("unet")["states"].shape == (1, 8, sum(WIDTHS))
    assert made.span("unet") > 0
