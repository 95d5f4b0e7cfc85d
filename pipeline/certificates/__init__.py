"""Certificates: which patches provably cannot change a vote, from the stored votes alone.

A file a step: ``votes`` (what is accepted), ``counts`` (who got how many), ``touched`` (what a
patch reaches), ``uniform``, ``exact`` and ``randomized`` (one theorem each), ``rules`` (the
registry that the rest of the pipeline goes through). Imports numpy, scipy.special, the standard
library and the numpy-only ``models.ablation``, so that certificates are computed where no model
can run.
"""

from pipeline.certificates.counts import smoothed_predictions, vote_counts
from pipeline.certificates.exact import exact_margins
from pipeline.certificates.randomized import randomized_certificates
from pipeline.certificates.rules import RULES, Rule, margins, rule_for
from pipeline.certificates.uniform import uniform_margins
from pipeline.certificates.votes import pad_sets

__all__ = [
    "RULES",
    "Rule",
    "exact_margins",
    "margins",
    "pad_sets",
    "randomized_certificates",
    "rule_for",
    "smoothed_predictions",
    "uniform_margins",
    "vote_counts",
]
