"""Certificates: which patches provably cannot change a vote, from the stored votes alone.

A file a step: ``counts`` (who got how many votes), ``uniform`` and ``exact`` (one theorem each),
``rules`` (the registry that the rest of the pipeline goes through). Imports numpy, the standard
library and ``models.ablation`` only, so that certificates are computed where no model can run.
"""

from pipeline.certificates.counts import smoothed_predictions, vote_counts
from pipeline.certificates.exact import exact_margins
from pipeline.certificates.rules import RULES, Rule, margins
from pipeline.certificates.uniform import uniform_margins

__all__ = [
    "RULES",
    "Rule",
    "exact_margins",
    "margins",
    "smoothed_predictions",
    "uniform_margins",
    "vote_counts",
]
