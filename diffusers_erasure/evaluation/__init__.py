"""Measuring an erasure: draw the same prompts and seeds with and without it, judge them, report k of n.

    intervals     Wilson interval, exact McNemar test and agreement, as pure functions
    proportion    k of n with its interval, the form of every rate in a report
    prompt_sets   what is drawn: the concept's own name, synonyms, implicit prompts, retention
    generate      seeded drawing that does not depend on batches, kept on disk so that a run can be resumed
    controls      which pictures are broken, and what a judge makes of blank and noise pictures
    judges/       who decides what a picture shows; one file each
    report        the record of one evaluation, written as `evaluation.json` (no torch)
    tables        the report for a terminal
    grid          pictures side by side, with captions
    runner        all of the above for one artifact

Nothing here knows how an erasure was trained.
"""
