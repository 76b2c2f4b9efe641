"""UCE: unified concept editing in closed form (Gandikota et al., arXiv:2308.14761).

The paper's equation 7 gives, for every key and value matrix W of the cross-attention,

    W' = ( sum_{c in E} v*(c) cᵀ + sum_{c in P} W c cᵀ ) ( sum_{c in E} c cᵀ + sum_{c in P} c cᵀ )⁻¹

where
    E      (concepts to edit) is the text states of prompts that name a concept (`token_positions` says which)
    v*(c)  (the target, W c*) is the same W on the states of the same prompts with the anchor in its place
    P      (concepts to preserve) is all states of the retain prompts, weighted by `preserve_scale`
    λ      (the pull towards the old W) is `ridge`, relative to the statistics, and `lamb`, absolute

Since v*(c) = W c*, every term holds W as its left factor and one matrix serves all layers (`closed_form`).

The released code takes the last token of the bare concept, plain sums, λ = 0.5, and no retain prompts but
those the user lists: `--token_positions concept-last-token --weighting sum --lamb 0.5 --ridge 0
--num_templates 0 --no_use_synonyms --retain_prompts none --preserve_scale 1`. The defaults here map [EoT]
and the padding after it instead, in several wordings and with synonyms, and keep a whole retain set: a
concept is also heard there.
"""

from __future__ import annotations

from typing import Literal

from diffusers import DiffusionPipeline

from diffusers_erasure.artifacts.artifact import Artifact, build_artifact
from diffusers_erasure.artifacts.canary import choose_prompts
from diffusers_erasure.artifacts.manifest import BaseModelRef
from diffusers_erasure.diffusion import DiffusionComponents, text_projections
from diffusers_erasure.prompts import World, erasure_pairs, retain_prompts, world_of
from diffusers_erasure.settings import setting

from .closed_form import Penalties, PriorStatistics
from .config import Progress, ProgressCallback, TrainingConfig, silent
from .registry import erasure_method, method
from .text_edit import right_factor_edit, solve_pairs
from .text_states import align_pairs, prior_statistics
from .token_positions import TokenPositions, needs_padding


class UCEConfig(TrainingConfig):
    """Settings of UCE."""

    token_positions: TokenPositions = setting(
        "eot+padding",
        "which text states of a prompt are mapped to the anchor's",
        source="concept-last-token in the released code",
    )
    use_synonyms: bool = setting(True, "map the concept's known synonyms too")
    num_templates: int | None = setting(
        None, "most wordings per word; 0 takes the bare word alone, None takes all", ge=0
    )
    retain_prompts: Literal["auto", "embedded", "general", "none"] = setting(
        "auto",
        "which prompts are kept: the embedded pipeline's, everyday scenes, or none; auto goes by the base",
    )
    retain: tuple[str, ...] = setting((), "further prompt to keep", symbol="P")
    max_retain_prompts: int | None = setting(None, "most prompts of the retain set; None takes all", ge=1)
    preserve_scale: float = setting(0.1, "weight of what is kept against what is mapped", symbol="η", ge=0)
    weighting: Literal["mean", "sum"] = setting(
        "mean", "average over the mapped and over the kept states, or plain sums as in the paper"
    )
    ridge: float = setting(
        1e-6, "pull towards the old weights, as a share of the mean diagonal", symbol="λ", ge=0
    )
    lamb: float = setting(
        0.0, "the same in absolute terms", symbol="λ", source="0.5 in the released code", ge=0
    )
    batch_size: int = setting(64, "prompts that are encoded at once", recorded=False, ge=1)

    @property
    def penalties(self) -> Penalties:
        """The weights of the closed form."""
        return Penalties(self.preserve_scale, self.ridge, self.lamb, mean=self.weighting == "mean")


@erasure_method(name="uce", config=UCEConfig)
def train_uce(
    pipe: DiffusionPipeline, config: UCEConfig, *, base: BaseModelRef, progress: ProgressCallback = silent
) -> Artifact:
    """Closed-form edit of all cross-attention keys and values (UCE, arXiv:2308.14761).

    Args:
        pipe: Base pipeline with one text encoder, or with two as SDXL has; it is read, not changed. Of SDXL
            only keys and values are edited: the pooled state of its second encoder bypasses them.
        config: Settings.
        base: How the artifact names the base model.
        progress: Called as the run goes on.
    """
    components = DiffusionComponents.from_pipeline(pipe, second_encoder=True)
    projections = text_projections(components.unet, text_width=components.text_width)
    world = world_of(base.id)
    pairs = erasure_pairs(
        config.concepts, world=world, synonyms=config.use_synonyms, limit=config.num_templates
    )
    aligned = align_pairs(components, pairs, config.token_positions)
    prior = _prior(components, config, world, progress)
    found = solve_pairs(
        components,
        aligned,
        config.token_positions,
        prior,
        config.penalties,
        batch_size=config.batch_size,
        progress=lambda done: progress(Progress("concept", done, len(aligned))),
    )
    progress(Progress("solve", 1, 1, found.numbers))
    progress(Progress("artifact", 0, 1))
    artifact = build_artifact(
        pipe,
        {"unet": right_factor_edit(found.factor, projections)},
        method="uce",
        method_version=method("uce").version,
        settings=config.records(),
        concepts=config.concepts,
        base=base,
        seed=config.seed,
        steps=0,
        canary_prompts=choose_prompts([pair.source for pair in pairs]),
    )
    progress(Progress("artifact", 1, 1))
    return artifact


def _prior(
    components: DiffusionComponents, config: UCEConfig, world: World, progress: ProgressCallback
) -> PriorStatistics:
    """C over every state of the retain set."""
    prompts: tuple[str, ...] = config.retain
    if config.retain_prompts != "none":
        whose: World = world if config.retain_prompts == "auto" else config.retain_prompts
        prompts += retain_prompts(config.concepts, world=whose, limit=config.max_retain_prompts)
    if not prompts:
        return PriorStatistics.empty(components.text_width)
    return prior_statistics(
        components,
        prompts,
        padded=needs_padding(config.token_positions),
        batch_size=config.batch_size,
        progress=lambda done: progress(Progress("retain set", done, len(prompts))),
    )
