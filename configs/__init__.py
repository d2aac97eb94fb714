"""Presets: one YAML file each, found by ``--config NAME``."""
