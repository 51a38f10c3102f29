"""Peak memory of training steps of a recipe at its own batch: does it fit a small GPU?

    python -m bench.step_memory --recipe tinytiny [--images 8] [--json]

Counts the bytes of every tensor that lives while steps run (weights, gradients, optimiser state,
activations, temporaries), whatever the device; a GPU adds its context and workspaces.
"""

import weakref
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from bench import report

GIB = 2**30
#: GiB of the GPU that it is to fit.
LIMIT = 8.0
#: What a CUDA process needs besides tensors: context, cuBLAS workspaces, fragmentation.
OVERHEAD = 1.0
PIECES = 50257  # GPT-2's
WIDTHS = {"tinytiny": 576, "clipcap_mlp": 512, "clipcap_transformer": 640}


class Living(TorchDispatchMode):
    """Bytes of the storages that operations made and that still live, and the most there were."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.most = 0
        self.known: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **(kwargs or {}))
        for tensor in found if isinstance(found, tuple | list) else (found,):
            if torch.is_tensor(tensor):
                self.note(tensor)
        return found

    def note(self, tensor: torch.Tensor) -> None:
        """Count a storage once, until it is freed."""
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key in self.known:
            return
        size = storage.nbytes()
        self.known.add(key)
        self.now += size
        self.most = max(self.most, self.now)
        weakref.finalize(storage, self.gone, key, size)

    def gone(self, key: int, size: int) -> None:
        """The storage was freed."""
        self.known.discard(key)
        self.now -= size


def measure(name: str, images: int | None) -> dict[str, float]:
    """GiB of the parts, and of the peak over two steps (the second has the optimiser's state)."""
    from precap import plugins
    from precap.config import build
    from precap.train import heads, losses, optim, settings
    from precap.train.contract import Batch, Words

    config = settings.resolve(settings.recipe(name), {})
    kind, rows = plugins.load(heads, config.head), images or config.batch_size
    words = Words(PIECES, 0, PIECES - 1, 13)
    options = {**config.head_config, "language_model": ""}
    head = kind(build(kind.Config, options), {"global": WIDTHS[name]}, words).train()
    length = config.text.longest + 2
    tokens = torch.randint(14, PIECES, (rows, config.text.captions, length))
    tokens[..., -1] = words.eos
    ids = [str(i) for i in range(rows)]
    batch = Batch(ids, {"global": torch.randn(rows, WIDTHS[name])}, {}, tokens)
    optimizer, living = optim.make(head, config.xe.optim), Living()
    for parameter in head.parameters():
        living.note(parameter.data)
    weights = living.now
    with living:
        for _ in range(2):
            memory = head.encode(batch.features, batch.masks)
            loss, count = losses.cross_entropy(head, memory, batch.tokens, words)
            (loss / count).backward()
            del memory, loss
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
    trained = sum(p.numel() * p.element_size() for p in head.parameters() if p.requires_grad)
    return {
        "images": float(rows), "weights": weights / GIB, "gradients": trained / GIB,
        "optimiser": 2 * trained / GIB, "peak": living.most / GIB,
    }  # fmt: skip


def main() -> None:
    options = report.arguments(
        __doc__,
        recipe={"default": "tinytiny", "choices": [*WIDTHS]},
        images={"type": int, "help": "images per step; default: the recipe's"},
    )
    found, parts = report.Report("step_memory"), measure(options.recipe, options.images)
    images = parts.pop("images")
    for what, value in parts.items():
        found.row(f"{options.recipe}, {images:.0f} images, fp32", what, value, "GiB")
    claim = f"peak of a step of {options.recipe} and {OVERHEAD:g} GiB for CUDA, GiB"
    found.at_most(claim, parts["peak"] + OVERHEAD, LIMIT)
    found.finish(options.json)


if __name__ == "__main__":
    main()
