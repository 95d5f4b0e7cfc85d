"""Certificates: which patches provably cannot change a vote, from the stored votes alone.

A file a step: ``votes`` (what is accepted), ``batch`` (votes counted and ranked), ``touched`` and
``attack_sets`` (what the attacker can touch), ``rule`` (the interface of a rule); one theorem each
in ``uniform``, ``exact``, ``randomized``, ``top_k``, ``detection``, ``largest`` (every patch size),
``subsets`` (fewer ablations); ``rules``, the registry that the rest of the pipeline goes through;
``locations`` and ``witness`` (where and how a patch breaks an image). Imports numpy, scipy.special,
the standard library and the numpy-only ``models.views``, so that certificates are computed where no
model can run.
"""

from models.views.threats import Threat
from pipeline.certificates.batch import VoteBatch, smoothed_predictions, vote_counts
from pipeline.certificates.detection import Leads, detection_leads
from pipeline.certificates.exact import exact_margins
from pipeline.certificates.largest import largest_certified
from pipeline.certificates.randomized import randomized_certificates
from pipeline.certificates.rule import RULES, Rule
from pipeline.certificates.rules import margins, rule_for
from pipeline.certificates.subsets import coarser, subset
from pipeline.certificates.top_k import top_k_margins
from pipeline.certificates.uniform import uniform_margins
from pipeline.certificates.votes import pad_sets

__all__ = [
    "RULES",
    "Leads",
    "Rule",
    "Threat",
    "VoteBatch",
    "coarser",
    "detection_leads",
    "exact_margins",
    "largest_certified",
    "margins",
    "pad_sets",
    "randomized_certificates",
    "rule_for",
    "smoothed_predictions",
    "subset",
    "top_k_margins",
    "uniform_margins",
    "vote_counts",
]
