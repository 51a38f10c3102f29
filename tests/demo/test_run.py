"""The demo's orchestration, on a handful of pictures; its full size is `make demo`."""

from pathlib import Path
from typing import Any

import pytest

from precap.demo import run

TINY = {
    "head.dim": 16,
    "head.heads": 2,
    "head.hidden": 16,
    "head.encoder_layers": 1,
    "head.decoder_layers": 1,
    "xe.epochs": 1,
    "validate_epochs": 1,
    "decode.beam": 2,
}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, run.Outcome, list[Any]]:
    out, events = tmp_path_factory.mktemp("demo"), []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run, "FEATURES", (("grid:resnet18", {"size": 32}), run.FEATURES[1]))
        outcome = run.demo(out, images=40, options=TINY, on_event=events.append)
    return out, outcome, events


def test_both_runs_are_scored_side_by_side(made: tuple[Path, run.Outcome, list[Any]]) -> None:
    out, outcome, events = made
    assert set(outcome.scores) == {"real", "shuffled"}
    text = str(outcome)
    for words in ("BLEU-4", "ROUGE-L", "CIDEr, seen-pairs", "CIDEr, unseen-pairs", "shuffled"):
        assert words in text
    assert str(out / "report-test.html") in text
    assert outcome.report.stat().st_size > 10_000
    assert {"real", "shuffled"} <= {event.get("what") for event in events}


def test_the_control_differs_in_nothing_but_the_shuffling(
    made: tuple[Path, run.Outcome, list[Any]],
) -> None:
    out, _, _ = made
    one, other = ((out / "runs" / name / "run.json").read_text() for name in ("real", "shuffled"))
    assert one != other
    assert one == other.replace('"shuffle_features": true', '"shuffle_features": false')


def test_the_pictures_alone_go_to_the_data_folder(tmp_path: Path) -> None:
    data = run.scenes(tmp_path, images=10, seed=1)
    assert data == tmp_path / "data"
    assert not (tmp_path / "features").exists()
