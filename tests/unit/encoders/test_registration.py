"""The tables of transformers and diffusers that we write to still exist, and the writes arrive."""

import sys
from pathlib import Path

import torch
from diffusers import StableDiffusionPipeline
from diffusers.pipelines.pipeline_loading_utils import LOADABLE_CLASSES
from transformers import PreTrainedModel
from transformers.conversion_mapping import get_checkpoint_conversion_mapping

from diffusers_erasure.encoders import RobustEncoder, RobustEncoderWithProjection
from diffusers_erasure.encoders.registration import register_encoders


def test_key_renaming_is_registered_as_for_the_stock_class() -> None:
    assert get_checkpoint_conversion_mapping("CLIPTextModel") is not None
    assert get_checkpoint_conversion_mapping("RobustEncoder") is not None


def test_stock_loading_of_our_class_finds_all_keys(
    tiny_pipe: StableDiffusionPipeline, tmp_path: Path
) -> None:
    """The second belt: transformers' own loader, which our `from_pretrained` does not use."""
    stock = tiny_pipe.text_encoder
    RobustEncoder.from_encoder(stock).save_pretrained(tmp_path / "encoder")
    loaded = PreTrainedModel.from_pretrained.__func__(RobustEncoder, tmp_path / "encoder")
    assert all(torch.equal(value, stock.state_dict()[key]) for key, value in loaded.state_dict().items())


def test_diffusers_can_load_the_library() -> None:
    package = sys.modules["diffusers_erasure"]
    assert LOADABLE_CLASSES["diffusers_erasure"] == {
        "PreTrainedModel": ["save_pretrained", "from_pretrained"]
    }
    assert package.PreTrainedModel is PreTrainedModel
    assert package.RobustEncoder is RobustEncoder


def test_registering_again_changes_nothing() -> None:
    before = dict(LOADABLE_CLASSES)
    register_encoders(RobustEncoder, RobustEncoderWithProjection)
    assert before == LOADABLE_CLASSES


def test_public_classes_live_in_the_top_package() -> None:
    assert {RobustEncoder.__module__, RobustEncoderWithProjection.__module__} == {"diffusers_erasure"}
