"""Settings of every method that is trained by gradients: the loop's flags, and presets.

The flags carry the names that diffusers' training scripts made familiar. A *preset* is a set of other
defaults: the paper's, those of its authors' code, or those that suit the embedded pipeline. What is given
explicitly wins over the preset; `auto` takes `embedded` for the embedded pipeline and the method's first
preset for everything else.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar, Literal, Self

from pydantic import create_model, model_validator

from diffusers_erasure.embedded import EMBEDDED_MODEL_ID
from diffusers_erasure.errors import ConfigError
from diffusers_erasure.settings import setting

from .config import RunSettings, TrainingConfig
from .schedules import ENDLESS, ScheduleName
from .student import StoredType

AUTO = "auto"


class TrainingSettings(RunSettings):
    """What the training loop is told."""

    max_train_steps: int = setting(1000, "optimizer steps in all", ge=1)
    train_batch_size: int = setting(1, "samples of one process and one backward pass", ge=1)
    gradient_accumulation_steps: int = setting(1, "backward passes before each optimizer step", ge=1)
    gradient_checkpointing: bool = setting(
        False, "compute activations again in the backward pass: less memory, more time", recorded=False
    )
    learning_rate: float = setting(1e-5, "step size of the optimizer", gt=0)
    scale_lr: bool = setting(False, "multiply learning_rate by processes, batch size and accumulation steps")
    lr_scheduler: ScheduleName = setting("constant", "how the learning rate goes over the steps")
    lr_warmup_steps: int = setting(0, "steps over which the learning rate rises from 0", ge=0)
    lr_num_cycles: int = setting(1, "restarts of cosine_with_restarts", ge=1)
    lr_power: float = setting(1.0, "power of the polynomial schedule", gt=0)
    optimizer: Literal["adam", "adamw"] = setting("adam", "Adam, or AdamW with decoupled weight decay")
    adam_beta1: float = setting(0.9, "decay of the mean gradient", ge=0, lt=1)
    adam_beta2: float = setting(0.999, "decay of the mean squared gradient", ge=0, lt=1)
    adam_weight_decay: float = setting(0.0, "weight decay", ge=0)
    adam_epsilon: float = setting(1e-8, "added to the root of the mean squared gradient", gt=0)
    max_grad_norm: float | None = setting(
        None, "norm to which gradients are clipped; none clips nothing", gt=0
    )
    mixed_precision: Literal["no", "fp16", "bf16"] = setting("no", "precision of the forward passes")
    allow_tf32: bool = setting(False, "let GPUs multiply matrices in TF32", recorded=False)
    divergence_factor: float | None = setting(
        20.0,
        "stop when the loss, averaged over 50 steps, is this many times its lowest average; none never stops",
        recorded=False,
        gt=1,
    )
    checkpointing_steps: int = setting(500, "steps between checkpoints", recorded=False, ge=1)
    checkpoints_total_limit: int | None = setting(
        1, "checkpoints that are kept; none keeps all", recorded=False, ge=1
    )
    resume_from_checkpoint: str | None = setting(
        None, "'latest', or the folder of a checkpoint to go on from", recorded=False
    )
    report_to: tuple[str, ...] = setting(
        (),
        "tracker beside the log that every run with a folder keeps (jsonl): tensorboard, trackio, wandb, or "
        "another one of accelerate's",
        recorded=False,
    )
    logging_dir: Path | None = setting(
        None, "folder for trackers; <output_dir>-training/logs unless given", recorded=False
    )
    tracker_project_name: str = setting("diffusers-erasure", "name of the run in a tracker", recorded=False)

    @property
    def run_folder(self) -> Path | None:
        """Where checkpoints, logs and sample pictures go, beside the artifact; None keeps nothing on disk.

        The artifact's own folder is written at once and whole, so what grows during a run lies next to it.
        """
        if self.output_dir is None:
            return None
        place = self.output_dir.expanduser()
        return place.with_name(f"{place.name}-training")

    @property
    def depends_on_steps(self) -> bool:
        """Whether a step's result depends on how many there will be, so that a run cannot be prolonged."""
        return self.lr_scheduler not in ENDLESS

    @property
    def log_folder(self) -> Path | None:
        """Where trackers write."""
        if self.logging_dir is not None or self.run_folder is None:
            return self.logging_dir
        return self.run_folder / "logs"


@dataclass(frozen=True)
class Preset:
    """Defaults that belong together.

    Attributes:
        about: Whose they are, in one line.
        values: Field name to default.
        made_for: Concepts, or kinds of concepts, that `auto` takes it for.
    """

    about: str
    values: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))
    made_for: tuple[str, ...] = ()


class GradientTrainingConfig(TrainingConfig, TrainingSettings):
    """What every method that is trained by gradients is told."""

    presets: ClassVar[Mapping[str, Preset]] = MappingProxyType({"paper": Preset("the paper's defaults")})

    preset: str = setting(AUTO, "whose defaults: auto goes by base model and concept")
    artifact_dtype: StoredType = setting(
        "float32", "precision in which the changes are stored", recorded=False
    )
    validation_prompt: tuple[str, ...] = setting((), "prompt to draw during training", recorded=False)
    validation_steps: int = setting(100, "steps between these pictures", recorded=False, ge=1)
    num_validation_images: int = setting(2, "pictures of each validation prompt", recorded=False, ge=1)

    @classmethod
    def preset_name(cls, told: Mapping[str, Any]) -> str:
        """The preset that is meant.

        `auto` on the embedded pipeline is the one that was made for it. On others it is the one that was made
        for a concept of that name (nudity) or kind (style), and else the first.

        Args:
            told: The settings that were given; `preset`, `pretrained_model_name_or_path`, `concept` and
                `concept_kind` count.

        Raises:
            ConfigError: There is no such preset.
        """
        preset = told.get("preset")
        if preset in (None, AUTO):
            base = told.get("pretrained_model_name_or_path")
            if base in (None, EMBEDDED_MODEL_ID) and EMBEDDED_MODEL_ID in cls.presets:
                return EMBEDDED_MODEL_ID
            concepts = told.get("concept") or ()
            words = [concepts] if isinstance(concepts, str) else [str(one) for one in concepts]
            wanted = (*(word.strip().casefold() for word in words), str(told.get("concept_kind")))
            made_for = (name for word in wanted for name, one in cls.presets.items() if word in one.made_for)
            return next(made_for, next(iter(cls.presets)))
        if preset in cls.presets:
            return str(preset)
        near = get_close_matches(str(preset), cls.presets, n=1)
        raise ConfigError(
            f"there is no preset {preset!r}; known presets are {AUTO}, {cls._known_presets()}; "
            f"{f'did you mean {near[0]!r}?' if near else 'choose one of them'}"
        )

    @classmethod
    def _known_presets(cls) -> str:
        return "; ".join(f"{name} ({one.about})" for name, one in cls.presets.items())

    @model_validator(mode="before")
    @classmethod
    def _take_preset(cls, values: Any) -> Any:
        """Fill in the preset's values for what is not given."""
        if not isinstance(values, Mapping):
            return values
        name = cls.preset_name(values)
        return {**cls.presets[name].values, **values, "preset": name}

    @property
    def idle(self) -> Mapping[str, tuple[str, ...]]:
        """Names of settings that change nothing beside others, by what makes them so."""
        return {}

    @model_validator(mode="after")
    def _refuse_idle(self) -> Self:
        """A setting that was given and does nothing is a misunderstanding."""
        usual = {name: info.default for name, info in type(self).model_fields.items()}
        usual |= self.presets[self.preset].values
        for reason, names in self.idle.items():
            given = [name for name in names if getattr(self, name) != usual[name]]
            if given:
                raise ConfigError(
                    f"{reason}: {' and '.join(given)} would change nothing; expected settings that do "
                    f"something; leave {'it' if len(given) == 1 else 'them'} out"
                )
        return self

    @classmethod
    def with_preset(cls, told: Mapping[str, Any]) -> type[Self]:
        """This class with the defaults of a preset in its fields, as `--help` shows them.

        Args:
            told: What is known of the settings, as for `preset_name`.

        Raises:
            ConfigError: There is no such preset.
        """
        name = cls.preset_name(told)
        fields: dict[str, Any] = {}
        for key, value in {**cls.presets[name].values, "preset": name}.items():
            info = copy.copy(cls.model_fields[key])
            info.default = value
            fields[key] = (info.annotation, info)
        fields["preset"][1].description = (
            f"whose defaults, of {AUTO} (by base model and concept), {cls._known_presets()}; the defaults "
            "shown here are those of the one that these flags come to"
        )
        return create_model(cls.__name__, __base__=cls, __doc__=cls.__doc__, **fields)
