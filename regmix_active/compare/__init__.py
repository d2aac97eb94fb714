"""Found mixtures against others, trained and scored side by side."""
