"""How the command line ends: interrupted, unread, misused, asked for JSON."""

import json
import os
import select
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from precap import cli
from precap.store.datasets.dataset import Item, write
from tests.command import Precap
from tests.store import toy

PRECAP = (sys.executable, "-m", "precap.cli")
SAID = "interrupted; repeat the command to go on where it stopped."


@pytest.mark.parametrize("form", ["text", "json"])
def test_an_interruption_says_how_to_go_on(
    precap: Precap, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, form: str
) -> None:
    def interrupted(*args: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("precap.store.manifest.ls", interrupted)
    code, out, err = precap.result("store", "ls", tmp_path, *(["--json"] if form == "json" else []))
    assert (code, out) == (130, "")
    if form == "json":
        assert json.loads(err) == {"error": SAID, "exit_code": 130}
    else:
        assert err == f"precap: {SAID}\n"


def test_ctrl_c_interrupts_a_process(tmp_path: Path) -> None:
    """The question of ``store rm`` waits for an answer that does not come."""
    path = toy.build(tmp_path / "toy", 4)
    asking = subprocess.Popen(
        [*PRECAP, "store", "rm", path],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert asking.stderr is not None
    assert select.select([asking.stderr], [], [], 60)[0]  # the question is there
    asking.send_signal(signal.SIGINT)
    _, err = asking.communicate(timeout=60)
    assert asking.returncode == 130
    assert err.endswith(f"precap: {SAID}\n")
    assert "Traceback" not in err
    assert (path / "store.json").is_file()


@pytest.mark.parametrize("args", [["store", "ls"], ["--help"], ["store", "ls", "--help"]])
def test_output_that_nobody_reads_ends_the_command_quietly(tmp_path: Path, args: list[str]) -> None:
    read, write = os.pipe()
    os.close(read)
    folder = [] if "--help" in args else [str(tmp_path)]
    done = subprocess.run(
        [*PRECAP, *args, *folder], stdout=write, stderr=subprocess.PIPE, timeout=60
    )
    os.close(write)
    assert (done.returncode, done.stderr) == (141, b"")


def test_another_broken_pipe_is_no_quiet_end(
    precap: Precap, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def broken(*args: object) -> None:
        raise BrokenPipeError

    monkeypatch.setattr("precap.store.manifest.ls", broken)
    with pytest.raises(RuntimeError, match="pipe to another"):
        precap.result("store", "ls", tmp_path)


USAGE = {
    "no command": (["trian"], "No such command 'trian'"),
    "missing option": (["train"], "Missing option '--features'"),
    "value out of range": (["extract", "clip", "--images", "0"], "Invalid value for '--images'"),
    "unknown option": (["store", "ls", "--lung"], "No such option: --lung"),
    "missing argument": (["store", "info"], "Missing argument 'store'"),
}


@pytest.mark.parametrize("mistake", list(USAGE))
def test_wrong_arguments_are_told_in_the_form_asked_for(precap: Precap, mistake: str) -> None:
    args, said = USAGE[mistake]
    plain = precap.refused(*args, code=2)
    assert plain.startswith("Usage: ")
    assert f"Error: {said}" in plain
    told = json.loads(precap.refused(*args, "--json", code=2))
    assert told["exit_code"] == 2
    assert told["error"].startswith(said)


def test_help_and_exit_codes_of_commands_stay(precap: Precap, tmp_path: Path) -> None:
    assert "Exit codes:" in precap("--help")
    assert "Exit codes:" in precap.refused(code=2)  # without arguments
    assert "Give both" in precap.refused("evaluate", "--predictions", tmp_path, code=2)
    assert cli.INTERRUPTED == 130


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dataset ``data`` and a store ``features/toy``; no run, and a file that is none of them."""
    folder = tmp_path_factory.mktemp("place")
    toy.build(folder / "features" / "toy", 4)
    write(folder / "data", [Item("1", "1.jpg", "train", ["a"])], HEADER)
    (folder / "file").write_text("")
    (folder / "empty").mkdir()
    return folder


HEADER = {"name": "x", "format": "list", "image_root": "images"}
TSV = str(next((Path(__file__).parent / "golden/regions/butd_tsv").resolve().glob("*.tsv")))
#: The word NOT stands for what was named and is not there.
NAMED = {
    "status": ["extract", "status", "NOT"],
    "parent": ["extract", "geometry", "--parent", "NOT"],
    "data": ["extract", "clip", "--data", "NOT"],
    "estimated": ["extract", "clip", "--data", "NOT", "--dry-run"],
    "labels": ["data", "labels", "export", "--data", "NOT"],
    "ids": ["store", "import", TSV, "--out", "new", "--ids", "NOT"],
    "evaluated": ["evaluate", "NOT"],
    "captioned": ["caption", "NOT", "file"],
    "begun": ["train", "--features", "toy", "--init-run", "NOT"],
    "stores": ["train", "--features", "clip", "--stores", "NOT"],
    "store": ["store", "info", "NOT"],
}


@pytest.mark.parametrize("given", ["nothing", "file", "empty"])
@pytest.mark.parametrize("command", list(NAMED))
def test_what_is_not_there_is_a_mistake_of_use(
    precap: Precap, monkeypatch: pytest.MonkeyPatch, place: Path, command: str, given: str
) -> None:
    if (command, given) == ("labels", "file"):
        pytest.skip("there a file is a Karpathy JSON, and this one is damaged")
    monkeypatch.chdir(place)
    said = precap.refused(*(given if word == "NOT" else word for word in NAMED[command]), code=2)
    assert given in said


def test_what_is_there_but_damaged_is_another_code(
    precap: Precap, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    store = toy.build(tmp_path / "toy", 4)
    (store / "store.json").unlink()
    assert "lost its store.json" in precap.refused("extract", "status", "toy", code=4)
    write(tmp_path / "data", [Item("1", "1.jpg", "train", ["a"])], HEADER)
    (tmp_path / "data" / "dataset.json").unlink()
    precap.refused("extract", "clip", code=4)
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "best.safetensors").write_bytes(b"")
    precap.refused("evaluate", "run", code=4)
    (tmp_path / "run" / "run.json").write_text("{}")
    precap.refused("evaluate", "run", code=4)
