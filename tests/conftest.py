"""Fixtures that more than one folder of tests uses."""

from pathlib import Path

import pytest
import torch

from tests.command import Precap

torch.set_num_threads(2)


@pytest.fixture
def precap(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Precap:
    """The command line."""
    return Precap(capsys, monkeypatch)


@pytest.fixture(scope="session")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A prepared dataset of 60 drawn pictures with five captions each: 48 train, 6 val, 6 test."""
    from precap.demo.scenes import make_scenes

    return make_scenes(tmp_path_factory.mktemp("scenes"), images=60, seed=1)
