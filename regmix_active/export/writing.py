"""Where the files of a hand-over go. Nothing is overwritten unasked."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from regmix_active.atomic import write_atomically
from regmix_active.errors import ConfigError


def write_files(files: Mapping[str, str], output: Path, force: bool = False) -> list[Path]:
    """Write one file, or several into a folder.

    Args:
        files: Text by file name.
        output: A folder; or, for one text, a file. A folder is made if several are written.
        force: Overwrite files that are there.

    Returns:
        Where they are.

    Raises:
        ConfigError: If a file is there already, or cannot be written.
    """
    if len(files) > 1 and output.exists() and not output.is_dir():
        raise ConfigError(f"-o {output}: is a file, and this format writes {len(files)} ({', '.join(files)}); name a folder")
    folder = len(files) > 1 or output.is_dir()
    targets = {output / name if folder else output: text for name, text in files.items()}
    if not force and (there := [str(path) for path in targets if path.exists()]):
        raise ConfigError(f"{', '.join(there)}: exists already; name another place with -o, or overwrite with --force")
    try:
        if folder:
            output.mkdir(parents=True, exist_ok=True)
        for path, text in targets.items():
            write_atomically(path, text)
    except OSError as error:
        raise ConfigError(f"-o {output}: cannot be written ({error.strerror}); name another place") from None
    return list(targets)
