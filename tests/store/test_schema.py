"""What may be stored, and what is refused with a reason."""

import numpy as np
import pytest

from precap.errors import ConfigError, StoreError
from precap.store import schema
from precap.types import FeatureSpec, Field
from tests.store import toy


def field(**changes: object) -> FeatureSpec:
    values = {"name": "x", "role": "grid", "shape": (2,), "dtype": "float32", **changes}
    return toy.spec((Field(**values),))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "wrong",
    [
        toy.spec(()),
        toy.spec((toy.FIELDS[0], toy.FIELDS[0])),
        field(name="../x"),
        field(dtype="float64"),
        field(dtype="object"),
        field(shape=(3, None)),
        field(dtype="int8", shape=()),
        toy.spec(views=0),
    ],
)
def test_a_spec_that_no_store_can_hold_is_refused(wrong: FeatureSpec) -> None:
    with pytest.raises(ConfigError):
        schema.check_spec(wrong)


def test_a_row_must_be_what_the_spec_says() -> None:
    made = toy.spec(toy.FIELDS[:2])
    row = toy.features("a", made)
    schema.check_row("a", row, made)
    wrong = [
        {"grid": row["grid"]},
        {**row, "more": row["grid"]},
        {**row, "grid": row["grid"][:2]},
        {**row, "grid": row["grid"].astype(np.int64)},
        {**row, "regions": row["regions"][:, :2]},
        {**row, "regions": row["regions"][0]},
    ]
    for bad in wrong:
        with pytest.raises(StoreError, match=r"(?s)'a'.*(grid|regions)"):
            schema.check_row("a", bad, made)


@pytest.mark.parametrize("dtype", ["float32", "float16", "int8"])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_nan_and_inf_are_refused(dtype: str, value: float) -> None:
    source = np.ones((3, 4), np.float32)
    source[1, 2] = value
    with pytest.raises(schema.BadValue) as caught:
        schema.stored(source, dtype)
    assert caught.value.reason == "non-finite"


def test_values_too_large_for_fp16_are_an_overflow_and_never_inf() -> None:
    schema.stored(np.array([65504.0], np.float32), "float16")
    for dtype, value in (("float16", 65520.0), ("float32", 1e39)):
        with pytest.raises(schema.BadValue) as caught:
            schema.stored(np.array([value]), dtype)
        assert caught.value.reason == "overflow"


def test_integers_that_do_not_fit_are_an_overflow() -> None:
    assert schema.stored(np.array([255]), "uint8")[0].tolist() == [255]
    with pytest.raises(schema.BadValue):
        schema.stored(np.array([256]), "uint8")


def test_an_array_of_the_stored_dtype_is_not_copied() -> None:
    source = np.ones((2, 3), np.float16)
    assert schema.stored(source, "float16")[0] is source
    turned = schema.stored(source.T, "float16")[0]
    assert turned.flags.c_contiguous
    assert np.array_equal(turned, source.T)


def test_finite_agrees_with_numpy() -> None:
    draw = np.random.default_rng(0)
    for dtype in (np.float16, np.float32, np.float64):
        for special in (0.0, -0.0, np.nan, -np.inf, np.finfo(dtype).max, np.finfo(dtype).tiny):
            array = draw.normal(size=50).astype(dtype)
            array[7] = special
            assert schema.finite(array) == bool(np.isfinite(array).all())
    assert schema.finite(np.empty((0, 4), np.float16))


def test_int8_is_within_half_a_step_and_requantises_to_the_same_bytes() -> None:
    draw = np.random.default_rng(0)
    source = (draw.normal(size=(500, 64)) * 10.0 ** draw.integers(-6, 6, (500, 1))).astype(
        np.float32
    )
    source[0] = 0
    quantised, scale = schema.stored(source, "int8")
    assert scale is not None
    product = quantised * scale[:, None]
    assert product.dtype == np.float32
    assert (np.abs(product - source) <= scale[:, None] * 0.5001).all()
    again, same = schema.stored(product, "int8")
    assert np.array_equal(again, quantised)
    assert np.array_equal(same, scale)


def test_the_difference_names_every_field() -> None:
    a = toy.spec(preprocess={"size": 224, "mean": [0.5]}, weights="a")
    b = toy.spec(toy.FIELDS[:5], preprocess={"size": 336, "mean": [0.5]}, weights="b")
    said = schema.difference(a, b)
    for part in ("weights", "preprocess.size", "224", "336", "fields.mask"):
        assert part in said
    assert "mean" not in said
    assert schema.difference(a, a) == ""
