"""The initial design that the configuration names is what trains first, in however many pieces."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from regmix_active import ActiveSearch, FunctionRunner, RunConfig, load_config
from regmix_active.errors import ConfigError
from regmix_active.mixture.initial import INITIAL_DESIGNS

Config = Callable[..., RunConfig]


def weights(search: ActiveSearch) -> np.ndarray:
    record = search.open_record()
    return np.array([record.weights(trial) for trial in record.trials()])


@pytest.mark.parametrize("name", INITIAL_DESIGNS)
def test_the_named_design_is_trained_in_pieces_as_at_once(
    name: str, runner: FunctionRunner, config: Config, tmp_path: Path
) -> None:
    settings = config(search__initial=10, search__initial_design=name, search__strategy="dirichlet", search__strategy_options={})
    whole = ActiveSearch(settings, out=tmp_path / "whole", runner=runner)
    whole.run(budget=12)
    for budget in (4, 12):
        parts = ActiveSearch(settings, out=tmp_path / "parts", runner=runner)
        parts.run(budget=budget)
    record = whole.open_record()
    design = INITIAL_DESIGNS[name](record.space, 10, np.random.default_rng([settings.seed, 0]))
    np.testing.assert_allclose(weights(whole)[:10], design)
    np.testing.assert_array_equal(weights(parts)[:10], weights(whole)[:10])
    assert record.config["search"]["initial_design"] == name
    assert load_config(whole.folder.path / "config.yaml").config.search.initial_design == name


def test_another_design_continues_a_study_and_keeps_what_is_there(runner: FunctionRunner, config: Config, tmp_path: Path) -> None:
    """As with other settings of the search: what was planned stays, what is missing comes from the design at hand."""
    out = tmp_path / "run"
    ActiveSearch(config(search__initial=8, search__budget=4), out=out, runner=runner).run()
    before = weights(ActiveSearch(config(), out=out, runner=runner))
    later = ActiveSearch(config(search__initial=8, search__budget=8, search__initial_design="maximin"), out=out, runner=runner)
    later.run()
    np.testing.assert_array_equal(weights(later)[:4], before)
    design = INITIAL_DESIGNS["maximin"](later.open_record().space, 8, np.random.default_rng([0, 0]))
    np.testing.assert_allclose(weights(later)[4:], design[4:])


def test_a_design_begins_with_the_natural_mixture(runner: FunctionRunner, config: Config, tmp_path: Path) -> None:
    natural = [0.1, 0.2, 0.3, 0.4]
    search = ActiveSearch(
        config(search__budget=4, search__initial_design="d-optimal"), out=tmp_path / "run", runner=runner, natural=natural
    )
    search.run()
    np.testing.assert_allclose(weights(search)[0], natural)


def test_an_unknown_design_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ConfigError, match=r"key 'search\.initial_design': .*'regmix', 'maximin' or 'd-optimal' \(got 'maximn'\)"):
        load_config("embedded", [("search.initial_design", "maximn")])
