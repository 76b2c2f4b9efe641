"""What the papers claim, as data: where, in which words, and by which rules it is held against the figures.

The rules stand in `checks`; what comes of a claim, and when the rules were last changed, in `settling`. The
embedded pipeline can show the ordering of methods; a claim that is not confirmed here may hold on Stable
Diffusion 1.x, and the other way round.
"""

from __future__ import annotations

from dataclasses import dataclass

from .checks import Check, Keeps, KeepsMore, Lower, Nearer, NoExcess, NotLower, Rarer, Stronger
from .profiles import ABLATED, FOUR, OBJECTS

ADVUNLEARN_PAPER = "AdvUnlearn (arXiv:2405.15234)"
TRCE_PAPER = "TRCE (arXiv:2503.07389)"
AEGIS_PAPER = "AEGIS (arXiv:2602.06771)"
ADVERSARIAL = ("unlearndiffatk", "ring_a_bell")
AEGIS_ATTACKS = ("unlearndiffatk", "p4d", "ring_a_bell")
NAMED = ("church", "dog", "weapons")
"""Concepts that have synonyms and implicit prompts."""


@dataclass(frozen=True)
class Claim:
    """A claim with its rules.

    Attributes:
        key: Names it in files.
        paper: Whose it is.
        place: Section or table there.
        words: What is claimed.
        checks: The rules; each must hold.
        concepts: Of which figures are asked.
    """

    key: str
    paper: str
    place: str
    words: str
    checks: tuple[Check, ...]
    concepts: tuple[str, ...] = FOUR


CLAIMS: tuple[Claim, ...] = (
    Claim(
        "advunlearn-esd",
        ADVUNLEARN_PAPER,
        "tables 5-7",
        "AdvUnlearn resists UnlearnDiffAtk far better than ESD, at like retention.",
        (Lower("advunlearn", "esd", at_most=0.5), Keeps("advunlearn", "esd")),
    ),
    Claim(
        "advunlearn-esd-text",
        ADVUNLEARN_PAPER,
        "tables 1-3",
        "ESD in the text encoder breaks what should stay; AdvUnlearn there keeps it.",
        (KeepsMore("advunlearn", "esd-text-encoder"), Keeps("advunlearn")),
    ),
    Claim(
        "text-encoder",
        ADVUNLEARN_PAPER,
        "table 3",
        "The text encoder is a better place for adversarial training than the UNet.",
        (Lower("advunlearn", "advunlearn-unet"), Keeps("advunlearn", "advunlearn-unet")),
    ),
    Claim(
        "fast-at",
        ADVUNLEARN_PAPER,
        "table 4",
        "Fast adversarial training lies between AdvUnlearn and no adversarial training.",
        (Lower("advunlearn", "fast-at"), Lower("fast-at", "esd")),
    ),
    Claim(
        "adversary",
        ADVUNLEARN_PAPER,
        "section 4",
        "The adversary of the training is what makes it robust.",
        (Lower("advunlearn", "no-attack"),),
        ABLATED,
    ),
    Claim(
        "attack-steps",
        ADVUNLEARN_PAPER,
        "table 4",
        "More steps of the adversary make it more robust.",
        (Lower("advunlearn", "1-attack-step"),),
        ABLATED,
    ),
    Claim(
        "layers",
        ADVUNLEARN_PAPER,
        "figure 8",
        "Training more layers of the text encoder makes it more robust.",
        (Lower("advunlearn", "first-layer"),),
        ABLATED,
    ),
    Claim(
        "gamma",
        ADVUNLEARN_PAPER,
        "figure A3",
        "The retain weight γ trades robustness for retention.",
        (Lower("gamma-0-1", "gamma-2"), KeepsMore("gamma-2", "gamma-0-1")),
        ABLATED,
    ),
    Claim(
        "retain-set",
        ADVUNLEARN_PAPER,
        "table 2 for the UNet, tested here in the text encoder",
        "Adversarial training without a retain set loses more of what should stay than with one.",
        (KeepsMore("advunlearn", "no-retain-set"),),
        ABLATED,
    ),
    Claim(
        "prefix",
        ADVUNLEARN_PAPER,
        "table A4",
        "Adversarial tokens before the prompt make it more robust than in its place or added to it.",
        (Lower("advunlearn", "replace"), Lower("advunlearn", "add")),
        ABLATED,
    ),
    Claim(
        "inversion",
        ADVUNLEARN_PAPER,
        "table 9",
        "Concept inversion brings back more of AdvUnlearn's erasures than UnlearnDiffAtk does.",
        (Stronger("advunlearn", "concept_inversion", "unlearndiffatk"),),
    ),
    Claim(
        "trce-stages",
        TRCE_PAPER,
        "table 1",
        "Both stages together resist attacks better than stage 1, and that better than stage 2 alone.",
        (Lower("trce", "trce-stage-1", ADVERSARIAL), Lower("trce-stage-1", "trce-stage-2", ADVERSARIAL)),
    ),
    Claim(
        "trce-eot-key",
        TRCE_PAPER,
        "ablation of the mapping's target",
        "[EoT] is a better target of the mapping than the keyword, at like retention.",
        (Lower("trce-stage-1", "trce-key"), Keeps("trce-stage-1", "trce-key")),
        OBJECTS,
    ),
    Claim(
        "trce-eot-sot",
        TRCE_PAPER,
        "ablation of the mapping's target",
        "[EoT] alone is a better target than [EoT] and [SoT].",
        (Lower("trce-stage-1", "trce-eot-sot"), Keeps("trce-stage-1", "trce-eot-sot")),
        OBJECTS,
    ),
    Claim(
        "trce-implicit",
        TRCE_PAPER,
        "section 1 and table 1 (I2P)",
        "Implicit prompts are erased better than by UCE.",
        (Rarer("trce", "uce", "implicit"),),
        NAMED,
    ),
    Claim(
        "trce-retention",
        TRCE_PAPER,
        "table 1 (FID to the base's own pictures)",
        "What should stay is nearer to the base's pictures than with AdvUnlearn.",
        (Nearer("trce", "advunlearn"),),
    ),
    Claim(
        "aegis-advunlearn",
        AEGIS_PAPER,
        "main table",
        "AEGIS resists better than AdvUnlearn in the UNet, and keeps more, without retention data.",
        (Lower("aegis", "advunlearn-unet", AEGIS_ATTACKS), Nearer("aegis", "advunlearn-unet")),
    ),
    Claim(
        "aegis-esd",
        AEGIS_PAPER,
        "main table",
        "AEGIS resists better than ESD, at like retention.",
        (Lower("aegis", "esd", AEGIS_ATTACKS), Keeps("aegis", "esd")),
    ),
    Claim(
        "aegis-target",
        AEGIS_PAPER,
        "table 6",
        "Without the adversarial erasure target it is much less robust.",
        (Lower("aegis", "aegis-no-target", at_most=0.5),),
        ABLATED,
    ),
    Claim(
        "aegis-projection",
        AEGIS_PAPER,
        "table 6",
        "Without the projection it is less robust and keeps less.",
        (Lower("aegis", "aegis-no-projection"), Nearer("aegis", "aegis-no-projection")),
        ABLATED,
    ),
    Claim(
        "aegis-retain-set",
        AEGIS_PAPER,
        "table 6",
        "A retain set in place of the original's weights makes it no better.",
        (NotLower("aegis-retain-set", "aegis"), Nearer("aegis", "aegis-retain-set")),
        ABLATED,
    ),
    Claim(
        "aegis-omega",
        AEGIS_PAPER,
        "table 6",
        "A projection of fixed strength lies between.",
        (Lower("aegis", "aegis-omega-1"), Lower("aegis-omega-1", "aegis-no-projection")),
        ABLATED,
    ),
    Claim(
        "target-excess",
        "this library's own target",
        "",
        "On three of four concepts or more, UnlearnDiffAtk is not shown to find more in what AdvUnlearn "
        "erased than luck does.",
        (NoExcess("advunlearn", "unlearndiffatk", "random_tokens", least=3),),
    ),
)
