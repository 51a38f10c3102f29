import math

import pytest
import torch
from torch import nn

from precap.train import optim
from precap.train.settings import Optim


def rates(config: Optim, steps: range, total: int = 100, per_epoch: int = 10) -> list[float]:
    return [optim.rate(config, step, total, per_epoch) for step in steps]


def test_noam_is_the_published_formula() -> None:
    config = Optim(schedule="noam", dim=512, warmup=10000, factor=1.0)
    assert rates(config, range(9999, 10000))[0] == pytest.approx(4.42e-4, rel=1e-3)
    assert rates(config, range(1))[0] == pytest.approx(512**-0.5 * 10000**-1.5)


def test_hin_by_epochs() -> None:
    table = ((0, 0.25), (1, 0.5), (2, 0.75), (3, 1.0), (10, 0.2), (12, 0.04))
    config = Optim(lr=1e-4, schedule="epochs", table=table)
    found = [optim.rate(config, epoch * 10, 200, 10) for epoch in (0, 2, 3, 9, 10, 11, 12, 15)]
    assert found == pytest.approx([2.5e-5, 7.5e-5, 1e-4, 1e-4, 2e-5, 2e-5, 4e-6, 4e-6])


def test_steps_down() -> None:
    config = Optim(lr=1.0, schedule="steps", start=2, every=3, rate=0.8)
    found = [optim.rate(config, epoch * 10, 200, 10) for epoch in (0, 2, 4, 5, 8)]
    assert found == pytest.approx([1, 1, 1, 0.8, 0.64])


@pytest.mark.parametrize("schedule", ["cosine", "linear", "constant"])
def test_warm_up_then_shape(schedule: str) -> None:
    config = Optim(lr=1.0, schedule=schedule, warmup=0.1, floor=0.1)  # type: ignore[arg-type]
    found = rates(config, range(101))
    assert found[0] == pytest.approx(1 / 11)
    assert found[10] == pytest.approx(1.0)
    assert found == found[:10] + sorted(found[10:], reverse=True)
    middle, end = {"cosine": (0.55, 0.1), "linear": (0.55, 0.1), "constant": (1, 1)}[schedule]
    assert found[55] == pytest.approx(middle)
    assert found[100] == pytest.approx(end)


def test_only_matrices_decay() -> None:
    head = nn.Linear(3, 2)
    groups = optim.make(head, Optim(weight_decay=0.1)).param_groups
    assert [(len(g["params"]), g["weight_decay"]) for g in groups] == [(1, 0.1), (1, 0.0)]


def test_the_average_follows_and_gives_the_weights_back() -> None:
    head = nn.Linear(1, 1, bias=False)
    nn.init.zeros_(head.weight)
    average = optim.Average(head, 0.9)
    nn.init.ones_(head.weight)
    expected = 0.0
    for n in range(1, 6):
        average.update()
        decay = min(0.9, (1 + n) / (10 + n))
        expected = decay * expected + (1 - decay)
    with average.used():
        assert head.weight.item() == pytest.approx(expected)
    assert head.weight.item() == 1.0


def test_clipping() -> None:
    head = nn.Linear(2, 1, bias=False)
    head.weight.grad = torch.tensor([[3.0, 4.0]])
    assert float(optim.clip(head, 1.0, 0.0)) == pytest.approx(5.0)
    assert math.hypot(*head.weight.grad[0].tolist()) == pytest.approx(1.0, rel=1e-5)
    head.weight.grad = torch.tensor([[3.0, -0.05]])
    optim.clip(head, 0.0, 0.1)
    torch.testing.assert_close(head.weight.grad, torch.tensor([[0.1, -0.05]]))
