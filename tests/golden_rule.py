"""Golden cases: weights and inputs regenerated from their names, expected arrays read from disk.

Every array is a pure function of (seed, name, shape): a fresh generator seeded with the CRC of
``seed:name``. So a case stores no weights: ``tests/golden/heads/CASE.json`` lists the original
state-dict keys with their shapes and says how the inputs are made, ``CASE.npz`` holds what the
published code answered (run in float64).
"""

import json
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

HEADS = Path(__file__).parent / "golden" / "heads"

Array = NDArray[Any]


@dataclass(frozen=True)
class Case:
    """One golden case.

    weights: original state-dict key -> array, edits applied, in state-dict order; buffers that the
    original module creates itself (decoding state, counters) are there as zeros of their shape.
    inputs: name -> array for every input with a rule; for features with ``lengths`` also
    ``NAME_mask`` (B, N), and for a map with ``valid_hw`` ``NAME`` (B, H*W): True where real.
    expected: the arrays of the npz. meta: the whole json (tolerance, constructor, notes, ...).
    """

    name: str
    weights: dict[str, Array]
    inputs: dict[str, Array]
    expected: dict[str, Array]
    meta: dict[str, Any]

    def tolerance(self, name: str) -> float:
        """The case's absolute tolerance for an array, or for a group of arrays."""
        return float(self.meta["tolerance"][name])


def load_case(name: str, folder: Path = HEADS) -> Case:
    """The case ``name`` with everything regenerated (about a second per 80 million weights)."""
    meta = json.loads((folder / f"{name}.json").read_text("utf-8"))
    seed = meta["seed"]
    weights = _weights(seed, meta["weights"])
    for edit in meta.get("weight_edits", []):
        _edit(weights, edit)
    with np.load(folder / f"{name}.npz", allow_pickle=False) as file:
        expected = {key: file[key] for key in file.files}
    return Case(name, weights, _inputs(seed, meta["inputs"]), expected, meta)


def stream(seed: str, name: str) -> np.random.Generator:
    """The generator of one named array."""
    return np.random.default_rng(zlib.crc32(f"{seed}:{name}".encode()))


def weight(seed: str, key: str, shape: Sequence[int]) -> Array:
    """float32 tensor of the original state-dict entry ``key``; the first matching rule wins."""
    x = stream(seed, key).standard_normal(tuple(shape), dtype=np.float32)
    last = key.rsplit(".", 1)[-1]
    if last == "running_var":
        return np.asarray(np.float32(0.5) + np.abs(x))
    if last == "pe":
        return np.asarray(np.float32(0.5) * x)
    if last != "running_mean" and x.ndim >= 2:
        return np.asarray(x / np.float32(np.sqrt(float(np.prod(x.shape[1:])))))
    if last != "running_mean" and x.ndim == 1 and (key.endswith("weight") or last == "a_2"):
        return np.asarray(np.float32(1) + np.float32(0.1) * x)
    return np.asarray(np.float32(0.1) * x)


def floats(seed: str, name: str, shape: Sequence[int], relu: bool = False) -> Array:
    """float32 input ``name``; its stream never meets a weight's."""
    x = stream(seed, f"input/{name}").standard_normal(tuple(shape), dtype=np.float32)
    return np.maximum(x, np.float32(0)) if relu else x


def boxes(seed: str, name: str, shape: Sequence[int], width: float, height: float) -> Array:
    """(..., 4) float32 pixel boxes x1 y1 x2 y2 inside a width x height image."""
    u = stream(seed, f"input/{name}").random(tuple(shape), dtype=np.float32)
    w = np.float32(width) * (np.float32(0.05) + np.float32(0.55) * u[..., 2])
    h = np.float32(height) * (np.float32(0.05) + np.float32(0.55) * u[..., 3])
    x1, y1 = u[..., 0] * (np.float32(width) - w), u[..., 1] * (np.float32(height) - h)
    return np.stack([x1, y1, x1 + w, y1 + h], -1).astype(np.float32)


def tokens(seed: str, rule: Mapping[str, Any]) -> Array:
    """(rows, width) int64: bos, that row's number of words, eos, then pads; bos/eos may be None."""
    lengths, width = rule["lengths"], rule["width"]
    size = (len(lengths), width)
    words = stream(seed, f"input/{rule['name']}").integers(rule["low"], rule["high"], size)
    out = np.full(size, rule["pad"], np.int64)
    for row, n in enumerate(lengths):
        ends = [[] if rule[k] is None else [rule[k]] for k in ("bos", "eos")]
        line = [*ends[0], *words[row, :n].tolist(), *ends[1]]
        out[row, : len(line)] = line
    return out


def _weights(seed: str, rows: Sequence[Sequence[Any]]) -> dict[str, Array]:
    made: dict[str, Array] = {}
    for key, shape, *special in rows:
        if not special:
            made[key] = weight(seed, key, shape)
        elif special[0].startswith("tied to "):
            made[key] = made[special[0].removeprefix("tied to ")]
        else:
            made[key] = np.zeros(shape, np.dtype(special[0].removeprefix("module-init:")))
    return made


def _edit(weights: dict[str, Array], edit: Mapping[str, Any]) -> None:
    if edit["op"] == "scale":
        weights[edit["key"]] *= np.float32(edit["value"])
    elif edit["op"] == "swap_rows":
        rows = list(edit["rows"])
        for key in edit["keys"]:
            weights[key][rows] = weights[key][rows[::-1]]
    else:
        raise ValueError(f"unknown weight edit {edit['op']!r}")


def _inputs(seed: str, rules: Mapping[str, Any]) -> dict[str, Array]:
    made: dict[str, Array] = {}
    for key, rule in rules.items():
        if not isinstance(rule, dict):
            continue
        kind = rule.get("rule")
        if kind in ("input", "input relu"):
            made[key] = floats(seed, rule["name"], rule["shape"], kind == "input relu")
            if "lengths" in rule:
                made[f"{key}_mask"] = _real(rule["lengths"], rule["shape"][1])
                made[key] *= made[f"{key}_mask"][..., None]
        elif kind == "boxes":
            made[key] = boxes(seed, rule["name"], rule["shape"], rule["width"], rule["height"])
        elif kind == "tokens":
            made[key] = tokens(seed, rule)
        elif kind == "integers":
            size = tuple(rule["shape"])
            draw = stream(seed, f"input/{rule['name']}")
            made[key] = draw.integers(rule["low"], rule["high"], size)
        elif "valid_hw" in rule:
            made[key] = _real_cells(rule["valid_hw"], 6, 10)
    return made


def _real(lengths: Sequence[int], rows: int) -> Array:
    return np.arange(rows)[None] < np.asarray(lengths)[:, None]


def _real_cells(valid: Sequence[Sequence[int]], height: int, width: int) -> Array:
    """(B, H*W) bool, row-major: True where the cell lies inside the image's valid rows/columns."""
    row, column = np.arange(height)[None, :, None], np.arange(width)[None, None, :]
    limits = np.asarray(valid)[:, :, None, None]
    real = (row < limits[:, 0]) & (column < limits[:, 1])
    return real.reshape(len(real), -1)
