"""From blocks to losses: steps, optimiser, checkpoints, learning curves, early stopping; alone or with all devices together."""
