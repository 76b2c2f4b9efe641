"""Which settings of a component decide what its weights compute: all that its class knows."""

from __future__ import annotations

import inspect
import json
from pathlib import Path
from typing import Any

import pytest
from diffusers import StableDiffusionPipeline, UNet2DConditionModel

from diffusers_erasure.artifacts.apply import load_erasure
from diffusers_erasure.artifacts.artifact import Artifact
from diffusers_erasure.artifacts.compatibility import BEHAVIOUR, NEUTRAL, behaviour, check_behaviour
from diffusers_erasure.artifacts.door import load_artifact
from diffusers_erasure.artifacts.store import save_artifact
from diffusers_erasure.embedded import embedded_pipeline
from diffusers_erasure.encoders import RobustEncoder
from diffusers_erasure.errors import ArtifactIntegrityError, BaseModelMismatchError
from diffusers_erasure.pipelines import ErasedStableDiffusionPipeline
from tests.unit.artifacts.conftest import make_artifact, text_edit, unet_edit

CHANGES = {"resnet_out_scale_factor": 3.0, "time_embedding_act_fn": "relu", "resnet_skip_time_act": True}
FURTHER = sorted(
    {*inspect.signature(UNet2DConditionModel.__init__).parameters} - {"self", *BEHAVIOUR, *NEUTRAL}
)


@pytest.mark.parametrize("field", FURTHER)
def test_every_field_that_the_class_knows_counts(tiny_pipe: Any, field: str) -> None:
    before = behaviour(tiny_pipe.unet)
    tiny_pipe.unet.register_to_config(**{field: 7})
    assert behaviour(tiny_pipe.unet) == {**before, field: 7}


def test_what_changes_no_answer_does_not_count(tiny_pipe: Any) -> None:
    before = behaviour(tiny_pipe.unet)
    assert set(before) <= set(BEHAVIOUR)
    other = {"sample_size": 99, "of_a_later_version": 1, "_name_or_path": "x"}
    tiny_pipe.unet.register_to_config(**other, encoder_hid_dim_type="ip_image_proj")
    assert behaviour(tiny_pipe.unet) == before


@pytest.mark.parametrize("field", CHANGES)
def test_a_changed_field_of_the_exact_base_is_refused(
    tiny_pipe: StableDiffusionPipeline, artifact: Artifact, field: str
) -> None:
    tiny_pipe.unet.register_to_config(**{field: CHANGES[field]})
    with pytest.raises(BaseModelMismatchError, match=f"{field} = {CHANGES[field]!r} .* = 'the default'"):
        load_erasure(tiny_pipe, artifact)
    of_such_a_base = make_artifact(tiny_pipe, {"unet": unet_edit(tiny_pipe)})
    load_erasure(tiny_pipe, of_such_a_base)
    default = inspect.signature(UNet2DConditionModel.__init__).parameters[field].default
    tiny_pipe.unet.register_to_config(**{field: default})
    stated = of_such_a_base.spec("unet").config
    with pytest.raises(BaseModelMismatchError, match=f"{field} = 'the default' .* = {CHANGES[field]!r}"):
        check_behaviour("unet", tiny_pipe.unet, stated, origin="it")


@pytest.mark.parametrize("field", CHANGES)
def test_a_changed_field_of_a_saved_pipeline_is_refused(
    tiny_pipe_folder: Path, artifact: Artifact, tmp_path: Path, field: str
) -> None:
    pipe = ErasedStableDiffusionPipeline.from_pretrained(tiny_pipe_folder, erasure=artifact)
    pipe.save_pretrained(tmp_path / "saved")
    path = tmp_path / "saved" / "unet" / "config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps({**config, field: CHANGES[field]}), encoding="utf-8")
    with pytest.raises(ArtifactIntegrityError, match="the config of unet"):
        ErasedStableDiffusionPipeline.from_pretrained(tmp_path / "saved")


def test_the_shipped_erasures_state_all_that_counts() -> None:
    for part, spec in load_artifact("embedded/church-uce").manifest.components.items():
        assert behaviour(getattr(embedded_pipeline(), part)) == spec.config


def test_a_changed_config_of_an_encoders_base_is_refused(
    tiny_pipe: StableDiffusionPipeline, tmp_path: Path
) -> None:
    only_text = make_artifact(tiny_pipe, {"text_encoder": text_edit(tiny_pipe)})
    folder = save_artifact(only_text, tmp_path / "artifact")
    assert RobustEncoder.from_pretrained(folder, base=tiny_pipe.text_encoder).erasure is not None
    tiny_pipe.text_encoder.config.layer_norm_eps = 1e-3
    with pytest.raises(BaseModelMismatchError, match="layer_norm_eps"):
        RobustEncoder.from_pretrained(folder, base=tiny_pipe.text_encoder)
