"""Checks before any accelerator is paid for: stores, output, cluster, MLflow."""
