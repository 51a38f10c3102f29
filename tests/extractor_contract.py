"""The contract tests that every extractor passes; a new one is a subclass of three lines."""

import pickle
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, ClassVar

import numpy as np
import pytest
from PIL import Image

from precap.errors import ConfigError
from precap.extract.contract import Extractor, Setting
from precap.extract.recipe import Recipe
from precap.store import schema
from precap.types import Features


class ExtractorContract:
    """What every extractor promises (``precap.extract.contract.Extractor``).

    Subclass it and set ``extractor`` (as on the command line), ``settings`` (its options) and
    ``weights``. An extractor that reads a store overrides ``make_setting`` and ``make_items``.
    ``tolerance``: how far a feature may move, relative to the largest one, with what else is in
    its batch.
    """

    extractor: ClassVar[str]
    settings: ClassVar[Mapping[str, Any]] = {}
    weights: ClassVar[str] = "random:0"
    tolerance: ClassVar[float] = 1e-4

    @pytest.fixture(scope="class")
    @classmethod
    def setting(cls, tmp_path_factory: pytest.TempPathFactory) -> Setting:
        return cls.make_setting(tmp_path_factory)

    @pytest.fixture(scope="class")
    @classmethod
    def made(cls, setting: Setting) -> Extractor:
        return Recipe(cls.extractor, cls.settings, setting).build()

    @classmethod
    def make_setting(cls, folders: pytest.TempPathFactory) -> Setting:
        """Where and how the extractor under test computes."""
        return Setting(weights=cls.weights, storage="float32")

    def make_items(self) -> Sequence[Any]:
        """Three inputs of different shapes: upright RGB pictures."""
        draw = np.random.default_rng(17)
        sizes = ((120, 90), (64, 200), (224, 224))
        return [Image.fromarray(draw.integers(0, 256, (h, w, 3), np.uint8)) for w, h in sizes]

    def run(self, made: Extractor, items: Sequence[Any]) -> list[Features]:
        """Features of ``items``, in batches of equal shapes as the runner makes them."""
        prepared = [made.prepare(item) for item in items]
        shapes = [tuple((k, v.shape) for k, v in one.items()) for one in prepared]
        found: dict[int, Features] = {}
        for shape in dict.fromkeys(shapes):
            places = [place for place, other in enumerate(shapes) if other == shape]
            rows = made.extract([prepared[place] for place in places])
            assert len(rows) == len(places)
            found |= zip(places, rows, strict=True)
        return [found[place] for place in range(len(items))]

    def test_the_spec_can_be_stored_and_the_features_are_what_it_says(
        self, made: Extractor
    ) -> None:
        schema.check_spec(made.spec)
        for number, row in enumerate(self.run(made, self.make_items())):
            schema.check_row(f"item {number}", row, made.spec)
            assert all(np.isfinite(array).all() for array in row.values())

    def test_prepared_items_are_plain_arrays_and_leave_their_input_alone(
        self, made: Extractor
    ) -> None:
        for item, before in zip(self.make_items(), self.make_items(), strict=True):
            prepared = made.prepare(item)
            again = pickle.loads(pickle.dumps(dict(prepared)))
            assert all(isinstance(array, np.ndarray) for array in prepared.values())
            assert again.keys() == prepared.keys()
            assert _same_item(item, before)

    def test_preparing_in_threads_changes_nothing(self, made: Extractor) -> None:
        items = [*self.make_items()] * 4
        expected = [made.prepare(item) for item in items]
        with ThreadPoolExecutor(4) as pool:
            found = list(pool.map(made.prepare, items))
        for one, other in zip(expected, found, strict=True):
            assert all(np.array_equal(one[name], other[name]) for name in one)

    def test_features_do_not_depend_on_the_rest_of_the_batch(self, made: Extractor) -> None:
        items = self.make_items()
        together = self.run(made, [*items, *items[::-1]])
        alone = [self.run(made, [item])[0] for item in items]
        for number, row in enumerate(alone):
            for twin in (together[number], together[-1 - number]):
                _assert_close(row, twin, self.tolerance)

    def test_the_same_batch_gives_the_same_bits(self, made: Extractor) -> None:
        items = self.make_items()
        for one, other in zip(self.run(made, items), self.run(made, items), strict=True):
            assert all(np.array_equal(one[name], other[name]) for name in one)

    def test_building_again_gives_the_same_identity_and_features(
        self, made: Extractor, setting: Setting
    ) -> None:
        again = Recipe(self.extractor, self.settings, setting).build()
        assert again.spec.fingerprint == made.spec.fingerprint
        items = self.make_items()[:1]
        one, other = self.run(made, items)[0], self.run(again, items)[0]
        assert all(np.array_equal(one[name], other[name]) for name in one)

    def test_an_unknown_option_is_refused(self, setting: Setting) -> None:
        with pytest.raises(ConfigError, match="no_such_option"):
            Recipe(self.extractor, {"no_such_option": 1}, setting).build()

    def test_what_the_catalogue_says_of_its_fields_is_true(self, made: Extractor) -> None:
        about = getattr(made, "about", None)
        if about is None:
            pytest.skip("this extractor has no catalogue entry")
        names = {field.name: field.role for field in about.fields}
        assert names.items() <= {f.name: f.role for f in made.spec.fields}.items() or self.settings


def _same_item(item: Any, other: Any) -> bool:
    if isinstance(item, Image.Image):
        return bool(np.array_equal(np.asarray(item), np.asarray(other)))
    return all(np.array_equal(item[name], other[name]) for name in other)


def _assert_close(row: Features, other: Features, tolerance: float) -> None:
    for name, array in row.items():
        largest = max(1.0, float(np.abs(array.astype(np.float64)).max(initial=0)))
        np.testing.assert_allclose(array, other[name], atol=tolerance * largest, err_msg=name)
