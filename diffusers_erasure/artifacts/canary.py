"""The canary: a few prompts on which the erased model and the base answer differently.

For a text encoder the answer is `last_hidden_state`; for a UNet it is the noise prediction on one fixed small
latent at timestep 500. All inputs are stored, so that neither a tokenizer nor a random generator is needed to
ask again.

A UNet hears the prompts as the base's own text encoders say them: what a closed form changes lies among text
states, and random numbers may miss it. Only SDXL's pooled state is random, since it is the same for both.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from diffusers_erasure.errors import ConfigError

TIMESTEP = 500
LATENT_SEED = 20230307
TEXT_ENCODERS = {"text_encoder": "tokenizer", "text_encoder_2": "tokenizer_2"}
_CHOSEN = 4  # prompts that a method's canary asks
_LEAST_FLOOR = 1e-4
_EPS_OF_8_BITS = 1 / 8


def choose_prompts(prompts: Sequence[str]) -> tuple[str, ...]:
    """A few of the prompts that a method erases, at even distances from the first one on.

    Args:
        prompts: What is erased, in words; four at most are chosen.
    """
    return tuple(prompts[:: max(1, len(prompts) // _CHOSEN)][:_CHOSEN])


def questions(pipe: Any, component: str, prompts: Sequence[str]) -> dict[str, Tensor]:
    """What the component is asked: token ids, or latents and text states; the batch is one per prompt."""
    if component in TEXT_ENCODERS:
        return {"input_ids": _token_ids(pipe, component, prompts)}
    return _unet_inputs(pipe, prompts)


def answer(component: str, module: nn.Module, asked: Mapping[str, Tensor]) -> Tensor:
    """The component's answer in float32 on the CPU; its training flag is left as it was found."""
    return _calm(_text_states if component in TEXT_ENCODERS else _noise, module, asked)


def distance(first: Tensor, second: Tensor) -> float:
    """Norm of the difference; NaN counts as infinitely far."""
    found = float(torch.linalg.vector_norm(first.double() - second.double()))
    return float("inf") if math.isnan(found) else found


def floor(reference: Tensor, module: nn.Module) -> float:
    """How far rounding alone may move an answer: in the dtypes that weights are kept and computed in.

    Errors of single weights cancel out in part. Weights of 8 bits, rounded by up to a sixteenth (e4m3) or an
    eighth (e5m2) each, moved answers by 2 % and 5 %, so that twice that rounding is enough for them.
    """
    kinds = {_computing_dtype(module), *(weight.dtype for weight in module.parameters())}
    eps = max((torch.finfo(kind).eps for kind in kinds if kind.is_floating_point), default=0.0)
    relative = max(4 * eps, _LEAST_FLOOR) if eps < _EPS_OF_8_BITS else eps
    return relative * float(torch.linalg.vector_norm(reference.double()))


def _token_ids(pipe: Any, component: str, prompts: Sequence[str]) -> Tensor:
    tokenizer = getattr(pipe, TEXT_ENCODERS[component], None)
    if tokenizer is None:
        raise ConfigError(
            f"the pipeline has no {TEXT_ENCODERS[component]}, which the canary prompts of {component} need; "
            "expected a complete pipeline; load it with its tokenizer"
        )
    encoded = tokenizer(
        list(prompts),
        padding="longest",
        truncation=True,
        max_length=tokenizer.model_max_length,
        return_tensors="pt",
    )
    ids: Tensor = encoded.input_ids
    return ids


def _text_states(module: nn.Module, asked: Mapping[str, Tensor]) -> Tensor:
    states: Tensor = module(input_ids=asked["input_ids"].to(_device(module))).last_hidden_state
    return states


def _states_before_last_layer(module: nn.Module, asked: Mapping[str, Tensor]) -> Tensor:
    ids = asked["input_ids"].to(_device(module))
    states: Tensor = module(input_ids=ids, output_hidden_states=True).hidden_states[-2]
    return states


def _noise(module: nn.Module, asked: Mapping[str, Tensor]) -> Tensor:
    device, dtype = _device(module), _computing_dtype(module)
    moved = {name: value.to(device, dtype) for name, value in asked.items()}
    extra = {key: moved[key] for key in ("text_embeds", "time_ids") if key in moved}
    arguments: dict[str, Any] = {"added_cond_kwargs": extra} if extra else {}
    timestep = torch.tensor(TIMESTEP, device=device)
    found: Tensor = module(
        moved["latents"], timestep, encoder_hidden_states=moved["states"], **arguments
    ).sample
    return found


def _unet_inputs(pipe: Any, prompts: Sequence[str]) -> dict[str, Tensor]:
    config = pipe.unet.config
    generator = torch.Generator().manual_seed(LATENT_SEED)
    side = 2 * 2 ** (len(config.block_out_channels) - 1)
    latents = torch.randn(1, config.in_channels, side, side, generator=generator).expand(
        len(prompts), -1, -1, -1
    )
    asked = {"latents": latents.contiguous(), "states": _states_for_unet(pipe, prompts, generator)}
    if getattr(config, "addition_embed_type", None) == "text_time":
        ids = 6
        pooled = config.projection_class_embeddings_input_dim - ids * config.addition_time_embed_dim
        asked["text_embeds"] = torch.randn(len(prompts), pooled, generator=generator)
        asked["time_ids"] = torch.tensor(
            [[side * 8.0, side * 8.0, 0.0, 0.0, side * 8.0, side * 8.0]] * len(prompts)
        )
    return asked


def _states_for_unet(pipe: Any, prompts: Sequence[str], generator: torch.Generator) -> Tensor:
    """States that the pipeline's text encoders give the UNet, else seeded noise of the same width.

    One encoder gives its last states; with a second, SDXL takes those before the last layer of each, side by
    side (its refiner has the second alone).
    """
    width = pipe.unet.config.cross_attention_dim
    width = width if isinstance(width, int) else width[0]
    encoders = {name: getattr(pipe, name, None) for name in TEXT_ENCODERS}
    there = {name: encoder for name, encoder in encoders.items() if encoder is not None}
    if sum(encoder.config.hidden_size for encoder in there.values()) == width:
        ids = {name: _token_ids(pipe, name, prompts) for name in there}
        if list(there) == ["text_encoder"]:
            return answer("text_encoder", there["text_encoder"], {"input_ids": ids["text_encoder"]})
        if len({rows.shape for rows in ids.values()}) == 1:
            asked = [(encoder, {"input_ids": ids[name]}) for name, encoder in there.items()]
            return torch.cat([_calm(_states_before_last_layer, *one) for one in asked], dim=-1)
    return torch.randn(len(prompts), 8, width, generator=generator)


@torch.no_grad()
def _calm(
    ask: Callable[[nn.Module, Mapping[str, Tensor]], Tensor], module: nn.Module, asked: Mapping[str, Tensor]
) -> Tensor:
    """An answer without dropout and gradients, in float32 on the CPU."""
    training = module.training
    module.eval()
    try:
        found = ask(module, asked)
    finally:
        module.train(training)
    return found.detach().to("cpu", torch.float32)


def _device(module: nn.Module) -> torch.device:
    """Where inputs go: the execution device of an offloaded module, else where its weights lie."""
    hook: Any = getattr(module, "_hf_hook", None)
    execution = getattr(hook, "execution_device", None)
    if execution is not None:
        return torch.device(execution)
    return next(module.parameters()).device


def _computing_dtype(module: nn.Module) -> torch.dtype:
    """What inputs are cast to; layers may keep their weights in another dtype while they are not at work."""
    dtype: torch.dtype = module.dtype  # type: ignore[assignment]
    return dtype
