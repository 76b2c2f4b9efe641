"""Parameter groups, counted on the shapes of Stable Diffusion 1.x and spelled out on the tiny pipeline."""

from __future__ import annotations

import pytest
import torch
from diffusers import StableDiffusionPipeline, UNet2DConditionModel
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from diffusers_erasure.diffusion import (
    component_of,
    frozen,
    only_trainable,
    parameter_groups,
    text_projections,
    trainable_parameters,
)
from diffusers_erasure.errors import ConfigError


def text_encoder(layers: int = 12, kind: type[nn.Module] = CLIPTextModel) -> nn.Module:
    """The text encoder of Stable Diffusion 1.x without values."""
    config = CLIPTextConfig(
        vocab_size=49408,
        hidden_size=768,
        intermediate_size=3072,
        num_hidden_layers=layers,
        num_attention_heads=12,
    )
    with torch.device("meta"):
        return kind(config)


@pytest.fixture(scope="module")
def unet() -> UNet2DConditionModel:
    """The UNet of Stable Diffusion 1.x without values."""
    with torch.device("meta"):
        return UNet2DConditionModel(cross_attention_dim=768, sample_size=64)


def size(parameters: dict[str, nn.Parameter]) -> int:
    return sum(parameter.numel() for parameter in parameters.values())


@pytest.mark.parametrize(
    ("part", "expected"), [("all", 85_056_000), ("ffn", 56_669_184), ("attn", 28_348_416)]
)
def test_all_layers_of_the_text_encoder(part: str, expected: int) -> None:
    """Counts measured on the authors' code."""
    found = trainable_parameters(text_encoder(), "text_encoder_full", part=part)  # type: ignore[arg-type]
    assert size(found) == expected
    assert not [name for name in found if "embedding" in name]
    assert bool([name for name in found if "final_layer_norm" in name]) is (part == "all")


@pytest.mark.parametrize(
    ("group", "layers"),
    [
        ("text_encoder_layer0", {0}),
        ("text_encoder_layer1", {1}),
        ("text_encoder_layer11", {11}),
        ("text_encoder_layer0_1", {0, 1}),
        ("text_encoder_layers_0_1", {0, 1}),
        ("text_encoder_layer0_1_10_11", {0, 1, 10, 11}),
    ],
)
def test_layer_numbers_are_exact(group: str, layers: set[int]) -> None:
    """A search for the beginning "encoder.layers.1" would also find layers 10 and 11."""
    found = trainable_parameters(text_encoder(), group)
    assert {int(name.split("layers.")[1].split(".")[0]) for name in found} == layers
    assert size(found) == len(layers) * 7_087_872


def test_the_final_norm_can_be_chosen() -> None:
    encoder = text_encoder()
    assert size(trainable_parameters(encoder, "text_encoder_layer0", final_norm=True)) == 7_087_872 + 2 * 768
    assert size(trainable_parameters(encoder, "text_encoder_full", final_norm=False)) == 12 * 7_087_872


def test_prefixed_encoders_have_the_same_groups() -> None:
    found = trainable_parameters(text_encoder(2, CLIPTextModelWithProjection), "text_encoder_full")
    assert size(found) == 2 * 7_087_872 + 2 * 768
    assert all(name.startswith("text_model.") for name in found)


@pytest.mark.parametrize("group", ["text_encoder_layer2", "text_encoder_layer01", "text_encoder_layer0_01"])
def test_layers_that_there_are_not_are_refused(group: str) -> None:
    with pytest.raises(ConfigError, match="layers 0 to 1; write numbers with underscores"):
        trainable_parameters(text_encoder(2), group)


def test_unet_groups_partition_as_their_names_say(unet: UNet2DConditionModel) -> None:
    groups = {name: set(trainable_parameters(unet, name)) for name in parameter_groups("unet")}
    everything = {name for name, _ in unet.named_parameters()}
    outer = {
        name for name in everything if name.startswith(("time_embedding.", "conv_norm_out.", "conv_out."))
    }
    assert groups["full"] == everything
    assert groups["esd-x"] == groups["xattn"] == {name for name in everything if ".attn2." in name}
    assert groups["esd-u"] == groups["noxattn"] == everything - groups["xattn"] - outer
    assert groups["notime"] == everything - outer
    assert groups["selfattn"] == {name for name in everything if ".attn1." in name}
    assert groups["esd-x-strict"] == {found.key for found in text_projections(unet)}
    assert groups["esd-u-code"] == groups["esd-all"] - groups["xattn"]
    assert not [name for name in groups["esd-all"] if "norm" in name]
    assert {name.rpartition(".attn2")[0] for name in groups["xlayer"]} == {
        "up_blocks.2.attentions.0.transformer_blocks.0",
        "up_blocks.2.attentions.2.transformer_blocks.0",
    }
    assert {name.rpartition(".attn1")[0] for name in groups["selflayer"]} == {
        "down_blocks.1.attentions.0.transformer_blocks.0",
        "down_blocks.2.attentions.0.transformer_blocks.0",
    }


def test_time_projections_of_the_blocks_are_not_the_time_embedding(unet: UNet2DConditionModel) -> None:
    """CompVis calls only the embedding `time_embed`; the blocks' projections are trained."""
    assert any("time_emb_proj" in name for name in trainable_parameters(unet, "noxattn"))


def test_unknown_groups_are_refused_with_the_nearest(unet: UNet2DConditionModel) -> None:
    with pytest.raises(ConfigError, match="did you mean 'xattn'"):
        trainable_parameters(unet, "xatn")
    with pytest.raises(ConfigError, match=r"groups are esd-x, .*choose one of them"):
        component_of("something else altogether")


def test_groups_of_the_other_component_are_refused(unet: UNet2DConditionModel) -> None:
    with pytest.raises(ConfigError, match="one of the text_encoder"):
        trainable_parameters(unet, "text_encoder_full")
    with pytest.raises(ConfigError, match="one of the unet"):
        trainable_parameters(text_encoder(1), "full")
    assert component_of("text_encoder_layer3_4") == "text_encoder"
    assert component_of("esd-x") == "unet"


def test_a_group_that_selects_nothing_is_refused(tiny_pipe: StableDiffusionPipeline) -> None:
    with pytest.raises(ConfigError, match="'xlayer' holds no weight"):
        trainable_parameters(tiny_pipe.unet, "xlayer")
    with pytest.raises(ConfigError, match="no layer part 'mlp'"):
        trainable_parameters(tiny_pipe.text_encoder, "text_encoder_full", part="mlp")  # type: ignore[arg-type]


def test_every_group_is_described() -> None:
    groups = parameter_groups()
    assert set(groups) == {*parameter_groups("unet"), *parameter_groups("text_encoder")}
    assert all(text and component_of(name) for name, text in groups.items())


def test_only_the_named_weights_get_gradients_and_flags_come_back(tiny_pipe: StableDiffusionPipeline) -> None:
    encoder = tiny_pipe.text_encoder
    encoder.final_layer_norm.weight.requires_grad_(False)
    before = {name: weight.requires_grad for name, weight in encoder.named_parameters()}
    names = list(trainable_parameters(encoder, "text_encoder_layer1"))
    ids = torch.tensor([[80, 3, 14, 58, *[81] * 20]])

    def check() -> None:
        with only_trainable(encoder, names) as chosen:
            assert list(chosen) == names
            encoder(ids).last_hidden_state.square().mean().backward()
            assert {n for n, w in encoder.named_parameters() if w.grad is not None} == set(names)
            raise RuntimeError("in the middle of training")

    with pytest.raises(RuntimeError, match="in the middle"):
        check()
    assert {name: weight.requires_grad for name, weight in encoder.named_parameters()} == before
    with pytest.raises(ConfigError, match="no parameter 'nothing'"), only_trainable(encoder, ["nothing"]):
        pass


def test_frozen_modules_get_no_gradients(tiny_pipe: StableDiffusionPipeline) -> None:
    modules = (tiny_pipe.unet, tiny_pipe.text_encoder)
    tiny_pipe.unet.conv_in.weight.requires_grad_(False)
    with frozen(*modules):
        assert not [weight for module in modules for weight in module.parameters() if weight.requires_grad]
    kept = [weight for module in modules for weight in module.parameters() if not weight.requires_grad]
    assert len(kept) == 1
