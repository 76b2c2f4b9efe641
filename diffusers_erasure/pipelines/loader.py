"""The mixin that makes a diffusers pipeline an erased one: loading verbs, the guard before each call, saving.

Stateless beside one plain attribute (`session`), like diffusers' own loader mixins; nothing takes part in the
computation, so what is saved is a stock pipeline. Order of bases: ``class X(ErasureLoaderMixin,
StockPipeline)``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, cast

import torch
from diffusers import DiffusionPipeline

from diffusers_erasure.artifacts import apply
from diffusers_erasure.artifacts.apply import ERASABLE, AppliedErasure
from diffusers_erasure.artifacts.artifact import Artifact
from diffusers_erasure.artifacts.record import LEDGER_NAME
from diffusers_erasure.artifacts.signature import TrustedKey
from diffusers_erasure.artifacts.verify import VerificationReport
from diffusers_erasure.errors import ConfigError

from .base import loading, on_components, stock_signature
from .callbacks import watched_call, watched_pictures
from .came_erased import refuse_baked, refuse_fusing, verify_or_warn
from .embeddings import EMBEDDING_ARGUMENTS
from .guard import all_erasures, check_before_call, erased_in_text, note_erasures
from .index import hub_options
from .opening import Opened, brings_erasure, check_family, not_erased, open_source, public_name
from .own_embeddings import refuse_foreign, skips_erasure
from .publishing import check_push, push_pipeline
from .pulling import pull
from .saving import save_pipeline, stock_index
from .session import SESSION_NAME, session_of
from .text_path import refuse_clip_skip
from .verifying import verify_erasure

ErasureSource = str | Path | Artifact

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline as _PipelineBase
else:
    _PipelineBase = object


class ErasureLoaderMixin(_PipelineBase):
    """Adds erasures to a pipeline class; see the module's text."""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Refuse a class whose stock base comes first, and would draw and load without any of this."""
        super().__init_subclass__(**kwargs)
        ahead = cls.__mro__[: cls.__mro__.index(ErasureLoaderMixin)]
        stock = [one.__name__ for one in ahead if one.__module__.partition(".")[0] == "diffusers"]
        if stock:
            raise ConfigError(
                f"{cls.__name__} names {stock[0]} before ErasureLoaderMixin, so nothing would keep it from "
                f"drawing what is erased; expected class {cls.__name__}(ErasureLoaderMixin, {stock[0]}); "
                "exchange the bases"
            )

    def __setattr__(self, name: str, value: Any) -> None:
        """Set an attribute; an erased component that is exchanged is remembered."""
        if name in ERASABLE and name in vars(self):
            note_erasures(self)
        super().__setattr__(name, value)

    @property
    def erasures(self) -> tuple[AppliedErasure, ...]:
        """What is erased here: what the components came with, then what was loaded."""
        return all_erasures(self)

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | Path,
        *,
        erasure: ErasureSource | Sequence[ErasureSource] | None = None,
        erasure_revision: str | None = None,
        erasure_subfolder: str | None = None,
        require_erasure: bool = True,
        allow_unverified: bool = False,
        trusted_key: TrustedKey | None = None,
        **kwargs: Any,
    ) -> Self:
        """Load an erased pipeline.

        Args:
            pretrained_model_name_or_path: A base pipeline (then give `erasure`), an artifact (it names its
                base), a pipeline that was saved erased, or "embedded".
            erasure: Artifact, or artifacts, to put on it.
            erasure_revision: Their revision on the Hub.
            erasure_subfolder: Their subfolder.
            require_erasure: False accepts a pipeline without any erasure.
            allow_unverified: Accept, and draw with, what cannot be verified; kept in the pipeline's session.
            trusted_key: Public key, or `Trust`, that every artifact must be signed with.
            kwargs: As for the stock pipeline (`dtype`, float32 by default; `revision`, `variant`, `token`,
                `safety_checker`, ...).

        Raises:
            ErasureRequiredError: Nothing in it is erased, and `require_erasure` is True.
            ConfigError: The base is of the other family, or an argument cannot be used; see `load_erasure`.
            ArtifactError: The base or an artifact is not there, not whole, not safe to read, or does not fit.
                Of its kinds `ArtifactIntegrityError`: weights that were saved erased are not those that were
                saved, and `allow_unverified` is False; `UnverifiedArtifactError`: nothing verifies a robust
                encoder in it; `SignatureError`: an artifact is not signed as it must be, or the source is a
                pipeline that was saved erased, which carries no signature.
            MissingDependencyError: A key was given, and the package that checks signatures is not installed.
        """
        _set_dtype(kwargs)
        hub = hub_options(kwargs)
        revision = kwargs.pop("revision", None)
        extra = _as_list(erasure)
        opened = open_source(
            pretrained_model_name_or_path,
            revision=revision if revision is not None or extra else erasure_revision,
            subfolder=erasure_subfolder,
            hub_options=hub,
            trusted_key=trusted_key,
        )
        check_family(cls, opened)
        erased = opened.kind != "base" or opened.holds_encoder or brings_erasure(kwargs)
        if require_erasure and not erased and not extra:
            raise not_erased(pretrained_model_name_or_path)
        pipe = cls._load_stock(opened, kwargs)
        session = session_of(pipe)
        session.waived, session.allow_unverified = not require_erasure, allow_unverified
        verify_or_warn(pipe, opened, allow_unverified=allow_unverified)
        place = {"revision": erasure_revision, "subfolder": erasure_subfolder, "trusted_key": trusted_key}
        pipe._erase(opened, extra, {**place, **hub})
        if require_erasure and not session.required:  # another encoder was passed in the erased one's place
            raise not_erased(pretrained_model_name_or_path)
        return pipe

    @classmethod
    def from_pipe(cls, pipeline: DiffusionPipeline, **kwargs: Any) -> Self:
        """A pipeline of this class from another one's components, with its erasures.

        Unlike the stock method it leaves every dtype as it is unless one is given: casting changes the other
        pipeline too, since components are shared.

        Args:
            pipeline: The other pipeline.
            kwargs: Components and settings of the new one that are others; `dtype` casts both.

        Raises:
            ConfigError: This class knows no such component or setting, or needs one that is not there.
            ValueError: The stock class refuses them, for example a safety checker without feature extractor.
        """
        asked = [kwargs.pop(name, None) for name in ("dtype", "torch_dtype")]
        pipe: Self = on_components(cls, pipeline, **kwargs)
        if "_name_or_path" in pipeline.config:
            pipe.register_to_config(_name_or_path=pipeline.config["_name_or_path"])
        if any(asked):
            pipe.to(dtype=asked[0] or asked[1])
        if LEDGER_NAME in vars(pipeline):
            pipe.__dict__[LEDGER_NAME] = dict(vars(pipeline)[LEDGER_NAME])
        old = session_of(pipeline)
        pipe.__dict__[SESSION_NAME] = replace(old, seals=dict(old.seals))
        note_erasures(pipe)
        return pipe

    def load_erasure(
        self,
        source: ErasureSource,
        *,
        name: str | None = None,
        scale: float = 1.0,
        subfolder: str | None = None,
        revision: str | None = None,
        **hub_options: Any,
    ) -> str:
        """Put an erasure on this pipeline, on top of what is there; returns its name.

        Args:
            source: Folder, Hub id, or an `Artifact`.
            name: Name of the erasure here; made from its concepts if not given.
            scale: Strength; 1 is as trained.
            subfolder: Folder inside the repository.
            revision: Branch, tag or commit.
            hub_options: `token`, `cache_dir`, `local_files_only`, `force_download`, `trusted_key`.

        Raises:
            ErasureError: As `diffusers_erasure.load_erasure` says.
        """
        label = apply.load_erasure(
            self, source, name=name, scale=scale, subfolder=subfolder, revision=revision, **hub_options
        )
        session_of(self).required = True
        return label

    def unload_erasure(self, name: str | None = None) -> None:
        """Take off a loaded erasure, or all without a name; the base comes back bit for bit."""
        refuse_baked(self, name, "unloaded")
        apply.unload_erasure(self, name)

    def set_erasure_scale(self, name: str, scale: float) -> None:
        """Change the strength of a loaded erasure."""
        refuse_baked(self, name, "scaled")
        apply.set_erasure_scale(self, name, scale)

    def fuse_lora(self, components: Sequence[str] = (), **kwargs: Any) -> None:
        """Merge LoRAs into components, of which none may be erased; see `refuse_fusing`."""
        refuse_fusing(self, components)
        fuse: Callable[..., None] = super().fuse_lora
        fuse(**({"components": [*components]} if components else {}), **kwargs)

    def verify_erasure(
        self, source: ErasureSource | None = None, *, name: str | None = None, **options: Any
    ) -> VerificationReport:
        """Compare all weights with what they must be.

        Args:
            source: Artifact that must be there; None checks everything that is erased here.
            name: Only the erasure of this name.
            options: `subfolder`, `revision`, `token`, `cache_dir`, `local_files_only`, with a source.
        """
        return verify_erasure(self, source, name=name, **options)

    def __call__(
        self,
        *args: Any,
        allow_unverified: bool = False,
        allow_foreign_embeds: bool = False,
        allow_clip_skip: bool = False,
        **kwargs: Any,
    ) -> Any:
        """Draw, as the stock pipeline does, if what must be erased is erased.

        Args:
            args: As for the stock pipeline.
            allow_unverified: Draw although the erasure is missing or changed.
            allow_foreign_embeds: Take `prompt_embeds` that this pipeline did not make, past an erased text
                encoder.
            allow_clip_skip: Take states of an earlier layer of an erased text encoder.
            kwargs: As for the stock pipeline.

        Raises:
            ErasureNotActiveError: The erasure is missing or was changed.
            ErasureBypassError: An argument would go around the erasure.
        """
        check_before_call(self, allow_unverified=allow_unverified)
        call = stock_signature(cast(Any, type(self))).bind(self, *args, **kwargs)
        given = call.arguments
        in_text = erased_in_text(self)
        if in_text and not allow_foreign_embeds:
            for argument in EMBEDDING_ARGUMENTS:
                refuse_foreign(self, given.get(argument), argument, in_text)
        if skips_erasure(self, given.get("clip_skip")) and not allow_clip_skip:
            refuse_clip_skip(in_text)
        watched_call(self, call, check_embeddings=bool(in_text) and not allow_foreign_embeds)
        with watched_pictures(self):
            return super().__call__(*call.args[1:], **call.kwargs)

    def save_pretrained(
        self,
        save_directory: str | Path,
        safe_serialization: bool = True,
        variant: str | None = None,
        max_shard_size: int | str | None = None,
        push_to_hub: bool = False,
        *,
        overwrite: bool = False,
        allow_unverified: bool = False,
        repo_id: str | None = None,
        **kwargs: Any,
    ) -> None:
        """Save as a stock pipeline that is erased for everyone, completely or not at all.

        Args:
            save_directory: A new or empty folder.
            safe_serialization: Only True is possible.
            variant: As for the stock pipeline.
            max_shard_size: As for the stock pipeline; text encoders are one file always.
            push_to_hub: Upload it as well.
            overwrite: Replace a pipeline that is already there.
            allow_unverified: Save although the erasure was changed; then the folder does not say that it is
                erased.
            repo_id: Where to upload: "organisation/name". Needed with `push_to_hub`: the folder's name does
                not say whose it is.
            kwargs: As for `push_to_hub`.

        Raises:
            ConfigError: The place is a file, holds other files, or a pipeline that may not be replaced;
                `safe_serialization` is False; with `push_to_hub`, `repo_id` is missing or none, or an option
                is unknown.
            ErasureNotActiveError: The erasure is missing or was changed, and `allow_unverified` is False.
            ErasureStateError: A component carries an adapter, or an encoder values that are not finite.
            ErasureRequiredError: With `push_to_hub`: nothing in it is erased.
            ArtifactError: With `push_to_hub`: see there.
            OSError: The folder cannot be written.
        """
        if not safe_serialization:
            raise ConfigError(
                "safe_serialization=False would write pickles; only safetensors is written; leave it True"
            )
        if push_to_hub:
            check_push(self, repo_id, kwargs)
        stock_save: Callable[..., None] = super().save_pretrained
        save_pipeline(
            self,
            save_directory,
            lambda folder: stock_save(str(folder), variant=variant, max_shard_size=max_shard_size),
            overwrite=overwrite,
            allow_unverified=allow_unverified,
            variant=variant,
        )
        if push_to_hub:
            self.push_to_hub(str(repo_id), variant=variant, max_shard_size=max_shard_size, **kwargs)

    def push_to_hub(
        self,
        repo_id: str,
        commit_message: str | None = None,
        private: bool | None = None,
        token: str | None = None,
        create_pr: bool = False,
        safe_serialization: bool = True,
        variant: str | None = None,
        subfolder: str | None = None,
        **options: Any,
    ) -> str:
        """Save, verify and push with a rendered card, in one commit; returns the commit's address.

        Only a verified pipeline is pushed; what arrives is a stock repository that is erased for everyone.

        Args:
            repo_id: "organisation/name"; made if it does not exist.
            commit_message: First line of the commit.
            private: Whether a new repository is private.
            token: Access token for the Hub.
            create_pr: Open a pull request instead of committing to the branch.
            safe_serialization: Only True is possible.
            variant: As for saving.
            subfolder: Only None is possible: diffusers loads pipelines from the root.
            options: `gated`, `revision`, `tag`, ...: see `diffusers_erasure.artifacts.push_plan.PushOptions`;
                `max_shard_size` as for saving.

        Raises:
            ConfigError: `repo_id` is none, or an option cannot be used.
            ErasureRequiredError: Nothing in it is erased.
            ErasureNotActiveError: The erasure was changed.
            ErasureStateError: A component carries an adapter, or an encoder values that are not finite.
            PublishError: The Hub did not take it, the branch has moved, or a card there would be overwritten.
            ArtifactError: What was saved for the push does not load as an erased pipeline.
        """
        return push_pipeline(
            self,
            repo_id,
            commit_message=commit_message,
            private=private,
            token=token,
            create_pr=create_pr,
            safe_serialization=safe_serialization,
            variant=variant,
            subfolder=subfolder,
            **options,
        )

    def to_json_string(self) -> str:
        """The pipeline's index under stock class names, so that every diffusers can load it."""
        return stock_index(self, super().to_json_string())

    def _erase(self, opened: Opened, extra: list[ErasureSource], place: dict[str, Any]) -> None:
        """Put on the artifact that was opened and further ones, and note all that is erased."""
        if opened.artifact is not None:
            self.load_erasure(opened.artifact)
        for source in extra:
            self.load_erasure(source, **place)
        note_erasures(self)

    @classmethod
    def _load_stock(cls, opened: Opened, kwargs: dict[str, Any]) -> Self:
        with loading(opened.base):
            folder, options = pull(opened.base, opened.revision, kwargs, pickles=opened.kind != "baked")
            pipe: Self = super().from_pretrained(str(folder), **options)
        pipe.register_to_config(_name_or_path=opened.base)
        session_of(pipe).base = public_name(opened.base)
        return pipe


def _set_dtype(options: dict[str, Any]) -> None:
    """Ask for float32 where no dtype is asked for.

    Left alone, transformers loads a half-precision encoder as it is stored beside a float32 UNet.
    """
    if options.get("dtype") is None and options.get("torch_dtype") is None:
        options["dtype"] = torch.float32


def _as_list(erasure: ErasureSource | Sequence[ErasureSource] | None) -> list[ErasureSource]:
    if erasure is None:
        return []
    return [erasure] if isinstance(erasure, str | Path | Artifact) else list(erasure)
