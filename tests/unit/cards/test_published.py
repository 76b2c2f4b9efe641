"""Cards that are kept under version control: they are what the command renders today."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest
from huggingface_hub import ModelCard

from diffusers_erasure.cards.published import FACTS_NAME, read_facts, render_hub_cards, render_published_cards
from diffusers_erasure.errors import ConfigError
from tests.unit.cards.test_render import FORBIDDEN, own_words

NAMES = {"nudity", "vangogh", "church", "garbage-truck", "parachute", "tench"}


@pytest.fixture
def hub_cards(repository: Path) -> Path:
    """The folder of the project."""
    return repository / "hub_cards"


def test_the_kept_cards_are_what_is_rendered(hub_cards: Path) -> None:
    """To renew them: `diffusers-erasure card --hub_cards hub_cards`."""
    from diffusers_erasure.cli.card import shipped_artifacts

    cards = render_hub_cards(hub_cards, shipped_artifacts())
    kept = {path for path in hub_cards.rglob("*.md") if path.parent != hub_cards}
    assert set(cards) == kept
    for path, text in cards.items():
        assert path.read_text(encoding="utf-8") == text, f"{path} is not what is rendered; renew it"


def test_reported_figures_are_the_paper_s_and_never_ours(hub_cards: Path) -> None:
    facts = read_facts(hub_cards / "advunlearn" / FACTS_NAME)
    cards = render_published_cards(facts)
    assert set(cards) == NAMES
    for encoder in facts.encoders:
        card = cards[encoder.name]
        data = ModelCard(card).data
        assert data.eval_results is None
        assert (data.license, data.base_model) == ("cc-by-4.0", "CompVis/stable-diffusion-v1-4")
        assert (data.library_name, data.base_model_relation) == ("diffusers", "finetune")
        assert "Verdict: **not measured**" in card
        section = card.split("## What the paper reports")[1].split("## Limits")[0]
        rows = [line for line in section.splitlines() if line.startswith("|")][2:]
        assert len(rows) == len(encoder.reported)
        for line, figure in zip(rows, encoder.reported, strict=True):
            assert f"| {figure.value:g} |" in line
            assert line.endswith("| not measured |")
            assert figure.source
            assert figure.conditions
        measured = card.split("## Evaluation")[1].split("## What the paper reports")[0]
        assert not re.search(r"\d %|\d+/\d+ =", measured)
        assert not FORBIDDEN.findall(own_words(card))


def test_artifacts_that_ship_get_cards_without_new_code(
    folder: Path, tmp_path: Path, hub_cards: Path
) -> None:
    shutil.copytree(hub_cards, tmp_path / "cards")
    shutil.copytree(folder, tmp_path / "artifacts" / "church-uce")
    cards = render_hub_cards(tmp_path / "cards", tmp_path / "artifacts")
    assert "church, erased with UCE" in cards[tmp_path / "cards" / "embedded" / "church-uce.md"]


def test_a_folder_without_anything_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no facts.json below"):
        render_hub_cards(tmp_path)


@pytest.mark.parametrize("change", [{"unknown": 1}, {"encoders": []}, {"repo_id": None}])
def test_facts_are_checked(change: dict[str, object], hub_cards: Path, tmp_path: Path) -> None:
    content = json.loads((hub_cards / "advunlearn" / FACTS_NAME).read_text())
    path = tmp_path / FACTS_NAME
    path.write_text(json.dumps({**content, **change}))
    with pytest.raises(ConfigError, match="holds no facts"):
        read_facts(path)
