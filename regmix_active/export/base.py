"""What an exporter is, and what is the same for all of them: missing facts are named, zeros are left out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar, Literal

from regmix_active.errors import ConfigError

from .handover import Handover, Unit
from .registry import load_exporter

Need = Literal["paths", "tokens", "lengths", "target_tokens", "sequence_length"]

REMEDIES: dict[Need, str] = {
    "paths": "--paths FILE (YAML or JSON, name: path, as the trainer names the data)",
    "tokens": "--tokens FILE (YAML or JSON, name: training tokens that there are)",
    "lengths": "--lengths FILE (YAML or JSON, name: mean tokens of a document)",
    "target_tokens": "--target-tokens N (tokens that the target model is trained on)",
    "sequence_length": "--sequence-length N (tokens in one training row)",
}
"""What to give when a fact is missing."""

MOST_EPOCHS = 4.0
"""More epochs than these are warned of: until four, repeated tokens are worth nearly as much as new ones (arXiv 2305.16264)."""

ROUNDING = 1e-6
"""By so much, relatively, a limit of four epochs may be overstepped unsaid: weights are rounded."""


class Exporter(ABC):
    """Writes a mixture as one trainer reads it. Options are fields of a dataclass.

    Attributes:
        name: Set by :func:`~regmix_active.export.exporter`; what ``--format`` calls it.
        trainer: Who reads the files.
        unit: What the trainer's weights are shares of.
        data: What the trainer opens: text, or tokens that its own tools prepared; None if it opens nothing. The text of a
            run's corpus is taken if the user names no paths.
        needs: Facts without which there is no file.
        wants: What the trainer needs besides, in words; without it there is a file, and a note.
        zeros: Whether domains of weight zero are written.
        one_path: Whether the trainer takes one path per domain only.
        exhausted: What the trainer does when a domain's data ends.
    """

    name: ClassVar[str]
    trainer: ClassVar[str]
    unit: ClassVar[Unit]
    data: ClassVar[Literal["text", "tokens"] | None] = None
    needs: ClassVar[tuple[Need, ...]] = ()
    wants: ClassVar[str] = ""
    zeros: ClassVar[Literal["left out", "kept"]] = "left out"
    one_path: ClassVar[bool] = False
    exhausted: ClassVar[str]

    @abstractmethod
    def files(self, handover: Handover) -> dict[str, str]:
        """Write the files.

        Args:
            handover: Complete (:attr:`needs`), and without zeros unless they are :attr:`zeros` ``kept``.

        Returns:
            Text by file name.

        Raises:
            ConfigError: If the trainer cannot take a name, a path or this many domains; with the remedy.
        """

    @classmethod
    def needed(cls) -> str:
        """What must be known, in words."""
        said = [need.replace("_", " ") for need in cls.needs] + [cls.wants] * bool(cls.wants)
        return ", ".join(said) or "–"

    def required(self) -> tuple[Need, ...]:
        """Facts that are needed with these options; by default :attr:`needs`."""
        return self.needs

    def notes(self, handover: Handover) -> list[str]:
        """What a user should know about this mixture in this trainer; of domains that are written."""
        return []

    def ready(self, handover: Handover) -> Handover:
        """What is written: without zeros where they are left out, and complete.

        Raises:
            ConfigError: If a fact is missing; names it, the domains and the option.
        """
        written = handover if self.zeros == "kept" else handover.active()
        for need in self.required():
            if (missing := _missing(written, need)) is not None:
                raise ConfigError(f"--format {self.name} needs {need.replace('_', ' ')}{missing}; give {REMEDIES[need]}")
        for name in written.domains:
            if self.one_path and len(written.files(name)) > 1:
                raise ConfigError(
                    f"--format {self.name}: {name!r} has {len(written.files(name))} paths, and {self.trainer} takes one for each "
                    "domain; merge the data, or make a domain of each"
                )
        return written

    def render(self, handover: Handover) -> dict[str, str]:
        """The files of a mixture, text by file name.

        Raises:
            ConfigError: If a fact is missing, or the trainer cannot take the mixture.
        """
        return self.files(self.ready(handover))


def _missing(handover: Handover, need: Need) -> str | None:
    """Whose fact is missing, as the end of a sentence; None if it is there."""
    if need in ("target_tokens", "sequence_length"):
        return "" if getattr(handover, need) is None else None
    known = getattr(handover, need)
    names = [name for name in handover.domains if not known.get(name)]
    shown = ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
    return f" of {shown}" if names else None


def too_often(epochs: float | None) -> bool:
    """Whether epochs, if known, are more than :data:`MOST_EPOCHS`."""
    return epochs is not None and epochs > MOST_EPOCHS * (1 + ROUNDING)


def dusty(handover: Handover) -> list[str]:
    """Domains of shares that may come to nothing, as a warning."""
    if not (names := handover.dust()):
        return []
    shown = ", ".join(f"{name} ({handover.weights[name]:.2g})" for name in names[:5])
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return [f"so small a share may come to nothing in the target run: {shown}{more}; leave it out with --drop-below SHARE"]


def repeated(handover: Handover) -> list[str]:
    """Domains that the target run would see more than :data:`MOST_EPOCHS` times, as warnings."""
    lines = []
    for name in handover.domains:
        epochs = handover.epochs(name)
        if too_often(epochs):
            lines.append(
                f"{name} would be repeated {epochs:.1f} times; beyond {MOST_EPOCHS:g} epochs repeated text teaches less and less"
            )
    return lines


def export(name: str, handover: Handover, **options: object) -> dict[str, str]:
    """The files that hand a mixture over to a trainer.

    Args:
        name: A format, such as ``megatron``; see :func:`~regmix_active.export.available`.
        handover: The mixture and what is known about its data.
        options: Fields of the exporter.

    Returns:
        Text by file name.

    Raises:
        ConfigError: If there is no such format, an option does not fit, a fact is missing, or the trainer cannot take the mixture.
    """
    return load_exporter(name, options).render(handover)
