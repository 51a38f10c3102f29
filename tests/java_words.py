"""What pycocoevalcap's Java tokeniser makes of captions, and a generator of hostile ones."""

import os
import random
import shutil
import subprocess
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

import pytest

JAR = "stanford-corenlp-3.4.1.jar"
PUNCTUATION = "'' ' `` ` -LRB- -RRB- -LCB- -RCB- . ? ! , : - -- ... ;"
#: Between two captions, so that neither a look ahead nor an open attribute reaches the next one.
BETWEEN = "'\" zq"

#: The hostile alphabet: everything the scanner has a rule for, and much that it has none for.
WORDS = (
    "a man dog The A An Mr. Mrs. Dr. St. Ave. Inc. Co. Ltd. Pty. etc. vs. U.S. U.K. Ph.D. "
    "a.m. p.m. No. Fig. ca. Jan. Sept. Miss. Wash. I. e.g. i.e. cannot gonna wanna lemme "
    "can't don't I'm it's they're we've he'll y'all 'twas 'tis o'clock rock'n'roll "
    "d'Avignon O'Neil cap'n c'mon T-shirt state-of-the-art pro-life anti-war C++ C# A&P "
    "AT&T R&B file.txt index.html photo.jpg http://a.b/c?d=e www.example.com x@y.org "
    "@user #tag &amp; &lt; &gt; &quot; &apos; &nbsp; &mdash; &#8217; &eacute; <b> </b> "
    "0 1 7 42 007 1990s 3.14 1,000 12:30 1/2 3/4 1-2 10-20-2014 50% $5 €9 £3 "
)
PIECES = (
    *[" "] * 12,
    *WORDS.split(),
    *["<br/>", "<a href='x'>", "<a b='"],
    *["555-1234", "(555) 123-4567", "1st", "+5", "-3", "x2", "½", "¼", "⅓", "²", "₂", "٣"],
    *".,;:!?-_/\\|*+=~^%&@#$\"'`()[]{}<>",
    *["...", "--", "---", "-----", "''", "``", "!!", "?!", ". . .", ":)", ":-(", ";D", "^_^"],
    *["<3", "|||"],
    *"‘’‚‛“”„‟‹›«»–—―…·•§©®°±×÷¡¿¢¥€",
    *"\u00a0\u00ad\u2002\u2003\u2009\u200b\u200c\u200d\u200e\u202f\u2060\u3000\ufeff\t\x01\x07",
    *"\x0b\x0c\x1c\x1d\x1e\x1f\x7f\x80\x85\x91\x92\x93\x94\x96\u2028\u2029\r\n",
    *"éüñçøßİıſKÅΩωσςжЯ中日あア한א ش ٠१ा์",
    *["e\u0301", "n\u0303", "😀", "👩‍👩‍👧", "🇫🇷", "𝒜", "𠀀", "ﬁ", "Ǆ", "ª", "º", "™", "№"],
    *["Ⅷ", "ⓐ"],
)


def hostile(count: int, seed: int) -> list[str]:
    """``count`` strings of ``PIECES``: one empty, one blank, one of 60,000 characters."""
    choose = random.Random(seed)
    made = ["", " "]
    while len(made) < count - 1:
        glue = choose.choice(("", "", " "))
        made.append(
            glue.join(choose.choice(PIECES) for _ in range(choose.choice((1, 2, 3, 5, 8, 13, 21))))
        )
    return [*made, "".join(choose.choice(PIECES) for _ in range(40_000))[:60_000]]


def need_java() -> None:
    """Skip where there is no Java; in CI that is a failure."""
    if shutil.which("java") is None:
        if os.environ.get("CI") == "true":
            pytest.fail("CI needs a Java runtime: .ci/run installs default-jre-headless")
        pytest.skip("there is no Java runtime here")


def java_words(captions: Sequence[str], folder: Path) -> list[str]:
    """Each normalised caption as the Java tokeniser splits it, punctuation dropped as COCO does."""
    source = folder / "captions.txt"
    lines = (line for caption in captions for line in (caption, BETWEEN))
    source.write_bytes("\n".join(lines).encode())
    spec = find_spec("pycocoevalcap")
    assert spec is not None
    assert spec.submodule_search_locations is not None
    jar = Path(spec.submodule_search_locations[0]) / "tokenizer" / JAR
    command = ["java", "-cp", str(jar), "edu.stanford.nlp.process.PTBTokenizer"]
    done = subprocess.run(
        [*command, "-preserveLines", "-lowerCase", str(source)],
        capture_output=True,
        timeout=240,
        check=True,
    )
    punctuation = set(PUNCTUATION.split())
    answers = done.stdout.decode("utf-8").split("\n")
    assert len(answers) == 2 * len(captions)
    return [
        " ".join(w for w in line.rstrip().split(" ") if w not in punctuation).strip(" ")
        for line in answers[::2]
    ]
