"""A small made-up corpus, and programs that pretend to be Java."""

import random
from pathlib import Path

NOUNS = ["dog", "cat", "man", "woman", "horse", "boat", "train", "child", "bird", "car"]
VERBS = ["runs", "sits", "jumps", "sleeps", "waits"]
PLACES = ["on the grass", "in a field", "near the water", "at night", "by a red house"]


def caption(choose: random.Random) -> str:
    words = (choose.choice(NOUNS), choose.choice(VERBS), choose.choice(PLACES))
    return f"A {words[0]} {words[1]} {words[2]}."


def corpus(images: int = 30, seed: int = 0) -> tuple[dict[str, str], dict[str, list[str]]]:
    """(predictions, references), five references per image, one often equal to the prediction."""
    choose = random.Random(seed)
    predictions = {f"img{i}": caption(choose) for i in range(images)}
    references = {image: [caption(choose) for _ in range(5)] for image in predictions}
    for image in choose.sample(sorted(references), images // 3):
        references[image][0] = predictions[image]
    return predictions, references


def fake_java(home: Path, script: str) -> Path:
    """A folder for JAVA_HOME whose ``java`` is a shell script."""
    program = home / "bin" / "java"
    program.parent.mkdir(parents=True)
    program.write_text(f"#!/bin/sh\n{script}\n", "utf-8")
    program.chmod(0o755)
    return home
