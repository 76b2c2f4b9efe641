"""What stops a run is found before anything is computed for it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from diffusers import StableDiffusionPipeline

from diffusers_erasure.artifacts.manifest import BaseModelRef
from diffusers_erasure.claiming import CAN_LOCK, claimed
from diffusers_erasure.errors import ConfigError, MissingDependencyError, TrainingError
from diffusers_erasure.training import Progress, method
from diffusers_erasure.training.advunlearn import train_advunlearn
from diffusers_erasure.training.advunlearn_settings import AdvUnlearnConfig
from diffusers_erasure.training.aegis_settings import AEGISConfig
from diffusers_erasure.training.beginning import begun, check_begins
from diffusers_erasure.training.esd import train_esd
from diffusers_erasure.training.esd_settings import ESDConfig

from .toy import settings, train

BASE = BaseModelRef(id="tiny")


@pytest.mark.parametrize(
    ("values", "error", "message"),
    [
        ({}, TrainingError, r"holds checkpoints of an earlier run \(the last is checkpoint-12\)"),
        ({"resume_from_checkpoint": "checkpoint-77"}, TrainingError, "is no checkpoint"),
        (
            {"resume_from_checkpoint": "latest", "learning_rate": 0.5},
            TrainingError,
            "another run: learning_rate was 0.01, now 0.5",
        ),
        ({"overwrite": True, "report_to": ["wandb"]}, MissingDependencyError, "wandb"),
        ({"overwrite": True, "report_to": ["nothing"]}, ConfigError, "no tracker 'nothing'"),
        ({"output_dir": None, "resume_from_checkpoint": "latest"}, ConfigError, "no output_dir to look in"),
        ({"output_dir": None, "report_to": ["jsonl"]}, ConfigError, "there is no folder for it"),
    ],
)
def test_a_run_that_cannot_begin_is_refused(
    values: dict[str, Any], error: type[Exception], message: str, tmp_path: Path
) -> None:
    train(tmp_path / "run")
    with pytest.raises(error, match=message):
        check_begins(settings(tmp_path / "run", **values))


def test_one_that_can_is_let_through(tmp_path: Path) -> None:
    check_begins(settings(tmp_path / "run"))
    train(tmp_path / "run")
    check_begins(settings(tmp_path / "run", resume_from_checkpoint="latest"))
    check_begins(settings(tmp_path / "run", resume_from_checkpoint="checkpoint-12"))
    check_begins(settings(tmp_path / "run", overwrite=True))


def test_latents_are_not_made_for_nothing(tiny_pipe: StableDiffusionPipeline, tmp_path: Path) -> None:
    told: list[Progress] = []
    config = AdvUnlearnConfig.parse(
        {
            "concept": ["dog"],
            "pretrained_model_name_or_path": BASE.id,
            "output_dir": tmp_path / "run",
            "resume_from_checkpoint": "checkpoint-3",
        }
    )
    with pytest.raises(TrainingError, match="is no checkpoint"):
        train_advunlearn(tiny_pipe, config, base=BASE, progress=told.append)
    assert not told


@pytest.mark.skipif(not CAN_LOCK, reason="this system has no such locks")
def test_two_runs_do_not_share_a_folder(tiny_pipe: StableDiffusionPipeline, tmp_path: Path) -> None:
    train(tmp_path / "run")
    there = sorted(path.name for path in (tmp_path / "run-training").iterdir())
    told: list[Progress] = []
    message = rf"another run is going on in .* \(process {os.getpid()} "
    with claimed(tmp_path / "run-training") as held:
        assert held is not None
        for values in ({"overwrite": True}, {"resume_from_checkpoint": "latest"}):
            with pytest.raises(
                TrainingError, match=rf"another run is going on in .* \(process {os.getpid()} "
            ):
                train(tmp_path / "run", **values)
        place = {"output_dir": tmp_path / "run", "overwrite": True, "pretrained_model_name_or_path": BASE.id}
        config = ESDConfig.parse({"concept": ["dog"], **place})
        with pytest.raises(TrainingError, match=message):
            train_esd(tiny_pipe, config, base=BASE, progress=told.append)
        train(tmp_path / "other")
    assert not told
    assert sorted(path.name for path in (tmp_path / "run-training").iterdir()) == there
    train(tmp_path / "run", overwrite=True)


@pytest.mark.skipif(not CAN_LOCK, reason="this system has no such locks")
def test_a_run_holds_its_folder_from_before_its_latents_until_it_ends(tmp_path: Path) -> None:
    with begun(settings(tmp_path / "run")):
        train(tmp_path / "run")  # the loop inside a method's function
        with claimed(tmp_path / "run-training") as held:
            assert held is None
    with claimed(tmp_path / "run-training") as held:
        assert held is not None


def test_a_run_that_is_longer_already_is_refused(tmp_path: Path) -> None:
    train(tmp_path / "run", lr_scheduler="constant")
    with pytest.raises(TrainingError, match="has 12 steps behind it, and max_train_steps is 3"):
        train(tmp_path / "run", lr_scheduler="constant", max_train_steps=3, resume_from_checkpoint="latest")


def test_what_a_preset_sets_is_not_held_against_the_user() -> None:
    for preset in AEGISConfig.presets:
        for values in ({"retain_mode": "none"}, {"erasure_target": "concept", "adversarial": False}):
            AEGISConfig.parse({"concept": ["dog"], "preset": preset, **values})
    for preset in AdvUnlearnConfig.presets:
        for changed in ({"retain_mode": "none"}, {"attack_steps": 0}, {"retain_mode": "iter"}):
            AdvUnlearnConfig.parse({"concept": ["dog"], "preset": preset, **changed})


def test_a_strength_that_grows_with_the_steps_binds_their_number() -> None:
    values = {"concept": ["dog"], "lr_scheduler": "constant"}
    assert AEGISConfig.parse({**values, "omega_rule": "linear"}).depends_on_steps
    assert not AEGISConfig.parse(values).depends_on_steps


@pytest.mark.parametrize(
    ("kind", "values", "message"),
    [
        (ESDConfig, {"anchor": ["cat"]}, "anchor 'cat' cannot be used: .* say in scope"),
        (AdvUnlearnConfig, {"anchor": ["cat"]}, "anchor 'cat' cannot be used"),
        (AEGISConfig, {"anchor": ["cat"]}, "anchor 'cat' cannot be used"),
        (AEGISConfig, {"retain_mode": "penalty"}, "penalty with retain_weight 0 retains nothing"),
        (AEGISConfig, {"omega_rule": "fixed"}, "fixed with omega 0 rectifies nothing"),
        (AEGISConfig, {"omega_rule": "released", "omega_max": 0.5}, "rule released: omega_max would change"),
        (AEGISConfig, {"omega_rule": "linear", "omega_step": 0.5}, "rule linear: omega_step would change"),
        (AEGISConfig, {"retain_mode": "none", "omega_max": 2}, "retain_mode none: omega_max would change"),
        (AEGISConfig, {"retain_set": "classes"}, "retain_from weights: retain_set would change nothing"),
        (AEGISConfig, {"adversarial": False, "attack_tokens": 2}, "attack_tokens would change nothing"),
        (
            AEGISConfig,
            {"adversarial": False, "erasure_target": "concept", "attack_every": 3, "attack_ball": 1.0},
            "without anything to search for: attack_every and attack_ball would .* leave them out",
        ),
        (AdvUnlearnConfig, {"retain_mode": "none", "retain_pairs": 3}, "none: retain_pairs would change"),
        (AdvUnlearnConfig, {"retain_mode": "iter", "retain_weight": 2}, "retain_weight would change nothing"),
        (AdvUnlearnConfig, {"retain_steps": 2}, "retain_mode reg: retain_steps would change nothing"),
        (AdvUnlearnConfig, {"attack_steps": 0, "attack_tokens": 2}, "attack_steps 0: attack_tokens would"),
        (AdvUnlearnConfig, {"train_method": "esd-x", "train_part": "attn"}, "esd-x: train_part would change"),
        (
            AdvUnlearnConfig,
            {"train_method": "esd-x", "frozen_dtype": "bfloat16"},
            "the UNet is what is trained; .* leave frozen_dtype out",
        ),
    ],
)
def test_a_setting_that_would_do_nothing_is_refused(
    kind: type[ESDConfig | AdvUnlearnConfig | AEGISConfig], values: dict[str, object], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        kind.parse({"concept": ["dog"], **values})


@pytest.mark.parametrize("name", ["esd", "advunlearn", "trce", "aegis"])
def test_settings_of_the_embedded_pipeline_are_refused_on_others(
    tiny_pipe: StableDiffusionPipeline, name: str
) -> None:
    spec = method(name)
    with pytest.raises(ConfigError, match="are those for the embedded pipeline, and the base is 'org/"):
        spec.train(tiny_pipe, spec.config.parse({"concept": ["dog"]}), base=BaseModelRef(id="org/model"))
