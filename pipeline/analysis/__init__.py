"""Questions put to stored results: no model, no images, no GPU.

    from pipeline.analysis import open_run

``run`` is the way in for a notebook, ``sql`` for a query over all runs, ``comparison`` and
``classes`` hold the statistics, ``heatmap`` counts where patches do harm.
"""

from pipeline.analysis.run import Run, VotedImages, open_run

__all__ = ["Run", "VotedImages", "open_run"]
