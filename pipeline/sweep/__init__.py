"""Sweep: several runs that differ in a few settings, and the votes they share."""
