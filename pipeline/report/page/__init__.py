"""One HTML page about stored runs, whole in itself: no network, no other file.

``chapter`` gathers what is said of one run as plain values; ``charts`` draws it; ``writing`` puts
both into the templates beside it. Figures come from the functions that answer the commands, never
from a second computation of the page's own.
"""
