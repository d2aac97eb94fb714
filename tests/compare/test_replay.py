"""The two games: who plays sees nothing but what was trained, and seeds settle everything."""

from __future__ import annotations

import numpy as np
import pytest

from regmix_active.compare.benchmark import make_method
from regmix_active.compare.emulator import Emulator
from regmix_active.compare.methods import Method, RandomSwarm, Rows
from regmix_active.compare.replay import INITIAL, RANDOM, REGMIX, EmulatorGame, PoolGame, chase, search, swarm
from regmix_active.compare.rivals import Climb
from regmix_active.mixture.space import Mixtures, MixtureSpace
from regmix_active.study.history import History
from regmix_active.study.target import Target
from tests.compare.replays import DOMAINS, LOSSES, Array, formula_table

SPACE = MixtureSpace(DOMAINS, np.full(4, 0.25))
MEAN, BOOKS = Target.parse("mean", LOSSES), Target.parse("books", LOSSES)
NOISE = np.array([0.01, 0.02, 0.03])


class Spy(RandomSwarm):
    """Random, and remembers what it was shown."""

    def __init__(self) -> None:
        self.shown: list[History] = []
        self.offered: list[Mixtures] = []

    def propose(self, history: History, n: int, rng: np.random.Generator) -> Mixtures:
        self.shown.append(history)
        return super().propose(history, n, rng)

    def select(self, history: History, candidates: Mixtures, n: int, rng: np.random.Generator) -> Rows:
        self.shown.append(history)
        self.offered.append(candidates)
        return super().select(history, candidates, n, rng)

    def recommend(self, history: History, rng: np.random.Generator) -> Array:
        self.shown.append(history)
        return super().recommend(history, rng)


def pool_game(batch: int = 8, limit: int = 90) -> PoolGame:
    table = formula_table(90)
    return PoolGame(SPACE, table.mixtures, table.losses, batch, limit)


@pytest.fixture(scope="module")
def game() -> EmulatorGame:
    table = formula_table(90)
    return EmulatorGame(SPACE, Emulator.fit(table.mixtures, table.losses), NOISE, 8, (16, 24), 40)


@pytest.mark.parametrize("name", ["random", "climb", "tpe", "expected-improvement"])
def test_pool_ends_with_its_best_run(name: str) -> None:
    played = pool_game()
    result = chase(played, make_method(name, "gp", "regmix", seed=0), MEAN, seed=0)
    best = int(np.argmin(MEAN(played.losses)))
    assert result.found is not None
    assert result.needed is not None
    assert result.trained[result.found - 1] == best
    assert len(set(result.trained)) == len(result.trained) == len(result.regret) == result.needed
    assert result.needed - 8 < result.found <= result.needed
    assert result.regret == sorted(result.regret, reverse=True)
    assert result.regret[result.found - 1] == result.regret[-1] == 0
    assert result.found == 1 or result.regret[result.found - 2] > 0


def test_a_strategy_needs_fewer_runs_than_chance() -> None:
    def median(name: str) -> float:
        found = [chase(pool_game(), make_method(name, "gp", "regmix", seed=s), MEAN, seed=s).needed for s in range(5)]
        return float(np.median([n for n in found if n is not None]))

    assert median("expected-improvement") <= 32 < median("random")


def test_pool_search_is_given_up_at_the_limit() -> None:
    results = [chase(pool_game(limit=20), RandomSwarm(), MEAN, seed) for seed in range(8)]
    lost = [result for result in results if result.found is None]
    assert lost
    assert all(result.needed is None and len(result.trained) == 20 and result.regret[-1] > 0 for result in lost)


def test_pool_shows_trained_rows_of_the_weighed_losses_only() -> None:
    played, spy = pool_game(batch=1, limit=30), Spy()
    result = chase(played, spy, Target.parse({"books": 3, "talk": 1}, LOSSES), seed=1)
    for i, (history, candidates) in enumerate(zip(spy.shown, spy.offered, strict=True)):
        trained = result.trained[: INITIAL + i]
        np.testing.assert_array_equal(history.mixtures, played.mixtures[trained])
        np.testing.assert_array_equal(history.losses, played.losses[trained][:, [0, 2]])
        assert history.target.loss_names == ("books", "talk")
        assert len(candidates) == len(played.mixtures) - len(trained)


def test_runs_without_the_target_take_no_part() -> None:
    played = pool_game()
    best = int(np.argmin(BOOKS(played.losses)))
    played.losses[best, 0] = np.nan
    assert best not in chase(played, RandomSwarm(), BOOKS, seed=0).trained
    played.losses[5, 1] = np.nan  # of no weight
    assert 5 in played.rows(BOOKS)


def test_search_trains_with_noise_and_is_judged_without(game: EmulatorGame) -> None:
    spy = Spy()
    answers = search(game, spy, MEAN, seed=2)
    assert [answer.runs for answer in answers] == [16, 24]
    history = spy.shown[-1]
    assert len(history) == 24
    truth = game.emulator.losses(history.mixtures)
    errors = (history.losses - truth) / NOISE
    assert 0.7 < errors.std() < 1.4
    for answer in answers:
        assert answer.value == pytest.approx(float(MEAN(game.emulator.losses(np.array([answer.weights])))[0]))


def test_methods_of_one_seed_share_the_first_mixtures_and_the_noise_of_each_slot(game: EmulatorGame) -> None:
    first, second = Spy(), Spy()
    search(game, first, MEAN, seed=2)
    search(game, second, BOOKS, seed=2)
    a, b = first.shown[-1], second.shown[-1]
    np.testing.assert_array_equal(a.mixtures[:INITIAL], b.mixtures[:INITIAL])
    np.testing.assert_allclose(
        (a.losses - game.emulator.losses(a.mixtures))[:, 0], (b.losses[:, 0] - game.emulator.losses(b.mixtures)[:, 0]), atol=1e-12
    )


@pytest.mark.parametrize("name", ["random", "tpe"])
def test_same_seed_same_answers(game: EmulatorGame, name: str) -> None:
    first, again, other = (search(game, make_method(name, "gp", "regmix", seed=s), MEAN, seed=s) for s in (4, 4, 5))
    assert first == again
    assert first != other


def test_a_planned_budget_is_a_search_of_its_own(game: EmulatorGame) -> None:
    class Planned(Climb):
        published_budgets = (30,)

        def __init__(self) -> None:
            self.trained: list[int] = []

        def propose(self, history: History, n: int, rng: np.random.Generator) -> Mixtures:
            self.trained.append(len(history))
            return super().propose(history, n, rng)

    method: Method = Planned()
    assert [answer.runs for answer in search(game, method, MEAN, seed=0)] == [16, 24, 30]
    assert isinstance(method, Planned)
    assert method.trained == [9, 14, 14, 21, 17, 26]


def test_swarm_answers_for_all_targets(game: EmulatorGame) -> None:
    answers = swarm(game, {"mean": MEAN, "books": BOOKS}, seed=0, regmix=True)
    for by_method in answers.values():
        assert [answer.runs for answer in by_method[REGMIX]] == [40]
        assert [answer.runs for answer in by_method[RANDOM]] == [16, 24, 40]
        SPACE.check([answer.weights for answer in by_method[REGMIX] + by_method[RANDOM]])
    # It begins as every search does, and is one swarm: the best of its first 16 are what a random search answers with.
    assert search(game, RandomSwarm(), MEAN, seed=0)[0] == answers["mean"][RANDOM][0]
    assert swarm(game, {"mean": MEAN}, seed=0, regmix=False)["mean"] == {RANDOM: answers["mean"][RANDOM]}
