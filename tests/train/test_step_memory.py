"""The bench that counts living tensors counts what lives, once, and no longer than it lives."""

import torch

from bench.step_memory import Living

MIB = 2**20


def test_what_lives_at_the_same_time_is_counted() -> None:
    with Living() as living:
        a = torch.zeros(MIB // 4)
        b = a.view(2, -1)  # the same storage
        assert living.now == MIB
        c = b + 1
        del a, b
        assert living.now == MIB
        del c
        assert living.now == 0
    assert living.most == 2 * MIB


def test_what_a_backward_pass_needs_stays_alive() -> None:
    weight = torch.zeros(MIB // 4, requires_grad=True)
    with Living() as living:
        out = (weight.sin() * 2).sin().sum()  # keeps what the outer sine was given
        assert living.now >= MIB
        out.backward()
        del out
    assert living.now <= MIB + 64  # the gradient
