"""How far imported losses lie from the study's own, for the terminal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from regmix_active.compare.agreement import Offset

if TYPE_CHECKING:
    from rich.table import Table


def offset_table(offsets: Sequence[Offset], most: int = 12) -> Table:
    """The mean difference per loss at the same mixture, the clearest first."""
    from rich.markup import escape
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for column in ("loss", "imported − own (nats/token)", "± se", "runs fitted", "runs predicted"):
        table.add_column(column, justify="left" if column == "loss" else "right")
    ordered = sorted(offsets, key=lambda offset: -abs(offset.mean) / max(offset.error, 1e-12))
    for offset in ordered[:most]:
        style = "yellow" if offset.suspicious else None
        numbers = [f"{offset.mean:+.4f}", f"{offset.error:.4f}", str(offset.fitted), str(offset.predicted)]
        table.add_row(escape(offset.loss), *numbers, style=style)
    if len(ordered) > most:
        table.add_row(f"and {len(ordered) - most} more", "", "", "", "")
    return table


def offset_warning(offsets: Sequence[Offset]) -> str | None:
    """What a difference that chance does not explain means, or None."""
    off = [offset for offset in offsets if offset.suspicious]
    if not off:
        return None
    worst = max(off, key=lambda offset: abs(offset.mean))
    return (
        f"{len(off)} of {len(offsets)} losses of the imported runs lie elsewhere than this study's own, '{worst.loss}' by "
        f"{worst.mean:+.3f} nats per token: another tokenizer, validation text or training? The surrogate takes the difference for "
        "an effect of the mixture"
    )
