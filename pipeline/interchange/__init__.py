"""Export of a run for other programs, and import of votes that other programs cast.

``docs/interchange.md`` describes the files.
"""
