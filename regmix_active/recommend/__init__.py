"""Belief to mixture: simulate the simplex, average the best."""
