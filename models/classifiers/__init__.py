"""Classifiers: from pixels to votes."""
