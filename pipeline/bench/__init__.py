"""Measurements: ratios of things timed side by side in one run, never a figure alone.

Nothing here decides a vote or a certificate. ``engine`` and what it needs run without Ray and
MLflow, so that a bare machine with a GPU can measure them.
"""
