"""One component with other erasures on it: composed from its base, checked, and given back.

Every function here takes a module and returns another; the pipeline is changed only in `apply`.
"""

import logging
import math
from typing import Any

import torch
from torch import Tensor, nn

from diffusers_erasure.errors import ArtifactMismatchError, BaseModelMismatchError, ErasureNotActiveError

from . import canary as canaries
from .artifact import Artifact
from .compatibility import check_behaviour, check_fits, check_not_fused
from .copying import RECORD_NAME, edited_copy
from .fingerprint import leaves, quick_fingerprint, root
from .manifest import ComponentSpec
from .record import Applied, ComponentRecord, compare, record_of
from .tensors import TOKEN_TABLE, added_names, component_tensors, unwrapped, without_added_tokens

logger = logging.getLogger(__name__)


def with_erasure(pipe: Any, part: str, artifact: Artifact, label: str, scale: float) -> nn.Module:
    """The pipeline's component with one more erasure on it."""
    module = _component(pipe, part, artifact)
    record = record_of(module)
    if record is None:
        record = ComponentRecord(
            part, base=module, base_leaves=leaves(component_tensors(module)), erasures=()
        )
    else:
        refuse_changed(module, record)
    spec = artifact.spec(part)
    check_fits(part, artifact.edits[part], component_tensors(record.base), origin=artifact.origin)
    exact = _is_exact_base(record, spec)
    if exact:
        check_behaviour(part, module, spec.config, origin=artifact.origin)
    applied = Applied(label, artifact, scale, transfer=not exact)
    edited = recomposed(module, record, (*record.erasures, applied))
    if exact and not record.erasures and scale == 1.0 and not added_names(edited):
        _check_answer(part, edited, artifact)
    return edited


def recomposed(module: nn.Module, record: ComponentRecord, erasures: tuple[Applied, ...]) -> nn.Module:
    """A copy of the component, its weights composed from the base with these erasures.

    Raises:
        BaseModelMismatchError: Its projections are fused, so that other weights would change nothing.
    """
    check_not_fused(record.component, module)
    fresh = ComponentRecord(record.component, record.base, record.base_leaves, erasures)
    composed = fresh.weights(record.touched() | fresh.touched())
    fresh.expected = {
        **record.base_leaves,
        **leaves(_own_tokens(fresh)),
        **leaves(fresh.comparable(composed)),
    }
    edited = edited_copy(module, _with_added_tokens(module, fresh.comparable(composed)))
    vars(edited)[RECORD_NAME] = fresh
    fresh.guard = quick_fingerprint(edited)
    return edited


def given_back(module: nn.Module, record: ComponentRecord) -> nn.Module:
    """The base object; or, if the component was cast, moved or extended since, a copy like it.

    Raises:
        BaseModelMismatchError: Its projections are fused, so that it would go on as it is.
    """
    check_not_fused(record.component, module)
    now, then = module.state_dict(keep_vars=True), record.base.state_dict(keep_vars=True)
    same = now.keys() == then.keys() and all(
        (now[key].dtype, now[key].device, now[key].shape)
        == (then[key].dtype, then[key].device, then[key].shape)
        for key in now
    )
    _tell_of_changed_base(record)
    if same:
        return record.base
    base = {name: tensor.detach() for name, tensor in component_tensors(record.base).items()}
    names = record.touched() if _same_dtype(module, record.base) else set(base)
    wanted = record.comparable({name: base[name] for name in names})
    restored = edited_copy(module, _with_added_tokens(module, wanted))
    vars(restored).pop(RECORD_NAME, None)
    return restored


def refuse_changed(module: nn.Module, record: ComponentRecord) -> None:
    """Refuse to compose anew what someone changed since: the change would be lost without a word.

    Weights that no erasure touches are the base's own in memory, so a change of those shows in the module.
    """
    _refuse_changed_base(record)
    if record.guard is not None and record.guard.unchanged():
        return
    found = compare(module, record)
    if found.changed:
        raise ErasureNotActiveError(
            f"{len(found.changed)} weights of {record.component} were changed after "
            f"{', '.join(record.names)} was loaded (first: {found.changed[0]}); expected "
            f"{found.expected[:16]}, found {found.found[:16]}; undo the change (unfuse the LoRA, ...) or "
            "unload_erasure(pipe) and load again before you change what is loaded"
        )


def _tell_of_changed_base(record: ComponentRecord) -> None:
    """Warn if what is given back is not what came: somebody wrote into weights that the base shares.

    Looked at only where the quick fingerprint has moved: a change in place moves the edited copy's too.
    """
    if record.guard is not None and record.guard.unchanged():
        return
    now = leaves(component_tensors(record.base))
    changed = [name for name, digest in record.base_leaves.items() if now.get(name) != digest]
    if changed:
        logger.warning(
            "%d weights of the base of %s are not what they were when it was erased (first: %s): a LoRA was "
            "fused, or it was cast or edited in place; load the pipeline again to have the base as it was",
            len(changed),
            record.component,
            changed[0],
        )


def _refuse_changed_base(record: ComponentRecord) -> None:
    """Refuse a base that is not what the erasures were put on: it would give something else."""
    base = component_tensors(record.base)
    found = leaves({name: base[name] for name in sorted(record.touched())})
    changed = [name for name, digest in found.items() if digest != record.base_leaves.get(name)]
    if changed:
        raise ErasureNotActiveError(
            f"{len(changed)} weights of the base of {record.component} were changed in place since "
            f"{', '.join(record.names)} was loaded (first: {changed[0]}); expected them as they were; call "
            "unload_erasure(pipe) and load again"
        )


def canary_distance(component: str, module: nn.Module, artifact: Artifact, *, to: str = "erased") -> float:
    """How far a module's answer is from the stored one, as a share of what may be (> 1: another)."""
    wanted = artifact.canary[f"{component}.{to}"].float()
    found = canaries.answer(component, module, artifact.asked(component))
    if found.shape != wanted.shape:
        return math.inf
    canary = artifact.manifest.canary
    span = artifact.span(component)
    allowed = canary.tolerance * span + canaries.floor(wanted, module)
    return canaries.distance(found, wanted) / allowed if allowed > 0 else math.inf


def _same_dtype(module: nn.Module, other: nn.Module) -> bool:
    return next(module.parameters()).dtype == next(other.parameters()).dtype


def _own_tokens(record: ComponentRecord) -> dict[str, Tensor]:
    """The base's token table without added rows, where it has some; nothing otherwise."""
    table = component_tensors(record.base).get(TOKEN_TABLE)
    if table is None or table.shape[0] == record.rows:
        return {}
    return record.comparable({TOKEN_TABLE: table})


def _with_added_tokens(module: nn.Module, composed: dict[str, Tensor]) -> dict[str, Tensor]:
    """Keep the rows that textual inversion appended to the embedding table."""
    if TOKEN_TABLE not in composed:
        return composed
    table = component_tensors(module)[TOKEN_TABLE].detach()
    ours = composed[TOKEN_TABLE].to(table.device, table.dtype)
    return {**composed, TOKEN_TABLE: torch.cat([ours, table[ours.shape[0] :]])}


def _is_exact_base(record: ComponentRecord, spec: ComponentSpec) -> bool:
    """Whether the base is the artifact's, in the dtype of training or rounded to half precision."""
    known = {spec.base_fingerprint, *spec.base_rounded.values()}
    if root(record.base_leaves) in known:
        return True
    rows = spec.config.get("vocab_size")
    table = component_tensors(record.base).get(TOKEN_TABLE)
    if table is None or not isinstance(rows, int) or table.shape[0] <= rows:
        return False
    cut = without_added_tokens({TOKEN_TABLE: table}, rows)
    return root({**record.base_leaves, **leaves(cut)}) in known


def _check_answer(part: str, edited: nn.Module, artifact: Artifact) -> None:
    share = canary_distance(part, edited, artifact)
    if share > 1:
        raise ArtifactMismatchError(
            f"the weights of {part} are those that {artifact.origin} promises, but its answer to the canary "
            f"prompts is {share:.3g} times farther from the stored one than allowed; expected the same "
            "network; look for a changed config.json, a patched forward or faulty hardware"
        )


def _component(pipe: Any, part: str, artifact: Artifact) -> nn.Module:
    module = getattr(pipe, part, None)
    if not isinstance(module, nn.Module):
        raise BaseModelMismatchError(
            f"{artifact.origin} edits {part}, but this {type(pipe).__name__} has none; expected a pipeline "
            f"such as {artifact.manifest.base.id}; load the artifact into one"
        )
    inner = unwrapped(module)
    if inner is not module:
        logger.warning("%s was compiled; the erased one is not, call torch.compile again", part)
    return inner
