"""Adaptive first: a robustness figure without an attack against the edited place is marked as such."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import StableDiffusionPipeline
from pydantic import ValidationError
from rich.console import Console

from diffusers_erasure.artifacts import DeltaEdit
from diffusers_erasure.artifacts.artifact import Artifact
from diffusers_erasure.attacks import Access, AttackConfig, AttackSpec, Place, attack_named
from diffusers_erasure.attacks.random_tokens import RandomTokensConfig
from diffusers_erasure.attacks.unlearndiffatk import UnlearnDiffAtkConfig
from diffusers_erasure.evaluation import asking
from diffusers_erasure.evaluation.adaptive import Adaptivity
from diffusers_erasure.evaluation.attack_report import AttackSection, summary
from diffusers_erasure.evaluation.attack_settings import AttackSettings
from diffusers_erasure.evaluation.edited_places import adaptivity, edited_places
from diffusers_erasure.evaluation.generate import Sampling
from diffusers_erasure.evaluation.runner import Evaluation, EvaluationSettings, evaluate_artifact
from diffusers_erasure.evaluation.tables import report_table
from tests.constant_judge import constant_panel

WHITE_BOX = ("concept_inversion", "p4d", "soft_prompt", "unlearndiffatk")
TINY = {
    "random_tokens": RandomTokensConfig(images=2),
    "unlearndiffatk": UnlearnDiffAtkConfig(timesteps=1, iterations=1, tokens=1),
}


def spec(name: str, *places: Place) -> AttackSpec:
    """An attack, of another package perhaps, that says where it goes through."""
    search: Any = lambda *_, **__: iter(())  # noqa: E731
    return AttackSpec(
        name, AttackConfig, search, Access.WHITE_BOX, False, "1", "", "elsewhere", frozenset(places)
    )


@pytest.fixture
def edit(tiny_pipe: StableDiffusionPipeline, artifact_of: Callable[..., Artifact]) -> Callable[..., Artifact]:
    """Builder of artifacts: `edit("unet", "attn2.to_v", "conv_in")` changes weights with such names."""

    def build(**parts: tuple[str, ...]) -> Artifact:
        edits = {
            component: DeltaEdit(
                {
                    name: torch.full_like(weight, 0.1)
                    for name, weight in getattr(tiny_pipe, component).state_dict().items()
                    if any(wanted in name for wanted in chosen)
                }
            )
            for component, chosen in parts.items()
        }
        return artifact_of(edits)

    return build


@pytest.mark.parametrize(
    ("parts", "places"),
    [
        ({"unet": ("attn2.to_v",)}, [Place.CROSS_ATTENTION]),
        ({"unet": ("attn2.to_k", "attn2.to_v", "attn2.to_q", "attn2.to_out")}, [Place.CROSS_ATTENTION]),
        ({"unet": ("attn1.to_k",)}, [Place.UNET]),
        ({"unet": ("attn2.to_v", "conv_out")}, [Place.CROSS_ATTENTION, Place.UNET]),
        ({"text_encoder": ("layers.0.mlp",)}, [Place.TEXT_ENCODER]),
        (
            {"text_encoder": ("layers.0.mlp",), "unet": ("attn2.to_v",)},
            [Place.TEXT_ENCODER, Place.CROSS_ATTENTION],
        ),
    ],
)
def test_the_edited_places_are_read_from_the_weights(
    parts: dict[str, tuple[str, ...]], places: list[Place], edit: Callable[..., Artifact]
) -> None:
    assert list(edited_places(edit(**parts))) == places


def test_one_place_that_nobody_attacks_is_enough(edit: Callable[..., Artifact]) -> None:
    artifact = edit(text_encoder=("layers.0.mlp",), unet=("attn2.to_v",))
    keys = spec("keys", Place.CROSS_ATTENTION)
    found = adaptivity(artifact, [keys, attack_named("random_tokens")])
    assert found.missing == ("text encoder",)
    assert found.candidates == WHITE_BOX
    assert found.flag.startswith("robustness claim not adaptive: the erasure edits the text encoder, and no")
    whole = adaptivity(artifact, [keys, spec("words", Place.TEXT_ENCODER)])
    assert (whole.adaptive, whole.flag, whole.candidates) == (True, "", ())


@pytest.mark.parametrize("name", ["no_attack", "random_tokens", "seed_search", "replay", "ring_a_bell"])
def test_what_never_looks_at_the_erased_weights_is_not_adaptive(name: str, tiny_artifact: Artifact) -> None:
    assert not adaptivity(tiny_artifact, [attack_named(name)]).adaptive


@pytest.mark.parametrize("name", WHITE_BOX)
def test_what_searches_through_the_erased_model_is_adaptive(name: str, tiny_artifact: Artifact) -> None:
    assert adaptivity(tiny_artifact, [attack_named(name)]).adaptive


@pytest.fixture
def attacked(
    tiny_artifact: Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., Evaluation]:
    """Builder of evaluations with some attacks: `attacked("random_tokens")`."""
    monkeypatch.setattr(asking, "load_panel", lambda *_, **__: constant_panel("church"))

    def run(*names: str, n: int = 2) -> Evaluation:
        attacks = AttackSettings(attacks=names, configs=TINY, factors=(1,))
        settings = EvaluationSettings(n=n, sampling=Sampling(2, 4.0), batch_size=4, attacks=attacks)
        return evaluate_artifact(tiny_artifact, output_dir=tmp_path / "-".join(names), settings=settings)

    return run


def printed(found: Evaluation) -> str:
    console = Console(width=200, record=True, force_terminal=False)
    with console.capture() as capture:
        console.print(report_table(found.report))
    return " ".join(capture.get().split())


def flags(section: AttackSection) -> Sequence[str]:
    return [flag for flag in section.flags if "not adaptive" in flag]


def test_a_headline_without_an_adaptive_attack_is_marked(attacked: Callable[..., Evaluation]) -> None:
    """The fault of the field: luck alone, and its rate printed as robustness."""
    found = attacked("random_tokens")
    section = found.report.attacks
    assert not isinstance(section, str)
    assert not section.is_adaptive
    assert section.adaptive == Adaptivity(
        edited=("cross-attention",), through={"random_tokens": ()}, candidates=WHITE_BOX
    )
    assert flags(section) == [
        "robustness claim not adaptive: the erasure edits the cross-attention, and no attack that was run "
        "goes through there; run one of concept_inversion, p4d, soft_prompt, unlearndiffatk"
    ]
    assert section.headline.endswith("(not adaptive)")
    assert summary(section)["worst case"] == section.headline
    said = printed(found)
    assert f"worst case over all attacks: {section.headline}" in said
    assert "flag: robustness claim not adaptive: the erasure edits the cross-attention" in said


def test_a_headline_with_an_adaptive_attack_is_not(attacked: Callable[..., Evaluation]) -> None:
    found = attacked("random_tokens", "unlearndiffatk")
    section = found.report.attacks
    assert not isinstance(section, str)
    assert section.is_adaptive
    assert flags(section) == []
    assert "not adaptive" not in printed(found)


def test_the_mark_cannot_be_taken_off(attacked: Callable[..., Evaluation]) -> None:
    section = attacked("random_tokens").report.attacks
    assert not isinstance(section, str)
    values = json.loads(section.model_dump_json())
    assert AttackSection.model_validate_json(json.dumps(values)) == section
    kept = [flag for flag in values["flags"] if "not adaptive" not in flag]
    pretended = {"edited": ["cross-attention"], "through": {"p4d": ["cross-attention"]}, "candidates": []}
    unneeded = {**values["adaptive"], "through": {"random_tokens": ["cross-attention"]}}
    for fault in ({"flags": kept}, {"adaptive": pretended}, {"adaptive": unneeded}):
        with pytest.raises(ValidationError, match="do not edit a report by hand"):
            AttackSection.model_validate_json(json.dumps({**values, **fault}))


def test_a_section_that_does_not_know_is_not_called_adaptive(attacked: Callable[..., Evaluation]) -> None:
    section = attacked("unlearndiffatk").report.attacks
    assert not isinstance(section, str)
    unknown = section.model_copy(update={"adaptive": "not measured"})
    assert not unknown.is_adaptive
    assert unknown.headline.endswith("(not adaptive)")


def test_an_attack_of_another_package_counts_by_what_it_says(tiny_artifact: Artifact) -> None:
    own = spec("own", Place.CROSS_ATTENTION)
    assert adaptivity(tiny_artifact, [own]).adaptive
    assert not adaptivity(tiny_artifact, [replace(own, through=frozenset())]).adaptive
