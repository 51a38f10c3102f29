from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from precap.train import documents, losses, prepare, settings, vocab
from precap.train.batch import floats, lengths, parts, shifted
from precap.train.contract import Batch, Words
from precap.train.heads.transformer import PLUGIN
from precap.train.phases import Critic
from precap.train.settings import SelfCritical
from precap.train.vocab import WordVocabulary

APART = Words(9, 0, 1, 2, 3)
SHARED = Words(9, 0, 0, 0, 8)


def tokens(words: Words) -> torch.Tensor:
    b, e, p = words.bos, words.eos, words.pad
    return torch.tensor([[[b, 4, 5, e, p], [b, 6, e, p, p]], [[b, 4, 5, 6, e], [p, p, p, p, p]]])


@pytest.mark.parametrize("words", [APART, SHARED])
def test_what_is_predicted(words: Words) -> None:
    t = tokens(words)
    assert lengths(t, words).tolist() == [[3, 2], [4, 0]]
    inputs, targets, real = shifted(t, words)
    assert targets[real].tolist() == [4, 5, words.eos, 6, words.eos, 4, 5, 6, words.eos]
    assert inputs[0, 1].tolist() == [words.bos, 6, words.pad, words.pad]


class Unpacked:
    """The same head without ``hidden``: the loss takes the full logits."""

    def __init__(self, head: Any) -> None:
        self.head = head

    def __call__(self, memory: Any, inputs: torch.Tensor) -> Any:
        return self.head(memory, inputs)


@pytest.mark.parametrize("words", [APART, SHARED])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_packed_loss_equals_the_plain_formula(words: Words, smoothing: float) -> None:
    torch.manual_seed(0)
    config = PLUGIN.Config(dim=16, heads=2, hidden=16, encoder_layers=1, decoder_layers=1)
    head = PLUGIN(config, {"grid": 6}, words).eval()
    memory = head.encode({"grid": torch.randn(2, 4, 6)}, {})
    t = tokens(words)
    packed, count = losses.cross_entropy(head, memory, t, words, smoothing)
    plain, _ = losses.cross_entropy(Unpacked(head), memory, t, words, smoothing)
    torch.testing.assert_close(packed, plain)
    assert int(count) == 9
    by_hand = torch.zeros(())
    for row, image in [([words.bos, 4, 5], 0), ([words.bos, 6], 0), ([words.bos, 4, 5, 6], 1)]:
        one = {k: v[image : image + 1] for k, v in memory.items()}
        logits = head(one, torch.tensor([[row]]))[0, 0]
        target = torch.tensor([*row[1:], words.eos])
        by_hand = by_hand + F.cross_entropy(
            logits, target, reduction="sum", label_smoothing=smoothing
        )
    torch.testing.assert_close(packed, by_hand)
    logp, real = losses.logprobs(head, memory, t, words)
    if not smoothing:
        torch.testing.assert_close(-logp.sum(), packed)
    assert not logp[~real].any()


def test_baselines() -> None:
    rewards = torch.tensor([[1.0, 2.0, 6.0]])
    others = losses.advantages(rewards, "others")
    torch.testing.assert_close(others, torch.tensor([[1 - 4.0, 2 - 3.5, 6 - 1.5]]))
    mean = losses.advantages(rewards, "mean")
    torch.testing.assert_close(mean, torch.tensor([[-2.0, -1.0, 3.0]]))
    greedy = losses.advantages(rewards, "greedy", torch.tensor([2.0]))
    torch.testing.assert_close(greedy, torch.tensor([[-1.0, 0.0, 4.0]]))


def test_ways_to_reduce() -> None:
    logp = torch.tensor([[[-1.0, -2.0, 0.0], [-3.0, 0.0, 0.0]]])
    real = torch.tensor([[[True, True, False], [True, False, False]]])
    advantage = torch.tensor([[1.0, -1.0]])

    def value(reduce: str) -> float:
        total, weight = losses.policy_gradient(logp, real, advantage, reduce, steps=4)
        return float(total / weight)

    assert value("tokens") == pytest.approx((3 - 3) / 3)
    assert value("caption") == pytest.approx((1.5 - 3) / 2)
    assert value("steps") == pytest.approx((3 / 4 - 3 / 4) / 2)


@pytest.mark.parametrize("count_eos", [True, False])
def test_rewards_end_with_the_caption(count_eos: bool) -> None:
    config = SelfCritical(count_eos=count_eos)
    captions = {"a": [[4, 5], [4, 6]], "b": [[7], [7, 7]]}
    reward = losses.Reward(captions, APART, config)
    full = torch.tensor([[[4, 5, 2, 0], [4, 5, 7, 7]], [[7, 2, 0, 0], [5, 2, 0, 0]]])
    made = reward(["a", "b"], full)
    assert made[0, 0] > made[0, 1] > 0
    assert made[1, 1] == 0
    longer = torch.cat([full, torch.zeros(2, 2, 3, dtype=torch.long)], -1)
    assert torch.equal(made, reward(["a", "b"], longer))
    # A caption cut by the length limit has no end token, and loses by it if the end counts.
    cut = reward(["a"], torch.tensor([[[4, 5]]]))
    whole = reward(["a"], torch.tensor([[[4, 5, 2]]]))
    assert bool(whole > cut) is count_eos


def test_until_end() -> None:
    rows = np.array([[4, 5, 2, 0], [4, 5, 6, 7], [2, 0, 0, 0]])
    with_end = [[4, 5, 2, -1], [4, 5, 6, 7], [2, -1, -1, -1]]
    assert losses.until_end(rows, APART, True).tolist() == with_end
    assert losses.until_end(rows, APART, False)[2].tolist() == [-1, -1, -1, -1]


def test_parts_of_a_batch() -> None:
    features = {"grid": torch.arange(5.0).half()[:, None]}
    masks = {"grid": torch.ones(5, 1, dtype=torch.bool)}
    batch = Batch(list("abcde"), features, masks, torch.zeros(5, 1, 2, dtype=torch.long))
    cut = parts(batch, 2)
    assert [part.ids for part in cut] == [["a", "b", "c"], ["d", "e"]]
    assert floats(cut[1]).features["grid"].flatten().tolist() == [3.0, 4.0]
    assert len(parts(batch, 9)) == 5


@pytest.mark.parametrize("count_eos", [True, False])
def test_given_document_frequencies_weigh_the_reward(count_eos: bool, tmp_path: Path) -> None:
    """Those of the captions themselves change nothing; others do."""
    captions = {"a": [[4, 5], [4, 6]], "b": [[7], [7, 7]]}
    names = {4: "a", 5: "dog", 6: "cat", 7: "UNK"}
    sentences = [[{"tokens": [names[n] for n in c]} for c in many] for many in captions.values()]
    images = [{"split": "train", "sentences": some} for some in sentences]
    known = WordVocabulary(["<end>", "a", "dog", "cat", "UNK"], Words(5, 0, 0, 0, 4))
    words, _ = documents.count({"images": images}, known)
    documents.write(words, tmp_path / "own.json")
    documents.write(
        documents.DocumentFrequency({**words.document_frequency, ("a",): 50}, 100),
        tmp_path / "other.json",
    )
    hypotheses = torch.tensor([[[4, 5, 2, 0], [4, 6, 7, 2]], [[7, 2, 0, 0], [5, 2, 0, 0]]])
    number = {name: n for n, name in names.items()}.get

    def reward(file: str | None) -> torch.Tensor:
        given = None if file is None else tmp_path / file
        config = SelfCritical(count_eos=count_eos, frequencies=given)
        made = losses.Reward(captions, APART, config, number=number)
        return made(["a", "b"], hypotheses)

    torch.testing.assert_close(reward("own.json"), reward(None))
    assert not torch.allclose(reward("other.json"), reward(None))


@pytest.mark.parametrize("kind", ["words", "bpe"])
def test_the_words_of_a_file_find_the_numbers_of_any_vocabulary(kind: str, tmp_path: Path) -> None:
    given = {"a": ["a red dog", "a dog runs"], "b": ["the cat", "a cat sits"]}
    flat = {"train": [caption for many in given.values() for caption in many]}
    images = [
        {"split": "train", "sentences": [{"tokens": c.split()} for c in many]}
        for many in given.values()
    ]
    known = vocab.build_words([c.split() for c in flat["train"]], 1, "self-critical")
    documents.write(documents.count({"images": images}, known)[0], tmp_path / "f.json")
    text = {"vocabulary": kind, "threshold": 1, "size": 300}
    plain = settings.resolve({"text": text})
    told = settings.resolve({"text": text, "scst": {"frequencies": tmp_path / "f.json"}})
    words = vocab.make(plain.text, flat)
    said = [words.encode("a dog sits"), words.encode("the cat")]
    rows = torch.full((2, 1, 12), words.words.pad)
    for row, numbers in zip(rows, said, strict=True):
        row[0, : len(numbers) + 1] = torch.tensor([*numbers, words.words.eos])
    rewards = [
        prepare.make_reward(words, ["a", "b"], given, config)(["a", "b"], rows)
        for config in (plain, told)
    ]
    torch.testing.assert_close(*rewards)
    assert (rewards[0] > 0).all()


def test_the_gradient_is_that_of_the_policy_the_samples_come_from() -> None:
    """The mean of grad log p is zero under p itself (Williams, 1992), at any temperature."""
    torch.manual_seed(0)
    config = PLUGIN.Config(dim=8, heads=2, hidden=8, encoder_layers=1, decoder_layers=1)
    head = PLUGIN(config, {"grid": 6}, APART).eval()

    def drift(sampled: float, learned: float) -> float:
        critics = [
            Critic(
                head,
                APART,
                cast(Any, None),
                SelfCritical(samples=20, temperature=t, reduce="caption"),
                3,
                lambda ids, found: torch.rand(found.shape[:2]),
            )
            for t in (sampled, learned)
        ]
        images = [str(i) for i in range(500)]
        batch = Batch(images, {"grid": torch.ones(500, 4, 6)}, {}, torch.zeros(500, 1, 2).long())
        ((share,), many, _) = critics[0].prepare(batch, 1)
        loss, _ = critics[1].loss(replace(share, advantage=torch.ones(500, 20)))
        head.zero_grad()
        (loss / many).backward()
        return float(torch.cat([p.grad.flatten() for p in head.parameters()]).norm())

    assert drift(0.3, 0.3) < 0.1 * drift(0.3, 1.0)
