"""Text to tokens: where documents come from, and the memory-mapped store that proxies read."""
