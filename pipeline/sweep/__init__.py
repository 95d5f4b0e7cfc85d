"""Several runs that differ in a few settings: which there are, and who answers for whom."""
