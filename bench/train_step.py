"""A training step at published size: share of the sgemm rate, loader wait, grouping, bookkeeping.

Fixed token lengths, published dropout, model FLOPs (every product counted once, backward twice the
forward, nothing for padding). The figures of a GPU are not part of this bench.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from bench import report

IMAGES, CAPTIONS, TOKENS, WORDS = 32, 5, 12, 10201


@dataclass
class Case:
    """A head at published size and one batch for it."""

    name: str
    head: Any
    batch: Any
    words: Any


def make(name: str, images: int, captions: int) -> Case:
    """The head with its default Config, which is the published one, and random features."""
    import torch

    from precap import plugins
    from precap.train import heads
    from precap.train.contract import Batch, Words

    rows = {"grid": (256, 1024), "region": (50, 2048)} if name == "hin" else {"grid": (50, 2048)}
    kind = plugins.load(heads, name)
    words = Words(WORDS, 1, 2, 3, 0)
    torch.manual_seed(0)
    head = kind(kind.Config(), {role: width for role, (_, width) in rows.items()}, words)
    features = {role: torch.randn(images, *shape) for role, shape in rows.items()}
    tokens = torch.randint(4, WORDS, (images, captions, TOKENS + 1))
    tokens[..., 0], tokens[..., -1] = words.bos, words.eos
    return Case(name, head, Batch([str(i) for i in range(images)], features, {}, tokens), words)


def stepper(case: Case) -> Callable[[], None]:
    """Forward, backward, clip and update, as the trainer does them."""
    from precap.train import losses, optim
    from precap.train.settings import Optim

    head, batch = case.head, case.batch
    optimizer = optim.make(head, Optim(name="adam", weight_decay=0.0))

    def step() -> None:
        memory = head.encode(batch.features, batch.masks)
        loss, count = losses.cross_entropy(head, memory, batch.tokens, case.words)
        (loss / count).backward()
        optim.clip(head, 1.0, 0.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step


def model_flops(case: Case) -> float:
    """Of one step, as torch counts them in every matrix product and attention it runs."""
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.utils.flop_counter import FlopCounterMode

    from precap.train import losses

    counter = FlopCounterMode(display=False)
    # The plain kernel shows its products to the counter; the fused one hides them.
    with sdpa_kernel(SDPBackend.MATH), counter:
        memory = case.head.encode(case.batch.features, case.batch.masks)
        loss, _ = losses.cross_entropy(case.head, memory, case.batch.tokens, case.words)
        loss.backward()
    for parameter in case.head.parameters():
        parameter.grad = None
    return float(counter.get_total_flops())


def sgemm(size: int = 2048) -> float:
    """FLOP/s of a square float32 product."""
    import torch

    a, b = torch.randn(size, size), torch.randn(size, size)
    a @ b
    begun = time.perf_counter()
    for _ in range(4):
        a @ b
    return 4 * 2 * size**3 / (time.perf_counter() - begun)


def share_of_sgemm(found: report.Report, name: str, runs: int) -> None:
    """The step's model FLOP rate beside sgemm's, measured before and after every step."""
    case = make(name, IMAGES, CAPTIONS)
    flops, step = model_flops(case), stepper(case)
    step()
    shares, times = [], []
    before = sgemm()
    for _ in range(runs):
        seconds = report.seconds(step)
        after = sgemm()
        shares.append(flops / seconds / ((before + after) / 2))
        times.append(seconds)
        before = after
    label = f"{name}, {IMAGES} images x {CAPTIONS} captions x {TOKENS} tokens"
    found.row(label, "model FLOPs per step", flops / 1e9, "GFLOP")
    found.row(label, "step", report.median(times), "s", runs)
    found.row(label, "share of the sgemm rate", report.median(shares), "", runs)
    found.at_least(f"{name}: step reaches this share of sgemm", report.median(shares), 0.5)


def grouped(found: report.Report, name: str, runs: int) -> None:
    """Captions per second with five captions per image, and with one."""
    images = IMAGES // 4
    five, one = make(name, images, CAPTIONS), make(name, images * CAPTIONS, 1)
    calls = {"grouped": stepper(five), "one each": stepper(one)}
    times = report.side_by_side(calls, runs, warm=1)
    ratio = report.median(times["one each"]) / report.median(times["grouped"])
    label = f"{name}, {images * CAPTIONS} captions"
    for what, seconds in times.items():
        rate = images * CAPTIONS / report.median(seconds)
        found.row(label, f"five captions {what}" if what == "grouped" else what, rate, "/s", runs)
    found.at_least(f"{name}: times the captions/s of one caption per image", ratio, 3.0)


def loader(found: report.Report, runs: int) -> None:
    """How long a transformer's step waits for its batch, prefetched from RAM."""
    import numpy as np
    import torch

    from precap.train.cache import Held, Mapped, Memory
    from precap.train.data import Loader, Prefetched, Split
    from precap.train.roles import Source
    from precap.types import FeatureSpec, Field

    case = make("transformer", IMAGES, CAPTIONS)
    spec = FeatureSpec("made-up", 1, "none", (Field("x", "grid", (50, 2048), "float16"),))
    ids = [str(i) for i in range(IMAGES * 8)]
    rng = np.random.default_rng(0)
    rows = {i: {"x": rng.standard_normal((50, 2048)).astype(np.float16)} for i in ids}
    mapped = Mapped(Memory(spec, rows), Source("x", spec.fields[0], spec), ids)
    held = Held(mapped, torch.device("cpu"))
    captions = {i: rng.integers(4, WORDS, (5, TOKENS - 1)).tolist() for i in ids}
    split = Split.of(ids, captions, case.words, TOKENS)
    batches = Loader(split, {"grid": held}, case.words, IMAGES, CAPTIONS)
    ready = Prefetched(batch for epoch in range(runs) for batch in batches.epoch(epoch))
    waits: list[float] = []
    step, waited = None, 0.0
    for number, batch in zip(range(runs + 1), ready, strict=False):
        floats = {k: v.float() for k, v in batch.features.items()}
        case.batch = replace(batch, features=floats)
        step = stepper(case)
        seconds = report.seconds(step)
        if number:
            waits.append((ready.waited - waited) / (seconds + ready.waited - waited))
        waited = ready.waited
    found.row("loader, 50 x 2048 fp16 in RAM", "wait", report.median(waits), "of the step", runs)
    found.at_most("loader wait, share of the step", report.median(waits), 0.03)


def selfcritical(found: report.Report, runs: int) -> None:
    """What is not the model in a self-critical step: reward, tokens, bookkeeping."""
    import numpy as np
    import torch

    from precap.train import losses
    from precap.train.data import Loader
    from precap.train.phases import Critic
    from precap.train.settings import SelfCritical

    case = make("transformer", 8, 1)
    config, rng = SelfCritical(epochs=1), np.random.default_rng(0)
    captions = {str(i): rng.integers(4, WORDS, (5, 10)).tolist() for i in range(2000)}
    reward = losses.Reward(captions, case.words, config)
    other = 0.0

    def timed(ids: list[str], tokens: Any) -> Any:
        nonlocal other
        begun = time.perf_counter()
        scores = reward(ids, tokens)
        other += time.perf_counter() - begun
        return scores

    unused: Loader = None  # type: ignore[assignment]
    critic = Critic(case.head, case.words, unused, config, 20, timed)
    shares = []
    for _ in range(runs):
        other = 0.0
        begun = time.perf_counter()
        parts, weight, _ = critic.prepare(case.batch, 1)
        loss, _ = critic.loss(parts[0])
        (loss / weight).backward()
        shares.append(other / (time.perf_counter() - begun))
        torch.nn.Module.zero_grad(case.head)
    found.row("transformer, self-critical", "reward", report.median(shares), "of the step", runs)
    found.at_most("self-critical: what is not the model, share of the step", max(shares), 0.05)


def main() -> None:
    options = report.arguments(
        __doc__,
        runs={"type": int, "default": 5},
        heads={"default": "transformer,hin"},
        threads={"type": int, "default": 1},
    )
    report.pin_threads(options.threads)
    import torch

    from precap import allocator

    allocator.retain()
    torch.set_num_threads(options.threads)
    found = report.Report("train_step")
    names = options.heads.split(",")
    for name in names:
        share_of_sgemm(found, name, options.runs)
    if "hin" in names:
        grouped(found, "hin", options.runs)
    loader(found, options.runs)
    selfcritical(found, options.runs)
    found.finish(options.json)


if __name__ == "__main__":
    main()
