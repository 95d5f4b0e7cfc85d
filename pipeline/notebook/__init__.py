"""The way in for a notebook: evaluate a network, or certify labels of one's own.

``evaluate`` votes in this process, without Ray, and stores a run that every command can open;
``certify`` asks a rule about an array of labels. Import them before the first matrix product: on
Intel's MKL, products are reproducible only if that is asked for before.
"""

from pipeline.notebook.evaluation import Result, evaluate
from pipeline.notebook.labels import CertifiedLabels, certify
from pipeline.runs.numerics import pin_mkl

__all__ = ["CertifiedLabels", "Result", "certify", "evaluate"]

pin_mkl()
