"""Ray: joining a cluster, its resources, what ends a job on it."""
