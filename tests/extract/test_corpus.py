"""Every kind of bad picture through real extractors: each ends with the outcome of its kind."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from precap.extract import runner
from precap.store.reader import open_store
from precap.types import ImageRef
from tests.extract import pictures


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> list[ImageRef]:
    folder = tmp_path_factory.mktemp("corpus")
    refs = [ImageRef(kind, folder / f"{kind}{pictures.suffix(kind)}") for kind in pictures.KINDS]
    for ref in refs:
        ref.path.write_bytes(pictures.KINDS[ref.id]())
    return [*refs, ImageRef("gone", folder / "gone.jpg")]


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
@pytest.mark.parametrize(
    ("name", "settings", "narrow"),
    [
        ("grid:mobilenetv2_035", {}, ()),
        ("grid:mobilenetv2_035", {"fit": "keep", "cells": 2}, ()),
        ("grid:legacy_xception", {"fit": "keep"}, ("png-1-pixel", "png-very-tall")),
        ("clip:ViT-S-32-alt", {}, ()),
        ("xvlm:64", {}, ()),
    ],
)
def test_the_corpus_through_a_real_network(
    name: str,
    settings: Mapping[str, Any],
    narrow: tuple[str, ...],
    corpus: list[ImageRef],
    tmp_path: Path,
) -> None:
    """narrow: the kinds that are too small for the network."""
    options: dict[str, Any] = {"weights": "random:0", "device": "cpu", "settings": settings}
    report = runner.extract(corpus, tmp_path / "store", name, batch_size=8, **options)
    store = open_store(tmp_path / "store")
    for ref in corpus:
        expected = pictures.EXPECTED.get(ref.id, "missing")
        found = store.outcome(ref.id)
        assert found is not None
        if not isinstance(expected, str):
            expected = "too-narrow" if ref.id in narrow else ""
        assert (found.status, found.reason) == ("failed" if expected else "ok", expected), ref.id
    assert (report.ok + report.failed, report.pending) == (len(corpus), 0)
