"""Losses to belief: probabilistic regressions from mixtures to losses, one per loss."""
