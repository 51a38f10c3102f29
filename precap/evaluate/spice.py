"""SPICE (Anderson et al., ECCV 2016) through its jar; needs Stanford CoreNLP 3.6.0 beside it.

CoreNLP (two jars, 400 MB, GPL) is not part of pycocoevalcap and is never fetched from here: put
both jars and a SHA256SUMS file that names them into $PRECAP_SPICE, or ~/.cache/precap/spice.
"""

import hashlib
import json
import os
import tempfile
from collections.abc import Sequence
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path

from precap.evaluate import java

JARS = ("stanford-corenlp-3.6.0.jar", "stanford-corenlp-3.6.0-models.jar")
SUMS = "SHA256SUMS"
_MAIN = "edu.anu.spice.SpiceScorer"


def scores(
    hypotheses: Sequence[str], references: Sequence[Sequence[str]], seconds: float | None = None
) -> list[float]:
    """SPICE F-score of each tokenised caption; ``java.Unavailable`` if they cannot be had.

    A caption in which SPICE finds nothing to compare scores 0.
    """
    jars = [*_program(), *corenlp()]
    java.find()
    allowed = 600 + 2.0 * len(hypotheses) if seconds is None else seconds
    rows = [
        {"image_id": i, "test": hypothesis, "refs": list(refs)}
        for i, (hypothesis, refs) in enumerate(zip(hypotheses, references, strict=True))
    ]
    with tempfile.TemporaryDirectory(prefix="precap-spice-") as name:
        folder = Path(name)
        asked, answered = folder / "captions.json", folder / "scores.json"
        asked.write_text(json.dumps(rows), "utf-8")
        arguments = [
            f"-Xmx{_heap()}m",
            *("-cp", os.pathsep.join(map(str, jars))),
            *(_MAIN, str(asked), "-out", str(answered), "-subset", "-silent"),
        ]
        java.run(arguments, "", folder, allowed)
        return _read(answered, len(rows))


def corenlp() -> list[Path]:
    """The two CoreNLP jars, checked against SHA256SUMS."""
    folder = Path(os.environ.get("PRECAP_SPICE") or Path.home() / ".cache" / "precap" / "spice")
    jars = [folder / name for name in JARS]
    if missing := [jar.name for jar in jars if not jar.is_file()]:
        raise java.Unavailable(
            f"SPICE needs {' and '.join(missing)} in {folder} (from stanford-corenlp-full-"
            f"2015-12-09.zip of the Stanford NLP group), and {SUMS} beside them"
        )
    expected = _sums(folder / SUMS)
    for jar in jars:
        if jar.name not in expected:
            raise java.Unavailable(
                f"{folder / SUMS} does not name {jar.name}; where you trust the files, run "
                f"'sha256sum *.jar > {SUMS}' in that folder once"
            )
        if _sha256(jar, jar.stat().st_mtime_ns, jar.stat().st_size) != expected[jar.name]:
            raise java.Unavailable(f"{jar} is not the file that {SUMS} names; fetch it anew")
    return jars


def _sums(path: Path) -> dict[str, str]:
    try:
        lines = path.read_text("utf-8").splitlines()
    except OSError:
        return {}
    pairs = (line.split(maxsplit=1) for line in lines if line.strip())
    return {p[1].lstrip("*"): p[0].lower() for p in pairs if len(p) == 2}


@lru_cache
def _sha256(path: Path, _changed: int, _size: int) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _program() -> list[Path]:
    spec = find_spec("pycocoevalcap")
    folder = Path(next(iter(spec.submodule_search_locations or []))) / "spice" if spec else None
    if folder is None or not (folder / "spice-1.0.jar").is_file():
        raise java.Unavailable("spice-1.0.jar is missing; reinstall pycocoevalcap")
    return [folder / "spice-1.0.jar", *sorted((folder / "lib").glob("*.jar"))]


def _heap() -> int:
    """MiB for Java: 8 GiB as published, but never more than 70 % of this machine's memory."""
    machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**20
    return int(min(8192, 0.7 * machine))


def _read(path: Path, count: int) -> list[float]:
    try:
        rows = json.loads(path.read_text("utf-8"))
        found = {int(row["image_id"]): row["scores"]["All"]["f"] for row in rows}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise java.Unavailable(f"SPICE left no readable scores: {error!r}") from error
    if sorted(found) != list(range(count)):
        raise java.Unavailable(f"SPICE scored {len(found)} of {count} captions")
    values = (found[i] for i in range(count))
    return [float(v) if isinstance(v, int | float) and v == v else 0.0 for v in values]
