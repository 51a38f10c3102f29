"""Searches against exhaustive enumeration, and against each other, on a real small head."""

import itertools
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from precap.errors import ConfigError
from precap.train.contract import Memory, State, Words
from precap.train.decode import Decoded, changed, decode
from precap.train.heads.transformer import PLUGIN
from precap.train.settings import Decode

WORDS = Words(size=7, pad=0, bos=1, eos=2, unk=3)
LONGEST = 3


def small(seed: int, words: Words = WORDS) -> tuple[Any, Memory]:
    torch.manual_seed(seed)
    config = PLUGIN.Config(
        dim=16, heads=2, hidden=16, encoder_layers=1, decoder_layers=2, tie=False
    )
    head = PLUGIN(config, {"region": 6}, words).eval()
    with torch.no_grad():
        head.output.weight *= 3  # opinions, so that no two captions tie
        return head, head.encode({"region": torch.randn(3, 4, 6)}, {})


@pytest.fixture(autouse=True)
def _no_grad() -> Any:
    with torch.no_grad():
        yield


def everything(head: Any, memory: Memory, words: Words) -> list[list[tuple[float, list[int]]]]:
    """Per image, every caption of up to LONGEST tokens with its score, best first."""
    others = [w for w in range(words.size) if w not in (words.eos, words.unk)]
    rows = [
        [*body, words.eos] for n in range(LONGEST) for body in itertools.product(others, repeat=n)
    ] + [list(body) for body in itertools.product(others, repeat=LONGEST)]
    padded = [[words.bos, *r, *[words.pad] * (LONGEST - len(r))] for r in rows]
    table = torch.tensor(padded)
    # Step by step and not through forward: here pad is a word like any other.
    state, total = head.start(memory, len(rows)), torch.zeros(3, len(rows))
    for t in range(LONGEST):
        tokens = table[:, t].expand(3, -1)
        logits, state = head.step(memory, state, tokens, t)
        logp = logits.log_softmax(-1).gather(-1, table[:, t + 1].expand(3, -1)[..., None])[..., 0]
        total += torch.where(torch.tensor([t < len(r) for r in rows]), logp, 0.0)
    ranked = []
    for scores in total:
        pairs = zip(scores.tolist(), rows, strict=True)
        ranked.append(sorted(pairs, key=lambda pair: -pair[0]))
    return ranked


def written(found: Decoded, image: int, rank: int, words: Words) -> list[int]:
    row: list[int] = found.tokens[image, rank].tolist()
    return row[: row.index(words.eos) + 1] if words.eos in row else row


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("finished", ["kept", "released"])
def test_a_beam_wide_enough_finds_the_best_captions(seed: int, finished: Any) -> None:
    head, memory = small(seed)
    best = everything(head, memory, WORDS)
    config = Decode(beam=200, longest=LONGEST, finished=finished, all_beams=True)
    found = decode(head, memory, config, WORDS)
    for image in range(3):
        for rank in range(5):
            score, caption = best[image][rank]
            assert written(found, image, rank, WORDS) == caption
            assert found.scores[image, rank].item() == pytest.approx(score, abs=1e-4)


def test_scores_are_sums_of_logprobs() -> None:
    head, memory = small(0)
    found = decode(head, memory, Decode(beam=3, longest=6), WORDS)
    torch.testing.assert_close(found.logprobs.sum(-1), found.scores)
    assert bool((found.scores[:, :-1] >= found.scores[:, 1:]).all())


@pytest.mark.parametrize("words", [WORDS, Words(7, 0, 0, 0, 6)])
def test_leaving_early_changes_no_best_caption(words: Words) -> None:
    for seed in range(2):
        head, memory = small(seed, words)
        for finished in ("kept", "released"):
            config = Decode(beam=3, longest=12, finished=finished)  # type: ignore[arg-type]
            early = decode(head, memory, config, words)
            late = decode(head, memory, replace(config, all_beams=True), words)
            for image in range(3):
                assert written(early, image, 0, words) == written(late, image, 0, words)


def test_greedy_takes_the_likeliest_word_each_time() -> None:
    head, memory = small(1)
    found = decode(head, memory, Decode(beam=1, longest=8), WORDS)
    tokens = torch.cat([torch.full((3, 1, 1), WORDS.bos), found.tokens], -1)
    logits = head(memory, tokens[..., :-1])
    logits[..., WORDS.unk] = float("-inf")
    after = (found.tokens == WORDS.eos).cumsum(-1) - (found.tokens == WORDS.eos).long()
    torch.testing.assert_close(logits.argmax(-1)[after == 0], found.tokens[after == 0])


class Scripted:
    """A head whose logits depend on the last word only: row ``w`` of a table."""

    def __init__(self, table: Tensor) -> None:
        self.table = table

    def start(self, memory: Memory, width: int) -> State:
        return {"none": torch.zeros(len(memory["image"]), width)}

    def step(self, memory: Memory, state: State, tokens: Tensor, t: int) -> tuple[Tensor, State]:
        return self.table[tokens].log(), state


ONE = {"image": torch.zeros(1, 1)}


def chances(**rows: list[float]) -> Scripted:
    """Probabilities of words 0..6 after word w<n>; the rest uniform."""
    table = torch.full((7, 7), 1 / 7)
    for name, row in rows.items():
        table[int(name[1:])] = torch.tensor(row) + 1e-9
    return Scripted(table)


def test_sampling_follows_the_probabilities() -> None:
    torch.manual_seed(0)
    head = chances(w1=[0, 0, 0.2, 0, 0.5, 0.3, 0], w4=[0, 0, 1, 0, 0, 0, 0])
    how = Decode(sample=True, beam=4000, longest=2, suppress_unk=False)
    first = decode(head, ONE, how, WORDS).tokens[0, :, 0]
    shares = torch.bincount(first, minlength=7) / 4000
    torch.testing.assert_close(shares, torch.tensor([0, 0, 0.2, 0, 0.5, 0.3, 0]), atol=0.03, rtol=0)
    top = decode(head, ONE, replace(how, top_k=2), WORDS).tokens[0, :, 0]
    assert set(top.tolist()) == {4, 5}
    nucleus = decode(head, ONE, replace(how, top_p=0.4), WORDS).tokens[0, :, 0]
    assert set(nucleus.tolist()) == {4}
    cold = decode(head, ONE, replace(how, temperature=0.05), WORDS).tokens[0, :, 0]
    assert set(cold.tolist()) == {4}


def test_rules() -> None:
    head = chances(
        w1=[0, 0, 0.1, 0.6, 0.3, 0, 0],
        w4=[0, 0, 0.1, 0, 0, 0.9, 0],
        w5=[0, 0, 0.6, 0, 0.4, 0, 0],
    )
    plain = Decode(beam=1, longest=9)
    assert decode(head, ONE, plain, WORDS).tokens.tolist() == [[[4, 5, 2]]]
    unknown = decode(head, ONE, replace(plain, suppress_unk=False), WORDS)
    assert unknown.tokens[0, 0, 0] == WORDS.unk
    longer = decode(head, ONE, replace(plain, shortest=4), WORDS).tokens[0, 0].tolist()
    assert longer[:5] == [4, 5, 4, 5, 2]
    ended = decode(head, ONE, replace(plain, bad_endings=True), WORDS, bad_endings=[5])
    assert ended.tokens[0, 0].tolist() == [4, 5, 4, 5, 4, 5, 4, 5, 4]  # never allowed to end
    blocked = replace(plain, shortest=9, block_trigrams=True)
    row = decode(head, ONE, blocked, WORDS).tokens[0, 0].tolist()
    trigrams = [tuple(row[i : i + 3]) for i in range(len(row) - 2)]
    assert len(set(trigrams)) == len(trigrams)


def test_length_penalty_prefers_the_better_mean() -> None:
    head = chances(
        w1=[0, 0, 0.5, 0, 0.5, 0, 0], w4=[0, 0, 0, 0, 0, 1, 0], w5=[0, 0, 0.9, 0, 0, 0, 0.1]
    )
    short = decode(head, ONE, Decode(beam=2, longest=5), WORDS).tokens[0, 0].tolist()
    long = decode(head, ONE, Decode(beam=2, longest=5, length_penalty=1.0), WORDS).tokens[0, 0]
    assert short[0] == WORDS.eos
    assert long[:3].tolist() == [4, 5, 2]


def test_groups_differ() -> None:
    head = chances(w1=[0, 0, 0, 0, 0.6, 0.4, 0])
    alike = decode(head, ONE, Decode(beam=2, longest=1), WORDS).tokens[0, :, 0].tolist()
    one = Decode(beam=2, groups=2, diversity=0.0, longest=1)
    same = decode(head, ONE, one, WORDS).tokens[0, :, 0].tolist()
    apart = decode(head, ONE, replace(one, diversity=2.0), WORDS).tokens[0, :, 0].tolist()
    assert alike == [4, 5]
    assert same == [4, 4]
    assert sorted(apart) == [4, 5]


def test_a_way_to_decode_is_changed_by_name() -> None:
    recipe = Decode(beam=4, groups=2, longest=30)
    assert changed(recipe, {}) == recipe
    assert changed(recipe, {}, beam=5) == Decode(beam=5, longest=30)
    assert changed(recipe, {"groups": 5}, beam=5).groups == 5
    assert changed(recipe, {"length_penalty": 1, "top_p": 0.9, "sample": True}).top_p == 0.9


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"lenght_penalty": 1}, "Did you mean 'length_penalty'"),
        ({"beam": "many"}, "beam.*many"),
        ({"beam": 0}, "beam.*greater than 0"),
        ({"groups": 2}, r"Set decode\.beam=4"),
        ({"top_k": 5}, r"decode\.sample=true"),
    ],
)
def test_a_way_to_decode_that_cannot_be_says_why(values: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        changed(Decode(), values)
