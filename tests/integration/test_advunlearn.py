"""AdvUnlearn on the embedded pipeline: the concept goes with the text encoder, its neighbours stay."""

from __future__ import annotations

from pathlib import Path

import pytest

from diffusers_erasure import RobustEncoder, embedded_pipeline
from diffusers_erasure.artifacts.manifest import BaseModelRef
from diffusers_erasure.artifacts.store import save_artifact
from diffusers_erasure.training.advunlearn import train_advunlearn
from diffusers_erasure.training.advunlearn_settings import AdvUnlearnConfig

from .named_pictures import OTHERS, OWN, names

pytestmark = pytest.mark.integration
SHORT = {"max_train_steps": 80, "attack_steps": 2, "learning_rate": 3e-4, "max_retain_prompts": 24}


def test_a_short_run_erases_a_church_and_leaves_the_rest(tmp_path: Path) -> None:
    pipe = embedded_pipeline()
    pipe.set_progress_bar_config(disable=True)
    before = names(pipe, OWN + OTHERS)
    assert before[: len(OWN)].count("church") >= 5
    config = AdvUnlearnConfig.parse({"concept": ["church"], "preset": "embedded", **SHORT})
    artifact = train_advunlearn(pipe, config, base=BaseModelRef(id="embedded"))
    pipe.text_encoder = RobustEncoder.from_pretrained(save_artifact(artifact, tmp_path / "church"))
    after = names(pipe, OWN + OTHERS)
    assert after[: len(OWN)].count("church") <= 1
    kept = [was == now for was, now in zip(before, after, strict=True)][len(OWN) :]
    assert sum(kept) >= len(OTHERS) - 1
