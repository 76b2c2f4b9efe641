"""RobustEncoder: equal to stock, differentiable from embeddings, and a drop-in for the text encoder."""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import StableDiffusionImg2ImgPipeline, StableDiffusionPipeline
from safetensors.torch import save_file
from torch import Tensor
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from diffusers_erasure.artifacts.apply import load_erasure, set_erasure_scale
from diffusers_erasure.artifacts.fingerprint import SAMPLES_PER_TENSOR
from diffusers_erasure.encoders import RobustEncoder, RobustEncoderWithProjection
from diffusers_erasure.encoders.checkpoint import stock_state_dict
from diffusers_erasure.encoders.seal import seal_of, weights_fault
from diffusers_erasure.errors import (
    ConfigError,
    ErasureNotActiveError,
    ErasureStateError,
    UnverifiedArtifactError,
)
from tests.unit.artifacts.conftest import make_artifact, text_edit

ERASURE = {"method": "advunlearn", "concepts": ["church"], "base_model": "embedded"}


@pytest.fixture
def ids(tiny_pipe: StableDiffusionPipeline) -> Tensor:
    """Padded token ids of two prompts, `(2, tokens)`."""
    tokens: Tensor = tiny_pipe.tokenizer(
        ["a dog", "church"], padding="max_length", return_tensors="pt"
    ).input_ids
    return tokens


@pytest.fixture
def with_projection(tiny_pipe: StableDiffusionPipeline) -> CLIPTextModelWithProjection:
    """A stock encoder of the second kind, of the tiny pipeline's sizes."""
    config: CLIPTextConfig = tiny_pipe.text_encoder.config
    torch.manual_seed(3)
    return CLIPTextModelWithProjection(config).eval()


def test_computes_what_the_stock_encoder_computes(tiny_pipe: StableDiffusionPipeline, ids: Tensor) -> None:
    stock = tiny_pipe.text_encoder
    robust = RobustEncoder.from_encoder(stock)
    expected, found = stock(ids, output_hidden_states=True), robust(ids, output_hidden_states=True)
    assert torch.equal(found.last_hidden_state, expected.last_hidden_state)
    assert torch.equal(found.pooler_output, expected.pooler_output)
    assert all(map(torch.equal, found.hidden_states, expected.hidden_states))


@pytest.mark.parametrize("eos_token_id", [2, 81])
def test_embeddings_in_place_of_ids_change_nothing(
    tiny_pipe: StableDiffusionPipeline, ids: Tensor, eos_token_id: int
) -> None:
    stock = tiny_pipe.text_encoder
    stock.eos_token_id = stock.config.eos_token_id = eos_token_id
    robust = RobustEncoder.from_encoder(stock)
    embeddings = stock.get_input_embeddings()(ids)
    expected = stock(ids, output_hidden_states=True)
    found = robust(ids, inputs_embeds=embeddings, output_hidden_states=True)
    assert torch.equal(found.last_hidden_state, expected.last_hidden_state)
    assert torch.equal(found.pooler_output, expected.pooler_output)
    assert all(map(torch.equal, found.hidden_states, expected.hidden_states))
    assert robust(inputs_embeds=embeddings).pooler_output is None
    assert torch.equal(robust(inputs_embeds=embeddings, return_dict=False)[0], expected.last_hidden_state)


def test_gradients_reach_embeddings_and_weights(tiny_pipe: StableDiffusionPipeline, ids: Tensor) -> None:
    robust = RobustEncoder.from_encoder(tiny_pipe.text_encoder)
    embeddings = robust.get_input_embeddings()(ids).detach().requires_grad_()
    robust(inputs_embeds=embeddings).last_hidden_state.square().sum().backward()
    assert embeddings.grad is not None
    assert bool(embeddings.grad.abs().sum() > 0)
    assert robust.encoder.layers[0].mlp.fc1.weight.grad is not None


def test_projection_encoder_is_equal_too(with_projection: CLIPTextModelWithProjection, ids: Tensor) -> None:
    robust = RobustEncoderWithProjection.from_encoder(with_projection)
    embeddings = with_projection.get_input_embeddings()(ids)
    expected = with_projection(ids).text_embeds
    assert torch.equal(robust(ids).text_embeds, expected)
    assert torch.equal(robust(ids, inputs_embeds=embeddings).text_embeds, expected)
    with pytest.raises(ConfigError, match="pass both"):
        robust(inputs_embeds=embeddings)


def test_wrapping_shares_storage_and_no_parameter_objects(tiny_pipe: StableDiffusionPipeline) -> None:
    stock = tiny_pipe.text_encoder
    robust = RobustEncoder.from_encoder(stock)
    pairs = list(zip(stock.parameters(), robust.parameters(), strict=True))
    assert all(ours is not theirs and ours.data_ptr() == theirs.data_ptr() for theirs, ours in pairs)
    robust.half()
    assert stock.dtype == torch.float32


def test_saved_encoder_is_a_stock_folder(
    tiny_pipe: StableDiffusionPipeline, ids: Tensor, tmp_path: Path
) -> None:
    stock = tiny_pipe.text_encoder
    RobustEncoder.from_encoder(stock, erasure=ERASURE).save_pretrained(tmp_path / "encoder")
    reread = CLIPTextModel.from_pretrained(tmp_path / "encoder")
    assert torch.equal(reread(ids)[0], stock(ids)[0])
    assert reread.config.erasure["erasure"]["concepts"] == ["church"]
    assert reread.config.architectures == ["CLIPTextModel"]
    robust = RobustEncoder.from_pretrained(tmp_path / "encoder")
    assert robust.erasure is not None
    assert robust.erasure.verified
    assert robust.erasure.concepts == ("church",)
    assert torch.equal(robust(ids)[0], stock(ids)[0])


def test_saved_projection_encoder_is_a_stock_folder(
    with_projection: CLIPTextModelWithProjection, ids: Tensor, tmp_path: Path
) -> None:
    RobustEncoderWithProjection.from_encoder(with_projection, erasure=ERASURE).save_pretrained(
        tmp_path / "two"
    )
    stock = CLIPTextModelWithProjection.from_pretrained(tmp_path / "two")
    robust = RobustEncoderWithProjection.from_pretrained(tmp_path / "two")
    assert torch.equal(stock(ids).text_embeds, with_projection(ids).text_embeds)
    assert torch.equal(robust(ids).text_embeds, with_projection(ids).text_embeds)


def test_changed_encoder_is_not_saved_as_what_it_was(
    tiny_pipe: StableDiffusionPipeline, tmp_path: Path
) -> None:
    robust = RobustEncoder.from_encoder(tiny_pipe.text_encoder, erasure=ERASURE)
    with torch.no_grad():
        robust.final_layer_norm.weight.mul_(1.5)
    with pytest.raises(ErasureNotActiveError, match="from_encoder"):
        robust.save_pretrained(tmp_path / "encoder")
    RobustEncoder.from_encoder(robust, erasure=ERASURE).save_pretrained(tmp_path / "encoder")


@pytest.mark.filterwarnings("ignore::diffusers_erasure.artifacts.apply.ErasureTransferWarning")
@pytest.mark.parametrize("edited_on_top", [False, True])
def test_a_change_of_one_value_is_seen_when_saving(
    tiny_pipe: StableDiffusionPipeline, tmp_path: Path, edited_on_top: bool
) -> None:
    """One value, through `.data`: no version counter moves, and no sample need hit it."""
    artifact = make_artifact(tiny_pipe, {"text_encoder": text_edit(tiny_pipe)}, concept="dog")
    robust = RobustEncoder.from_encoder(tiny_pipe.text_encoder, erasure=ERASURE)
    weight = robust.get_input_embeddings().weight
    assert weight.numel() > 2 * SAMPLES_PER_TENSOR
    weight.data.view(-1)[1] += 5
    tiny_pipe.text_encoder = robust
    if edited_on_top:
        load_erasure(tiny_pipe, artifact)
    with pytest.raises(ErasureNotActiveError, match="from_encoder"):
        tiny_pipe.text_encoder.save_pretrained(tmp_path / "encoder")
    assert not (tmp_path / "encoder").exists()


@pytest.mark.parametrize("scales", [(0, 0), (0, 0.5), (0.5, 1), (1, 1)])
@pytest.mark.parametrize("erased_before", [False, True])
def test_an_encoder_is_saved_with_what_its_weights_hold(
    tiny_pipe: StableDiffusionPipeline, tmp_path: Path, scales: tuple[float, float], erased_before: bool
) -> None:
    edits = [{"text_encoder": text_edit(tiny_pipe, seed=seed)} for seed in (0, 50)]
    artifacts = [make_artifact(tiny_pipe, edit, concept=name) for edit, name in zip(edits, "ab", strict=True)]
    before = ERASURE if erased_before else None
    tiny_pipe.text_encoder = RobustEncoder.from_encoder(tiny_pipe.text_encoder, erasure=before)
    for artifact, scale in zip(artifacts, scales, strict=True):
        set_erasure_scale(tiny_pipe, load_erasure(tiny_pipe, artifact), scale)
    if not erased_before and not any(scales):
        with pytest.raises(ErasureNotActiveError, match=r"\(a, b\) are at scale 0.*unload_erasure"):
            tiny_pipe.text_encoder.save_pretrained(tmp_path / "encoder")
        assert not (tmp_path / "encoder").exists()
        return
    tiny_pipe.text_encoder.save_pretrained(tmp_path / "encoder")
    erasure = RobustEncoder.from_pretrained(tmp_path / "encoder").erasure
    assert erasure is not None
    held = [name for name, scale in zip("ab", scales, strict=True) if scale]
    assert erasure.concepts == tuple([*(["church"] if erased_before else []), *held])
    assert erasure.scale == erasure.applied("").scale == min([1, *filter(None, scales)])


@pytest.mark.filterwarnings("ignore:.*loaded unverified:UserWarning")
def test_what_was_loaded_unverified_is_not_saved_as_verified(
    tiny_pipe: StableDiffusionPipeline, tmp_path: Path
) -> None:
    RobustEncoder.from_encoder(tiny_pipe.text_encoder, erasure=ERASURE).save_pretrained(tmp_path / "encoder")
    exchanged = RobustEncoder.from_encoder(tiny_pipe.text_encoder)
    exchanged.final_layer_norm.weight.data.mul_(1.5)
    weights = {key: value.clone() for key, value in stock_state_dict(exchanged).items()}
    save_file(weights, tmp_path / "encoder" / "model.safetensors")
    unverified = RobustEncoder.from_pretrained(tmp_path / "encoder", allow_unverified=True)
    assert unverified.erasure is not None
    assert unverified.erasure.concepts == ("church",)
    unverified.save_pretrained(tmp_path / "again")
    with pytest.raises(UnverifiedArtifactError, match="no erasure entry"):
        RobustEncoder.from_pretrained(tmp_path / "again")


HALVES = (torch.float16, torch.bfloat16)


@pytest.mark.parametrize("dtype", HALVES)
def test_casting_keeps_an_encoder_saveable(
    tiny_pipe: StableDiffusionPipeline, tmp_path: Path, dtype: torch.dtype
) -> None:
    made = RobustEncoder.from_encoder(tiny_pipe.text_encoder, erasure=ERASURE)
    made.save_pretrained(tmp_path / "full")
    for number, encoder in enumerate((made, RobustEncoder.from_pretrained(tmp_path / "full"))):
        folder = tmp_path / f"half-{number}"
        encoder.to(dtype).save_pretrained(folder)
        for asked in (None, *HALVES, torch.float32):
            again = RobustEncoder.from_pretrained(folder, dtype=asked)
            assert again.dtype == (asked or dtype)
            assert again.erasure is not None
            assert again.erasure.verified
            assert weights_fault(again) is None


@pytest.mark.parametrize("saved", HALVES)
def test_a_change_is_seen_in_every_precision(
    tiny_pipe: StableDiffusionPipeline, tmp_path: Path, saved: torch.dtype
) -> None:
    made = RobustEncoder.from_encoder(tiny_pipe.text_encoder, erasure=ERASURE)
    made.to(saved).save_pretrained(tmp_path / "half")
    for asked in (*HALVES, torch.float32):
        changed = RobustEncoder.from_pretrained(tmp_path / "half", dtype=asked)
        changed.final_layer_norm.weight.data[0] *= 1.5
        assert "do not have the fingerprint" in str(weights_fault(changed))


def test_a_change_that_half_precision_would_round_away_is_seen(tiny_pipe: StableDiffusionPipeline) -> None:
    robust = RobustEncoder.from_encoder(tiny_pipe.text_encoder, erasure=ERASURE)
    weight = robust.final_layer_norm.weight.data
    rounded = weight.half()
    weight[0] += 1e-5
    assert torch.equal(weight.half(), rounded)
    assert "do not have the fingerprint" in str(weights_fault(robust))


def test_a_copy_has_a_seal_of_its_own(tiny_pipe: StableDiffusionPipeline) -> None:
    robust = RobustEncoder.from_encoder(tiny_pipe.text_encoder, erasure=ERASURE)
    twin = copy.deepcopy(robust)
    twin.final_layer_norm.weight.data[0] *= 1.5
    for encoder, holds in ((robust, True), (twin, False)):
        seal = seal_of(encoder)
        assert seal is not None
        assert seal.holds(encoder) is holds


@pytest.mark.parametrize("training", [True, False])
def test_wrapping_keeps_what_is_trained_and_how(tiny_pipe: StableDiffusionPipeline, training: bool) -> None:
    stock = tiny_pipe.text_encoder.train(training)
    stock.final_layer_norm.weight.requires_grad_(False)
    robust = RobustEncoder.from_encoder(stock)
    assert robust.training is training
    assert [one.requires_grad for one in robust.parameters()] == [
        one.requires_grad for one in stock.parameters()
    ]
    assert not robust.final_layer_norm.weight.requires_grad


def test_works_in_a_stock_pipeline(
    tiny_pipe: StableDiffusionPipeline, draw: Callable[..., Tensor], tmp_path: Path
) -> None:
    before = draw(tiny_pipe, "a dog")
    tiny_pipe.text_encoder = RobustEncoder.from_encoder(tiny_pipe.text_encoder, erasure=ERASURE)
    assert torch.equal(draw(tiny_pipe, "a dog"), before)
    sibling = StableDiffusionImg2ImgPipeline.from_pipe(tiny_pipe)
    assert sibling.text_encoder is tiny_pipe.text_encoder
    tiny_pipe.save_pretrained(tmp_path / "pipe")
    reread = StableDiffusionPipeline.from_pretrained(tmp_path / "pipe")
    reread.set_progress_bar_config(disable=True)
    assert isinstance(reread.text_encoder, RobustEncoder)
    assert torch.equal(draw(reread, "a dog"), before)


@pytest.mark.parametrize("prefix", ["text_encoder.text_model.", "text_encoder."])
def test_lora_of_either_layout_loads_on_it(
    tiny_pipe: StableDiffusionPipeline, ids: Tensor, prefix: str, tmp_path: Path
) -> None:
    pytest.importorskip("peft")
    stock = tiny_pipe.text_encoder
    robust = tiny_pipe.text_encoder = RobustEncoder.from_encoder(stock, erasure=ERASURE)
    before = robust(ids)[0].clone()
    generator = torch.Generator().manual_seed(0)
    width = robust.config.hidden_size
    name = f"{prefix}encoder.layers.0.self_attn.q_proj"
    tiny_pipe.load_lora_weights(
        {
            f"{name}.lora_A.weight": torch.randn(2, width, generator=generator),
            f"{name}.lora_B.weight": torch.randn(width, 2, generator=generator),
        }
    )
    assert not torch.allclose(tiny_pipe.text_encoder(ids)[0], before)
    with pytest.raises(ErasureStateError, match="unload_lora_weights"):
        tiny_pipe.text_encoder.save_pretrained(tmp_path / "encoder")
    tiny_pipe.unload_lora_weights()
    assert torch.equal(tiny_pipe.text_encoder(ids)[0], before)


def test_textual_inversion_adds_a_token(tiny_pipe: StableDiffusionPipeline, tmp_path: Path) -> None:
    RobustEncoder.from_encoder(tiny_pipe.text_encoder, erasure=ERASURE).save_pretrained(tmp_path / "encoder")
    robust = tiny_pipe.text_encoder = RobustEncoder.from_pretrained(tmp_path / "encoder")
    rows = robust.get_input_embeddings().weight.shape[0]
    tiny_pipe.load_textual_inversion({"<thing>": torch.ones(robust.config.hidden_size)})
    assert tiny_pipe.text_encoder.get_input_embeddings().weight.shape[0] == rows + 1
    tiny_pipe.unload_textual_inversion()
    assert tiny_pipe.text_encoder.get_input_embeddings().weight.shape[0] == rows


def test_attention_can_be_switched(tiny_pipe: StableDiffusionPipeline, ids: Tensor) -> None:
    robust = RobustEncoder.from_encoder(tiny_pipe.text_encoder)
    expected = robust(ids)[0]
    robust.set_attn_implementation("eager")
    assert torch.allclose(robust(ids)[0], expected, atol=1e-5)
    assert robust(ids, output_attentions=True).attentions[0].shape[0] == len(ids)


def test_only_a_text_encoder_can_be_wrapped(tiny_pipe: StableDiffusionPipeline) -> None:
    with pytest.raises(ConfigError, match="CLIPTextModel"):
        RobustEncoder.from_encoder(tiny_pipe.unet)
    with pytest.raises(ConfigError, match="known fields"):
        RobustEncoder.from_encoder(tiny_pipe.text_encoder, erasure={"concept": "church"})
    with pytest.raises(ConfigError, match=r"weights of the CLIPTextModel have no values .*remove_all_hooks"):
        RobustEncoder.from_encoder(tiny_pipe.text_encoder.to("meta"))


@pytest.mark.parametrize(
    ("options", "fault"),
    [
        ({}, "without repo_id; .*repo_id='organisation/name'"),
        ({"repo_id": "encoder"}, "'encoder' is no Hub id"),
        ({"repo_id": "me/encoder", "surprise": 1}, "unknown argument surprise"),
    ],
)
def test_where_to_push_is_checked_before_saving(
    tiny_pipe: StableDiffusionPipeline, tmp_path: Path, options: dict[str, Any], fault: str
) -> None:
    robust = RobustEncoder.from_encoder(tiny_pipe.text_encoder, erasure=ERASURE)
    with pytest.raises(ConfigError, match=fault):
        robust.save_pretrained(tmp_path / "encoder", push_to_hub=True, **options)
    assert not (tmp_path / "encoder").exists()
