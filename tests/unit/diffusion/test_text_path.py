"""The open text path against the encoder's own output, bit for bit."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from diffusers import StableDiffusionPipeline

from diffusers_erasure.diffusion import DiffusionComponents, TextPath
from diffusers_erasure.encoders import RobustEncoder
from diffusers_erasure.errors import ConfigError

PROMPTS = ["", "dog", "a big dog, in the rain", "a" * 60]


@pytest.fixture(params=["stock", "robust"])
def text(request: pytest.FixtureRequest, components: DiffusionComponents) -> TextPath:
    if request.param == "stock":
        return TextPath(components)
    return TextPath(components, encoder=RobustEncoder.from_encoder(components.text_encoder))


def test_ids_are_those_of_the_pipeline(components: DiffusionComponents, text: TextPath) -> None:
    theirs = components.tokenizer(
        PROMPTS, padding="max_length", max_length=24, truncation=True, return_tensors="pt"
    ).input_ids
    assert torch.equal(text.ids(PROMPTS), theirs)


def test_states_equal_the_stock_output_bit_for_bit(components: DiffusionComponents, text: TextPath) -> None:
    ids = text.ids(PROMPTS)
    with torch.no_grad():
        stock = components.text_encoder(ids).last_hidden_state
        assert torch.equal(text.states(ids), stock)
        assert torch.equal(text.states(ids, text.token_embeddings(ids)), stock)
        assert torch.equal(text.encode(PROMPTS), stock)


def test_states_equal_what_the_pipeline_gives_the_unet(
    tiny_pipe: StableDiffusionPipeline, text: TextPath
) -> None:
    expected, empty = tiny_pipe.encode_prompt(
        "a dog", torch.device("cpu"), 1, do_classifier_free_guidance=True
    )
    with torch.no_grad():
        assert torch.equal(text.encode("a dog"), expected)
        assert torch.equal(text.encode(""), empty)


def test_states_equal_the_robust_encoders_own_inputs_embeds(components: DiffusionComponents) -> None:
    """Two ways into the same encoder: the hook and the argument."""
    robust = RobustEncoder.from_encoder(components.text_encoder)
    text = TextPath(components, encoder=robust)
    ids = text.ids(["a dog"])
    embeddings = torch.randn((1, 24, 8), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = robust(input_ids=ids, inputs_embeds=embeddings).last_hidden_state
        assert torch.equal(text.states(ids, embeddings), expected)


def test_gradients_reach_embeddings_and_weights_and_agree_with_differences(text: TextPath) -> None:
    text.encoder.double()
    ids = text.ids("a dog")
    embeddings = text.token_embeddings(ids).detach().requires_grad_()
    direction = torch.randn(embeddings.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    weights = torch.randn((1, 24, 8), generator=torch.Generator().manual_seed(1), dtype=torch.float64)

    def value(step: float) -> float:
        with torch.no_grad():
            return float((text.states(ids, embeddings + step * direction) * weights).sum())

    (text.states(ids, embeddings) * weights).sum().backward()
    assert embeddings.grad is not None
    slope = float((embeddings.grad * direction).sum())
    assert slope == pytest.approx((value(1e-5) - value(-1e-5)) / 2e-5, rel=1e-5)
    assert all(
        weight.grad is not None
        for name, weight in text.encoder.named_parameters()
        if "token_embedding" not in name
    )
    assert text.embedding_matrix.grad is None


def test_one_row_of_ids_serves_a_batch_of_embeddings(text: TextPath) -> None:
    ids = text.ids("a dog")
    embeddings = torch.randn((3, 24, 8), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        together = text.states(ids, embeddings)
        for row in range(3):
            alone = text.states(ids[0], embeddings[row : row + 1])
            torch.testing.assert_close(together[row], alone[0], rtol=1e-5, atol=1e-6)


def test_an_attention_mask_is_given_to_encoders_that_want_one(components: DiffusionComponents) -> None:
    components.text_encoder.config.use_attention_mask = True
    text = TextPath(components)
    inputs = components.tokenizer(
        PROMPTS, padding="max_length", max_length=24, truncation=True, return_tensors="pt"
    )
    with torch.no_grad():
        expected = components.text_encoder(inputs.input_ids, attention_mask=inputs.attention_mask)[0]
        assert torch.equal(text.encode(PROMPTS), expected)
        without = components.text_encoder(inputs.input_ids)[0]
    assert not torch.equal(expected, without)


def test_no_hook_is_left_behind(text: TextPath) -> None:
    ids = text.ids("a dog")
    text.states(ids, torch.zeros(1, 24, 8))
    assert not text.embedding._forward_hooks
    with pytest.raises(ConfigError, match="came with ids"):
        text.states(ids, torch.zeros(1, 23, 8))

    def fail(*_arguments: object) -> None:
        raise RuntimeError("a layer that fails")

    handle = text.encoder.final_layer_norm.register_forward_hook(fail)
    with pytest.raises(RuntimeError, match="a layer that fails"):
        text.states(ids, torch.zeros(1, 24, 8))
    handle.remove()
    assert not text.embedding._forward_hooks


class _NeverLooksUp(torch.nn.Module):
    """An encoder that computes its states without its embedding."""

    def __init__(self, encoder: torch.nn.Module) -> None:
        super().__init__()
        self.inner = encoder
        self.config = encoder.config

    def get_input_embeddings(self) -> torch.nn.Module:
        return torch.nn.Embedding(82, 8)

    def forward(self, ids: torch.Tensor, attention_mask: torch.Tensor | None = None) -> object:
        return self.inner(ids, attention_mask=attention_mask)


def test_an_encoder_that_ignores_the_embeddings_is_refused(components: DiffusionComponents) -> None:
    """Otherwise every attack would optimise something without effect."""
    text = TextPath(components, encoder=_NeverLooksUp(components.text_encoder))  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="without looking its token ids up"):
        text.states(text.ids("dog"), torch.zeros(1, 24, 8))


def test_ids_are_padded_and_never_cut(text: TextPath) -> None:
    assert text.pad([80, 3, 81]).tolist() == [[80, 3, 81, *[81] * 21]]
    assert text.pad(torch.tensor([[80, 3, 81], [80, 4, 81]])).shape == (2, 24)
    with pytest.raises(ConfigError, match="25 token ids do not fit"):
        text.pad([0] * 25)


def test_the_embedding_matrix_is_the_encoders_own(components: DiffusionComponents) -> None:
    text = TextPath(replace(components))
    ids = text.ids("dog")
    assert text.embedding_matrix.shape == (82, 8)
    assert torch.equal(text.embedding_matrix[ids], text.token_embeddings(ids))
