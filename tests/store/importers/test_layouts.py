"""Every layout and every export format is one file with one class, described in the guide."""

from pathlib import Path

import pytest

from precap import plugins
from precap.store.exporters import formats
from precap.store.importers import layouts
from precap.store.importers.run import import_store

ROOT = Path(__file__).parents[3]
GUIDE = (ROOT / "docs" / "import.md").read_text("utf-8")
SAMPLE = ROOT / "tests/golden/regions/butd_tsv/karpathy_tiny_resnet101_faster_rcnn_genome.tsv"


@pytest.mark.parametrize("name", plugins.names(layouts))
def test_the_guide_tells_of_every_layout(name: str) -> None:
    assert f"`{name}`" in GUIDE
    assert 10 < len(plugins.load(layouts, name).summary) < 90


@pytest.mark.parametrize("name", plugins.names(formats))
def test_the_guide_tells_of_every_export_format(name: str) -> None:
    assert f"`{name}`" in GUIDE
    assert 10 < len(plugins.load(formats, name).summary) < 90


@pytest.mark.parametrize("sample", sorted(SAMPLE.parents[1].iterdir()), ids=lambda p: p.name)
def test_no_two_layouts_claim_one_sample(sample: Path) -> None:
    if sample.is_dir():
        claims = [n for n in plugins.names(layouts) if plugins.load(layouts, n).detect(sample)]
        assert len(claims) <= 1


def test_a_third_party_layout_is_named_by_module_and_class(tmp_path: Path) -> None:
    name = "precap.store.importers.layouts.butd_tsv:ButdTsv"
    assert import_store(SAMPLE, tmp_path / "store", format=name).ok == 3
