"""The adversary in training: when it searches, where it starts, and what the authors' code does otherwise."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from diffusers import StableDiffusionPipeline
from torch import Tensor, nn

from diffusers_erasure.attacks.soft_prompt import Descent, random_embeddings, soft_prompt_attack
from diffusers_erasure.diffusion import (
    BankSettings,
    DiffusionComponents,
    NoisePredictor,
    SoftPrompt,
    TextPath,
    TrajectoryBank,
    text_layers_by_prefix,
    tokenize,
)
from diffusers_erasure.training.adversary import Adversary, AskedPrompt
from diffusers_erasure.training.advunlearn_settings import AdvUnlearnConfig
from diffusers_erasure.training.draws import StepDraws

RATE = 1e-3


def adversary_of(pipe: StableDiffusionPipeline, prompt: str = "dog", **values: object) -> Adversary:
    """An adversary against the original itself."""
    given = {"concept": ["dog"], "preset": "object", "attack_steps": 2, **values}
    settings = AdvUnlearnConfig.parse(given)
    components = DiffusionComponents.from_pipeline(pipe)
    bank = TrajectoryBank.build(components, [prompt], BankSettings(mode="pool", steps=4))
    return Adversary(TextPath(components), NoisePredictor.of(components), bank, [prompt], settings)


def ask(adversary: Adversary, iteration: int) -> AskedPrompt:
    return adversary.ask(StepDraws.at(0, iteration, batch=1), iteration)


def free(adversary: Adversary, asked: AskedPrompt) -> Tensor:
    """The free embeddings of a prompt, `(k, width)`."""
    return asked.embeddings[0, list(adversary.soft[asked.number].positions)]


def random_start(adversary: Adversary, iteration: int, count: int = 1) -> Tensor:
    """Where the search of an iteration begins: the wording is drawn first, then the tokens."""
    generator = StepDraws.at(0, iteration, batch=1).shared
    torch.randint(1, (), generator=generator)
    return random_embeddings(adversary.text, 1, count, generator)[0]


def test_one_signed_step_moves_every_entry_by_alpha(tiny_pipe: StableDiffusionPipeline) -> None:
    adversary = adversary_of(tiny_pipe, attack_steps=1, attack_rule="sign", attack_learning_rate=RATE)
    moved = free(adversary, ask(adversary, 0)) - random_start(adversary, 0)
    torch.testing.assert_close(moved.abs(), torch.full_like(moved, RATE), atol=1e-6, rtol=0)


def test_before_it_begins_the_plain_concept_is_asked_for(tiny_pipe: StableDiffusionPipeline) -> None:
    adversary = adversary_of(tiny_pipe, adversary_warmup_steps=2)
    plain = adversary.text.ids(["dog"])
    for iteration in range(2):
        asked = ask(adversary, iteration)
        assert torch.equal(asked.ids, plain)
        assert torch.equal(asked.embeddings, adversary.text.token_embeddings(plain))
        assert asked.loss is None
    begun = ask(adversary, 2)
    assert begun.loss is not None
    assert not torch.equal(begun.ids, plain)


def test_without_steps_there_is_no_adversary(tiny_pipe: StableDiffusionPipeline) -> None:
    adversary = adversary_of(tiny_pipe, attack_steps=0)
    assert torch.equal(ask(adversary, 7).ids, adversary.text.ids(["dog"]))


def test_one_prompt_serves_several_iterations(tiny_pipe: StableDiffusionPipeline) -> None:
    adversary = adversary_of(tiny_pipe, attack_every=3)
    asked = [ask(adversary, iteration) for iteration in range(4)]
    assert [one.loss is not None for one in asked] == [True, False, False, True]
    assert torch.equal(asked[0].embeddings, asked[2].embeddings)
    assert not torch.equal(asked[2].embeddings, asked[3].embeddings)


def test_an_adversary_that_begins_between_two_searches_searches_at_once(
    tiny_pipe: StableDiffusionPipeline,
) -> None:
    adversary = adversary_of(tiny_pipe, attack_every=3, adversary_warmup_steps=2)
    found = [ask(adversary, iteration).loss is not None for iteration in range(5)]
    assert found == [False, False, True, True, False]


def test_a_search_may_start_where_the_last_one_ended(tiny_pipe: StableDiffusionPipeline) -> None:
    tiny_step = {"attack_steps": 1, "attack_rule": "sign", "attack_learning_rate": RATE}
    for init, near in (("latest", True), ("random", False)):
        adversary = adversary_of(tiny_pipe, attack_init=init, **tiny_step)
        first, second = (free(adversary, ask(adversary, iteration)) for iteration in range(2))
        assert bool((second - first).abs().max() < 2 * RATE) is near


def test_a_resumed_adversary_goes_on_from_the_last_embeddings(tiny_pipe: StableDiffusionPipeline) -> None:
    whole = adversary_of(tiny_pipe, attack_init="latest")
    ask(whole, 0)
    resumed = adversary_of(tiny_pipe, attack_init="latest")
    resumed.load_state(whole.state())
    assert torch.equal(ask(whole, 1).embeddings, ask(resumed, 1).embeddings)


def test_what_was_asked_before_is_forgotten_with_the_state(tiny_pipe: StableDiffusionPipeline) -> None:
    ours, other = (adversary_of(tiny_pipe, attack_every=3) for _ in range(2))
    for adversary, seed in ((ours, 0), (other, 7)):
        for iteration in range(2):
            adversary.ask(StepDraws.at(seed, iteration, batch=1), iteration)
    assert not torch.equal(ask(ours, 1).embeddings, ask(other, 1).embeddings)
    ours.load_state(other.state())
    assert torch.equal(ask(ours, 1).embeddings, ask(other, 1).embeddings)


def test_the_loss_that_is_told_is_that_of_the_last_step(tiny_pipe: StableDiffusionPipeline) -> None:
    adversary = adversary_of(tiny_pipe, attack_steps=3)
    told = ask(adversary, 0).loss
    shared = StepDraws.at(0, 0, batch=1).shared
    torch.randint(1, (), generator=shared)
    start = random_embeddings(adversary.text, 1, 1, shared)
    drawn = adversary.bank.draw(shared, 3, prompts=[0] * 3)
    rows = [
        replace(
            drawn,
            latents=drawn.latents[row : row + 1],
            timesteps=drawn.timesteps[row : row + 1],
            target_conditional=drawn.target_conditional[row : row + 1],
        )
        for row in range(3)
    ]
    found = soft_prompt_attack(
        adversary.soft, adversary.text, adversary.predictor, rows.__getitem__, delta=start, descent=Descent(3)
    )
    assert told is not None
    torch.testing.assert_close(told, found.losses[2, 0])
    assert abs(float(found.losses[2, 0] - found.losses[0, 0])) > 1e-3 * float(told)


def test_every_token_of_the_concept_stays_unless_words_are_counted(
    tiny_pipe: StableDiffusionPipeline,
) -> None:
    """A word of several tokens: the authors' code keeps the first of them only."""
    components = DiffusionComponents.from_pipeline(tiny_pipe)
    word = "xylophone"
    start, *own, end = tokenize(components.tokenizer, word).ids
    assert len(own) > 1
    for deviations, kept in (((), own), (("words",), own[:1])):
        adversary = adversary_of(tiny_pipe, word, deviations=deviations)
        ids = ask(adversary, 0).ids[0].tolist()
        assert ids[0] == start
        assert ids[2 : 2 + len(kept) + 1] == [*kept, end]


def test_a_lost_step_gives_back_the_random_start(tiny_pipe: StableDiffusionPipeline) -> None:
    """The authors' fast AT, as it is coded, trains with random words."""
    adversary = adversary_of(tiny_pipe, attack_steps=1, deviations=["lost_step"])
    assert torch.equal(free(adversary, ask(adversary, 0)), random_start(adversary, 0))
    whole = adversary_of(tiny_pipe, attack_steps=1)
    assert not torch.equal(free(whole, ask(whole, 0)), random_start(whole, 0))


@pytest.mark.parametrize("rule", ["adam", "sign"])
def test_gradients_that_are_never_cleared_add_up(tiny_pipe: StableDiffusionPipeline, rule: str) -> None:
    components = DiffusionComponents.from_pipeline(tiny_pipe)
    text, predictor = TextPath(components), NoisePredictor.of(components)
    bank = TrajectoryBank.build(components, ["dog"], BankSettings(mode="pool", steps=4))
    drawn = [bank.draw(torch.Generator().manual_seed(step), 1) for step in range(4)]
    soft = SoftPrompt(components.tokenizer, "dog", 1, max_tokens=components.max_tokens)
    start = random_embeddings(text, 1, 1, torch.Generator().manual_seed(9))
    descent = Descent(4, RATE, rule, sum_gradients=True)  # type: ignore[arg-type]
    found = soft_prompt_attack([soft], text, predictor, drawn.__getitem__, delta=start, descent=descent)

    delta = start[0].clone().requires_grad_(True)
    optimizer = torch.optim.Adam([delta], lr=RATE)
    for draw in drawn:
        states = text.states(soft.ids[None], soft.embeddings(text.token_embeddings(soft.ids[None]), delta))
        said = tiny_pipe.unet(draw.latents, draw.timesteps, encoder_hidden_states=states).sample
        ((said - draw.target_conditional) ** 2).mean().backward(inputs=[delta])  # adds to what is there
        assert delta.grad is not None
        if rule == "adam":
            optimizer.step()
            continue
        delta.grad.sign_()
        with torch.no_grad():
            delta -= RATE * delta.grad
    torch.testing.assert_close(found.delta[0], delta.detach(), atol=1e-6, rtol=0)


def test_the_first_places_are_taken_for_the_free_ones(tiny_pipe: StableDiffusionPipeline) -> None:
    """With the free token behind the concept, `latest` then starts from the concept's own token."""
    values = {"attack_steps": 1, "attack_init": "latest", "attack_placement": "suffix"}
    adversary = adversary_of(tiny_pipe, deviations=["latest_slice", "lost_step"], **values)
    ask(adversary, 0)
    first_word = adversary.text.token_embeddings(adversary.text.ids(["dog"]))[0, 1]
    assert torch.equal(free(adversary, ask(adversary, 1))[0], first_word)


def test_layer_1_means_all_whose_number_begins_with_1() -> None:
    layers = nn.ModuleDict({str(number): nn.Linear(1, 1) for number in range(12)})
    encoder = nn.ModuleDict({"encoder": nn.ModuleDict({"layers": layers})})
    for group, expected in {
        "text_encoder_layer1": "text_encoder_layer1_10_11",
        "text_encoder_layer0_1": "text_encoder_layer0_1_10_11",
        "text_encoder_layer0": "text_encoder_layer0",
        "text_encoder_full": "text_encoder_full",
        "esd-x": "esd-x",
    }.items():
        assert text_layers_by_prefix(group, encoder) == expected
    short = SimpleNamespace(named_parameters=lambda: [("encoder.layers.0.x", None)])
    assert text_layers_by_prefix("text_encoder_layer1", short) == "text_encoder_layer1"  # refused later
