"""Fine-tune a network on ablations: the base classifier of a smoothed classifier."""
