"""The extractor contract on the detectors, on small inputs so that it takes seconds."""

from typing import Any, ClassVar

import pytest

from tests.extractor_contract import ExtractorContract

pytestmark = pytest.mark.timeout(1200)

SMALL = {"short": 80, "long": 160, "proposals": 12}


class TestGrit(ExtractorContract):
    extractor = "grit"
    settings: ClassVar[dict[str, Any]] = {"canvas": [64, 128]}


class TestBottomUp(ExtractorContract):
    extractor = "bottomup"
    settings: ClassVar[dict[str, Any]] = SMALL


class TestVinVL(ExtractorContract):
    extractor = "vinvl:agnostic"
    settings: ClassVar[dict[str, Any]] = {**SMALL, "tail": True}


class TestRegion(ExtractorContract):
    extractor = "region"
    settings: ClassVar[dict[str, Any]] = SMALL
