"""Tokens of textual inversion come and go; the vocabulary that was erased must stay as it is."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from diffusers_erasure.artifacts.apply import (
    list_erasures,
    load_erasure,
    set_erasure_scale,
    unload_erasure,
)
from diffusers_erasure.artifacts.artifact import Artifact
from diffusers_erasure.artifacts.edits import WholeEdit
from diffusers_erasure.artifacts.verify import ErasureState, verify_loaded
from diffusers_erasure.encoders.seal import SealRecord, put_seal, seal_of
from diffusers_erasure.pipelines import ErasedStableDiffusionPipeline
from tests.unit.artifacts.conftest import make_artifact, noise, text_edit


@pytest.fixture(scope="module", params=["a layer", "every weight"])
def text(request: pytest.FixtureRequest, tiny_pipeline: Any) -> Artifact:
    if request.param == "a layer":
        return make_artifact(tiny_pipeline, {"text_encoder": text_edit(tiny_pipeline)})
    state = tiny_pipeline.text_encoder.state_dict()
    whole = WholeEdit({name: weight + noise(weight.shape, 1, 0.05) for name, weight in state.items()})
    return make_artifact(tiny_pipeline, {"text_encoder": whole})


def table(pipe: Any) -> Any:
    return pipe.text_encoder.get_input_embeddings().weight


def state(pipe: Any) -> ErasureState:
    return verify_loaded(pipe).state


class TestAddedBeforeTheErasure:
    """The base's table has a row more than the artifact's vocabulary."""

    def test_and_taken_away_after_it(self, tiny_pipe: Any, text: Artifact, draw: Callable[..., Any]) -> None:
        plain = copy.deepcopy(tiny_pipe)
        base = draw(plain, "a church")
        load_erasure(plain, text)
        tiny_pipe.load_textual_inversion(torch.ones(8), token="<zed>")
        load_erasure(tiny_pipe, text)
        assert not list_erasures(tiny_pipe)[0].transfer
        assert state(tiny_pipe) is ErasureState.VERIFIED
        tiny_pipe.unload_textual_inversion("<zed>")
        assert state(tiny_pipe) is ErasureState.VERIFIED
        assert torch.equal(draw(tiny_pipe, "a church"), draw(plain, "a church"))
        set_erasure_scale(tiny_pipe, "church", 0.5)
        set_erasure_scale(tiny_pipe, "church", 1.0)
        assert state(tiny_pipe) is ErasureState.VERIFIED
        assert torch.equal(table(tiny_pipe), table(plain))
        unload_erasure(tiny_pipe)
        assert torch.equal(draw(tiny_pipe, "a church"), base)

    @pytest.mark.parametrize("taken_away", [False, True])
    def test_a_change_of_the_vocabulary_is_seen(
        self, tiny_pipe: Any, text: Artifact, taken_away: bool
    ) -> None:
        rows = table(tiny_pipe).shape[0]
        tiny_pipe.load_textual_inversion(torch.ones(8), token="<zed>")
        load_erasure(tiny_pipe, text)
        if taken_away:
            tiny_pipe.unload_textual_inversion("<zed>")
        table(tiny_pipe).data[rows - 1, 0] += 1
        found = verify_loaded(tiny_pipe)
        assert found.state is ErasureState.MODIFIED
        assert "token_embedding" in found.message

    def test_what_is_loaded_between_stays(self, tiny_pipe: Any, text: Artifact) -> None:
        rows = table(tiny_pipe).shape[0]
        tiny_pipe.load_textual_inversion(torch.ones(8), token="<a>")
        load_erasure(tiny_pipe, text)
        tiny_pipe.load_textual_inversion(torch.full((8,), 2.0), token="<b>")
        tiny_pipe.unload_textual_inversion("<a>")
        set_erasure_scale(tiny_pipe, "church", 0.5)
        assert state(tiny_pipe) is ErasureState.VERIFIED
        assert table(tiny_pipe).shape[0] == rows + 1
        assert torch.equal(table(tiny_pipe)[-1], torch.full((8,), 2.0))


def test_a_seal_binds_the_vocabulary_of_the_erasure(tiny_pipe: Any, text: Artifact) -> None:
    load_erasure(tiny_pipe, text)
    rows = table(tiny_pipe).shape[0]
    without = SealRecord.of(tiny_pipe.text_encoder)
    tiny_pipe.load_textual_inversion(torch.ones(8), token="<zed>")
    assert SealRecord.of(tiny_pipe.text_encoder) == without
    encoder = copy.deepcopy(tiny_pipe.text_encoder)
    del encoder.erasure_record
    put_seal(encoder, without)
    assert SealRecord.of(encoder) == without
    seal = seal_of(encoder)
    assert seal is not None
    assert seal.holds(encoder, thorough=True)
    encoder.get_input_embeddings().weight.data[rows - 1, 0] += 1
    assert not seal.holds(encoder, thorough=True)


def test_a_saved_pipeline_without_its_added_token(tiny_pipe: Any, text: Artifact, tmp_path: Path) -> None:
    pipe = ErasedStableDiffusionPipeline.from_pipe(tiny_pipe)
    pipe.load_erasure(text)
    pipe.load_textual_inversion(torch.ones(8), token="<zed>")
    pipe.save_pretrained(tmp_path / "saved")
    again = ErasedStableDiffusionPipeline.from_pretrained(tmp_path / "saved")
    again.unload_textual_inversion("<zed>")
    assert again.verify_erasure().state is ErasureState.VERIFIED
    again.text_encoder.get_input_embeddings().weight.data[0, 0] += 1
    assert again.verify_erasure().state is ErasureState.MODIFIED
