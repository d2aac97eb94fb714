"""Random feasible sets, and ones without any mixture: what every room must keep (``make feasibility`` tries hundreds)."""
