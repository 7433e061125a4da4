"""A training run: options, update rules, loop, checkpoints."""
