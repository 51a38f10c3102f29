import json
import pickle
from collections import Counter, defaultdict
from pathlib import Path

import pytest

from precap.errors import ConfigError, DataError
from precap.train import vocab
from precap.train.settings import Text
from tests.command import Precap

CAPTIONS = ["A dog runs.", "a dog sits", "A cat, a dog!", "the cat's bed"]


def made(**options: object) -> vocab.Vocabulary:
    return vocab.make(Text(**options), {"train": CAPTIONS, "test": ["never seen words"]})  # type: ignore[arg-type]


def test_words_by_frequency_then_alphabet() -> None:
    words = made(threshold=2)
    assert isinstance(words, vocab.WordVocabulary)
    assert words.itos[4:] == ["a", "dog", "cat"]
    assert words.encode("A dog chases THE cat") == [4, 5, 3, 3, 6]
    assert words.decode([1, 4, 5, 2, 6]) == "a dog"
    assert words.number("cat") == 6
    assert words.number("zebra") is None


@pytest.mark.parametrize("layout", ["precap", "meshed", "self-critical"])
def test_files_go_round(layout: str, tmp_path: Path) -> None:
    words = made(threshold=2, layout=layout)
    vocab.write(words, tmp_path / "v.json")
    again = vocab.read(tmp_path / "v.json")
    assert again.as_json() == words.as_json()
    assert again.encode(CAPTIONS[2]) == words.encode(CAPTIONS[2])


def test_the_published_layouts() -> None:
    meshed, shared = made(threshold=2, layout="meshed"), made(threshold=2, layout="self-critical")
    assert (meshed.words.unk, meshed.words.pad, meshed.words.bos, meshed.words.eos) == (0, 1, 2, 3)
    assert (shared.words.pad, shared.words.bos, shared.words.eos) == (0, 0, 0)
    assert isinstance(shared, vocab.WordVocabulary)
    assert shared.itos[1:] == ["a", "dog", "cat", "UNK"]  # first occurrence, UNK last
    assert shared.words.unk == 4
    complete = made(threshold=1, layout="self-critical")
    assert complete.words.unk == -1
    assert complete.encode("a zebra") == complete.encode("a")


def test_foreign_files(tmp_path: Path) -> None:
    (tmp_path / "talk.json").write_text(json.dumps({"ix_to_word": {"1": "a", "2": "UNK"}}))
    talk = made(vocabulary="cocotalk", files=tmp_path / "talk.json")
    assert talk.encode("a dog") == [1, 2]
    itos = [*vocab.LAYOUTS["meshed"], "a", "dog"]
    (tmp_path / "grit.json").write_text(json.dumps({"itos": itos, "stoi": {}, "freqs": {}}))
    grit = made(vocabulary="hin", files=tmp_path / "grit.json")
    assert grit.encode("a dog flies") == [4, 5, 0]
    (tmp_path / "bad.json").write_text(json.dumps({"words": 3}))
    with pytest.raises(DataError, match="neither 'ix_to_word' nor 'itos'"):
        made(vocabulary="hin", files=tmp_path / "bad.json")
    with pytest.raises(ConfigError, match="no vocabulary file"):
        made(vocabulary="hin", files=tmp_path / "absent.json")


def test_pieces_say_everything(tmp_path: Path) -> None:
    pieces = made(vocabulary="bpe", size=300)
    for caption in [*CAPTIONS, "Ünïcode ✓ zebra"]:
        assert pieces.decode([*pieces.encode(caption), pieces.words.eos, 5]) == caption
    vocab.write(pieces, tmp_path / "v.json")
    assert vocab.read(tmp_path / "v.json").encode(CAPTIONS[0]) == pieces.encode(CAPTIONS[0])


def test_gpt2_from_local_files(tmp_path: Path) -> None:
    letters = {c: i for i, c in enumerate("!.adgoĠ")}
    table = {**letters, "do": 7, "dog": 8, "Ġdog": 9, "<|endoftext|>": 10}
    (tmp_path / "vocab.json").write_text(json.dumps(table))
    (tmp_path / "merges.txt").write_text("#version: 0.2\nd o\ndo g\nĠ dog\n")
    plain = made(vocabulary="gpt2", files=tmp_path)
    assert plain.encode("a dog") == [2, 9]
    assert (plain.words.pad, plain.words.bos, plain.words.eos) == (10, 10, 10)
    stopped = made(vocabulary="gpt2", files=tmp_path, stop=".")
    assert stopped.encode("a dog.") == [2, 9]  # the stop is the end token, the loader adds it
    assert (stopped.words.pad, stopped.words.eos) == (0, 1)
    assert stopped.decode([2, 9, 1, 2]) == "a dog"
    with pytest.raises(ConfigError, match=r"vocab\.json"):
        made(vocabulary="gpt2", files=tmp_path / "nowhere")


def test_only_the_counted_splits_count() -> None:
    assert made(threshold=1).encode("seen") == [3]
    with pytest.raises(DataError, match=r"No captions in splits val.*train, test"):
        made(counted=("val",))


def default_unk_index() -> int:
    return 0


class Vocab:
    """The layout of HIN's and M2's vocab.pkl."""

    def __init__(self, itos: list[str]) -> None:
        self.freqs, self.itos, self.vectors = Counter(a=9, dog=5), itos, None
        self.stoi = defaultdict(default_unk_index, {word: i for i, word in enumerate(itos)})


MESHED = ["<unk>", "<pad>", "<bos>", "<eos>", "a", "dog", " ", '"']


def test_a_pickled_vocabulary_is_converted_and_then_read(precap: Precap, tmp_path: Path) -> None:
    source, out = tmp_path / "vocab.pkl", tmp_path / "vocab.json"
    source.write_bytes(pickle.dumps(Vocab(MESHED)))
    with pytest.raises(ConfigError, match="data labels vocabulary"):
        made(vocabulary="hin", files=source)
    command = ("data", "labels", "vocabulary", source, "--out", out)
    assert "--allow-pickle" in precap.refused(*command, code=2)
    assert "8 words" in precap(*command, "--allow-pickle")
    found = made(vocabulary="hin", files=out)
    assert isinstance(found, vocab.WordVocabulary)
    assert found.itos == MESHED
    assert found.encode("a dog flies") == [4, 5, 0]
    assert (found.words.unk, found.words.pad, found.words.bos, found.words.eos) == (0, 1, 2, 3)


def test_a_vocabulary_that_wants_to_run_something_is_refused(
    precap: Precap, tmp_path: Path
) -> None:
    class Bomb:
        def __reduce__(self) -> tuple[object, ...]:
            return Path.touch, (tmp_path / "exploded",)

    source = tmp_path / "vocab.pkl"
    command = ("data", "labels", "vocabulary", source, "--out", tmp_path / "v", "--allow-pickle")
    bad = Vocab(MESHED)
    bad.vectors = Bomb()  # type: ignore[assignment]
    source.write_bytes(pickle.dumps(bad))
    assert "refused" in precap.refused(*command, code=4)
    source.write_bytes(pickle.dumps({"itos": MESHED}))
    assert "no list of words" in precap.refused(*command, code=4)
    source.write_bytes(pickle.dumps(Vocab(MESHED[4:])))
    assert "first four words" in precap.refused(*command, code=4)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["vocab.pkl"]


def test_a_vocabulary_without_its_file_says_which_file() -> None:
    with pytest.raises(ConfigError, match=r"vocab\.json and merges\.txt.*text\.vocabulary=bpe"):
        made(vocabulary="gpt2")
    with pytest.raises(ConfigError, match=r"text\.files=FILE"):
        made(vocabulary="hin")
