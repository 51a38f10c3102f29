"""Stores of several views in one training, alone and beside stores of one."""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from precap.errors import ConfigError
from precap.train.cache import Memory, RowsLike
from tests.train import toy
from tests.train.test_trainer import same_run

SHORT = {"xe.epochs": 1, "scst.epochs": 0, "validate_epochs": 1, "decode.beam": 1}


class Viewed(Memory):
    """A store in memory that knows its views: the rows of view k are k larger."""

    def read_many(
        self,
        ids: Sequence[str],
        *,
        fields: Iterable[str] | None = None,
        view: int | Sequence[int] = 0,
    ) -> Mapping[str, RowsLike]:
        """As ``Store.read_many``."""
        chosen = [view] * len(ids) if isinstance(view, int) else list(view)
        if max(chosen) >= self.spec.views:
            raise ConfigError(f"view must be from 0 to {self.spec.views - 1}, not {chosen}.")
        found = super().read_many(ids, fields=fields)
        for rows in found.values():
            for row, number in zip(rows.array, chosen, strict=True):
                row += number
        return found


def stores(grid: int, region: int) -> dict[str, Viewed]:
    """The grid and the regions of the made-up images in two stores, with so many views."""
    store, _ = toy.data()
    cells, rows = store.spec.fields
    made = {}
    for name, field, views in (("g", cells, grid), ("r", rows, region)):
        spec = dataclasses.replace(store.spec, fields=(field,), extractor=name, views=views)
        kept = {image: {field.name: found[field.name]} for image, found in store.rows.items()}
        made[name] = Viewed(spec, kept)
    return made


def fit(out: Path, grid: int, region: int, **changes: Any) -> list[str]:
    """Train a little; what was said before it."""
    notes: list[str] = []

    def listen(event: Any) -> None:
        if event.kind == "note":
            notes.append(event.message)

    toy.fit(out, {**SHORT, **changes}, listen, stores=stores(grid, region))
    return notes


@pytest.mark.parametrize("views", [(8, 1), (1, 8)])
def test_one_view_goes_with_all_views_of_another_store(
    tmp_path: Path, views: tuple[int, int]
) -> None:
    notes = [fit(tmp_path / mode, *views, cache=mode) for mode in ("mmap", "ram", "auto")]
    many, one = ("g", "r") if views[0] > 1 else ("r", "g")
    assert notes[0] == notes[1] == notes[2]
    assert f"{many} has 8 views, {one} has one" in notes[0][0]
    same_run(tmp_path / "mmap", tmp_path / "ram")
    same_run(tmp_path / "mmap", tmp_path / "auto")


def test_equal_numbers_of_views_need_no_word(tmp_path: Path) -> None:
    assert not fit(tmp_path / "run", 2, 2)


@pytest.mark.parametrize("mode", ["mmap", "ram", "auto"])
def test_different_numbers_of_views_are_refused(tmp_path: Path, mode: str) -> None:
    with pytest.raises(ConfigError, match=r"g has 8, r has 2\. .* again with --views"):
        fit(tmp_path / "run", 8, 2, cache=mode)
    assert not (tmp_path / "run").exists()
