"""Every built-in recipe is a valid training configuration of a head that exists."""

import dataclasses

import pytest

from precap import plugins
from precap.config import build
from precap.train import heads, optim, settings

RECIPES = sorted(path.stem for path in settings.RECIPES.glob("*.yaml"))


def test_every_head_has_a_recipe() -> None:
    used = {settings.recipe(name)["head"] for name in RECIPES}
    assert used == set(plugins.names(heads))


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_resolves(name: str) -> None:
    config = settings.resolve(settings.recipe(name))
    kind = plugins.load(heads, config.head)
    made = build(kind.Config, config.head_config, name)
    said = {k: getattr(made, k) for k in config.head_config}
    assert said == config.head_config
    assert dataclasses.is_dataclass(made)


@pytest.mark.parametrize("name", RECIPES)
def test_its_learning_rates_are_positive_at_every_epoch(name: str) -> None:
    config = settings.resolve(settings.recipe(name))
    for phase in (config.xe, config.scst):
        epochs = int(phase.epochs)
        rates = [optim.rate(phase.optim, e * 1000, epochs * 1000, 1000) for e in range(epochs)]
        assert all(0 < rate < 0.01 for rate in rates), (name, rates)


@pytest.mark.parametrize("name", RECIPES)
def test_its_first_lines_say_where_it_comes_from(name: str) -> None:
    text = (settings.RECIPES / f"{name}.yaml").read_text("utf-8")
    comment = " ".join(line[1:].strip() for line in text.splitlines() if line.startswith("#"))
    assert "ublished" in comment or "docs/RESULTS.md" in comment
