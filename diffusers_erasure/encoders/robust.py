"""RobustEncoder: an erased text encoder that is a plain CLIP text encoder in every other respect.

The erasure lives in the weights. The classes add to their stock parents

- loading that checks (`from_pretrained`): keys, shapes, values, config, and the fingerprint of what was
erased;
- saving that every version of transformers reads (`save_pretrained`, `push_to_hub`);
- ``inputs_embeds`` in `forward`, for those who search prompts by gradients with code of their own;
- `erasure`: what was erased, and whether that was verified.

Anything else that takes a `CLIPTextModel` takes them: ``pipe.text_encoder =
RobustEncoder.from_pretrained(...)``.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import torch
from torch import Tensor
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutputWithPooling
from transformers.utils.generic import merge_with_config_defaults
from transformers.utils.output_capturing import capture_outputs

from diffusers_erasure.artifacts.signature import TrustedKey
from diffusers_erasure.errors import ConfigError

from .checkpoint import match_to_module
from .entry import EncoderErasure
from .loading import LoadRequest, load_encoder
from .publishing import check_push, push_encoder
from .registration import register_encoders
from .saving import described_erasure, save_encoder
from .seal import SealRecord, put_seal
from .text_forward import forward_embeddings

PUBLIC_MODULE = "diffusers_erasure"
"""diffusers records components under the module of their class; a sub-package could never be loaded again."""


if TYPE_CHECKING:
    _ModelBase = PreTrainedModel
else:
    _ModelBase = object


class _ErasedTextModel(_ModelBase):  # type: ignore[no-untyped-call]
    """What both robust encoders share: loading, saving and what they know of their erasure."""

    _erasure: EncoderErasure | None = None

    @property
    def erasure(self) -> EncoderErasure | None:
        """What was erased, and whether that was verified; None where nobody said that it is erased."""
        return self._erasure

    @classmethod
    def from_pretrained(  # type: ignore[override]  # noqa: PLR0913 - the loader arguments that every from_pretrained takes
        cls,
        pretrained_model_name_or_path: str | Path,
        *,
        subfolder: str | None = None,
        revision: str | None = None,
        token: str | bool | None = None,
        cache_dir: str | Path | None = None,
        local_files_only: bool = False,
        force_download: bool = False,
        dtype: torch.dtype | str | None = None,
        attn_implementation: str | None = None,
        base: str | Path | torch.nn.Module | None = None,
        allow_unverified: bool = False,
        trusted_key: TrustedKey | None = None,
        **loader_options: object,
    ) -> Self:
        """Load an erased text encoder, completely and verified, or fail saying why.

        Args:
            pretrained_model_name_or_path: Folder or Hub id of a robust encoder, or of an artifact that edits
                the text encoder.
            subfolder: Folder inside it, for example "text_encoder" of a saved pipeline.
            revision: Branch, tag or commit on the Hub.
            token: Access token for the Hub.
            cache_dir: Where downloads are kept.
            local_files_only: Use only what was downloaded before.
            force_download: Download again.
            dtype: Floating dtype of the result, "auto" for the stored one. By default an artifact gives
                float32, as a pipeline's `from_pretrained` does, and a whole encoder what is stored.
            attn_implementation: As in transformers: "sdpa", "eager", ...
            base: For an artifact: base text encoder (module, folder or id) in place of the one that it names.
            allow_unverified: Accept an encoder that nothing verifies; warns, and `erasure` says so.
            trusted_key: Public key, or `Trust`, that an artifact must be signed with; a whole encoder carries
                no signature and is refused then.
            loader_options: What diffusers passes to every loader, at its default; `device_map` of one device.

        Raises:
            ArtifactError: One of the kinds below it says what is wrong with the files.
        """
        request = LoadRequest(
            source=str(pretrained_model_name_or_path),
            subfolder=subfolder or "",
            revision=revision,
            token=token,
            cache_dir=cache_dir,
            local_files_only=local_files_only,
            force_download=force_download,
            attn_implementation=attn_implementation,
            allow_unverified=allow_unverified,
            trusted_key=trusted_key,
        )
        asked = loader_options.pop("torch_dtype", None) if dtype is None else dtype
        loaded = load_encoder(cls._stock_class(), request, dtype=asked, base=base, options=loader_options)
        robust = cls.from_encoder(loaded.encoder)
        robust._erasure = loaded.erasure
        if loaded.seal is not None:
            applied = loaded.erasure.applied(loaded.seal.fingerprint)
            put_seal(robust, loaded.seal, (applied,)).confirm(robust)
        return robust

    @classmethod
    def from_encoder(
        cls, encoder: torch.nn.Module, *, erasure: EncoderErasure | Mapping[str, Any] | None = None
    ) -> Self:
        """A robust encoder with the weights of a stock one, for example of one that was just trained.

        The weights are shared (same storage, new parameters): no copy is made, and an in-place change of one
        side is seen by the other. Moving or casting either leaves the other as it is. The config is copied.

        Args:
            encoder: A `CLIPTextModel` (or `CLIPTextModelWithProjection`) without adapters.
            erasure: What was erased: an `EncoderErasure` or its fields. The weights are sealed as they are
                now; without it, `save_pretrained` writes an encoder that nobody can verify.

        Raises:
            ConfigError: It is no such encoder, its weights are not loaded, or `erasure` describes none.
            ArtifactMismatchError: It has other tensors than its class (an adapter), or values that no trained
                encoder has.
        """
        stock = cls._stock_class()
        if not isinstance(encoder, stock):
            raise ConfigError(
                f"{cls.__name__} takes the weights of a {stock.__name__}, found {type(encoder).__name__}; "
                "give the text encoder itself (pipe.text_encoder)"
            )
        absent = [name for name, parameter in encoder.named_parameters() if parameter.is_meta]
        if absent:
            raise ConfigError(
                f"{len(absent)} weights of the {type(encoder).__name__} have no values (first: "
                f"{absent[0]}, on the meta device: offloaded); expected loaded weights; call "
                "pipe.remove_all_hooks(), or load the encoder again"
            )
        with torch.device("meta"):
            robust = cls(copy.deepcopy(encoder.config))  # type: ignore[arg-type]
        weights = match_to_module(
            {key: value.detach() for key, value in encoder.state_dict().items()},
            robust,
            where=f"the given {type(encoder).__name__}",
        )
        robust.load_state_dict(weights, assign=True)
        for name, buffer in encoder.named_buffers():
            owner, _, leaf = name.rpartition(".")
            robust.get_submodule(owner).register_buffer(leaf, buffer.detach().clone(), persistent=False)
        for name, parameter in encoder.named_parameters():
            robust.get_parameter(name).requires_grad_(parameter.requires_grad)
        robust.train(encoder.training)
        if erasure is not None:
            stated = {"verified": True, "note": "stated by whoever made it in this process"}
            robust._erasure = EncoderErasure.from_any(erasure).model_copy(update=stated)
            record = SealRecord.of(robust)
            put_seal(robust, record, (robust._erasure.applied(record.fingerprint),)).confirm(robust)
        return robust

    def save_pretrained(  # type: ignore[override]
        self,
        save_directory: str | Path,
        *,
        push_to_hub: bool = False,
        repo_id: str | None = None,
        safe_serialization: bool = True,
        max_shard_size: int | str | None = None,  # noqa: ARG002 - diffusers passes it
        **push_options: Any,
    ) -> None:
        """Save as a stock text encoder folder: `config.json` with an ``erasure`` entry, one safetensors file.

        The keys are those of published files, which every transformers version reads. One file, never
        shards. The files appear completely or not at all.

        Args:
            save_directory: Folder to write.
            push_to_hub: Upload the folder afterwards.
            repo_id: Where to: "organisation/name". Needed with `push_to_hub`: the folder's name does not say
                whose it is.
            safe_serialization: Only True is possible; taken because diffusers passes it.
            max_shard_size: Ignored; taken because diffusers passes it.
            push_options: As for `push_to_hub`.
        """
        if not safe_serialization:
            raise ConfigError(
                "safe_serialization=False would write a pickle; only safetensors is written; leave it True"
            )
        if push_to_hub:
            check_push(repo_id, push_options)
        save_encoder(self, save_directory, erasure=described_erasure(self, self._erasure))
        if push_to_hub:
            push_encoder(Path(save_directory), str(repo_id), **push_options)

    def push_to_hub(self, repo_id: str, **options: Any) -> str:  # type: ignore[override]
        """Save, verify and push with a rendered card, in one commit; returns the commit's address.

        An encoder of which nobody stated what was erased is refused.

        Args:
            repo_id: "organisation/name"; made if it does not exist.
            options: `private`, `gated`, `revision`, `tag`, `commit_message`, `create_pr`, `subfolder`,
                `token`, ...: see `diffusers_erasure.artifacts.push_plan.PushOptions`.
        """
        return push_encoder(self, repo_id, **options)

    @classmethod
    def _stock_class(cls) -> type[torch.nn.Module]:
        raise NotImplementedError


class RobustEncoder(_ErasedTextModel, CLIPTextModel):  # type: ignore[no-untyped-call]
    """Erased `CLIPTextModel`; see the module's text."""

    @classmethod
    def _stock_class(cls) -> type[torch.nn.Module]:
        return CLIPTextModel

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        **kwargs: Any,
    ) -> Any:
        """The stock forward; with `inputs_embeds` `(batch, tokens, width)` the token embeddings are given.

        With both, `input_ids` only says where each prompt ends, for the pooled state; without `input_ids` the
        pooled state is None.
        """
        if inputs_embeds is None:
            return super().forward(
                input_ids=input_ids, attention_mask=attention_mask, position_ids=position_ids, **kwargs
            )
        return self._forward_embeddings(
            inputs_embeds=inputs_embeds,
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            **kwargs,
        )

    @merge_with_config_defaults  # type: ignore[untyped-decorator]
    @capture_outputs(tie_last_hidden_states=False)  # type: ignore[no-untyped-call, untyped-decorator]
    def _forward_embeddings(self, *, inputs_embeds: Tensor, **kwargs: Any) -> BaseModelOutputWithPooling:
        return forward_embeddings(self, inputs_embeds, **kwargs)


class RobustEncoderWithProjection(_ErasedTextModel, CLIPTextModelWithProjection):  # type: ignore[no-untyped-call]
    """Erased `CLIPTextModelWithProjection`, the second text encoder of SDXL; see the module's text."""

    def __init__(self, config: CLIPTextConfig) -> None:
        super().__init__(config)
        self.text_model = RobustEncoder._from_config(config)  # type: ignore[no-untyped-call]

    @classmethod
    def _stock_class(cls) -> type[torch.nn.Module]:
        return CLIPTextModelWithProjection

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        **kwargs: Any,
    ) -> Any:
        """The stock forward; `inputs_embeds` `(batch, tokens, width)` needs `input_ids`, to find the ends."""
        if inputs_embeds is not None and input_ids is None:
            raise ConfigError(
                "inputs_embeds came without input_ids; the projected state is read at the end token, which "
                "the ids locate; pass both"
            )
        embeds = {} if inputs_embeds is None else {"inputs_embeds": inputs_embeds}
        return super().forward(
            input_ids=input_ids, attention_mask=attention_mask, position_ids=position_ids, **embeds, **kwargs
        )


for _encoder_class in (RobustEncoder, RobustEncoderWithProjection):
    _encoder_class.__module__ = PUBLIC_MODULE
register_encoders(RobustEncoder, RobustEncoderWithProjection)
