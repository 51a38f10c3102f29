"""The extractor contract on the detectors, on small inputs so that it takes seconds."""

import json
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from PIL import Image

from precap.errors import ConfigError, ImageError
from precap.extract.contract import Setting
from precap.extract.recipe import build
from tests.contracts import ExtractorContract

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
