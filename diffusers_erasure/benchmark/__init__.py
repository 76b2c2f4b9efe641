"""The benchmark: every method, concept and attack side by side, and what follows from it.

    variants        ways to erase, as data
    profiles        which of them stand side by side, over which concepts, attacks and training seeds, as data
    cells           one variant, concept and training seed: its folder and its commands
    running         what is missing of the cells is run
    freshness       what lies in a cell belongs together, or is refused
    stored          what the finished cells say, as one file that everything below is computed from
    figures         the same pooled over training seeds and concepts, with intervals
    slots           two variants compared training by training: sign flips, and an interval
    answers         what a rule finds, and when it may be said
    checks          rules by which a claim holds or does not
    claims          the papers' claims with their rules, as data
    settling        what comes of each claim, with all tests of the page adjusted together
    recommendation  which method to use, by a rule
    page            the page for people
    shown, tables   its tables: rows, and over which trainings columns compare them
    budgets         how much of its published budget each attack was given
    plots           its pictures

A cell runs the commands that a user would type, so whatever it finds can be found by hand.
"""
