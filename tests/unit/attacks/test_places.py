"""What an attack says that its search goes through is what gradients really flow through."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from torch import Tensor

from diffusers_erasure.attacks import (
    Access,
    AttackConfig,
    AttackedPrompt,
    Place,
    attack,
    attack_named,
    attacks,
)
from diffusers_erasure.attacks import registry as table
from diffusers_erasure.errors import ConfigError

ITEMS = [AttackedPrompt("a dog", 1, "dog")]
TINY: dict[str, dict[str, Any]] = {
    "concept_inversion": {"pictures": 1, "steps": 1, "pictures_per_step": 1},
    "no_attack": {},
    "p4d": {"tokens": 2, "steps": 1, "judge_every": 1},
    "random_tokens": {"images": 1},
    "replay": {},
    "ring_a_bell": {"tokens": 2, "population": 4, "generations": 1, "pairs": 1},
    "seed_search": {"images": 1},
    "soft_prompt": {"steps": 2, "checkpoints": 1, "sampling_steps": 2, "tokens": 1},
    "unlearndiffatk": {"timesteps": 1, "iterations": 1, "tokens": 1},
}


@contextmanager
def gradients(target: Any) -> Iterator[set[Place]]:
    """The places of a target whose outputs carry a gradient while the block runs."""
    unet, encoder = target.components.unet, target.components.text_encoder
    watched = [(Place.TEXT_ENCODER, encoder), (Place.UNET, unet.conv_out)]
    watched += [
        (Place.CROSS_ATTENTION, part) for name, part in unet.named_modules() if name.endswith("attn2")
    ]
    found: set[Place] = set()

    def hook(place: Place) -> Callable[..., None]:
        def see(_module: Any, _inputs: Any, output: Any) -> None:
            states = output if isinstance(output, Tensor) else output.last_hidden_state
            if states.requires_grad:
                found.add(place)

        return see

    handles = [module.register_forward_hook(hook(place)) for place, module in watched]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()


def test_every_attack_is_looked_at() -> None:
    assert set(TINY) == set(attacks())


@pytest.mark.parametrize("name", sorted(TINY))
def test_gradients_flow_where_an_attack_says(
    name: str, make_target: Callable[..., Any], make_tiny_pipe: Callable[..., Any]
) -> None:
    spec = attack_named(name)
    target, base = make_target(), make_target(pipe=make_tiny_pipe(seed=1))
    with gradients(target) as found:
        (outcome,) = spec.run(ITEMS, target, spec.config(**TINY[name]), base=base)
    assert outcome.failed is None
    assert found == spec.through


def test_an_attack_that_says_nothing_goes_through_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(table, "_registered", {})
    attack("silent", config=AttackConfig, access=Access.WHITE_BOX)(lambda *_, **__: iter(()))
    attack("foreign", config=AttackConfig, access=Access.WHITE_BOX, through=("text encoder",))(
        lambda *_, **__: iter(())
    )
    assert table._registered["silent"].through == frozenset()
    assert table._registered["foreign"].through == {Place.TEXT_ENCODER}
    with pytest.raises(ConfigError, match="'kitchen'; expected places of a model: text encoder"):
        attack("wrong", config=AttackConfig, access=Access.NONE, through=("kitchen",))
