"""``python -m regmix_active``."""

from regmix_active.cli import main

if __name__ == "__main__":
    main()
