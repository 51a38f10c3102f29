"""Captions as text: normalising, and splitting into words as COCO's evaluation does."""

import re

# Everything that Java, Python or a terminal takes for the end of a line, and NUL.
_BREAKS = re.compile("[\x00\n\r\x0b\x0c\x1c-\x1e\x85\u2028\u2029]+")
_WORD = re.compile(r"[a-z0-9]+(?:[-_/.,'][a-z0-9]+)*|[^\sa-z0-9.,!?:;'`\"-]")


def normalise(caption: str) -> str:
    """One line: every run of line separators becomes one space, the ends are stripped."""
    return _BREAKS.sub(" ", caption).strip()


def tokenize(caption: str) -> list[str]:
    """Lower-case words without punctuation, as the PTB tokeniser of COCO's evaluation gives."""
    return _WORD.findall(normalise(caption).lower())
