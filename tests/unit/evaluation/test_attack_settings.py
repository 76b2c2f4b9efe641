"""Settings of an evaluation with attacks: names and budgets."""

from __future__ import annotations

import pytest

from diffusers_erasure.attacks import attacks
from diffusers_erasure.errors import ConfigError
from diffusers_erasure.evaluation.attack_settings import (
    QUICK_SETTINGS,
    AttackSettings,
    parse_attacks,
    preset_config,
)


def test_unknown_attacks_and_budgets_are_explained() -> None:
    assert parse_attacks("random-tokens, seed_search,random_tokens") == ("random_tokens", "seed_search")
    with pytest.raises(ConfigError, match="did you mean 'random_tokens'"):
        parse_attacks("random-token")
    with pytest.raises(ConfigError, match="known budgets are"):
        AttackSettings(("random_tokens",), budget="huge").planned()
    with pytest.raises(ConfigError, match="no attack was named"):
        AttackSettings(("no_attack",)).planned()


def test_every_attack_has_a_quick_budget() -> None:
    for name, one in attacks().items():
        quick, full = preset_config(one, "quick"), preset_config(one, "published")
        assert quick.judged_images * quick.work <= full.judged_images * full.work, name
    assert set(QUICK_SETTINGS) <= set(attacks())


def test_a_replay_without_prompts_is_refused() -> None:
    """It would draw the plain prompts, and stand in a report as an attack with budget enough."""
    with pytest.raises(ConfigError, match="replay was asked for without prompts"):
        AttackSettings(attacks=("replay",)).planned()
