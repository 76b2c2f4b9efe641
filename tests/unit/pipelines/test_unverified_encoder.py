"""An encoder that was loaded unverified: a pipeline draws and saves with it only where that is said again."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from diffusers import StableDiffusionPipeline
from safetensors.torch import save_file
from torch import Tensor

from diffusers_erasure.artifacts import ErasureState
from diffusers_erasure.encoders import RobustEncoder
from diffusers_erasure.encoders.checkpoint import stock_state_dict
from diffusers_erasure.errors import ErasureNotActiveError
from diffusers_erasure.pipelines import ErasedStableDiffusionPipeline, ErasureMissingWarning

Draw = Callable[..., Tensor]
Make = Callable[..., ErasedStableDiffusionPipeline]


@pytest.fixture
def unverified(tiny_pipe: StableDiffusionPipeline, text_artifact: Path, tmp_path: Path) -> RobustEncoder:
    """The base's weights under the config of an encoder that is erased of "dog"."""
    folder = tmp_path / "encoder"
    RobustEncoder.from_pretrained(text_artifact).save_pretrained(folder)
    weights = {name: value.contiguous() for name, value in stock_state_dict(tiny_pipe.text_encoder).items()}
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.warns(UserWarning, match="loaded unverified"):
        return RobustEncoder.from_pretrained(folder, allow_unverified=True)


@pytest.mark.parametrize("with_another", [False, True])
def test_it_is_not_verified_and_not_saved_as_erased(
    make_erased: Make,
    unet_artifact: Path,
    unverified: RobustEncoder,
    tmp_path: Path,
    draw: Draw,
    with_another: bool,
) -> None:
    pipe = make_erased(*([unet_artifact] if with_another else []), text_encoder=unverified)
    assert ("dog",) in [erasure.concepts for erasure in pipe.erasures]
    for report in (pipe.verify_erasure(), pipe.verify_erasure(name="dog")):
        assert report.state is ErasureState.MODIFIED
        assert report.components["text_encoder"].state is ErasureState.MODIFIED
    with pytest.raises(ErasureNotActiveError, match=r"text_encoder is modified.*loaded unverified"):
        draw(pipe, "dog")
    with pytest.raises(ErasureNotActiveError, match="text_encoder is modified"):
        pipe.save_pretrained(tmp_path / "saved")
    with pytest.warns(ErasureMissingWarning, match="as asked"):
        draw(pipe, "dog", allow_unverified=True)
    pipe.save_pretrained(tmp_path / "saved", allow_unverified=True)
    assert "_erasure" not in json.loads((tmp_path / "saved" / "model_index.json").read_text())
    assert "erasure" not in json.loads((tmp_path / "saved" / "text_encoder" / "config.json").read_text())


def test_an_erasure_on_top_does_not_verify_it(
    make_erased: Make, text_artifact: Path, unverified: RobustEncoder, draw: Draw
) -> None:
    pipe = make_erased(text_encoder=unverified)
    pipe.load_erasure(text_artifact, name="mine")
    assert pipe.verify_erasure().state is ErasureState.MODIFIED
    with pytest.raises(ErasureNotActiveError, match="loaded unverified"):
        draw(pipe, "dog")


def test_permission_at_loading_is_enough_to_draw(
    make_erased: Make, unverified: RobustEncoder, draw: Draw
) -> None:
    pipe = make_erased(text_encoder=unverified, allow_unverified=True)
    with pytest.warns(ErasureMissingWarning, match="as asked"):
        draw(pipe, "dog")
