"""Contact sheets: every concept in every style, to be looked at before a checkpoint ships."""

from collections.abc import Sequence

from PIL import Image
from torch import Tensor

from diffusers_erasure.embedded.vocabulary import CONCEPTS, STYLES
from diffusers_erasure.evaluation.grid import Column, make_grid


def contact_sheet(
    pictures: Tensor, prompts: Sequence[str], *, concepts: Sequence[str] = tuple(CONCEPTS)
) -> Image.Image:
    """Lay out the styled pictures of `measure`: concepts as columns, styles as rows.

    Args:
        pictures: `(concepts x styles x seeds, 3, 64, 64)` uint8, in this order; the first seed is shown.
        prompts: One per picture.
        concepts: The ones to show; all of them by default.
    """
    seeds = len(prompts) // (len(CONCEPTS) * len(STYLES))
    columns = []
    for index, name in enumerate(CONCEPTS):
        if name in concepts:
            first = index * len(STYLES) * seeds
            shown = tuple(pictures[first + row * seeds] for row in range(len(STYLES)))
            columns.append(Column(caption=name, pictures=shown))
    return make_grid(columns, STYLES, cell=64, per_band=17)
