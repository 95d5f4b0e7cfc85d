"""Questions put to stored results: no model, no images, no GPU.

    from pipeline.questions import open_run

``run`` is the way in for a notebook, ``sql`` for a query over all runs, ``comparison`` and
``classes`` hold the statistics, ``heatmap`` says where patches do harm.
"""

from pipeline.questions.run import Run, VotedImages, open_run

__all__ = ["Run", "VotedImages", "open_run"]
