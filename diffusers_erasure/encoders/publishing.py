"""Pushing a robust text encoder: a stock folder whose weights agree with its ``erasure`` entry."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from transformers import CLIPTextModel, CLIPTextModelWithProjection

from diffusers_erasure.artifacts.push_plan import (
    PushOptions,
    PushPlan,
    check_repo_id,
    make_plan,
    own_card,
    rendered_card,
)
from diffusers_erasure.artifacts.upload import publish
from diffusers_erasure.errors import ArtifactFormatError, ConfigError

from .architecture import CONFIG_FILE, read_encoder_config
from .loading import LoadRequest, load_encoder
from .source import WEIGHTS_FILE

CLASSES = {cls.__name__: cls for cls in (CLIPTextModel, CLIPTextModelWithProjection)}


def push_encoder(encoder: Any, repo_id: str, **options: Any) -> str:
    """Push an encoder, or the folder it was saved in, in one commit; returns the commit's address.

    Args:
        encoder: Object with `save_pretrained`, or a saved folder.
        repo_id: "organisation/name"; made if it does not exist.
        options: See `diffusers_erasure.artifacts.push_plan.PushOptions`.

    Raises:
        ArtifactError: The folder is not a whole, verified, erased text encoder, or the Hub did not take it.
    """
    chosen = check_push(repo_id, options)
    with tempfile.TemporaryDirectory() as scratch:
        folder = encoder if isinstance(encoder, Path) else Path(scratch) / "encoder"
        if folder is not encoder:
            encoder.save_pretrained(folder)
        return publish(plan_encoder(folder, repo_id, chosen), chosen).url


def check_push(repo_id: str | None, options: Mapping[str, Any]) -> PushOptions:
    """The options of a push, checked before anything is saved for it.

    Raises:
        ConfigError: There is no id, it is none, or an option is unknown.
    """
    if repo_id is None:
        raise ConfigError(
            "push_to_hub=True came without repo_id; expected where to push; give "
            "repo_id='organisation/name', where your user name may stand for the organisation"
        )
    check_repo_id(repo_id)
    return PushOptions.of(options)


def plan_encoder(folder: Path, repo_id: str, options: PushOptions) -> PushPlan:
    """What pushing a saved text encoder uploads; loads it to see that it is the one that was saved.

    Args:
        folder: What `RobustEncoder.save_pretrained` wrote.
        repo_id: "organisation/name".
        options: Where to.

    Raises:
        UnverifiedArtifactError: Nothing in it says that it is erased.
        ArtifactError: It is not whole, or not what was saved.
    """
    check_repo_id(repo_id)
    config = read_encoder_config(folder / CONFIG_FILE)
    named = config.get("architectures") or [""]
    stock = CLASSES.get(str(named[0]))
    if stock is None:
        raise ArtifactFormatError(
            f"{folder / CONFIG_FILE} is the config of {named[0] or 'nothing'!s}; expected one of "
            f"{', '.join(CLASSES)}; give the folder that RobustEncoder.save_pretrained wrote"
        )
    load_encoder(stock, LoadRequest(source=str(folder)))
    card = own_card(folder) or rendered_card(
        "render_encoder_card", config, repo_id=repo_id, subfolder=options.subfolder or ""
    )
    return make_plan(folder, (CONFIG_FILE, WEIGHTS_FILE), repo_id, options, kind="encoder", card=card)
