"""TRCE on the embedded pipeline: a concept goes where it is named and where it is only implied."""

from __future__ import annotations

import pytest

from diffusers_erasure import embedded_pipeline, load_erasure
from diffusers_erasure.artifacts.manifest import BaseModelRef
from diffusers_erasure.embedded.vocabulary import CONCEPTS
from diffusers_erasure.training.trce import train_trce
from diffusers_erasure.training.trce_settings import TRCEConfig

from .named_pictures import OTHERS, OWN, names

pytestmark = pytest.mark.integration
TAGS = CONCEPTS["church"].tags
IMPLIED = [", ".join(TAGS[turn:] + TAGS[:turn]) for turn in range(len(TAGS))]
"""Lists of words that imply a church; none of them is trained on."""


@pytest.mark.parametrize("stages", ["1", "1+2"])
def test_a_church_goes_named_or_implied_and_the_rest_stays(stages: str) -> None:
    pipe = embedded_pipeline()
    pipe.set_progress_bar_config(disable=True)
    asked = OWN + IMPLIED
    before = names(pipe, asked + OTHERS)
    assert before[: len(OWN)].count("church") >= 5
    assert before[len(OWN) : len(asked)].count("church") >= len(IMPLIED) - 1
    config = TRCEConfig.parse({"concept": ["church"], "stages": stages, "max_train_steps": 40})
    load_erasure(pipe, train_trce(pipe, config, base=BaseModelRef(id="embedded")))
    after = names(pipe, asked + OTHERS)
    assert after[: len(asked)].count("church") <= 1
    kept = [was == now for was, now in zip(before, after, strict=True)][len(asked) :]
    assert sum(kept) >= len(OTHERS) - 1
