"""Java absent, killed, stalled or babbling: that metric says why, the others keep their scores."""

import hashlib
from pathlib import Path

import pytest

from precap.evaluate import java, metrics, spice
from tests.evaluate.small import corpus, fake_java

ROW = " ".join(["1.0"] * 23)
BAD = {
    "killed midway": (f'read a; echo "{ROW}"; kill -9 $$', "was killed by signal 9"),
    "dies": ("echo 'Error: out of luck' >&2; exit 3", "left with code 3: Error: out of luck"),
    "stalls": ("sleep 600 & wait", "no answer within 1 s"),
    "stalls silently after half": (f'echo "{ROW}"; sleep 600 & wait', "no answer within 1 s"),
    "answers too little": (f'cat > /dev/null; echo "{ROW}"', "gave 1 answers to 5 captions"),
    "babbles": ("while read line; do echo hello there; done", "not a table of 23 numbers"),
    "counts short": ("while read line; do echo 1 2 3; done", "not a table of 23 numbers"),
    "never reads": ("exit 0", "gave 0 answers to 5 captions"),
}


def scored(seconds: float = 1) -> metrics.Scores:
    captions, references = corpus(5)
    return metrics.score(
        captions, references, ["bleu", "meteor", "rouge", "cider"], java_seconds=seconds
    )


@pytest.mark.parametrize("kind", BAD)
def test_a_bad_java_costs_one_metric(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script, why = BAD[kind]
    monkeypatch.setenv("JAVA_HOME", str(fake_java(tmp_path / "java", script)))
    found = scored(seconds=1 if "stall" in kind else 60)
    assert why in found.unavailable["METEOR"]
    assert "METEOR" not in found.corpus
    assert list(found.corpus) == ["BLEU-1", "BLEU-2", "BLEU-3", "BLEU-4", "ROUGE-L", "CIDEr"]
    assert "METEOR   unavailable:" in str(found)


def test_without_java_the_others_are_scored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("JAVA_HOME", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    found = scored()
    assert "install a JRE" in found.unavailable["METEOR"]
    assert len(found.corpus) == 6


def test_a_flood_on_stderr_does_not_stall(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    flood = "head -c 3000000 /dev/zero >&2"
    script = f'{flood}; while read line; do echo "{ROW}"; done; {flood}'
    monkeypatch.setenv("JAVA_HOME", str(fake_java(tmp_path / "java", script)))
    assert "METEOR" in scored(seconds=60).corpus


def test_nothing_outlives_a_stall(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not even a child of the stalled program, which would hold the pipes open."""
    script = f"sleep 600 & echo $! > {tmp_path}/child; wait"
    monkeypatch.setenv("JAVA_HOME", str(fake_java(tmp_path / "java", script)))
    assert "METEOR" in scored().unavailable
    child = Path("/proc") / (tmp_path / "child").read_text().strip() / "stat"
    assert not child.exists() or child.read_text().split()[2] in "ZX"


def test_the_version_is_known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = "echo 'openjdk version \"17.0.1\"' >&2"
    monkeypatch.setenv("JAVA_HOME", str(fake_java(tmp_path / "java", script)))
    assert java.version(java.find()) == 'openjdk version "17.0.1"'


def spice_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "corenlp"
    folder.mkdir()
    monkeypatch.setenv("PRECAP_SPICE", str(folder))
    return folder


def why_no_spice() -> str:
    captions, references = corpus(2)
    return metrics.score(captions, references, ["spice", "rouge"]).unavailable["SPICE"]


def test_spice_says_what_to_put_where(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = spice_folder(tmp_path, monkeypatch)
    assert all(name in why_no_spice() for name in (*spice.JARS, str(folder)))


def fill(folder: Path) -> None:
    lines = []
    for name in spice.JARS:
        (folder / name).write_bytes(name.encode())
        lines.append(f"{hashlib.sha256(name.encode()).hexdigest()}  {name}\n")
    (folder / spice.SUMS).write_text("".join(lines), "utf-8")


def test_spice_checks_its_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = spice_folder(tmp_path, monkeypatch)
    fill(folder)
    (folder / spice.JARS[1]).write_bytes(b"half a download")
    assert "is not the file that SHA256SUMS names" in why_no_spice()
    (folder / spice.SUMS).unlink()
    assert "sha256sum *.jar" in why_no_spice()


def test_spice_scores_are_read_by_image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(spice_folder(tmp_path, monkeypatch))
    answer = (
        '[{"image_id": 1, "scores": {"All": {"f": 0.25}}}, '
        '{"image_id": 0, "scores": {"All": {"f": NaN}}}]'
    )
    script = f"""while [ "$1" != -out ]; do shift; done; echo '{answer}' > "$2" """
    monkeypatch.setenv("JAVA_HOME", str(fake_java(tmp_path / "java", script)))
    captions, references = corpus(2)
    found = metrics.score(captions, references, ["spice"])
    assert found.per_image["SPICE"] == {"img0": 0.0, "img1": 0.25}
    assert found.corpus["SPICE"] == 0.125


def test_spice_that_leaves_images_out_is_unavailable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(spice_folder(tmp_path, monkeypatch))
    script = """while [ "$1" != -out ]; do shift; done; echo '[]' > "$2" """
    monkeypatch.setenv("JAVA_HOME", str(fake_java(tmp_path / "java", script)))
    assert why_no_spice() == "SPICE scored 0 of 2 captions"
