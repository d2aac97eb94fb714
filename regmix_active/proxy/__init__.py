"""Mixture to losses: the model, the stacked swarm, its data, its evaluation, and the runners."""
