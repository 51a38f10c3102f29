"""Captions as text: the tokeniser equals the Java one, and no caption can hold a line end."""

import gzip
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from precap.text import normalise, tokenize
from tests.java_words import hostile, java_words, need_java

GOLDEN = Path(__file__).parent / "golden" / "text" / "words.jsonl"
DATA = Path(__file__).parent.parent.parent / "shared" / "data"


def golden() -> list[dict[str, str]]:
    return [json.loads(line) for line in GOLDEN.read_text("utf-8").split("\n") if line]


def test_words_of_the_java_tokeniser_as_recorded() -> None:
    wrong = [g for g in golden() if " ".join(tokenize(g["caption"])) != g["words"]]
    assert len(golden()) > 400
    assert wrong == []


@pytest.mark.parametrize(
    ("caption", "words"),
    [
        ("A dog, running.", "a dog running"),
        ("Two people can't see it's 3/4 full!", "two people ca n't see it 's 3/4 full"),
        ("I cannot; they're gonna (maybe) go...", "i can not they 're gon na -lrb- maybe -rrb- go"),
        ("a t.v. near St. Louis vs. Mr. Smith etc.", "a t.v. near st. louis vs. mr. smith etc."),
        ("a STOP-sign at 5th Ave. & Main", "a stop-sign at 5th ave. & main"),
        ('a sign "exit" and a “café”', "a sign exit and a café"),
        ("call 555-1234 or (555) 123-4567", "call 555-1234 or -lrb-555-rrb-\u00a0123-4567"),
        ("😀 smiling 😀 dog", "smiling dog"),
        ("", ""),
        (" . ", ""),
    ],
)
def test_words_by_example(caption: str, words: str) -> None:
    assert " ".join(tokenize(caption)) == words


def test_a_letter_keeps_its_full_stop_whatever_caption_comes_next() -> None:
    """In the Java program it depends on the next line; here a caption stands alone."""
    assert tokenize("the letter P.") == ["the", "letter", "p."]


@pytest.mark.parametrize("end", [*"\n\r\x0b\x0c\x1c\x1d\x1e\x85\u2028\u2029", "\r\n", "\x00"])
def test_no_line_end_survives_normalising(end: str) -> None:
    assert normalise(f"{end}a dog{end}{end}runs{end}") == "a dog runs"


@given(st.text())
def test_a_normalised_caption_is_one_line_that_a_file_can_hold(caption: str) -> None:
    line = normalise(caption)
    assert len(line.splitlines()) <= 1
    assert normalise(line) == line
    assert line.encode("utf-8").decode("utf-8") == line


@given(st.text(st.characters(codec="utf-8")))
def test_words_are_never_empty_and_hold_no_plain_space(caption: str) -> None:
    words = tokenize(caption)
    assert all(word and " " not in word for word in words)
    assert tokenize(normalise(caption)) == words


def test_half_a_character_is_no_reason_to_stop() -> None:
    assert tokenize("a dog \ud83d runs") == ["a", "dog", "runs"]


@pytest.mark.java
def test_hostile_strings_equal_java(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    need_java()
    captions = [normalise(caption) for caption in hostile(10_000, seed=1)]
    expected = java_words(captions, tmp_path)
    wrong = [c for c, e in zip(captions, expected, strict=True) if " ".join(tokenize(c)) != e]
    with capsys.disabled():
        print(f"\ntokeniser: {len(wrong)} of {len(captions):,} hostile strings differ from Java")
    assert len(wrong) / len(captions) < 0.001, wrong[:3]


@pytest.mark.java
def test_every_character_below_u10000_equals_java(tmp_path: Path) -> None:
    need_java()
    blocks = [range(start, start + 16) for start in range(0, 0x10000, 16)]
    lines = [" ".join(f"a{chr(c)} {chr(c)}1" for c in block) for block in blocks]
    captions = [normalise(line) for line in lines if not line.isascii() or line.isprintable()]
    expected = java_words(captions, tmp_path)
    wrong = [c for c, e in zip(captions, expected, strict=True) if " ".join(tokenize(c)) != e]
    assert len(captions) > 4000
    assert wrong == []


@pytest.mark.java
def test_every_caption_of_the_real_data_equals_java(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if not DATA.is_dir():
        pytest.skip(f"the real captions are not here ({DATA.name}/ beside the project)")
    need_java()
    captions = sorted({normalise(caption) for caption in real_captions()})
    expected = java_words(captions, tmp_path)
    wrong = [c for c, e in zip(captions, expected, strict=True) if " ".join(tokenize(c)) != e]
    with capsys.disabled():
        print(f"\ntokeniser: {len(wrong)} of {len(captions):,} different real captions differ")
    assert wrong == []


def real_captions() -> Iterator[str]:
    """All captions of COCO, Flickr8k and Flickr30k, references and published outputs."""
    coco = json.loads((DATA / "coco" / "captions" / "captions_val2017.json").read_text("utf-8"))
    yield from (row["caption"] for row in coco["annotations"])
    for name in ("coco/captions/karpathy_test_refs.json", "coco/images/captions.json"):
        for row in json.loads((DATA / name).read_text("utf-8")):
            yield from row["captions"]
    for path in sorted((DATA / "coco" / "published_outputs").glob("*.json")):
        rows = json.loads(path.read_text("utf-8"))
        yield from (row["caption"] for row in rows if isinstance(rows, list))
    for row in json.loads((DATA / "flickr8k" / "captions.json").read_text("utf-8")):
        yield from row["captions"]
    tokens = (DATA / "flickr8k" / "text" / "Flickr8k.token.txt").read_text("utf-8")
    yield from (line.split("\t")[1] for line in tokens.split("\n") if "\t" in line)
    for path in sorted((DATA / "flickr30k").glob("*.en.gz")):
        yield from gzip.decompress(path.read_bytes()).decode("utf-8").split("\n")
