"""Settings: one definition for JSON, the command line and the artifact's record."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

from diffusers_erasure.errors import ConfigError
from diffusers_erasure.training import TrainingConfig, methods
from diffusers_erasure.training.advunlearn_settings import AdvUnlearnConfig
from diffusers_erasure.training.uce import UCEConfig


@pytest.mark.parametrize("config", [spec.config for spec in methods().values()])
def test_every_setting_says_what_it_means(config: type[TrainingConfig]) -> None:
    for name, field in config.model_fields.items():
        assert field.description, name


@pytest.mark.parametrize(
    "name",
    ["pretrained_model_name_or_path", "revision", "output_dir", "seed", "cache_dir"],
)
def test_flags_are_named_as_in_diffusers(name: str) -> None:
    assert name in TrainingConfig.model_fields


def test_unknown_keys_list_the_known_ones() -> None:
    with pytest.raises(
        ConfigError, match=r"no setting 'preserve'; known settings are anchor, .*'preserve_scale'"
    ):
        UCEConfig.parse({"concept": ["dog"], "preserve": 1.0})


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({}, "concept: Field required"),
        ({"concept": []}, "at least 1 item"),
        ({"concept": ["dog"], "ridge": -1.0}, r"ridge: .* greater than or equal to 0, found -1.0"),
        ({"concept": ["dog"], "ridge": float("nan")}, "ridge: .* finite"),
        ({"concept": ["dog"], "token_positions": "eos"}, "token_positions: .*'eot'"),
        ({"concept": ["dog"], "seed": "x", "batch_size": 0}, r"seed: .*; batch_size: "),
    ],
)
def test_every_fault_is_named_with_its_value(values: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        UCEConfig.parse(values)


def test_settings_are_frozen() -> None:
    config = UCEConfig(concept=("dog",))
    with pytest.raises(ValidationError, match="frozen"):
        config.ridge = 1.0  # type: ignore[misc]


def test_settings_survive_json() -> None:
    config = UCEConfig(concept=("dog", "ink"), ridge=0.5, output_dir=Path("x"))
    assert UCEConfig.model_validate_json(config.model_dump_json()) == config


def test_the_record_holds_what_shapes_the_result_and_nothing_private() -> None:
    records = UCEConfig(concept=("dog",), output_dir=Path("secret"), cache_dir=Path("secret")).records()
    assert records["token_positions"].value == "eot+padding"
    assert "in the paper" in records["preserve_scale"].meaning
    assert all(record.meaning for record in records.values())
    assert not {"output_dir", "cache_dir", "overwrite", "batch_size"} & set(records)
    assert "secret" not in str(records)


def test_concepts_take_anchors_and_kind_from_the_settings() -> None:
    config = UCEConfig(concept=("dog", "Monet"), anchor=("tree", "art"), concept_kind="style")  # type: ignore[arg-type]
    assert [(c.name, c.anchor, str(c.kind)) for c in config.concepts] == [
        ("dog", "tree", "object"),
        ("Monet", "art", "style"),
    ]


def test_a_bank_for_latents_that_are_kept_nowhere_is_refused(tmp_path: Path) -> None:
    place = {"concept": ("church",), "retain_bank": str(tmp_path / "bank")}
    with pytest.raises(ConfigError, match="latents come from student; expected no folder"):
        AdvUnlearnConfig.parse({**place, "train_method": "esd-x"})
    assert AdvUnlearnConfig.parse({**place, "train_method": "esd-x", "latents_from": "pool"}).retain_bank
