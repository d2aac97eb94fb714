"""What the terminal shows: right numbers, and no trouble with odd names."""

from __future__ import annotations

import dataclasses
import io

import numpy as np
import pytest
from rich.console import Console, RenderableType

from regmix_active.compare.verify import Rival, Verification
from regmix_active.mixture.space import MixtureSpace
from regmix_active.proxy.base import ProxyResult
from regmix_active.recommend.simulate import Recommendation
from regmix_active.report.console import (
    LiveView,
    StatusView,
    answer_tables,
    doubt_lines,
    mixture_table,
    pareto_table,
    prediction_table,
    shares_text,
    verification_table,
)
from regmix_active.study.history import History
from regmix_active.study.target import Target


def shown(item: RenderableType) -> str:
    console = Console(file=io.StringIO(), width=160)
    console.print(item)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def cells(text: str, start: str) -> list[str]:
    line = next(line for line in text.splitlines() if line.strip(" │┃").startswith(start))
    return [cell.strip() for cell in line.strip()[1:-1].split("│")]


def test_the_mixture_table(found: Recommendation) -> None:
    text = shown(mixture_table(found))
    assert "Found mixture after 4 proxies" in text
    assert cells(text, "books") == ["books", "50.0%", "33.3%", "0.67×", "1.500", "2.000"]
    assert cells(text, "code [x]") == ["code [x]", "30.0%", "0.0%", "0.00×", "2.500", "3.000"]
    assert [text.index(name) for name in ("日本: 1", "books", "code [x]")] == sorted(text.index(n) for n in found.weights), (
        "largest first"
    )


def test_a_natural_share_of_zero_has_no_ratio(found: Recommendation) -> None:
    natural = dataclasses.replace(found.natural, weights=np.array([0.0, 0.5, 0.5]))
    assert cells(shown(mixture_table(dataclasses.replace(found, natural=natural))), "books")[3] == "–"


def test_losses_beside_other_domains(found: Recommendation) -> None:
    """A runner may report losses that are not named after domains."""
    target = Target.parse("mean", ("x", "books", "z"))
    history = dataclasses.replace(found.history, target=target)
    text = shown(mixture_table(dataclasses.replace(found, history=history)))
    assert cells(text, "books")[-2:] == ["2.500", "3.000"]
    assert cells(text, "code [x]")[-2:] == ["", ""]


def test_the_prediction_table(found: Recommendation) -> None:
    text = shown(prediction_table(found))
    assert "mean of 3 losses, nats per token" in text
    assert cells(text, "found") == ["found", "2.5000", "± 0.0500", ""]
    assert cells(text, "natural")[1] == "3.0000"
    assert cells(text, "uniform")[1] == "3.2500"
    assert cells(text, "best trained") == ["best trained (slot 5)", "2.7500", "± 0.0500", "2.7654"]


def test_the_tables_of_doubt(doubted: Recommendation) -> None:
    text = shown(mixture_table(doubted))
    assert cells(text, "books") == ["books", "50.0%", "33.3%", "10.0% – 40.0%", "0.67×", "1.500", "2.000"]
    assert "where the best lies (80%)" in text
    assert "the found one may lie outside" in " ".join(text.split())
    table = shown(prediction_table(doubted))
    assert cells(table, "found")[2] == "± 0.0780", "0.1 over 1.2816 deviations, not the posterior's own 0.05"
    assert cells(table, "natural")[2] == "± 0.0500"
    assert "the doubt about the found one is that of its interval" in " ".join(table.split())
    assert cells(shown(prediction_table(doubted)), "uniform")[0] == "uniform, not allowed"
    lines = doubt_lines(doubted)
    assert lines[0] == "note: a note [/x]"
    said = " ".join(lines)
    assert "80% interval of the target 2.4000 to 2.6000" in said
    assert "natural mixture with probability 0.75, than the best trained one 0.50" in said
    assert "perfect knowledge of all mixtures would gain another 0.0125 nats per token on average" in said
    assert "of a single one by 0.0100 more (4 mixtures, 2 seeds)" in said
    assert "the nearest trained mixture (slot 6) differs in 25.0% of the tokens" in said
    assert lines[-2:] == ["  1. books 100.0%", "  2. code [x] 100.0%"]
    assert "limits" not in said


def test_an_answer_without_doubt_has_only_its_notes(found: Recommendation) -> None:
    assert doubt_lines(found) == []
    assert doubt_lines(dataclasses.replace(found, notes=("so",))) == ["note: so"]


def test_the_table_of_trade_offs(found: Recommendation, trading: Recommendation) -> None:
    assert pareto_table(found) is None
    assert len(answer_tables(found)) == 2
    assert len(answer_tables(trading)) == 2, "no table of a single target"
    table = pareto_table(dataclasses.replace(trading, names=("mine", "code [x]")))
    assert table is not None
    text = shown(table)
    assert "mine: books, nats per token" in text
    assert "│ code [x], nats per token" in text.replace("┃", "│")
    assert cells(text, "1.0000") == ["1.0000 ± 0.1000", "3.0000 ± 0.1000", "0.90", "books 100.0%"]
    assert cells(text, "2.0000")[-1] == "code [x] 50.0%, books 50.0% (balanced)"
    assert cells(text, "4.0000")[:2] == ["4.0000 ± 0.2000", "5.0000 ± 0.3000"]


def test_a_status_line_keeps_warnings() -> None:
    console = Console(file=io.StringIO(), width=160)
    with console.status("reading") as status:
        view = StatusView(console, status)
        view.on_stage("simulating [/x] (50%)")
        view.on_warning("odd [/x]")
    assert isinstance(console.file, io.StringIO)
    assert "note: odd [/x]" in console.file.getvalue()


def test_the_verification_table(found: Recommendation) -> None:
    weights = np.array([0.5, 0.3, 0.2])
    rivals = (Rival("found", weights, np.array([2.0, 3.0]), 0.0, 0.0), Rival("natural", weights, np.array([3.0, 3.5]), 0.75, 0.25))
    text = shown(verification_table(Verification(found.history.target, (1, 2), rivals)))
    assert "Trained again with 2 fresh seeds: mean of 3 losses" in text
    assert cells(text, "found") == ["found", "2.5000", "0.5000", "", ""]
    assert cells(text, "natural") == ["natural", "3.2500", "0.2500", "+0.7500", "0.2500"]


def test_the_verification_table_of_limits_and_shares(found: Recommendation) -> None:
    weights, values = np.array([0.5, 0.3, 0.2]), np.array([0.02, 0.03])
    limits = {"books": {"at_most": 3.0}}
    target = Target.parse({"excess_over": "natural", "relative": True, "limits": limits}, found.history.target.loss_names)
    rivals = (
        Rival("found", weights, values, 0.0, 0.0),
        Rival("natural", weights, values, 0.75, 0.25, broken=0.0123),
        Rival("uniform", weights, values, 0.75, 0.25, allowed=False),
    )
    text = shown(verification_table(Verification(target, (1, 2), rivals)))
    assert "share of the reference" in text
    assert "nats per token" not in text
    assert cells(text, "found")[-1] == "kept"
    assert cells(text, "natural")[-1] == "broken by 0.0123 nats"
    assert cells(text, "uniform")[0] == "uniform, not allowed"


def test_names_are_not_markup(found: Recommendation) -> None:
    """Rich would take [bold] for a style, and raise at [/x]."""
    domains = ("[bold]", "[/x]", "a[/]")
    space = MixtureSpace(domains, np.array([0.5, 0.3, 0.2]))
    history = History(space, Target.parse({"[/x]": 1}, domains), found.history.mixtures, found.history.losses, found.history.slots)
    odd = dataclasses.replace(found, history=history)
    text = shown(mixture_table(odd))
    assert all(name in text for name in domains)
    assert "Target: [/x], nats" in shown(prediction_table(odd))
    rival = Rival("[/found]", np.array([0.5, 0.3, 0.2]), np.zeros(2), 0.0, 0.0)
    assert "[/found]" in shown(verification_table(Verification(history.target, (1, 2), (rival,))))


def test_a_line_of_shares() -> None:
    assert shares_text({"a": 0.25, "b": 0.7451, "c": 0.0049}) == "b 74.5%, a 25.0%"
    assert shares_text({"a": 0.25, "b": 0.75}, least=0.5) == "b 75.0%"


def result(slot: int, failure: str | None = None) -> ProxyResult:
    return ProxyResult(slot, {}, failure=failure)


def test_the_view_without_a_terminal_prints_lines() -> None:
    console = Console(file=io.StringIO(), width=160)
    with LiveView(console) as view:
        view.on_stage("reading the corpus")
        view.on_start(4, 16, 3.25)
        view.on_round(1, 8, 8, "greedy [/x]")
        view.on_result(result(4), 3.5)
        view.on_result(result(5), 3.0)
        view.on_result(result(6, "OSError: [/dev/null] is [red]"), None)
        view.on_round(2, 8, 3, "greedy")
        view.verifying(32)
        view.on_result(result(0), 2.0)
    assert isinstance(console.file, io.StringIO)
    assert console.file.getvalue().splitlines() == [
        "continuing: 4 proxies are in the study, the budget is 16 · best target 3.2500",
        "round 1: 8 proxies by greedy [/x] · best target 3.2500",
        "proxy 6 failed: OSError: [/dev/null] is [red]",
        "round 2: 3 of 8 proxies by greedy · best target 3.0000",
        "verifying: 32 proxies with fresh seeds",
    ]


def test_a_fresh_search_says_nothing_of_continuing() -> None:
    console = Console(file=io.StringIO(), width=160)
    with LiveView(console) as view:
        view.on_start(0, 16, None)
        view.on_round(0, 8, 8, "initial design")
    assert isinstance(console.file, io.StringIO)
    assert console.file.getvalue() == "round 0: 8 proxies by initial design\n"


def test_the_view_on_a_terminal_is_put_away_also_after_an_error() -> None:
    console = Console(file=io.StringIO(), force_terminal=True, width=160)

    def interrupted() -> None:
        with LiveView(console) as view:
            view.on_start(0, 4, None)
            view.on_result(result(0), 3.0)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert isinstance(console.file, io.StringIO)
    text = console.file.getvalue()
    assert "best target 3.0000" in text
    assert text.count("\x1b[?25l") == text.count("\x1b[?25h") > 0, "the cursor is back"
