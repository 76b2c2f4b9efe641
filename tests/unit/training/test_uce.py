"""UCE on the tiny pipeline: the plumbing from prompts to weights, for every token policy."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import get_args

import pytest
import torch
from diffusers import StableDiffusionPipeline
from torch import Tensor

from diffusers_erasure.artifacts.artifact import Artifact
from diffusers_erasure.artifacts.edits import RightFactorEdit, apply_edit
from diffusers_erasure.artifacts.manifest import BaseModelRef
from diffusers_erasure.diffusion import DiffusionComponents, text_projections
from diffusers_erasure.errors import ConfigError
from diffusers_erasure.prompts import PromptPair
from diffusers_erasure.training import Progress
from diffusers_erasure.training.closed_form import MappingStatistics, PriorStatistics, solve
from diffusers_erasure.training.text_states import StateRows, align_pairs, prior_statistics, state_rows
from diffusers_erasure.training.token_positions import TokenPositions
from diffusers_erasure.training.uce import UCEConfig, train_uce

BASE = BaseModelRef(id="tiny")
POLICIES: tuple[TokenPositions, ...] = get_args(TokenPositions)
Draw = Callable[..., Tensor]


def config(**values: object) -> UCEConfig:
    """Few, short prompts: the tiny pipeline reads 24 characters."""
    defaults: dict[str, object] = {
        "concept": ["dog"],
        "use_synonyms": False,
        "num_templates": 3,
        "retain_prompts": "none",
        "retain": ["", "a cat", "owl", "two cars", "red tree", "a bowl of rice"],
    }
    return UCEConfig.parse(defaults | values)


def quiet(done: int) -> None:
    """Watch no progress."""


def edit_of(artifact: Artifact) -> RightFactorEdit:
    edit = artifact.edits["unet"]
    assert isinstance(edit, RightFactorEdit)
    return edit


def rows(
    components: DiffusionComponents, pairs: Sequence[PromptPair], policy: TokenPositions, batch: int = 64
) -> StateRows:
    aligned = align_pairs(components, pairs, policy)
    (found,) = state_rows(components, aligned, policy, batch_size=batch, progress=quiet)
    return found


@pytest.mark.parametrize("policy", POLICIES)
def test_every_policy_gives_the_closed_form_for_all_layers(
    tiny_pipe: StableDiffusionPipeline, policy: TokenPositions
) -> None:
    settings = config(token_positions=policy)
    edit = edit_of(train_uce(tiny_pipe, settings, base=BASE))
    components = DiffusionComponents.from_pipeline(tiny_pipe)
    pairs = [
        PromptPair(f"{frame}dog", f"{frame}cat", "dog", "cat")
        for frame in ("a ", "a picture of a ", "a drawing of a ")
    ]
    states = rows(components, pairs, policy)
    prior = prior_statistics(
        components,
        settings.retain,
        padded=policy in ("eot+padding", "all"),
        batch_size=8,
        progress=quiet,
    )
    mapping = MappingStatistics.of(states.source, states.target, states.weight)
    expected = solve(mapping, prior, settings.penalties).dense
    assert (edit.matrix - expected).abs().max() < 1e-5 * expected.abs().max()
    assert set(edit.targets) == {projection.key for projection in text_projections(tiny_pipe.unet)}


def test_the_base_pipeline_stays_as_it_was(tiny_pipe: StableDiffusionPipeline) -> None:
    before = {name: weight.clone() for name, weight in tiny_pipe.unet.state_dict().items()}
    tiny_pipe.text_encoder.train()
    train_uce(tiny_pipe, config(), base=BASE)
    assert tiny_pipe.text_encoder.training
    assert all(torch.equal(weight, before[name]) for name, weight in tiny_pipe.unet.state_dict().items())


def test_editing_weights_equals_mapping_the_encoders_states(
    tiny_pipe: StableDiffusionPipeline, draw: Draw
) -> None:
    """W (I + X) e = W (e + X e): what the UNet hears may as well be said by the encoder."""
    edit = edit_of(train_uce(tiny_pipe, config(), base=BASE))
    untouched = draw(tiny_pipe, "a dog")
    matrix = edit.matrix.float()
    hook = tiny_pipe.text_encoder.register_forward_hook(_map_states(matrix))
    mapped = draw(tiny_pipe, "a dog")
    hook.remove()
    with torch.no_grad():
        for projection in text_projections(tiny_pipe.unet):
            projection.weight.copy_(apply_edit(projection.weight, [(edit, 1.0)], name=projection.key))
    edited = draw(tiny_pipe, "a dog")
    assert (edited - untouched).abs().max() > 1e-2
    assert (edited - mapped).abs().max() < 1e-4


def _map_states(matrix: Tensor) -> Callable[..., object]:
    def hook(module: torch.nn.Module, arguments: object, output: dict[str, Tensor]) -> object:
        del module, arguments
        output["last_hidden_state"] = output["last_hidden_state"] @ (torch.eye(len(matrix)) + matrix).T
        return output

    return hook


def test_few_rows_are_stored_as_two_thin_matrices(
    make_tiny_pipe: Callable[..., StableDiffusionPipeline],
) -> None:
    pipe = make_tiny_pipe(width=16)
    thin = edit_of(train_uce(pipe, config(token_positions="eot", ridge=1e-3), base=BASE))
    assert {name: tuple(tensor.shape) for name, tensor in thin.tensors.items()} == {
        "left": (16, 3),
        "right": (3, 16),
    }
    components = DiffusionComponents.from_pipeline(pipe)
    settings = config(token_positions="eot", ridge=1e-3)
    states = rows(components, _pairs(("a ", "a picture of a ", "a drawing of a ")), "eot")
    prior = prior_statistics(components, settings.retain, padded=False, batch_size=8, progress=quiet)
    dense = solve(MappingStatistics.of(states.source, states.target), prior, settings.penalties).dense
    assert (thin.matrix - dense).abs().max() < 1e-5 * dense.abs().max()


def _pairs(frames: Sequence[str]) -> list[PromptPair]:
    return [PromptPair(f"{frame}dog", f"{frame}cat", "dog", "cat") for frame in frames]


@pytest.mark.parametrize("batch", [1, 2, 64])
def test_batches_do_not_change_the_statistics(tiny_pipe: StableDiffusionPipeline, batch: int) -> None:
    components = DiffusionComponents.from_pipeline(tiny_pipe)
    prompts = ["", "a", "a longer prompt", "owl", "two words"]
    reference = prior_statistics(components, prompts, padded=False, batch_size=5, progress=quiet)
    found = prior_statistics(
        components, [*prompts[::-1], "owl"], padded=False, batch_size=batch, progress=quiet
    )
    assert found.count == reference.count
    assert (found.gram - reference.gram).abs().max() < 1e-4
    pairs = _pairs(("a ", "my "))
    assert (
        rows(components, pairs, "eot", batch).source - rows(components, pairs, "eot").source
    ).abs().max() < 1e-5


def test_the_same_tokens_twice_are_one_pair_with_weight_two(tiny_pipe: StableDiffusionPipeline) -> None:
    components = DiffusionComponents.from_pipeline(tiny_pipe)
    pairs = [PromptPair("a dog", "a cat", "dog", "cat"), PromptPair("A  Dog", "a cat", "dog", "cat")]
    (pair,) = align_pairs(components, pairs, "eot")
    assert pair.weight == 2


def test_concepts_of_several_tokens_and_themes(tiny_pipe: StableDiffusionPipeline) -> None:
    artifact = train_uce(
        tiny_pipe,
        config(concept=["van gogh", "key"], anchor=["art", ""], token_positions="concept-tokens"),
        base=BASE,
    )
    assert [concept.name for concept in artifact.manifest.concepts] == ["van gogh", "key"]
    assert artifact.manifest.settings["token_positions"].value == "concept-tokens"
    assert artifact.manifest.steps == 0


def test_statistics_of_two_concepts_add_up(tiny_pipe: StableDiffusionPipeline) -> None:
    components = DiffusionComponents.from_pipeline(tiny_pipe)
    first, second = _pairs(("a ",)), [PromptPair("an owl", "a cat", "owl", "cat")]
    parts = [
        MappingStatistics.of(s.source, s.target)
        for s in (rows(components, p, "eot") for p in (first, second))
    ]
    both = rows(components, [*first, *second], "eot")
    prior = PriorStatistics.of(torch.randn(20, 8, generator=torch.Generator().manual_seed(0)))
    penalties = config().penalties
    together = solve(MappingStatistics.of(both.source, both.target), prior, penalties).dense
    added = solve(parts[0] + parts[1], prior, penalties).dense
    assert (added - together).abs().max() < 1e-9


def test_an_anchor_that_says_the_same_is_refused(tiny_pipe: StableDiffusionPipeline) -> None:
    with pytest.raises(ConfigError, match=r"mapping .*zebra.* changes nothing"):
        train_uce(tiny_pipe, config(concept=["zebra"], anchor=["zebra"]), base=BASE)


def test_wordings_that_are_too_long_are_left_out_loudly(
    tiny_pipe: StableDiffusionPipeline, caplog: pytest.LogCaptureFixture
) -> None:
    components = DiffusionComponents.from_pipeline(tiny_pipe)
    long = PromptPair("a very very long sentence about a dog", "a cat", "dog", "cat")
    with caplog.at_level(logging.WARNING):
        assert len(align_pairs(components, [long, *_pairs(("a ",))], "eot")) == 1
    assert "left out" in caplog.text
    with pytest.raises(ConfigError, match="has no token"):
        align_pairs(components, [long], "eot")


def test_progress_ends_with_the_numbers(tiny_pipe: StableDiffusionPipeline) -> None:
    seen: list[Progress] = []
    train_uce(tiny_pipe, config(), base=BASE, progress=seen.append)
    assert [event.phase for event in seen][-2:] == ["artifact", "artifact"]
    (numbers,) = [event.values for event in seen if event.values]
    assert numbers["pairs"] == 3
    assert 0 < numbers["missing change"] < 1
    assert all(event.done <= event.total for event in seen)


def test_a_general_retain_set_leaves_the_concept_out(tiny_pipe: StableDiffusionPipeline) -> None:
    seen: list[Progress] = []
    settings = config(retain_prompts="auto", retain=[], max_retain_prompts=5)
    train_uce(tiny_pipe, settings, base=BASE, progress=seen.append)
    assert max(event.total for event in seen if event.phase == "retain set") == 5
