"""Fine-tuning on ablations: the base classifier that a smoothed classifier is made of."""
