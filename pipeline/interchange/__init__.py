"""Votes and certificates in other hands: a run exported, and votes cast elsewhere imported.

``docs/interchange.md`` describes the files.
"""
