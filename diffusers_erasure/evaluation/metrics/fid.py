"""FID and KID: how far two sets of pictures are apart, by the features of a given extractor.

    FID  squared Fréchet distance of two Gaussians fitted to the features (arXiv:1706.08500, equation 6);
         biased upwards for few pictures, so only figures with one n are comparable
    KID  squared maximum mean discrepancy with the kernel (x.y / d + 1)^3, unbiased (arXiv:1801.01401,
         section 4); over all pairs rather than random subsets, so it needs no randomness, and may be
         negative. Pictures of the same seed resemble each other, so sets that were drawn from the same seeds
         are compared without these pairs (Gretton et al., JMLR 13, 2012, equation 4). Its interval is the
         jackknife's over prompts, since a bootstrap would pair pictures with their own copies

The trace of FID's matrix square root is the sum of the singular values of S1^(1/2) S2^(1/2), both factors
being taken by symmetric eigendecomposition: nothing complex appears, also with fewer pictures than features.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from diffusers_erasure.errors import EvaluationError
from diffusers_erasure.evaluation.intervals import Z_95

from .extractors import Extractor


def fid(first: Tensor, second: Tensor) -> float:
    """Fréchet distance between two sets of features, at least 0.

    Args:
        first: `(pictures, width)`.
        second: `(pictures, width)`.

    Raises:
        EvaluationError: A set has fewer than two vectors, or the widths differ.
    """
    first, second = _checked(first, second)
    means = first.mean(dim=0) - second.mean(dim=0)
    covariances = [_covariance(features) for features in (first, second)]
    roots = [_square_root(matrix) for matrix in covariances]
    cross = torch.linalg.svdvals(roots[0] @ roots[1]).sum()
    traces = covariances[0].trace() + covariances[1].trace()
    return max(0.0, float(means.dot(means) + traces - 2 * cross))


def _covariance(features: Tensor) -> Tensor:
    centred = features - features.mean(dim=0)
    covariance: Tensor = centred.T @ centred / (len(features) - 1)
    return covariance


def _square_root(matrix: Tensor) -> Tensor:
    """Square root of a symmetric matrix that has no negative eigenvalues but by rounding."""
    values, vectors = torch.linalg.eigh(matrix)
    root: Tensor = (vectors * values.clamp(min=0).sqrt()) @ vectors.T
    return root


def kid(first: Tensor, second: Tensor, *, paired: bool = False) -> float:
    """Unbiased squared maximum mean discrepancy with the cubic polynomial kernel.

    Args:
        first: `(pictures, width)`.
        second: `(pictures, width)`.
        paired: Whether row i of both was drawn from one seed; such pairs are then left out.

    Raises:
        EvaluationError: A set has fewer than two vectors, the widths differ, or there are no pairs.
    """
    first, second = _checked(first, second)
    if paired and len(first) != len(second):
        raise EvaluationError(
            f"{len(first)} and {len(second)} pictures are no pairs and cannot be compared as such; expected "
            "as many of each; draw both sets from the same seeds"
        )
    return _mmd(*_kernels(first, second), paired=paired)


def kid_interval(first: Tensor, second: Tensor, prompts: Sequence[Hashable]) -> tuple[float, float]:
    """Bounds of the 95 % interval of paired KID over prompts, by its jackknife standard error.

    Args:
        first: `(pictures, width)`.
        second: `(pictures, width)`, of the same prompts and seeds.
        prompts: The prompt of each pair; at least two differ.

    Raises:
        EvaluationError: The sets are not pairs, or too few of them remain without one prompt.
    """
    first, second = _checked(first, second)
    names = list(dict.fromkeys(prompts))
    if not len(first) == len(second) == len(prompts) or len(names) < 2:
        raise EvaluationError(
            f"{len(first)} and {len(second)} pictures with {len(names)} different prompts have no interval; "
            "expected pairs of two prompts or more; draw both sets from the same prompts"
        )
    index = torch.tensor([names.index(prompt) for prompt in prompts])
    kept = len(first) - torch.bincount(index)
    if int(kept.min()) < 2:
        raise EvaluationError(
            f"without the prompt {names[int(kept.argmin())]!r} only {int(kept.min())} pictures remain; "
            "expected two or more; draw more"
        )
    found = _left_out(first, second, index) / (kept * (kept - 1))
    count = len(names)
    error = float(((count - 1) / count * (found - found.mean()).square().sum()).sqrt())
    value = kid(first, second, paired=True)
    return value - Z_95 * error, value + Z_95 * error


def _left_out(first: Tensor, second: Tensor, index: Tensor) -> Tensor:
    """The sum of paired KID's terms over all pairs of rows, without the rows of each prompt: `(prompts,)`.

    Args:
        first: `(pictures, width)`.
        second: The same shape.
        index: `(pictures,)`, the number of each row's prompt.
    """
    own, other, across = _kernels(first, second)
    terms = (own + other - across - across.T).fill_diagonal_(0)
    prompts = int(index.max()) + 1
    by_prompt = terms.new_zeros(prompts, len(terms)).index_add(0, index, terms)
    blocks = terms.new_zeros(prompts, prompts).index_add(1, index, by_prompt)
    return terms.sum() - 2 * by_prompt.sum(dim=1) + blocks.diagonal()


def _kernels(first: Tensor, second: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    return _kernel(first, first), _kernel(second, second), _kernel(first, second)


def _mmd(first: Tensor, second: Tensor, across: Tensor, *, paired: bool) -> float:
    between = _mean_off_diagonal(across) if paired else across.mean()
    return float(_mean_off_diagonal(first) + _mean_off_diagonal(second) - 2 * between)


def _kernel(first: Tensor, second: Tensor) -> Tensor:
    kernel: Tensor = (first @ second.T / first.shape[1] + 1) ** 3
    return kernel


def _mean_off_diagonal(kernel: Tensor) -> Tensor:
    n = len(kernel)
    return (kernel.sum() - kernel.trace()) / (n * (n - 1))


def _checked(first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    if first.ndim != 2 or second.ndim != 2 or first.shape[1:] != second.shape[1:]:
        raise EvaluationError(
            f"features of shapes {tuple(first.shape)} and {tuple(second.shape)} cannot be compared; expected "
            "(pictures, width) with one width; use one extractor for both sets"
        )
    if min(len(first), len(second)) < 2:
        raise EvaluationError(
            f"{len(first)} and {len(second)} pictures cannot be compared; expected two or more in each set; "
            "draw more"
        )
    return first.double(), second.double()


class Distance(BaseModel):
    """FID and KID of an erased pipeline's pictures from the base's."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    extractor: str = Field(description="where the features come from")
    sha256: str = Field(description="digest of the extractor's weights")
    width: int = Field(ge=1, description="features per picture")
    base: int = Field(ge=2, description="pictures of the base")
    erased: int = Field(ge=2, description="pictures of the erased pipeline")
    fid: float = Field(ge=0, description="Fréchet distance; biased upwards for few pictures")
    kid: float = Field(description="unbiased squared MMD of pairs, cubic kernel")
    kid_low: float = Field(description="lower bound of its 95 % interval over prompts")
    kid_high: float = Field(description="upper bound of its 95 % interval over prompts")
    null_fid: float = Field(
        ge=0, description="FID between two random halves of the base's pictures: what chance gives at half n"
    )


def image_distance(
    base: Tensor,
    erased: Tensor,
    extractor: Extractor,
    *,
    prompts: Sequence[Hashable],
    generator: torch.Generator,
) -> Distance:
    """Compare the pictures of two pipelines, drawn from the same prompts and seeds.

    Args:
        base: Pictures of the base, `(pictures, 3, height, width)` uint8.
        erased: Those of the erased pipeline, of the same prompts and seeds.
        extractor: Makes features of them.
        prompts: The prompt of each pair.
        generator: Splits the base's pictures into halves.

    Raises:
        EvaluationError: The sets are not pairs, or have fewer than four.
    """
    if not len(base) == len(erased) == len(prompts) or len(base) < 4:
        raise EvaluationError(
            f"{len(base)} pictures of the base, {len(erased)} of the erased pipeline and {len(prompts)} "
            "prompts cannot be compared; expected four pairs or more; draw both sets from the same prompts "
            "and seeds"
        )
    first, second = extractor(base), extractor(erased)
    low, high = kid_interval(first, second, prompts)
    shuffled = first[torch.randperm(len(first), generator=generator)]
    half = len(shuffled) // 2
    return Distance(
        extractor=extractor.name,
        sha256=extractor.sha256,
        width=first.shape[1],
        base=len(first),
        erased=len(second),
        fid=fid(first, second),
        kid=kid(first, second, paired=True),
        kid_low=low,
        kid_high=high,
        null_fid=fid(shuffled[:half], shuffled[half:]),
    )
