"""Cards: the `README.md` of what is published, rendered from records and from nothing else.

    subject          an artifact's manifest, an encoder's or a pipeline's entry, in one shape
    bases            how the base may be named; the licence that follows
    front_matter     the metadata that the Hub reads, with the measured results
    loading          snippets that work for exactly this form
    evaluation_part, attack_part, reactivation_part, limits      the tables
    card.md          the template
    render           all of it together
    published        cards of encoders that others published, from a file of facts
    page             a card as a page for a browser

What was not measured is "not measured", a figure is the report's own, and a value is escaped before it stands
in Markdown. Nothing here needs torch.
"""

from .published import render_published_cards
from .render import render_card, render_encoder_card, render_pipeline_card

__all__ = ["render_card", "render_encoder_card", "render_pipeline_card", "render_published_cards"]
