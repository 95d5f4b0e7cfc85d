"""What votes: ablation geometry, preprocessing, and the networks that classify ablations."""
