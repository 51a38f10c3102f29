"""The training command's own part: stores and fields by name, heads, what is shown."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from precap import pipeline, plugins, training
from precap.commands import progress
from precap.config import build
from precap.errors import ConfigError
from precap.train import heads
from precap.train.events import Event
from precap.train.roles import resolve
from precap.types import FeatureSpec, Field
from tests.train import toy


def test_a_field_of_a_store_is_named_behind_a_hash(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipeline, "open_store", lambda path: path)
    monkeypatch.setattr(pipeline, "find_store", lambda name, folder: folder / name)
    opened, roles = pipeline.parse_features("grid=a:b#c,region=a:b", Path("f"))
    assert opened == {"a:b": Path("f/a:b")}
    assert roles == {"grid": "a:b#c", "region": "a:b"}
    fields = (Field("p", "region", (9, 2)), Field("c", "grid", (4, 2)), Field("d", "grid", (4, 3)))
    specs = {"a:b": FeatureSpec("x", 1, "none", fields)}
    found = resolve(specs, {"grid", "region"}, (), roles)
    assert [found[role].field.name for role in ("grid", "region")] == ["c", "p"]
    with pytest.raises(ConfigError, match="--features grid=a:b#c or --features grid=a:b#d"):
        resolve(specs, {"grid"}, (), {})


def test_a_field_behind_a_colon_is_answered_with_the_right_form(tmp_path: Path) -> None:
    (tmp_path / "grid-small").mkdir()
    (tmp_path / "grid-small" / "store.json").touch()
    with pytest.raises(ConfigError, match="role=grid-small#tokens"):
        pipeline.parse_features("global=grid-small:tokens", tmp_path)
    with pytest.raises(ConfigError) as caught:
        pipeline.parse_features("clip:ViT-L-14", tmp_path)
    assert "#" not in str(caught.value)


def test_another_head_is_only_offered_where_it_would_be_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training, "_head_of", lambda run: "updown")
    assert "--head" not in training._chosen_head({}, {"init_run": tmp_path})[1]
    store: Any = SimpleNamespace(spec=toy.SPEC)
    assert "--head chooses another" in training._chosen_head({"toy": store}, {})[1]


def test_no_steps_leave_no_empty_lines(capsys: pytest.CaptureFixture[str]) -> None:
    with progress.shown("train") as listen:
        told = training._trained(listen, lambda: None)
        told(Event("start", message="4 images"))
        told(Event("note", message="careful"))
        told(Event("saved"))
        told(Event("end"))
    assert capsys.readouterr().err == "train: 4 images\ntrain: careful\ntrain: 0 steps\n"


@pytest.mark.parametrize(
    ("head", "option"),
    [
        ("transformer", "decoder_layers"),
        ("prefix", "layers"),
        ("prefix", "mapper_layers"),
        ("prefix", "prefix"),
        ("prefix", "inner"),
        *((head, "layers") for head in ("grit", "hiercap", "hin", "m2", "ort", "spatial")),
    ],
)
def test_no_head_is_made_that_cannot_see_the_image(head: str, option: str) -> None:
    with pytest.raises(ConfigError, match=f"{option}: .*greater than 0"):
        build(plugins.load(heads, head).Config, {option: 0})
