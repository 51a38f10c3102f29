"""atomic, plugins, config, types: the small files everything stands on."""

import errno
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import precap
from precap import atomic, config, plugins
from precap.errors import ConfigError, ResourceError
from precap.extract import extractors
from precap.store import backends
from precap.types import FeatureSpec, Field


@config.frozen
class Options:
    rate: float = 1e-4
    boxes: int = 36
    name: str = "a"


def test_replacing_leaves_the_old_file_when_the_writer_fails(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    atomic.write_text(path, "old")
    with pytest.raises(RuntimeError), atomic.replacing(path) as partial:
        partial.write_text("half")
        raise RuntimeError
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["a.txt"]


def test_replacing_a_folder(tmp_path: Path) -> None:
    with atomic.replacing(tmp_path / "d") as partial:
        partial.mkdir()
        (partial / "x").write_text("1")
    assert (tmp_path / "d" / "x").read_text() == "1"


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EMFILE])
def test_exhaustion_is_explained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def fail(_: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(ResourceError, match=r"Could not write .*a\.txt.*repeat the command"):
        atomic.write_text(tmp_path / "a.txt", "x")
    assert not list(tmp_path.iterdir())


def test_unknown_option_suggests_the_nearest() -> None:
    with pytest.raises(ConfigError, match="no option 'boxs'. Did you mean 'boxes'"):
        config.build(Options, {"boxs": 3})


def test_wrong_value_is_named() -> None:
    with pytest.raises(ConfigError, match="boxes.*'many'"):
        config.build(Options, {"boxes": "many"})


def test_settings_are_read_as_plain_values() -> None:
    read = config.parse_settings(["rate=1e-4", "boxes=3", "name=b", "flag=true", "list=[1, 2]"])
    assert read == {"rate": 1e-4, "boxes": 3, "name": "b", "flag": True, "list": [1, 2]}
    with pytest.raises(ConfigError, match="key=value"):
        config.parse_settings(["boxes"])


def test_plugins_are_files_and_suggest() -> None:
    assert "clip" in plugins.names(extractors)
    assert plugins.names(backends) == ["hdf5", "zarr"]
    with pytest.raises(ConfigError, match="Did you mean 'clip'"):
        plugins.load(extractors, "clpi")
    with pytest.raises(ConfigError, match="module:Class"):
        plugins.load(extractors, "no_such_module:Thing")


names = st.text("abcdefgh", min_size=1, max_size=5)
fields = st.builds(
    Field,
    names,
    st.sampled_from(["grid", "region", "global"]),
    st.tuples(st.one_of(st.none(), st.integers(1, 9)), st.integers(1, 9)),
    st.sampled_from(["float32", "float16", "int8"]),
)
specs = st.builds(
    FeatureSpec,
    names,
    st.integers(1, 3),
    names,
    st.lists(fields, min_size=1, max_size=3).map(tuple),
    st.dictionaries(names, st.one_of(st.integers(), st.floats(allow_nan=False), names)),
)


@given(specs)
def test_spec_survives_json(spec: FeatureSpec) -> None:
    again = FeatureSpec.from_json(spec.as_json())
    assert again == spec
    assert again.fingerprint == spec.fingerprint


@given(specs, specs)
def test_fingerprint_tells_specs_apart(one: FeatureSpec, other: FeatureSpec) -> None:
    assert (one.fingerprint == other.fingerprint) == (one.as_json() == other.as_json())


def test_public_surface_is_small() -> None:
    assert len(precap.__all__) <= 8
    with pytest.raises(AttributeError):
        precap.no_such_name  # noqa: B018
