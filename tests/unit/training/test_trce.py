"""TRCE's first stage on the tiny pipeline: the paper's formula, whatever is mapped and kept."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from diffusers import StableDiffusionPipeline, StableDiffusionXLPipeline

from diffusers_erasure.artifacts.edits import DeltaEdit, apply_edit
from diffusers_erasure.concepts import resolve_concepts
from diffusers_erasure.diffusion import DiffusionComponents, text_projections, tokenize
from diffusers_erasure.errors import ConfigError
from diffusers_erasure.evaluation.splits import training_prompts
from diffusers_erasure.training import text_states
from diffusers_erasure.training.trce import train_trce
from diffusers_erasure.training.trce_settings import TRCEConfig
from tests.reference.trce import mapped_weight, released_weight

from .trce_runs import BASE, KEPT, PAIRS, config, factor_of, states_of


def test_presets_are_the_published_settings() -> None:
    paper = TRCEConfig.parse({"concept": ["x"], "preset": "paper"})
    published = {
        "stages": "1+2",
        "eot_weight": 1.0,
        "sot_weight": 0.0,
        "padding_weight": 0.0,
        "keyword_weight": 0.0,
        "num_templates": 15,
        "train_method": "visual",
        "steering_guidance": 16.0,
        "steering_margin": 0.01,
        "regularization_weight": 100.0,
        "regularization_batch_size": 4,
        "early_steps": 26,
        "num_inference_steps": 50,
        "trajectories_per_prompt": 5,
        "guidance_scale": 3.0,
        "max_train_steps": 300,
        "learning_rate": 1e-6,
        "optimizer": "adamw",
        "adam_weight_decay": 0.01,
        "deviations": (),
    }
    assert {name: getattr(paper, name) for name in published} == published
    assert TRCEConfig.parse({"concept": ["x"], "preset": "themes"}).max_train_steps == 900
    assert TRCEConfig.parse({"concept": ["x"]}).preset == "embedded"
    assert (
        TRCEConfig.parse({"concept": ["x"], "pretrained_model_name_or_path": "org/model"}).preset == "paper"
    )


@pytest.mark.parametrize(
    "weights",
    [
        {},
        {"sot_weight": 0.5},
        {"keyword_weight": 2.0},
        {"keyword_weight": 1.0, "keyword_target": "anchor"},
        {"eot_weight": 0.0, "padding_weight": 1.0},
    ],
)
def test_stage_1_is_the_papers_formula_in_every_layer(
    tiny_pipe: StableDiffusionPipeline, kept_file: str, weights: dict[str, object]
) -> None:
    chosen = config(stages="1", retain_set=kept_file, preserve_scale=0.3, ridge=1e-3, **weights)
    found = factor_of(train_trce(tiny_pipe, chosen, base=BASE))
    mapped = []
    for pair in PAIRS:
        malicious, safe = states_of(tiny_pipe, pair.source), states_of(tiny_pipe, pair.target)
        # the tiny tokenizer's tokens are characters: [SoT], letters, [EoT]
        end, safe_end = (len(text.replace(" ", "")) + 1 for text in (pair.source, pair.target))
        rows = [(0, 0, chosen.sot_weight), (end, safe_end, chosen.eot_weight)]
        rows += [(p, max(p, safe_end), chosen.padding_weight) for p in range(end + 1, len(malicious))]
        to_anchor = chosen.keyword_target == "anchor"
        rows += [
            (end - back, safe_end - back if to_anchor else -1, chosen.keyword_weight) for back in (3, 2, 1)
        ]
        mapped += [(malicious[m], safe[s], weight) for m, s, weight in rows if weight]
    kept = [state for prompt in KEPT for state in states_of(tiny_pipe, prompt)]
    for projection in text_projections(tiny_pipe.unet):
        old = projection.weight.detach().double()
        expected = mapped_weight(old, mapped, kept, pairs=len(PAIRS), eta=0.3, ridge=1e-3)
        error = (old + old @ found - expected).abs().max()
        assert error < 1e-5 * (expected - old).abs().max()


def test_pairs_that_are_encoded_in_parts_are_all_mapped(
    tiny_pipe: StableDiffusionPipeline, kept_file: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Few enough rows for Woodbury's way, which needs them all at once."""
    chosen = config(stages="1", retain_set=kept_file)
    whole = factor_of(train_trce(tiny_pipe, chosen, base=BASE))
    assert 2 * len(PAIRS) <= len(whole)
    monkeypatch.setattr(text_states, "_CHUNK", 2)
    parts = factor_of(train_trce(tiny_pipe, chosen, base=BASE))
    assert (parts - whole).abs().max() < 1e-6 * whole.abs().max()


def test_a_slot_weighs_against_what_is_kept(tiny_pipe: StableDiffusionPipeline, kept_file: str) -> None:
    malicious, safe = (states_of(tiny_pipe, text).double() for text in (PAIRS[0].source, PAIRS[0].target))
    end = len(PAIRS[0].source.replace(" ", "")) + 1
    left = []
    for weight in (0.1, 1.0, 10.0):
        chosen = config(stages="1", retain_set=kept_file, eot_weight=weight)
        found = factor_of(train_trce(tiny_pipe, chosen, base=BASE))
        left.append(float((malicious[end] + found @ malicious[end] - safe[end]).norm()))
    assert left[0] > 1.5 * left[1] > 2 * left[2]


def test_without_a_prior_the_safe_states_are_hit(tiny_pipe: StableDiffusionPipeline, kept_file: str) -> None:
    chosen = config(stages="1", retain_set=kept_file, preserve_scale=0.0, ridge=1e-10, num_templates=2)
    found = factor_of(train_trce(tiny_pipe, chosen, base=BASE))
    for pair in PAIRS[:2]:
        malicious, safe = states_of(tiny_pipe, pair.source), states_of(tiny_pipe, pair.target)
        end = len(pair.source.replace(" ", "")) + 1
        heard = malicious[end].double() + found @ malicious[end].double()
        torch.testing.assert_close(heard, safe[end].double(), atol=1e-4, rtol=0)


def test_the_reference_counts_words_and_squares_its_weight(
    tiny_pipe: StableDiffusionPipeline, kept_file: str
) -> None:
    """Its position is inside the prompt, since a word of the tiny tokenizer is several tokens."""
    chosen = config(stages="1", preset="reference", retain_set=kept_file, preserve_scale=30.0, ridge=1e-3)
    found = factor_of(train_trce(tiny_pipe, chosen, base=BASE))
    mapped = []
    for pair in PAIRS:
        at = [len(text.split()) + 1 for text in (pair.source, pair.target)]
        mapped.append((states_of(tiny_pipe, pair.source)[at[0]], states_of(tiny_pipe, pair.target)[at[1]]))
    kept = [state for prompt in KEPT for state in states_of(tiny_pipe, prompt)]
    old = text_projections(tiny_pipe.unet)[0].weight.detach().double()
    expected = released_weight(old, mapped, kept, preserve_scale=30.0, ridge=1e-3)
    assert (old + old @ found - expected).abs().max() < 1e-5 * (expected - old).abs().max()


def test_both_forms_of_stage_1_are_one_edit(tiny_pipe: StableDiffusionPipeline, kept_file: str) -> None:
    made = [
        train_trce(tiny_pipe, config(stages="1", retain_set=kept_file, edit_form=form), base=BASE).edits[
            "unet"
        ]
        for form in ("right_factor", "cross_attention")
    ]
    assert isinstance(made[1], DeltaEdit)
    assert set(made[0].targets) == set(made[1].targets)
    for projection in text_projections(tiny_pipe.unet):
        one, two = (apply_edit(projection.weight, [(edit, 1.0)], name=projection.key) for edit in made)
        torch.testing.assert_close(one, two, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("form", ["right_factor", "cross_attention"])
def test_an_edit_is_stored_as_asked(tiny_pipe: StableDiffusionPipeline, kept_file: str, form: str) -> None:
    many_rows = {"padding_weight": 1.0, "edit_form": form}
    for name in ("float16", "float32"):
        chosen = config(stages="1", retain_set=kept_file, artifact_dtype=name, **many_rows)
        edit = train_trce(tiny_pipe, chosen, base=BASE).edits["unet"]
        assert {tensor.dtype for tensor in edit.tensors.values()} == {getattr(torch, name)}


def test_a_stored_prior_gives_the_same_edit(
    tiny_pipe: StableDiffusionPipeline, kept_file: str, tmp_path: Path
) -> None:
    """Whole set in the file, the concept's own prompts subtracted: for the concept, and for another one."""
    Path(kept_file).write_text("\n".join([*KEPT[1:], "a dog", "my dog", "my key"]), encoding="utf-8")
    stored = str(tmp_path / "prior.safetensors")
    for concept in ("dog", "key"):
        values = {"concept": [concept], "stages": "1", "retain_set": kept_file, "ridge": 1e-3}
        plain = factor_of(train_trce(tiny_pipe, config(**values), base=BASE))
        filed = factor_of(train_trce(tiny_pipe, config(**values, prior_file=stored), base=BASE))
        assert (plain - filed).abs().max() < 1e-5 * plain.abs().max()
    assert Path(stored).is_file()


def test_an_artifact_says_what_a_file_of_ones_own_retained(
    tiny_pipe: StableDiffusionPipeline, tmp_path: Path
) -> None:
    """The file stays the setting's value, since parts that are composed must agree in it."""
    own = tmp_path / "prompts.txt"
    own.write_text("a dog\na red chair\na blue chair", encoding="utf-8")
    settings = train_trce(
        tiny_pipe, config(concept=["dog"], stages="1", retain_set=str(own)), base=BASE
    ).manifest.settings
    assert settings["retain_set"].value == str(own)
    assert {"a red chair", "a blue chair"} <= set(
        training_prompts(tuple(resolve_concepts(["dog"])), settings)
    )
    assert "a dog" not in settings["retained_prompts"].value
    named = train_trce(tiny_pipe, config(concept=["dog"], stages="1"), base=BASE).manifest.settings
    assert "retained_prompts" not in named


def test_a_prior_of_something_else_is_refused(
    tiny_pipe: StableDiffusionPipeline, kept_file: str, tmp_path: Path
) -> None:
    stored = tmp_path / "prior.safetensors"
    chosen = config(stages="1", retain_set=kept_file, prior_file=str(stored))
    train_trce(tiny_pipe, chosen, base=BASE)
    Path(kept_file).write_text("a lamp", encoding="utf-8")
    with pytest.raises(ConfigError, match="made from another retain set"):
        train_trce(tiny_pipe, chosen, base=BASE)
    with torch.no_grad():
        tiny_pipe.text_encoder.get_input_embeddings().weight[0] += 1
    with pytest.raises(ConfigError, match="made from another text encoder and retain set"):
        train_trce(tiny_pipe, chosen, base=BASE)
    with pytest.raises(ConfigError, match=r"prior_file .* came with max_retain_prompts 3"):
        train_trce(tiny_pipe, chosen.model_copy(update={"max_retain_prompts": 3}), base=BASE)
    stored.write_bytes(b"no statistics")
    from diffusers_erasure.errors import ArtifactFormatError

    with pytest.raises(ArtifactFormatError, match="cannot be read"):
        train_trce(tiny_pipe, chosen, base=BASE)


def test_padding_that_is_no_end_token_is_not_taken_for_one(
    tiny_pipe: StableDiffusionPipeline, kept_file: str
) -> None:
    """As in Stable Diffusion 2.x, which pads with an exclamation mark."""
    tiny_pipe.tokenizer.pad_token = "."
    for values in ({"padding_weight": 1.0}, {"keyword_weight": 1.0}):
        with pytest.raises(ConfigError, match=r"this model pads with '\.'"):
            train_trce(tiny_pipe, config(stages="1", retain_set=kept_file, **values), base=BASE)
    anchored = {"keyword_weight": 1.0, "keyword_target": "anchor"}
    found = factor_of(train_trce(tiny_pipe, config(stages="1", retain_set=kept_file, **anchored), base=BASE))
    assert float(found.abs().max()) > 0


def test_a_stage_without_anything_to_do_is_refused() -> None:
    with pytest.raises(ConfigError, match="stage 1 has nothing to map"):
        config(eot_weight=0.0)
    config(stages="2", eot_weight=0.0)
    with pytest.raises(ConfigError, match="early_steps is 9, but a run has num_inference_steps 4"):
        config(early_steps=9)
    with pytest.raises(ConfigError, match="never cleared cannot be accumulated over 2 passes"):
        config(deviations=["summed_gradients"], gradient_accumulation_steps=2)


def test_prompts_that_are_not_the_tables_own_are_recorded(
    tiny_pipe: StableDiffusionPipeline, kept_file: str, tmp_path: Path
) -> None:
    table = tmp_path / "pairs.csv"
    table.write_text("malicious,safe\nbarks at me,meows at me\n", encoding="utf-8")
    artifact = train_trce(
        tiny_pipe, config(stages="1", retain_set=kept_file, pairs_file=str(table)), base=BASE
    )
    assert artifact.manifest.settings["further_prompts"].value == ["barks at me"]
    named = training_prompts(tuple(resolve_concepts(["dog"])), artifact.manifest.settings)
    assert "barks at me" in named


def test_sdxl_is_mapped_through_both_encoders_and_not_steered(
    tiny_xl: StableDiffusionXLPipeline, kept_file: str
) -> None:
    found = factor_of(train_trce(tiny_xl, config(stages="1", retain_set=kept_file), base=BASE))
    widths = [encoder.config.hidden_size for encoder in (tiny_xl.text_encoder, tiny_xl.text_encoder_2)]
    assert len(found) == sum(widths)
    for half in (found[: widths[0]], found[widths[0] :]):
        assert float(half.abs().max()) > 0
    with pytest.raises(ConfigError, match="two text encoders"):
        train_trce(tiny_xl, config(stages="1+2", retain_set=kept_file), base=BASE)


@pytest.mark.parametrize("weights", [{"padding_weight": 1.0}, {"keyword_weight": 1.0}])
def test_padding_of_either_encoder_that_is_no_end_token_is_refused(
    tiny_xl: StableDiffusionXLPipeline, kept_file: str, weights: dict[str, float]
) -> None:
    """SDXL's second encoder pads with "!"."""
    assert tiny_xl.tokenizer.pad_token == tiny_xl.tokenizer.eos_token
    with pytest.raises(ConfigError, match="a text encoder of this model pads with '!'"):
        train_trce(tiny_xl, config(stages="1", retain_set=kept_file, **weights), base=BASE)


@pytest.mark.parametrize(("anchor", "warned"), [([], True), (["cat"], False), ([""], False)])
def test_a_concept_without_an_anchor_loses_its_context_and_that_is_told(
    tiny_pipe: StableDiffusionPipeline,
    kept_file: str,
    anchor: list[str],
    warned: bool,
    caplog: pytest.LogCaptureFixture,
) -> None:
    values = {"concept": ["bed"], "anchor": anchor, "stages": "1", "retain_set": kept_file}
    train_trce(tiny_pipe, config(**values), base=BASE)
    assert ("bed has no anchor" in caplog.text) is warned


def test_words_of_several_tokens_are_found_whole(tiny_pipe: StableDiffusionPipeline) -> None:
    components = DiffusionComponents.from_pipeline(tiny_pipe)
    found = tokenize(components.tokenizer, "by van gogh!", word="van gogh", max_tokens=24)
    assert len(found.word) == 7
