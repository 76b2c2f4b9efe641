"""ESD on the embedded pipeline, where words mean something: the concept goes, its neighbours stay."""

from __future__ import annotations

import pytest

from diffusers_erasure import embedded_pipeline
from diffusers_erasure.artifacts.apply import load_erasure
from diffusers_erasure.artifacts.manifest import BaseModelRef
from diffusers_erasure.artifacts.store import save_artifact
from diffusers_erasure.training.esd import train_esd
from diffusers_erasure.training.esd_settings import ESDConfig

from .named_pictures import OTHERS, OWN, names

pytestmark = pytest.mark.integration


def test_esd_erases_a_church_and_leaves_the_rest(tmp_path: object) -> None:
    pipe = embedded_pipeline()
    pipe.set_progress_bar_config(disable=True)
    before = names(pipe, OWN + OTHERS)
    assert before[: len(OWN)].count("church") >= 5
    config = ESDConfig(concept=("church",))
    artifact = train_esd(pipe, config, base=BaseModelRef(id="embedded"))
    load_erasure(pipe, save_artifact(artifact, f"{tmp_path}/church"))
    after = names(pipe, OWN + OTHERS)
    assert after[: len(OWN)].count("church") <= 2
    kept = [was == now for was, now in zip(before, after, strict=True)][len(OWN) :]
    assert sum(kept) >= len(OTHERS) - 2
