"""FID, KID, CLIP score and LPIPS, literally: loops over pictures, in numpy.

Slow on purpose. It shares no code with the package.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def fid(first: Array, second: Array) -> float:
    """arXiv:1706.08500, equation 6, with the product's root by its own (unsymmetric) eigenvalues."""
    difference = first.mean(axis=0) - second.mean(axis=0)
    product = np.cov(first, rowvar=False) @ np.cov(second, rowvar=False)
    roots = np.sqrt(np.linalg.eigvals(product).astype(complex))
    covariances = np.cov(first, rowvar=False) + np.cov(second, rowvar=False)
    return float((difference @ difference + np.trace(covariances) - 2 * roots.sum()).real)


def kid(first: Array, second: Array, *, paired: bool = False) -> float:
    """arXiv:1801.01401, section 4: unbiased MMD^2 with k(x, y) = (x.y / d + 1)^3, pair by pair.

    Paired: Gretton et al. 2012, equation 4, the mean of h(z_i, z_j) over i != j with z = (x, y).
    """
    width = first.shape[1]

    def kernel(x: Array, y: Array) -> float:
        return float((np.dot(x, y) / width + 1) ** 3)

    m, n = len(first), len(second)
    if paired:
        h = [
            kernel(first[i], first[j])
            + kernel(second[i], second[j])
            - kernel(first[i], second[j])
            - kernel(first[j], second[i])
            for i in range(m)
            for j in range(m)
            if i != j
        ]
        return sum(h) / len(h)
    inside = sum(kernel(first[i], first[j]) for i in range(m) for j in range(m) if i != j) / (m * (m - 1))
    inside += sum(kernel(second[i], second[j]) for i in range(n) for j in range(n) if i != j) / (n * (n - 1))
    return inside - 2 * sum(kernel(x, y) for x in first for y in second) / (m * n)


def clip_score(image: Array, text: Array) -> float:
    """One picture: 100 max(cos, 0)."""
    return 100 * max(float(image @ text) / float(np.linalg.norm(image) * np.linalg.norm(text)), 0.0)


def lpips(first: Sequence[Array], second: Sequence[Array], weights: Sequence[Array]) -> float:
    """arXiv:1801.03924, equation 1, place by place, for one pair; layers are `(channels, height, width)`."""
    total = 0.0
    for a, b, w in zip(first, second, weights, strict=True):
        height, width = a.shape[1:]
        for row in range(height):
            for column in range(width):
                x, y = a[:, row, column], b[:, row, column]
                x, y = x / np.linalg.norm(x), y / np.linalg.norm(y)
                total += float((w * (x - y) ** 2).sum()) / (height * width)
    return total
