"""Attempts to refute certificates: real patches through the whole pipeline, and rewritten votes.

Files in the order of an attack: ``selection`` (images of the run), ``placements`` (location and
rival of each patch), ``gradient`` and ``descent`` (its pixels), ``patches`` (all patches of an
attack), ``rerun`` (the run's model and images again, and votes on the attacked images), ``check``
(changes that a certificate rules out), ``summary``; ``flow`` calls them. ``witness`` rewrites
stored votes alone. ``independent`` asks the model's own masks which views show a patch and counts
votes by itself: it shares no code with the rules that it is used to test.
"""

MEANING = (
    "A certificate of this run is wrong, or this machine does not compute the same bits twice: do "
    "not rely on the run's certificates, and please report this with the saved files"
)
"""The meaning of a failure, for the user."""
