"""Memory: the Optuna study that holds every mixture and every loss, its lock, and what it means."""
