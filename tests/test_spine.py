"""The main job through the command line: pictures, features, training, scores, report, captions."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.command import Precap

GRID = ("--weights", "random:0", "--set", "size=64", "--dtype", "float32")
SMALL = (
    "head.dim=32", "head.hidden=64", "head.heads=2", "head.encoder_layers=1",
    "head.decoder_layers=1", "text.threshold=1",
)  # fmt: skip
TINY = [part for setting in SMALL for part in ("--set", setting)]


@pytest.fixture(scope="module")
def features(scenes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store ``grid-resnet18`` of all scenes."""
    from precap import pipeline

    out = tmp_path_factory.mktemp("features")
    pipeline.extract_features(
        "grid:resnet18", data=scenes, out=out, weights="random:0", settings=["size=64"]
    )
    return out


@pytest.fixture(scope="module")
def run(scenes: Path, features: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of a few epochs of a tiny transformer."""
    from precap import config, pipeline

    out = tmp_path_factory.mktemp("runs") / "tiny"
    options = {**config.parse_settings(SMALL), "xe.epochs": 2, "batch_size": 8}
    pipeline.train_head("grid-resnet18", data=scenes, stores=features, out=out, options=options)
    return out


def test_train_resumes_to_the_same_end(
    precap: Precap, run: Path, scenes: Path, features: Path
) -> None:
    again = ("train", "--features", "grid", "--data", scenes, "--stores", features, "--out", run)
    before = (run / "last.safetensors").read_bytes()
    precap(*again, *TINY, "--xe-epochs", "2", "--batch-size", "8")
    assert (run / "last.safetensors").read_bytes() == before


def test_torchrun_starts_one_run_of_two_processes(
    scenes: Path, features: Path, tmp_path: Path
) -> None:
    """Without dropout two processes learn what one does, and one of them reports it."""
    made = {}
    for many in (1, 2):
        out = tmp_path / str(many)
        launch = f"-m torch.distributed.run --standalone --nproc-per-node {many}"
        still = ("head.dropout=0", "head.input_dropout=0", "xe.optim.name=sgd", "average=0")
        done = subprocess.run(
            [sys.executable, *launch.split(), "-m", "precap.cli", "train", "--json",
             "--features", "grid", "--data", scenes, "--stores", features,
             "--out", out, *TINY, "--xe-epochs", "1", "--batch-size", "8",
             *(part for setting in still for part in ("--set", setting))],
            capture_output=True, text=True, timeout=250,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout)["path"] == str(out)
        made[many] = load_file(out / "last.safetensors")
    for name, alone in made[1].items():
        if name.startswith("model."):
            torch.testing.assert_close(made[2][name], alone, rtol=1e-4, atol=1e-5)


def test_evaluate_writes_scores_predictions_and_a_report(precap: Precap, run: Path) -> None:
    out = precap("evaluate", run, "--metrics", "bleu,rouge,cider", "--json")
    scores = json.loads(out)["runs"]["tiny"]["corpus"]
    assert set(scores) == {"BLEU-1", "BLEU-2", "BLEU-3", "BLEU-4", "ROUGE-L", "CIDEr"}
    lines = (run / "predictions-test.jsonl").read_text().splitlines()
    assert len(lines) == 6
    assert set(json.loads(lines[0])) == {"image_id", "caption", "score"}
    page = (run / "report-test.html").read_text()
    assert "Content-Security-Policy" in page
    assert json.loads((run / "scores-test.json").read_text())["tiny"]["corpus"] == scores


def test_a_trained_run_decodes_otherwise_when_told_so(
    precap: Precap, run: Path, scenes: Path
) -> None:
    def said(*more: str) -> list[str]:
        precap("evaluate", run, "--metrics", "bleu", "--no-report", *more)
        lines = (run / "predictions-test.jsonl").read_text().splitlines()
        return [json.loads(line)["caption"] for line in lines]

    short, long = said("--set", "decode.longest=2"), said("--set", "decode.shortest=9")
    assert {len(caption.split()) for caption in short} <= {1, 2}
    assert all(len(caption.split()) >= 9 for caption in long)
    drawn = ("--set", "decode.sample=true", "--set", "decode.temperature=2", "--seed")
    assert said(*drawn, "1") == said(*drawn, "1") != said(*drawn, "2")
    picture = next((scenes / "images").glob("*.jpg"))
    one = precap("caption", run, picture, "--set", "decode.longest=1").strip()
    assert len(one.rpartition(": ")[2].split()) == 1
    for command in (("evaluate", run), ("caption", run, picture)):
        told = precap.refused(*command, "--set", "decode.lenght_penalty=1", code=2)
        assert "Did you mean 'length_penalty'" in told
        assert "decode.beam" in precap.refused(*command, "--set", "beam=3", code=2)


def test_caption_says_what_the_cached_path_says(precap: Precap, run: Path, scenes: Path) -> None:
    precap("evaluate", run, "--metrics", "bleu", "--no-report")
    cached = [json.loads(x) for x in (run / "predictions-test.jsonl").read_text().splitlines()]
    items = [json.loads(line) for line in (scenes / "images.jsonl").read_text().splitlines()]
    files = {item["id"]: scenes / "images" / Path(item["file"]).name for item in items}
    said = precap("caption", run, *(files[p["image_id"]] for p in cached), "--jsonl")
    fresh = [json.loads(line) for line in said.splitlines()]
    assert [p["caption"] for p in fresh] == [p["caption"] for p in cached]
    assert [p["score"] for p in fresh] == pytest.approx([p["score"] for p in cached], abs=1e-4)


def test_caption_names_the_picture_that_cannot_be_read(
    precap: Precap, run: Path, tmp_path: Path, scenes: Path
) -> None:
    bad = tmp_path / "bad.jpg"
    bad.write_text("not a picture")
    good = next((scenes / "images").glob("*.jpg"))
    code, out, err = precap.result("caption", run, bad, good)
    assert code == 3
    assert str(good) in out
    assert "bad.jpg: no caption, not-an-image" in err


def test_two_stores_of_one_role_need_no_roles_with_the_transformer(
    precap: Precap, scenes: Path, features: Path, tmp_path: Path
) -> None:
    other = tmp_path / "features"
    precap("extract", "grid:resnet10t", "--data", scenes, "--out", other, *GRID)
    both = f"{features / 'grid-resnet18'},{other / 'grid-resnet10t'}"
    out = precap(
        "train", "--features", both, "--head", "transformer", "--data", scenes, "--out",
        tmp_path / "two", *TINY, "--xe-epochs", "1", "--json",
    )  # fmt: skip
    assert json.loads(out)["steps"] > 0


def test_an_ensemble_of_one_run_twice_says_what_the_run_says(
    precap: Precap, run: Path, tmp_path: Path, scenes: Path
) -> None:
    import shutil

    twin = tmp_path / "twin"
    shutil.copytree(run, twin)
    alone = precap("evaluate", run, "--metrics", "bleu", "--no-report", "--json")
    out = precap(
        "evaluate", run, twin, "--ensemble", "--metrics", "bleu", "--no-report", "--json", "--out",
        tmp_path / "out",
    )  # fmt: skip
    one = json.loads(alone)["runs"]["tiny"]["corpus"]
    assert json.loads(out)["runs"]["ensemble"]["corpus"] == one
    picture = next((scenes / "images").glob("*.jpg"))
    assert precap("caption", run, picture) == precap("caption", f"{run},{twin}", picture)


def test_an_ensemble_leaves_the_results_of_its_first_run(
    precap: Precap, run: Path, tmp_path: Path
) -> None:
    import shutil

    one, two = (Path(shutil.copytree(run, tmp_path / name)) for name in ("one", "two"))
    precap("evaluate", one, "--metrics", "bleu")
    names = ("predictions-test.jsonl", "scores-test.json", "report-test.html")
    before = {name: (one / name).read_bytes() for name in names}
    out = precap("evaluate", one, two, "--ensemble", "--metrics", "bleu", "--json")
    made = [Path(path).name for path in json.loads(out)["files"]]
    assert made == [name.replace("test", "test-ensemble") for name in names]
    assert {name: (one / name).read_bytes() for name in names} == before
    assert set(json.loads((one / "scores-test-ensemble.json").read_text())) == {"ensemble"}


def test_heat_maps_are_drawn(precap: Precap, run: Path, scenes: Path, tmp_path: Path) -> None:
    picture = next((scenes / "images").glob("*.jpg"))
    precap("caption", run, picture, "--heatmap", tmp_path / "maps")
    assert (tmp_path / "maps" / f"{picture.stem}.png").stat().st_size > 1000


def test_two_runs_are_compared(precap: Precap, run: Path, tmp_path: Path) -> None:
    import shutil

    shutil.copytree(run, tmp_path / "other")
    out = precap(
        "evaluate", run, tmp_path / "other", "--compare", "--metrics", "bleu,cider", "--out",
        tmp_path / "out",
    )  # fmt: skip
    assert "tiny vs other" in out
    assert "other" in (tmp_path / "out" / "report-test.html").read_text()


def test_clipscore_reads_the_cached_store(
    precap: Precap, run: Path, scenes: Path, tmp_path: Path
) -> None:
    precap(
        "extract", "clip:ViT-S-32-alt", "--data", scenes, "--out", tmp_path, "--split", "test",
        "--weights", "random:0",
    )  # fmt: skip
    out = precap(
        "evaluate", run, "--metrics", "bleu,clipscore", "--clip", tmp_path / "clip-ViT-S-32-alt",
        "--no-report", "--json",
    )  # fmt: skip
    scores = json.loads(out)["runs"]["tiny"]["corpus"]
    assert 0 <= scores["CLIPScore"] <= 2.5
    assert "RefCLIPScore" in scores
    assert set(json.loads(out)["groups"]["tiny"]) == {"seen-pair", "unseen-pair"}
    said = precap.refused("evaluate", run, "--metrics", "clipscore", "--no-report", code=2)
    assert "--clip" in said


def test_status_reads_the_ledger(precap: Precap, features: Path) -> None:
    assert "60 ok" in precap("extract", "status", features / "grid-resnet18")


def test_bad_pictures_are_recorded_and_the_exit_code_says_so(
    precap: Precap, tmp_path: Path, scenes: Path
) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    for picture in sorted((scenes / "images").glob("*.jpg"))[:3]:
        (photos / picture.name).write_bytes(picture.read_bytes())
    (photos / "cut.jpg").write_bytes(picture.read_bytes()[:500])
    (photos / "empty.jpg").write_bytes(b"")
    precap("data", "prepare", photos, "--out", tmp_path / "data")
    out = precap(
        "extract", "grid:resnet18", "--data", tmp_path / "data", "--out", tmp_path / "f", *GRID,
        code=3,
    )  # fmt: skip
    assert "3 ok, 0 skipped, 2 failed" in out
    assert "truncated" in out
    assert "empty" in out


def refusals(
    scenes: Path, features: Path, tmp: Path
) -> dict[str, tuple[list[str | Path], int, str]]:
    """Mistakes of a new user: command, exit code, and what the message must say."""
    train = ["train", "--data", scenes, "--stores", features, "--out", tmp / "r"]
    extract = ["extract", "grid:resnet18", "--data", scenes, "--out", tmp / "f"]
    return {
        "no dataset": (["extract", "clip", "--data", tmp / "no"], 2, "data prepare"),
        "no weights": ([*extract, "--weights", tmp / "w.pt"], 2, "w.pt"),
        "unknown extractor": (["extract", "clpi", "--data", scenes], 2, "Did you mean 'clip'"),
        "unknown setting": ([*extract, "--weights", "random:0", "--set", "sise=3"], 2, "'size'"),
        "misspelt option": ([*train, "--feature", "grid"], 2, "--features"),
        "unknown head": ([*train, "--features", "grid", "--head", "hni"], 2, "Did you mean 'hin'"),
        "unknown store": ([*train, "--features", "vinvl"], 2, "grid-resnet18"),
        "missing role": ([*train, "--features", "grid", "--head", "hin"], 2, "region"),
        "no run": (["evaluate", tmp / "nothing"], 2, "no run folder"),
        "no store to begin with": (["train", "--stores", tmp, "--features", "x"], 2, "Make one"),
        "no file": (["evaluate", "--predictions", tmp / "p", "--references", tmp / "q"], 2, "no f"),
        "half a pair": (["evaluate", "--predictions", tmp / "p"], 2, "--references"),
        "no store": (["store", "info", tmp], 2, "store"),
        "not a part": ([*extract, "--weights", "random:0", "--part", "5/3"], 2, "5/3"),
    }  # fmt: skip


@pytest.mark.parametrize("mistake", list(refusals(Path(), Path(), Path())))
def test_a_mistake_gets_one_clear_message(
    precap: Precap, mistake: str, scenes: Path, features: Path, tmp_path: Path
) -> None:
    args, code, said = refusals(scenes, features, tmp_path)[mistake]
    assert said in precap.refused(*args, code=code)


def test_another_configuration_needs_another_store(
    precap: Precap, scenes: Path, features: Path
) -> None:
    said = precap.refused(
        "extract", "grid:resnet18", "--data", scenes, "--out", features, "--weights", "random:1",
        "--set", "size=64", code=4,
    )  # fmt: skip
    assert "random:0" in said
    assert "random:1" in said


def test_features_of_another_dataset_are_refused(
    precap: Precap, features: Path, tmp_path: Path
) -> None:
    from precap.demo.scenes import make_scenes

    other = make_scenes(tmp_path / "other", images=20, seed=2)
    table = other / "images.jsonl"
    table.write_text(table.read_text().replace('"id": "', '"id": "other-'))
    said = precap.refused(
        "train", "--features", "grid-resnet18", "--data", other, "--stores", features, "--out",
        tmp_path / "r", code=4,
    )  # fmt: skip
    assert "grid-resnet18" in said


def commands() -> list[list[str]]:
    """Every command path of the app."""
    import typer

    from precap.cli import app

    found: list[list[str]] = []

    def walk(command: object, path: list[str]) -> None:
        found.append(path)
        for name, inner in getattr(command, "commands", {}).items():
            walk(inner, [*path, name])

    walk(typer.main.get_command(app), [])
    return found


@pytest.mark.parametrize("path", commands(), ids=" ".join)
def test_every_help_has_an_example(precap: Precap, path: list[str]) -> None:
    said = precap(*path, "--help")
    assert "Example: precap" in said or not path


def test_help_imports_nothing_heavy() -> None:
    code = "import sys, precap.cli; print(sorted({m.split('.')[0] for m in sys.modules}))"
    out = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout
    heavy = {"torch", "timm", "open_clip", "h5py", "zarr", "dask", "matplotlib", "pandas", "scipy"}
    assert not heavy & set(json.loads(out.replace("'", '"')))


def test_the_notebook_runs(
    run: Path, scenes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import warnings

    import nbformat

    with warnings.catch_warnings():  # the client and its kernel warn about each other's futures
        warnings.simplefilter("ignore")
        from nbclient import NotebookClient

        monkeypatch.setenv("RUN", str(run))
        monkeypatch.setenv("PICTURES", str(next((scenes / "images").glob("*.jpg"))))
        book = nbformat.read(Path(__file__).parent.parent / "notebooks" / "caption.ipynb", 4)
        client = NotebookClient(book, timeout=240, resources={"metadata": {"path": str(tmp_path)}})
        client.execute()
    outputs = [output for cell in book.cells for output in cell.get("outputs", [])]
    assert any("->" in output.get("text", "") for output in outputs)
    assert any("image/png" in output.get("data", {}) for output in outputs)


def test_python_does_the_same(run: Path) -> None:
    import precap as library

    result = library.evaluate_runs(run, split="val", metrics=["cider"], report=False)
    assert set(result.scores["tiny"].corpus) == {"CIDEr"}
