"""The driver: rounds of proposing, training and recording, until the budget is spent."""
