"""The table of mutants of randomized smoothing, judged by ``randomized_judge``."""

from tests.pipeline.certificates.mutants import RANDOMIZED_RULE, Mutant

BOUNDS, COVERAGE, IDEAL = ("bounds",), ("coverage",), ("ideal",)

MUTANTS = [
    Mutant(
        RANDOMIZED_RULE, "Delta once", "lead_n - 2 * touched - 1", "lead_n - touched - 1", IDEAL
    ),
    Mutant(
        RANDOMIZED_RULE,
        "Delta - 1",
        "lead_n - 2 * touched - 1",
        "lead_n - 2 * (touched - 1) - 1",
        IDEAL,
    ),
    Mutant(
        RANDOMIZED_RULE,
        "not strictly more",
        "lead_n - 2 * touched - 1",
        "lead_n - 2 * touched",
        IDEAL,
    ),
    Mutant(
        RANDOMIZED_RULE,
        "threshold once",
        "lower_n, rival_upper_n, 2 * touched",
        "lower_n, rival_upper_n, touched",
        IDEAL,
    ),
    Mutant(RANDOMIZED_RULE, "share of the draws", "np.ceil(positions *", "np.ceil(draws *", IDEAL),
    Mutant(RANDOMIZED_RULE, "alpha not split", "/ (2 * batch.num_classes)", "", BOUNDS + COVERAGE),
    Mutant(
        RANDOMIZED_RULE,
        "alpha not split by class",
        "/ (2 * batch.num_classes)",
        "/ 2",
        BOUNDS + COVERAGE,
    ),
    Mutant(
        RANDOMIZED_RULE, "one-sided", "/ (2 * batch.num_classes)", "/ batch.num_classes", BOUNDS
    ),
    Mutant(RANDOMIZED_RULE, "split by voted classes", "/ (2 * batch.num_classes)", "/ 4", BOUNDS),
    Mutant(
        RANDOMIZED_RULE,
        "alpha is the confidence",
        "(1 - confidence)",
        "confidence",
        BOUNDS + COVERAGE,
    ),
    Mutant(
        RANDOMIZED_RULE,
        "shares without bounds",
        "draws, tail)\n    # The",
        "draws, 0.5)\n    # The",
        BOUNDS + COVERAGE,
    ),
    Mutant(
        RANDOMIZED_RULE,
        "lower bound too high",
        "np.maximum(k, 1), draws - k + 1",
        "k + 1, np.maximum(draws - k, 1)",
        BOUNDS + COVERAGE,
    ),
    Mutant(
        RANDOMIZED_RULE,
        "upper bound too low",
        "(k + 1, np.maximum(draws - k, 1)",
        "(np.maximum(k, 1), draws - k + 1",
        BOUNDS,
    ),
    Mutant(
        RANDOMIZED_RULE,
        "voteless rivals have no bound",
        "np.where(k < draws, ",
        "np.where(k == 0, 0, 1) * np.where(k < draws, ",
        BOUNDS + COVERAGE,
    ),
    Mutant(
        RANDOMIZED_RULE,
        "bounds turned round",
        "upper_n = np.where(k < draws",
        "lower_n, upper_n = 1 - lower_n, np.where(k < draws",
        BOUNDS + COVERAGE,
    ),
    Mutant(
        RANDOMIZED_RULE,
        "weakest rival",
        "batch.ranked.counts_nk[:, 1]",
        "batch.ranked.counts_nk[:, -1]",
        BOUNDS + COVERAGE,
    ),
]
