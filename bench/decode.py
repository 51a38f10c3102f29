"""Beam search with ``hin`` at published size: caches against the same model without any.

Without caches, as its published code decodes: encoder outputs are copied per hypothesis, their keys
and values are projected again at every step, and the whole prefix runs through the decoder again.
One thread by default: with more, a second busy process makes the many small products of a step wait
for each other, and the ratio measures the machine's load (9 became 2.7).
"""

import time
from dataclasses import dataclass
from typing import Any

from bench import report

WORDS = 10201


@dataclass
class Uncached:
    """A head's steps without caches; its memory holds the encoder's outputs, level by level."""

    head: Any

    def encode(self, features: Any) -> dict[str, Any]:
        memory = {}
        for i, (grid, region) in enumerate(self.head.levels(features, {})):
            memory[f"{i}.grid"], memory[f"{i}.region"] = grid, region
        return memory

    def start(self, memory: dict[str, Any], width: int) -> dict[str, Any]:
        rows = next(iter(memory.values()))
        return {"past": rows.new_zeros(len(rows), width, 0).long()}

    def step(self, memory: Any, state: Any, tokens: Any, t: int) -> tuple[Any, dict[str, Any]]:
        import torch

        past = torch.cat([state["past"], tokens[..., None]], -1)  # (B, K, t + 1)
        images, width, _ = past.shape
        copied = {k: v.repeat_interleave(width, 0) for k, v in memory.items()}
        projected: dict[str, Any] = {}
        for i, layer in enumerate(self.head.decoder.layers):
            layer.keep(copied[f"{i}.grid"], copied[f"{i}.region"], projected, str(i))
        hidden = self.head.hidden(projected, past.flatten(0, 1)[:, None])[:, 0, -1]
        return self.head.classify(hidden).view(images, width, -1), {"past": past}


def main() -> None:
    options = report.arguments(
        __doc__,
        runs={"type": int, "default": 3},
        images={"type": int, "default": 8},
        threads={"type": int, "default": 1},
    )
    report.pin_threads(options.threads)
    import torch

    from precap import allocator
    from precap.train.contract import Words
    from precap.train.decode import decode
    from precap.train.heads.hin import PLUGIN
    from precap.train.settings import Decode

    allocator.retain()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    words = Words(WORDS, 1, 2, 3, 0)
    head = PLUGIN(PLUGIN.Config(), {"grid": 1024, "region": 2048}, words).eval()
    with torch.no_grad():  # sharper than fresh weights, so that near ties do not decide
        head.decoder.output.weight *= 4
    features = {
        "grid": torch.randn(options.images, 256, 1024),
        "region": torch.randn(options.images, 50, 2048),
    }
    how = Decode(beam=5, longest=20, shortest=20, all_beams=True)  # all 20 steps, as published
    bare = Uncached(head)

    def cached() -> Any:
        return decode(head, head.encode(features, {}), how, words)

    def uncached() -> Any:
        return decode(bare, bare.encode(features), how, words)

    found = report.Report("decode")
    label = f"hin, {options.images} images, beam 5 x 20 steps"
    with torch.inference_mode():
        begun = time.perf_counter()
        same = bool(torch.equal(cached().tokens, uncached().tokens))
        warm = time.perf_counter() - begun
        times = report.side_by_side({"with": cached, "without": uncached}, options.runs, warm=0)
    for what, seconds in times.items():
        rate = options.images / report.median(seconds)
        found.row(label, f"{what} caches", rate, "captions/s", options.runs)
    found.row(label, "first calls of both", warm, "s")
    ratio = report.median(times["without"]) / report.median(times["with"])
    found.at_least("captions are identical", float(same), 1)
    found.at_least("times the captions per second of no caches", ratio, 5)
    found.finish(options.json)


if __name__ == "__main__":
    main()
