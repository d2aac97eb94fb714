"""What a mixture is: the feasible set, and designs that sample it."""
