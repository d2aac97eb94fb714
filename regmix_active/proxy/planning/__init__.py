"""How a device trains: what fits into its memory, what is fastest, what its roofline allows."""
