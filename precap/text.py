"""Captions as text: one line each, and the Penn Treebank words that COCO's evaluation scores.

``tokenize`` gives what ``PTBTokenizer -preserveLines -lowerCase`` of Stanford CoreNLP 3.4.1 gives
for a line, less the punctuation that pycocoevalcap drops. The Java program is a maximal-munch
scanner: at each place the rule that matches the most text wins, and the earlier rule on a tie;
what a rule wants to see *after* its token counts as matched text. Here each rule is a regular
expression whose first group is the token. It works on UTF-16 units, hence the surrogates.
"""

import re
from collections.abc import Iterator
from functools import cache

from precap._text_rules import ABBREVIATIONS, rules

# Everything that Java, Python or a terminal takes for the end of a line, and NUL.
_BREAKS = re.compile("[\x00\n\r\x0b\x0c\x1c-\x1e\x85\u2028\u2029]+")
_SURROGATES = re.compile("[\ud800-\udfff]")
_ASTRAL = re.compile("[\U00010000-\U0010ffff]")
_DROPPED = frozenset(["''", "'", "``", "`", ".", "?", "!", ",", ":", "-", "--", "...", ";"])

# Most of every caption: plain words followed by a space, a comma or the final full stop.
_PLAIN = re.compile(r"([A-Za-z]+)(?:(?:[ \n]+|, )(?![\t\u00a0\u2000-\u200a\u3000])|(\.\n))")
_SPLIT = {"cannot": 3, "gonna": 3, "gotta": 3, "wanna": 3, "lemme": 3, "gimme": 3}


def normalise(caption: str) -> str:
    """The caption on one line: runs of line separators become one space, the ends are stripped.

    Half characters (lone surrogates), which no file can hold, become U+FFFD.
    """
    return _BREAKS.sub(" ", _SURROGATES.sub("\ufffd", caption)).strip()


def tokenize(caption: str) -> list[str]:
    """The lower-case words of one caption, without punctuation, equal to the Java tokeniser's.

    A caption's words never depend on its neighbours (in the Java program they can: ``plan b.``
    is split before a line that starts with ``The`` and kept whole otherwise). Brackets stay, as
    ``-lrb-`` and the like, since COCO's evaluation keeps them.
    """
    text = normalise(caption) + "\n"
    astral = not text.isascii() and _ASTRAL.search(text) is not None
    if astral:
        text = _ASTRAL.sub(_halves, text)
    line = " ".join(token.lower() for token in _scan(text)).rstrip()
    if astral:
        line = line.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    return [token for token in line.split(" ") if token and token not in _DROPPED]


def _halves(match: re.Match[str]) -> str:
    high, low = divmod(ord(match[0]) - 0x10000, 0x400)
    return chr(0xD800 + high) + chr(0xDC00 + low)


def _scan(text: str) -> Iterator[str]:
    """The tokens of ``text``, which ends in a line feed."""
    fit = [(rule, text.rfind(rule.needs)) for rule in rules() if rule.needs in text]
    at, end = 0, len(text)
    while at < end:
        if (plain := _PLAIN.match(text, at)) and _ordinary(plain):
            yield plain[1]
            at = plain.end()
            continue
        found: re.Match[str] | None = None
        best = at
        for rule, last in fit:
            if at <= last and (match := rule.match(text, at)) and match.end() > best:
                found, best, action = match, match.end(), rule.action
        if found is None:  # a character outside the scanner's alphabet is dropped
            at += 1
            continue
        token = found[1]
        word, used = action(token)
        at += used
        if word:
            yield word


def _ordinary(plain: re.Match[str]) -> bool:
    word = plain[1].lower()
    return word not in _SPLIT and not (plain[2] and _ends_in_full_stop(word))


@cache
def _ends_in_full_stop(word: str) -> bool:
    return len(word) == 1 or ABBREVIATIONS.fullmatch(word) is not None
