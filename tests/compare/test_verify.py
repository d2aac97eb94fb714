"""The proof: pairing by seed, its errors, its words, and what it refuses to say."""

from __future__ import annotations

from collections.abc import Callable, Collection, Generator, Sequence

import numpy as np
import pytest

from regmix_active.compare.verify import Rival, Verification, verify
from regmix_active.errors import ProxyError
from regmix_active.observer import Observer
from regmix_active.proxy.base import ProxyRequest, ProxyResult
from regmix_active.proxy.runner import FunctionRunner
from regmix_active.study.target import Target

DOMAINS = ("a", "b")
TARGET = Target.parse("mean", DOMAINS)
MIXTURES = {
    "found": np.array([0.5, 0.5]),
    "natural": np.array([0.9, 0.1]),
    "uniform": np.array([0.4, 0.6]),
    "best trained": np.array([0.55, 0.45]),
}


class Seeded:
    """Losses of a function, plus noise of the seed that all mixtures share, plus noise of their own."""

    domains = loss_names = DOMAINS

    def __init__(self, shared: float, own: float = 0.0, change: Callable[[ProxyResult], ProxyResult | None] = lambda r: r) -> None:
        self.shared, self.own, self.change = shared, own, change
        self.requests: list[ProxyRequest] = []
        self.closed = False

    def run(self, requests: Sequence[ProxyRequest], known: Collection[int] = ()) -> Generator[ProxyResult, None, None]:
        self.requests = list(requests)
        try:
            for request in reversed(requests):
                seed = np.random.default_rng(request.init_seed).normal()
                own = np.random.default_rng([request.init_seed, request.slot]).normal()
                loss = 3 + float(np.square(request.weights - 0.5).sum()) + self.shared * seed + self.own * own
                if (result := self.change(ProxyResult(request.slot, {"a": loss, "b": loss + 1}))) is not None:
                    yield result
        finally:
            self.closed = True


def rivals(verification: Verification) -> dict[str, Rival]:
    return {rival.name: rival for rival in verification.rivals}


def test_every_mixture_with_every_fresh_seed() -> None:
    runner = Seeded(0.1)
    verification = verify(MIXTURES, runner, TARGET, 5, study_seed=7)
    assert len(runner.requests) == 20
    assert sorted(r.slot for r in runner.requests) == list(range(20))
    by_seed: dict[int, set[tuple[float, ...]]] = {}
    for request in runner.requests:
        by_seed.setdefault(request.init_seed, set()).add(tuple(request.weights))
        assert request.data_seed == request.init_seed + 1
    assert tuple(by_seed) == verification.seeds
    assert all(seen == {tuple(weights) for weights in MIXTURES.values()} for seen in by_seed.values())
    assert verify(MIXTURES, runner, TARGET, 5, study_seed=8).seeds != verification.seeds
    search_seeds = {int(s) for s in np.random.SeedSequence([7, 1]).generate_state(2)}
    assert not search_seeds & set(verification.seeds)


def test_shared_noise_cancels() -> None:
    """Seeds move all mixtures by 0.5, mixtures differ by 0.02 and more: only pairing sees it."""
    verification = verify(MIXTURES, Seeded(0.5), TARGET, 8, 0)
    found, natural = rivals(verification)["found"], rivals(verification)["natural"]
    assert (found.gain, found.gain_error) == (0, 0)
    assert natural.gain == pytest.approx(0.32)
    assert natural.gain_error < 1e-12
    assert natural.error > 0.05
    assert natural.beaten
    assert not natural.better
    assert verification.passed
    assert verification.verdict.startswith("PASSED: the found mixture beats the natural mixture (+0.3200 ± 0.0000 nats), beats")


def test_errors_are_those_of_paired_differences() -> None:
    verification = verify(MIXTURES, Seeded(0.5, own=0.05), TARGET, 6, 0)
    found = rivals(verification)["found"]
    for rival in verification.rivals:
        gains = rival.values - found.values
        assert rival.gain == pytest.approx(gains.mean())
        assert rival.gain_error == pytest.approx(gains.std(ddof=1) / np.sqrt(6))
        assert rival.mean == pytest.approx(rival.values.mean())
        assert rival.error == pytest.approx(rival.values.std(ddof=1) / np.sqrt(6))


def test_the_target_is_applied() -> None:
    only_b = verify(MIXTURES, Seeded(0.0), Target.parse("b", DOMAINS), 2, 0)
    mean = verify(MIXTURES, Seeded(0.0), TARGET, 2, 0)
    assert rivals(only_b)["found"].mean == pytest.approx(rivals(mean)["found"].mean + 0.5)


def test_few_seeds_need_more_standard_errors() -> None:
    """At two seeds a gain of two standard errors is chance once in seven times."""
    weights = np.array([0.5, 0.5])
    for seeds, beaten in ((2, False), (3, False), (8, True)):
        assert Rival("natural", weights, np.zeros(seeds), 0.3, 0.1).beaten is beaten


def judged(gains: dict[str, tuple[float, float]]) -> Verification:
    weights, values = np.array([0.5, 0.5]), np.zeros(8)
    made = [Rival("found", weights, values, 0.0, 0.0)]
    return Verification(TARGET, (1, 2), (*made, *(Rival(name, weights, values, *gain) for name, gain in gains.items())))


@pytest.mark.parametrize(
    ("natural", "uniform", "best", "passed", "words"),
    [
        ((0.3, 0.1), (0.3, 0.1), (0.1, 0.1), True, ["beats", "beats", "cannot be told from"]),
        ((0.3, 0.1), (0.3, 0.1), (-0.1, 0.1), True, ["beats", "beats", "cannot be told from"]),
        ((0.3, 0.1), (0.3, 0.1), (-0.3, 0.1), False, ["beats", "beats", "is worse than"]),
        ((0.2, 0.1), (0.3, 0.1), (0.3, 0.1), False, ["cannot be told from", "beats", "beats"]),
        ((0.3, 0.1), (-0.3, 0.1), (0.3, 0.1), False, ["beats", "is worse than", "beats"]),
        ((0.0, 0.0), (0.1, 0.0), (0.0, 0.0), False, ["cannot be told from", "beats", "cannot be told from"]),
    ],
)
def test_the_verdict(
    natural: tuple[float, float], uniform: tuple[float, float], best: tuple[float, float], passed: bool, words: list[str]
) -> None:
    """Beaten means by more than two standard errors."""
    verification = judged({"natural": natural, "uniform": uniform, "best trained": best})
    assert verification.passed is passed
    start = "PASSED: " if passed else "NOT PROVEN: "
    names = ("natural", "uniform", "best trained")
    expected = ", ".join(
        f"{word} the {name} mixture ({gain:+.4f} ± {error:.4f} nats)"
        for word, name, (gain, error) in zip(words, names, (natural, uniform, best), strict=True)
    )
    assert verification.verdict == f"{start}the found mixture {expected}"


def test_a_failed_proxy_ends_it() -> None:
    runner = Seeded(0.1, change=lambda r: ProxyResult(r.slot, {}, failure="diverged") if r.slot == 5 else r)
    with pytest.raises(ProxyError, match="verification: the natural mixture failed to train: diverged"):
        verify(MIXTURES, runner, TARGET, 2, 0)
    assert runner.closed, "what still trains is abandoned at once"


@pytest.mark.parametrize(
    "change",
    [
        lambda r: None if r.slot == 2 else r,
        lambda r: ProxyResult(r.slot, {"a": float("nan"), "b": 1.0}) if r.slot == 6 else r,
    ],
    ids=["missing", "not a number"],
)
def test_nothing_is_said_without_every_loss(change: Callable[[ProxyResult], ProxyResult | None]) -> None:
    with pytest.raises(ProxyError, match="no finite losses for the uniform mixture"):
        verify(MIXTURES, Seeded(0.1, change=change), TARGET, 2, 0)


def test_observers_hear_of_every_result() -> None:
    class Listener(Observer):
        def __init__(self) -> None:
            self.values: list[float | None] = []

        def on_result(self, result: ProxyResult, value: float | None) -> None:
            self.values.append(value)

    listener = Listener()
    verification = verify(MIXTURES, Seeded(0.1), TARGET, 3, 0, listener)
    assert sorted(v for v in listener.values if v is not None) == sorted(np.concatenate([r.values for r in verification.rivals]))


def test_a_function_without_noise_is_judged_too() -> None:
    runner = FunctionRunner(DOMAINS, lambda w: {"a": 1 + float((w[0] - 0.5) ** 2), "b": 1.0})
    verification = verify(MIXTURES, runner, TARGET, 2, 0)
    assert verification.passed


def test_what_is_over_the_natural_mixture_is_over_its_fresh_losses_of_the_same_seed() -> None:
    """Seeds move all losses by half a nat: an excess does not feel it, a raw loss does."""
    spec = {"weights": "mean", "worst": True, "excess_over": "natural"}
    target = Target.parse(spec, DOMAINS)
    verification = verify(MIXTURES, Seeded(0.5), target, 4, 0)
    by_name = rivals(verification)
    np.testing.assert_allclose(by_name["natural"].values, 0, atol=1e-12)
    np.testing.assert_allclose(by_name["found"].values, -0.32)
    assert by_name["found"].error < 1e-12
    assert verification.passed
    assert "(+0.3200 ± 0.0000 nats)" in verification.verdict
    shares = verify(MIXTURES, Seeded(0.0), Target.parse({**spec, "worst": False, "relative": True}, DOMAINS), 2, 0)
    np.testing.assert_allclose(rivals(shares)["found"].values, -(0.32 / 3.32 + 0.32 / 4.32) / 2)
    assert "± 0.0000 of the reference)" in shares.verdict


def test_observers_hear_no_excess_before_its_reference() -> None:
    class Listener(Observer):
        def __init__(self) -> None:
            self.values: list[float] = []

        def on_result(self, result: ProxyResult, value: float | None) -> None:
            assert value is not None
            self.values.append(value)

    listener = Listener()
    verify(MIXTURES, Seeded(0.1), Target.parse({"excess_over": "natural"}, DOMAINS), 2, 0, listener)
    # Each seed ends with found and natural, backwards: best trained and uniform are before their reference.
    assert np.isnan(listener.values).tolist() == [True, True, False, False] * 2


@pytest.mark.parametrize(("at_most", "kept"), [(4.005, True), (3.99, False)])
def test_the_found_mixture_has_to_keep_the_limits(at_most: float, kept: bool) -> None:
    target = Target.parse({"weights": {"a": 1}, "limits": {"b": {"at_most": at_most}}}, DOMAINS)
    verification = verify(MIXTURES, Seeded(0.0), target, 2, 0)
    assert verification.passed is kept
    by_name = rivals(verification)
    assert by_name["found"].broken == pytest.approx(0 if kept else 0.01)
    assert by_name["natural"].broken == pytest.approx(4.32 - at_most)
    assert "natural mixture (+0.3200 ± 0.0000 nats; breaks a limit)" in verification.verdict
    end = "it keeps the limits of the target" if kept else "it breaks a limit of the target by 0.0100 nats"
    assert verification.verdict.endswith(end)


def test_the_natural_mixture_keeps_a_limit_at_its_own_losses() -> None:
    target = Target.parse({"weights": {"a": 1}, "limits": {"all": {"above_natural": 0.0}}}, DOMAINS)
    verification = verify(MIXTURES, Seeded(0.5), target, 3, 0)
    assert all(rival.broken == 0 for rival in verification.rivals)


def test_rivals_that_could_not_be_an_answer_are_not_counted_against_it() -> None:
    better = {"natural": np.array([0.9, 0.1]), "uniform": np.array([0.6, 0.4]), "best trained": np.array([0.5, 0.5])}
    mixtures = {"found": np.array([0.7, 0.3]), **better}
    assert not verify(mixtures, Seeded(0.0), TARGET, 2, 0).passed
    allowed = {"found": True, "natural": True, "uniform": False, "best trained": False}
    verification = verify(mixtures, Seeded(0.0), TARGET, 2, 0, allowed=allowed)
    assert verification.passed
    assert "is worse than the uniform mixture (-0.0600 ± 0.0000 nats; not allowed)" in verification.verdict
    none = {name: name == "found" for name in mixtures}
    worse = {**mixtures, "natural": np.array([0.6, 0.4])}
    assert not verify(worse, Seeded(0.0), TARGET, 2, 0, allowed=none).passed, "nothing was beaten"
