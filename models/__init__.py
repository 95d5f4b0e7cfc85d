"""Voting: geometry of the views, preprocessing, and the networks that classify ablations."""

from models.lean_timm import import_timm_lean

ENGINE = 3
"""Revision of the arithmetic behind a vote, part of every run's identity: raise it whenever a
change to this package may move the last bits of a logit."""

import_timm_lean()
