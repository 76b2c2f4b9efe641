"""AEGIS on the embedded pipeline: the concept goes although nothing is retained, its neighbours stay."""

from __future__ import annotations

import pytest

from diffusers_erasure import embedded_pipeline, load_erasure
from diffusers_erasure.artifacts.manifest import BaseModelRef
from diffusers_erasure.training.aegis import train_aegis
from diffusers_erasure.training.aegis_settings import AEGISConfig

from .named_pictures import OTHERS, OWN, names

pytestmark = pytest.mark.integration


def test_a_short_run_erases_a_church_and_leaves_the_rest() -> None:
    pipe = embedded_pipeline()
    pipe.set_progress_bar_config(disable=True)
    before = names(pipe, OWN + OTHERS)
    assert before[: len(OWN)].count("church") >= 5
    config = AEGISConfig.parse({"concept": ["church"], "max_train_steps": 60, "num_templates": 2})
    load_erasure(pipe, train_aegis(pipe, config, base=BaseModelRef(id="embedded")))
    after = names(pipe, OWN + OTHERS)
    assert after[: len(OWN)].count("church") <= 1
    kept = [was == now for was, now in zip(before, after, strict=True)][len(OWN) :]
    assert sum(kept) >= len(OTHERS) - 1
