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

Under attack (the rules of an honest rate are enforced by the records, see `attack_report`):

    attack_settings    which attacks, their budget presets, and luck with an equal budget
    attack_groups      prompts by the question asked about them; confusion matrices of the judges
    attack_runner      every run that the rules ask for: 1x 2x 4x, luck, base, weak eraser
    weak_search        the weak eraser: the strength at which the plain prompts are just hidden
    positive_control   whether an attack wins on the base, and against the weak eraser
    attack_rows        outcomes counted into a run, complete and verified, or not at all
    attack_findings    excess over luck, corrected rates, typed text, flags, worst case
    attack_runs, attack_report   all of it as records (no torch)
    budgets, masking   convergence; signs that a rate is too low
    splits             prompts to train, tune and test on, and that they do not overlap
    attack_tables, attack_grid, curves   the same for a terminal and as pictures

Nothing here knows how an erasure was trained.
"""
