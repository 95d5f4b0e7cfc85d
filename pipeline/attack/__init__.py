"""Attempts to refute certificates: real patches through the whole pipeline, and rewritten votes.

A file a step: ``victims`` (which images), ``reopened`` (the run's model and images again),
``placements`` (where, and for which rival), ``gradient`` and ``descent`` (the pixels),
``campaign`` (all patches of an attack), ``source`` (the attacked images as data), ``replay`` (their
votes and logits), ``verdict`` (what changed, and whether it may), ``summary`` and ``report``;
``flow`` ties them. ``witness`` asks the stored votes alone. What an ablation sees is asked of the
model's own masks (``sight``) and votes are counted anew (``counting``): not by the code that the
rules go by.
"""

MEANING = (
    "A certificate of this run is wrong, or this machine does not compute the same bits twice: do "
    "not rely on the run's certificates, and please report this with the saved files"
)
"""What a failure means."""
