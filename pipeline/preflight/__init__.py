"""What is known to be wrong before any accelerator is paid for: stores, output, cluster, MLflow."""
