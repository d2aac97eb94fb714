"""What ``regmix-active benchmark decision`` shows."""

from __future__ import annotations

import numpy as np
from rich.console import RenderableType
from rich.markup import escape
from rich.table import Table

from regmix_active.compare.decision import DecisionReport, tally

NEAR = 0.02
"""Nats per token within which an answer counts as the best one."""

LEGEND = (
    "Above the best: true target of the answer less that of the best allowed mixture on the emulator, nats per token. Covered: the "
    "interval of the predicted target holds the true one. Other: seconds for an answer of one thread, everything included."
)


def decision_tables(report: DecisionReport) -> list[RenderableType]:
    """Searches by target, then answers of a study that was made for the first of them."""
    shown: list[RenderableType] = []
    kinds = (("searches", report.searches, report.runs), ("studies for the first target", report.studies, report.study_runs))
    for kind, all_, runs in kinds:
        if not all_:
            continue
        table = Table(title=f"{kind} of {runs} proxies, intervals of {report.level:.0%}", title_justify="left")
        table.add_column("target")
        for column in ("answers", "above the best: median", "worst", f"within {NEAR:g}", "covered", "noise", "seconds"):
            table.add_column(column, justify="right")
        for name, found in all_.items():
            above, covered = tally(found, report.best[name])
            table.add_row(
                escape(name),
                str(len(found)),
                f"{np.median(above):+.4f}",
                f"{above.max():+.4f}",
                f"{(above <= NEAR).sum()} of {len(found)}",
                f"{covered} of {len(found)} ({covered / len(found):.0%})",
                f"{report.noise[name]:.4f}",
                f"{np.median([one.seconds for one in found]):.1f}",
            )
        shown.append(table)
    for name in report.studies:
        mine = np.mean([one.value for one in report.searches[name]])
        other = np.mean([one.value for one in report.studies[name]])
        shown.append(
            f"{escape(name)}: the study's answers are {other - mine:+.4f} nats per token from those of searches made for it "
            f"(noise of one training {report.noise[name]:.4f})"
        )
    return shown
