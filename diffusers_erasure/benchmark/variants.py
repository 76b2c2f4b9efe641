"""Ways to erase that the benchmark sets side by side, as data.

A variant is a method of the command line with the flags that differ from its defaults, and further ones for
single concepts: a style has no place to go, and nine concepts at once need more steps (decisions 0006,
0007, 0011 and 0012). Its slug names folders and is never changed once something ran under it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

_STYLE = ("--negative_guidance", "2", "--num_templates", "None")
_STYLE_ESD = (*_STYLE, "--max_train_steps", "400")
_ESD: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {"ink": _STYLE_ESD, "weapons": ("--max_train_steps", "240")}
)
_ESD_TEXT: Mapping[str, tuple[str, ...]] = MappingProxyType({"ink": _STYLE_ESD})
_FARTHER = ("--attack_learning_rate", "5e-3")
_ADVUNLEARN: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "ink": (
            *_STYLE, *_FARTHER, "--max_train_steps", "600", "--retain_set", "styles", "--retain_weight", "4",
        ),
        "weapons": (
            *_FARTHER, "--max_train_steps", "800", "--learning_rate", "2e-4",
            "--retain_set", "styles", "--retain_weight", "4",
        ),
    }
)  # fmt: skip
_AEGIS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "ink": (*_STYLE, "--max_train_steps", "600"),
        "weapons": ("--scope", "a tool", "--learning_rate", "1e-4", "--max_train_steps", "400"),
    }
)
_NOTHING: Mapping[str, tuple[str, ...]] = MappingProxyType({})
_FAST = ("--attack_steps", "1", "--attack_rule", "sign", "--attack_learning_rate", "1e-2")
_FAST_AT: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {**_ADVUNLEARN, "weapons": (*_ADVUNLEARN["weapons"], "--attack_learning_rate", "5e-2")}
)
"""One step that reaches as far as AdvUnlearn's ten, but for ink (decision 0012)."""


@dataclass(frozen=True)
class Variant:
    """One way to erase.

    Attributes:
        slug: Names its folders.
        label: How tables and plots call it.
        method: The command's name for it.
        flags: What differs from its defaults.
        by_concept: The same for single concepts, after `flags`.
        shares_bank: Its trainings share a pool of what stays, whatever they erase. Those that train the UNet
            have none: its latents change with it.
        family: Variants of one family share a colour.
    """

    slug: str
    label: str
    method: str
    flags: tuple[str, ...] = ()
    by_concept: Mapping[str, tuple[str, ...]] = field(default_factory=lambda: _NOTHING)
    shares_bank: bool = False

    @property
    def family(self) -> str:
        """The method, which shares a colour."""
        return self.method

    def arguments(self, concept: str, seed: int) -> list[str]:
        """What stands after `diffusers-erasure train`."""
        given = [*self.flags, *self.by_concept.get(concept, ())]
        return [self.method, "--concept", concept, "--seed", str(seed), *given]


UCE = Variant("uce", "UCE", "uce")
ESD_X = Variant("esd", "ESD-x", "esd", by_concept=_ESD)
ESD_U = Variant("esd-u", "ESD-u", "esd", ("--train_method", "esd-u"), _ESD)
ESD_TEXT = Variant(
    "esd-text-encoder", "ESD text encoder", "esd", ("--train_method", "text_encoder_full"), _ESD_TEXT
)
ADVUNLEARN = Variant("advunlearn", "AdvUnlearn", "advunlearn", by_concept=_ADVUNLEARN, shares_bank=True)
FAST_AT = Variant("fast-at", "AdvUnlearn fast AT", "advunlearn", _FAST, _FAST_AT, shares_bank=True)
ADVUNLEARN_UNET = Variant(
    "advunlearn-unet", "AdvUnlearn UNet", "advunlearn", ("--train_method", "esd-x"), _ADVUNLEARN
)
TRCE = Variant("trce", "TRCE", "trce")
TRCE_1 = Variant("trce-stage-1", "TRCE stage 1", "trce", ("--stages", "1"))
TRCE_2 = Variant("trce-stage-2", "TRCE stage 2", "trce", ("--stages", "2"))
AEGIS = Variant("aegis", "AEGIS", "aegis", by_concept=_AEGIS)
METHODS = (
    UCE, ESD_X, ESD_U, ESD_TEXT, ADVUNLEARN, FAST_AT, ADVUNLEARN_UNET, TRCE_1, TRCE_2, TRCE, AEGIS,
)  # fmt: skip
"""What the main tables show."""

SHORT_ADVUNLEARN = Variant(
    "fast-at-100",
    "AdvUnlearn fast AT, 100 steps",
    "advunlearn",
    (*_FAST, "--max_train_steps", "100", "--max_retain_prompts", "40"),
)
"""A quarter of the steps and a sixth of what stays: a minute in place of four to fifteen."""


def _ablation(slug: str, label: str, method: str, *flags: str) -> Variant:
    return Variant(slug, label, method, flags, shares_bank=method == "advunlearn")


ADVUNLEARN_ABLATIONS = (
    _ablation("no-retain-set", "no retain set", "advunlearn", "--retain_mode", "none"),
    _ablation("first-layer", "first layer", "advunlearn", "--train_method", "text_encoder_layer0"),
    _ablation("gamma-0-1", "γ 0.1", "advunlearn", "--retain_weight", "0.1"),
    _ablation("gamma-2", "γ 2", "advunlearn", "--retain_weight", "2"),
    _ablation("1-attack-step", "1 attack step", "advunlearn", "--attack_steps", "1"),
    _ablation("no-attack", "no attack", "advunlearn", "--attack_steps", "0"),
    _ablation("replace", "replace", "advunlearn", "--attack_placement", "replace"),
    _ablation("add", "add", "advunlearn", "--attack_placement", "add"),
)
_STAGE_1 = ("--stages", "1")
TRCE_TARGETS = (
    _ablation("trce-key", "[KEY]", "trce", *_STAGE_1, "--eot_weight", "0", "--keyword_weight", "1"),
    _ablation("trce-eot-key", "[EoT]+[KEY]", "trce", *_STAGE_1, "--keyword_weight", "1"),
    _ablation("trce-eot-sot", "[EoT]+[SoT]", "trce", *_STAGE_1, "--sot_weight", "1"),
    _ablation("trce-eot-padding", "[EoT]+padding", "trce", *_STAGE_1, "--padding_weight", "1"),
)
AEGIS_ABLATIONS = (
    _ablation("aegis-no-target", "no erasure target", "aegis", "--erasure_target", "concept"),
    _ablation("aegis-no-adversary", "no adversarial prompt", "aegis", "--no_adversarial"),
    _ablation("aegis-no-projection", "no projection", "aegis", "--retain_mode", "none"),
    _ablation(
        "aegis-retain-set", "a retain set in place of the weights", "aegis", "--retain_from", "prompts"
    ),
    _ablation("aegis-omega-1", "ω fixed at 1", "aegis", "--omega_rule", "fixed", "--omega", "1"),
)
EVERY = (*METHODS, SHORT_ADVUNLEARN, *ADVUNLEARN_ABLATIONS, *TRCE_TARGETS, *AEGIS_ABLATIONS)
BY_SLUG: Mapping[str, Variant] = MappingProxyType({one.slug: one for one in EVERY})
