"""The extractor contract on the detectors, on small inputs so that it takes seconds."""

from typing import Any, ClassVar

import pytest

from tests.extractor_contract import ExtractorContract

pytestmark = pytest.mark.timeout(1200)

SMALL = {"short": 64, "long": 96, "proposals": 4}


class TestGrit(ExtractorContract):
    extractor = "grit"
    settings: ClassVar[dict[str, Any]] = {"canvas": [64, 64]}


class TestBottomUp(ExtractorContract):
    extractor = "bottomup"
    settings: ClassVar[dict[str, Any]] = SMALL


class TestVinVL(ExtractorContract):
    extractor = "vinvl:agnostic"
    settings: ClassVar[dict[str, Any]] = {**SMALL, "tail": True}


class TestRegion(ExtractorContract):
    extractor = "region"
    settings: ClassVar[dict[str, Any]] = SMALL
