"""Every snippet of a card runs as it stands, and all ways draw the same erased picture."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from diffusers_erasure.artifacts.artifact import Artifact
from diffusers_erasure.artifacts.edits import DeltaEdit
from diffusers_erasure.artifacts.store import save_artifact
from diffusers_erasure.cards import render_card
from diffusers_erasure.cards.published import read_facts, render_published_cards
from tests.unit.encoders.published import publish

REPO = "someone/church"
FENCE = re.compile(r"^```python\n(.*?)^```$", flags=re.MULTILINE | re.DOTALL)


def snippets(card: str, places: dict[str, Path]) -> Iterator[str]:
    """Python of a card, in its order, with folders in place of repositories."""
    for found in FENCE.findall(card):
        text = found
        for name, folder in places.items():
            text = text.replace(f'"{name}"', repr(str(folder)))
        assert '"someone/' not in text
        yield text


def pictures(card: str, places: dict[str, Path], draw: Callable[..., torch.Tensor]) -> list[torch.Tensor]:
    """Run all snippets one after another; what each pipeline draws from one seed."""
    found, encoders = [], []
    for text in snippets(card, places):
        names: dict[str, Any] = {}
        exec(compile(text, "card", "exec"), names)
        if "image" in names:
            assert names["image"].size[0] > 1
            names["pipe"].set_progress_bar_config(disable=True)
            found.append(draw(names["pipe"], "church"))
        else:
            encoders.append(names["encoder"])
    assert all(isinstance(encoder, torch.nn.Module) for encoder in encoders)
    return found


def same(drawn: list[torch.Tensor], base: torch.Tensor) -> bool:
    """Whether all ways draw one picture, and another than the base's."""
    first, *others = drawn
    return all(torch.equal(first, other) for other in others) and not torch.equal(first, base)


@pytest.fixture
def base_picture(tiny_pipe: Any, draw: Callable[..., torch.Tensor]) -> torch.Tensor:
    """What the un-erased pipeline draws."""
    return draw(tiny_pipe, "church")


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")


def test_an_edit_of_the_unet(
    folder: Path, tiny_pipe_folder: Path, draw: Callable[..., torch.Tensor], base_picture: torch.Tensor
) -> None:
    card = render_card(folder, repo_id=REPO)
    assert "There is nothing to load this way" in card
    drawn = pictures(card, {REPO: folder, "path/to/the/base-model": tiny_pipe_folder}, draw)
    assert len(drawn) == 3
    assert same(drawn, base_picture)


def test_an_edit_of_the_text_encoder(
    tiny_pipe: Any,
    tiny_pipe_folder: Path,
    artifact_of: Callable[..., Artifact],
    tmp_path: Path,
    draw: Callable[..., torch.Tensor],
    base_picture: torch.Tensor,
) -> None:
    edits = {
        key: torch.full_like(value, 0.1)
        for key, value in tiny_pipe.text_encoder.state_dict().items()
        if "fc1.weight" in key
    }
    saved = save_artifact(artifact_of({"text_encoder": DeltaEdit(edits)}), tmp_path / "encoder-edit")
    card = render_card(saved, repo_id=REPO)
    assert "CLIPTextModel.from_pretrained" in card
    drawn = pictures(card, {REPO: saved, "path/to/the/base-model": tiny_pipe_folder}, draw)
    assert len(drawn) == 3
    assert same(drawn, base_picture)


def test_a_whole_encoder(
    tiny_pipe: Any,
    tiny_pipe_folder: Path,
    tmp_path: Path,
    draw: Callable[..., torch.Tensor],
    base_picture: torch.Tensor,
) -> None:
    from diffusers_erasure import RobustEncoder

    with torch.no_grad():
        for weight in tiny_pipe.text_encoder.parameters():
            weight.mul_(1.1)
    erasure = {"method": "advunlearn", "concepts": ("church",), "base_model": "org/base"}
    robust = RobustEncoder.from_encoder(tiny_pipe.text_encoder, erasure=erasure)
    robust.save_pretrained(tmp_path / "encoder")
    card = render_card(tmp_path / "encoder", repo_id=REPO)
    assert "of what was trained" not in card
    drawn = pictures(card, {REPO: tmp_path / "encoder", "org/base": tiny_pipe_folder}, draw)
    assert len(drawn) == 2
    assert same(drawn, base_picture)


def test_a_whole_pipeline(
    folder: Path, tmp_path: Path, draw: Callable[..., torch.Tensor], base_picture: torch.Tensor
) -> None:
    from diffusers_erasure import ErasedStableDiffusionPipeline

    ErasedStableDiffusionPipeline.from_pretrained(folder).save_pretrained(tmp_path / "pipeline")
    card = render_card(tmp_path / "pipeline", repo_id=REPO)
    drawn = pictures(card, {REPO: tmp_path / "pipeline"}, draw)
    assert len(drawn) == 2
    assert same(drawn, base_picture)


@pytest.mark.filterwarnings("ignore:.*was loaded unverified")
def test_a_published_encoder(
    tiny_pipe: Any,
    tiny_pipe_folder: Path,
    repository: Path,
    tmp_path: Path,
    draw: Callable[..., torch.Tensor],
    base_picture: torch.Tensor,
) -> None:
    facts = read_facts(repository / "hub_cards" / "advunlearn" / "facts.json")
    publish(tiny_pipe.text_encoder, tmp_path / "repo" / "church_unlearned")
    card = render_published_cards(facts)["church"]
    drawn = pictures(card, {facts.repo_id: tmp_path / "repo", facts.base: tiny_pipe_folder}, draw)
    assert len(drawn) == 2
    assert same(drawn, base_picture)


def test_an_xl_pipeline_is_opened_by_its_own_class(
    tmp_path: Path, tiny_xl: Any, tiny_xl_folder: Path
) -> None:
    from diffusers_erasure.artifacts import BaseModelRef, build_artifact
    from diffusers_erasure.concepts import resolve_concepts

    edits = {k: torch.full_like(v, 0.1) for k, v in tiny_xl.unet.state_dict().items() if "attn2.to_v" in k}
    artifact = build_artifact(
        tiny_xl,
        {"unet": DeltaEdit(edits)},
        method="uce",
        method_version="1",
        settings={},
        concepts=resolve_concepts(["church"]),
        base=BaseModelRef(id=str(tiny_xl_folder)),
        seed=0,
        steps=0,
        canary_prompts=["a church"],
    )
    card = render_card(save_artifact(artifact, tmp_path / "xl"), repo_id=REPO)
    assert "ErasedStableDiffusionXLPipeline.from_pretrained" in card
    assert "- stable-diffusion-xl\n" in card


def test_a_whole_pipeline_of_a_variant(
    folder: Path, tmp_path: Path, draw: Callable[..., torch.Tensor], base_picture: torch.Tensor
) -> None:
    from diffusers_erasure import ErasedStableDiffusionPipeline

    ErasedStableDiffusionPipeline.from_pretrained(folder).save_pretrained(tmp_path / "it", variant="fp16")
    card = render_card(tmp_path / "it", repo_id=REPO)
    assert card.count('variant="fp16"') == 2
    assert same(pictures(card, {REPO: tmp_path / "it"}, draw), base_picture)


def test_a_card_does_not_depend_on_what_lies_here(folder: Path) -> None:
    card = render_card(folder, repo_id=REPO)
    Path(REPO).mkdir(parents=True)
    assert render_card(folder, repo_id=REPO) == card


def test_an_encoder_of_half_strength_says_so(
    tiny_pipe: Any, artifact_of: Callable[..., Artifact], tmp_path: Path
) -> None:
    from diffusers_erasure import RobustEncoder, load_erasure, set_erasure_scale

    edits = {
        key: torch.full_like(value, 0.1)
        for key, value in tiny_pipe.text_encoder.state_dict().items()
        if "fc1.weight" in key
    }
    erasure = {"method": "esd", "concepts": ("dog",), "base_model": "org/base"}
    tiny_pipe.text_encoder = RobustEncoder.from_encoder(tiny_pipe.text_encoder, erasure=erasure)
    load_erasure(tiny_pipe, artifact_of({"text_encoder": DeltaEdit(edits)}), name="church")
    set_erasure_scale(tiny_pipe, "church", 0.5)
    tiny_pipe.text_encoder.save_pretrained(tmp_path / "encoder")
    assert "| strength | 0.5 of what was trained |" in render_card(tmp_path / "encoder", repo_id=REPO)
