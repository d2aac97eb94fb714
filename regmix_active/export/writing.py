"""Where the files of a hand-over go. Nothing is overwritten unasked."""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping
from pathlib import Path

from regmix_active.atomic import write_atomically
from regmix_active.errors import ConfigError


def write_files(files: Mapping[str, str], output: str, force: bool = False) -> list[Path]:
    """Write one file, or several into a folder.

    A file that is overwritten keeps its permissions; what a link points to is overwritten, not the link.

    Args:
        files: Text by file name.
        output: A folder; or, for one text, a file. A path that ends with a separator is a folder, and so is one for several texts:
            it is made where it is missing.
        force: Overwrite files that are there.

    Returns:
        Where they are.

    Raises:
        ConfigError: If a file is there already, or is no regular one, or cannot be written.
    """
    place = Path(output)
    if len(files) > 1 and place.exists() and not place.is_dir():
        raise ConfigError(f"-o {output}: is a file, and this format writes {len(files)} ({', '.join(files)}); name a folder")
    folder = len(files) > 1 or place.is_dir() or output.endswith(("/", os.sep))
    targets = {place / name if folder else place: text for name, text in files.items()}
    try:
        modes = {path: _mode(path) for path in targets}
        there = [str(path) for path, mode in modes.items() if mode is not None or path.is_symlink()]
        if there and not force:
            raise ConfigError(f"{', '.join(there)}: exists already; name another place with -o, or overwrite with --force")
        if folder:
            place.mkdir(parents=True, exist_ok=True)
        for path, text in targets.items():
            real, mode = path.resolve(), modes[path]
            write_atomically(real, text)
            if mode is not None:
                real.chmod(mode)
    except OSError as error:
        raise ConfigError(f"-o {output}: cannot be written ({error.strerror}); name another place") from None
    return list(targets)


def _mode(path: Path) -> int | None:
    """Permissions of a file, or of what a link points to; None if there is nothing.

    Raises:
        ConfigError: If it is a folder, a pipe or a device.
    """
    try:
        mode = path.stat().st_mode
    except (FileNotFoundError, NotADirectoryError):  # the latter is told when it is written
        return None
    if not stat.S_ISREG(mode):
        raise ConfigError(f"{path}: is there and is no regular file; name another place, or - for standard output")
    return stat.S_IMODE(mode)
