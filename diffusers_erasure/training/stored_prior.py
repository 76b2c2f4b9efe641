"""What is to be heard as before, as one matrix in a file that every erasure of a text encoder can use.

A closed form needs of its retained prompts only the Gram matrix of their text states (`closed_form`). The
file holds it for a *whole* retain set, float64, with what it was made from. An erasure leaves out the prompts
that speak of its concepts; since Gram matrices add up, those few are encoded and subtracted, and what stays
is not encoded again. TRCE's authors keep such a file too, of COCO's captions, but one copy for each of the
UNet's 32 layers (152 MB for Stable Diffusion 1.4; this is 4.7 MB).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Collection, Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from diffusers_erasure.artifacts.fingerprint import fingerprint
from diffusers_erasure.diffusion import DiffusionComponents, tokenize
from diffusers_erasure.durable import whole_file
from diffusers_erasure.errors import ArtifactFormatError, ConfigError

from .closed_form import PriorStatistics
from .text_states import prior_statistics

_FORMAT = "1"


def prior_from_file(
    path: str | Path,
    components: DiffusionComponents,
    prompts: Sequence[str],
    dropped: Sequence[str],
    *,
    padded: bool,
    batch_size: int,
    progress: Callable[[int], None],
) -> PriorStatistics:
    """Statistics of `prompts` without `dropped`, by way of a file; it is written if it is not there.

    Args:
        path: The file, a safetensors file.
        components: Whose text encoders.
        prompts: The whole retain set.
        dropped: Prompts of it that are left out.
        padded: Whether states of padding count too.
        batch_size: Prompts that are encoded at once.
        progress: Called with the number of prompts that are encoded.

    Raises:
        ConfigError: The file was made from something else.
        ArtifactFormatError: It is no file of this kind, or damaged.
    """
    place = Path(path).expanduser()
    made_from = _made_from(components, prompts, padded=padded)
    left_out = _only_in(components, dropped, set(prompts) - set(dropped))

    def gram(some: Sequence[str]) -> PriorStatistics:
        return prior_statistics(components, some, padded=padded, batch_size=batch_size, progress=progress)

    if place.exists():
        whole = read_prior(place, made_from)
    else:
        whole = gram(prompts)
        write_prior(place, whole, made_from)
    return whole - gram(left_out) if left_out else whole


def write_prior(path: Path, prior: PriorStatistics, made_from: dict[str, str]) -> None:
    """Write statistics with what they were made from; the file is whole or not there."""
    tensors = {"gram": prior.gram, "count": torch.tensor(prior.count, dtype=torch.float64)}
    with whole_file(path) as draft:
        save_file(tensors, draft, metadata={"format": _FORMAT, **made_from})


def read_prior(path: Path, made_from: dict[str, str]) -> PriorStatistics:
    """Read statistics, if they are those of the encoder and prompts at hand.

    Raises:
        ConfigError: They were made from something else; the message says what.
        ArtifactFormatError: It is no file of this kind, or damaged.
    """
    try:
        with safe_open(path, framework="pt") as file:
            noted = file.metadata() or {}
            names = sorted(file.keys())
            held = {name: file.get_tensor(name) for name in names if name in ("gram", "count")}
    except (SafetensorError, OSError) as error:
        raise ArtifactFormatError(
            f"{path} cannot be read ({error}); expected statistics of a retain set; delete it, and the run "
            f"makes it anew"
        ) from error
    if names != ["count", "gram"] or noted.get("format") != _FORMAT:
        raise ArtifactFormatError(
            f"{path} holds {', '.join(names)} in the format {noted.get('format')!r}; expected count and gram "
            f"in the format {_FORMAT!r}; give another path"
        )
    other = [name for name, digest in made_from.items() if noted.get(name) != digest]
    if other:
        raise ConfigError(
            f"the statistics in {path} were made from another {' and '.join(other)}; expected the ones of "
            f"this run; give another path, or delete the file"
        )
    gram, count = held["gram"], held["count"]
    square = gram.ndim == 2 and gram.shape[0] == gram.shape[1]
    if not square or count.ndim or not bool(torch.isfinite(gram).all()) or not float(count) > 0:
        raise ArtifactFormatError(
            f"{path} holds a gram of shape {tuple(gram.shape)} over {count.tolist()} states; expected a "
            f"finite square matrix over at least one; delete it, and the run makes it anew"
        )
    return PriorStatistics(gram, float(count))


def _only_in(components: DiffusionComponents, dropped: Sequence[str], kept: Collection[str]) -> list[str]:
    """The dropped prompts whose tokens no kept prompt has: statistics count the same tokens once."""
    stay = {_ids(components, prompt) for prompt in kept}
    return [prompt for prompt in dropped if _ids(components, prompt) not in stay]


def _ids(components: DiffusionComponents, prompt: str) -> tuple[int, ...]:
    return tokenize(components.tokenizer, prompt, max_tokens=components.max_tokens).ids


def _made_from(components: DiffusionComponents, prompts: Sequence[str], *, padded: bool) -> dict[str, str]:
    """Digests of everything that the numbers depend on, by what it is."""
    ids = [_ids(components, prompt) for prompt in prompts]
    encoders = [components.text_encoder]
    if components.text_encoder_2 is not None:
        encoders.append(components.text_encoder_2)
    return {
        "text encoder": " ".join(fingerprint(encoder) for encoder in encoders),
        "retain set": hashlib.sha256(json.dumps(ids).encode()).hexdigest(),
        "padding": str(padded),
    }
