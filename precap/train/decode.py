"""From memory to captions: greedy, sampling, beam and diverse beam search, batched over images.

The encoder's keys and values are never copied per hypothesis; self-attention caches live in the
head's State, whose tensors are (B, K, ...) and follow their hypothesis.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from precap.config import as_dict, build
from precap.errors import ConfigError
from precap.train.contract import Memory, State, Words
from precap.train.settings import Decode

#: Words on which no caption should end (self-critical.pytorch's list of bad endings).
_BAD = "a an the in on at for of with before after upon near to is are am and by his her this that"
BAD_ENDINGS = tuple(_BAD.split())

_NEVER = float("-inf")


class Steps(Protocol):
    """The part of a head that decoding needs."""

    def start(self, memory: Memory, width: int) -> State: ...
    def step(
        self, memory: Memory, state: State, tokens: Tensor, t: int
    ) -> tuple[Tensor, State]: ...


@dataclass(frozen=True)
class Decoded:
    """K captions per image, best first (samples: in no order).

    tokens: (B, K, T) int64 up to and with eos, then pad. logprobs: (B, K, T) float32, 0 after eos.
    scores: (B, K) sum of logprobs.
    """

    tokens: Tensor
    logprobs: Tensor
    scores: Tensor


def changed(config: Decode, values: Mapping[str, Any], beam: int | None = None) -> Decode:
    """``config`` with other values, as {"length_penalty": 1.0}; ConfigError when they do not fit.

    beam: short for plain beam search of that width, which ``values`` may change again.
    """
    plain = {"beam": beam, "sample": False, "groups": 1} if beam else {}
    made = build(Decode, {**as_dict(config), **plain, **values}, "decode")
    idle = [name for name in ("temperature", "top_k", "top_p") if name in values]
    if idle and not made.sample:
        raise ConfigError(f"decode.{idle[0]} is for sampling. Add decode.sample=true.")
    return made


def decode(
    head: Steps, memory: Memory, config: Decode, words: Words, bad_endings: Iterable[int] = ()
) -> Decoded:
    """Captions of the images in ``memory`` as ``config`` says. Call in eval mode without grad."""
    rules = Rules(config, words, tuple(bad_endings) if config.bad_endings else ())
    rows = next(iter(memory.values())).shape[0]
    if config.beam > 1 and not config.sample:
        return Beams(rules, rows).search(head, memory)
    return draw(head, memory, rows, rules, config.beam if config.sample else 1)


class Rules:
    """What may come next: log-probabilities with the forbidden words at minus infinity."""

    def __init__(self, config: Decode, words: Words, bad_endings: tuple[int, ...] = ()) -> None:
        self.config, self.words, self.bad_endings = config, words, bad_endings

    def logprobs(self, logits: Tensor, past: Tensor, t: int) -> Tensor:
        """(B, K, V) logits after (B, K, t) words -> (B, K, V) float32."""
        c, words = self.config, self.words
        logp = torch.log_softmax(logits.float(), -1)
        if c.suppress_unk and words.unk >= 0:
            logp[..., words.unk] = _NEVER
        if t < c.shortest:
            logp[..., words.eos] = _NEVER
        elif self.bad_endings and t > 0:
            bad = torch.tensor(self.bad_endings, device=past.device)
            ends = torch.isin(past[..., -1], bad)
            logp[..., words.eos].masked_fill_(ends, _NEVER)
        if c.block_trigrams and t > 2:
            _block(logp, past)
        return logp


def _block(logp: Tensor, past: Tensor) -> None:
    """Forbid every word that would repeat a trigram of the hypothesis' own past (B, K, t)."""
    again = (past[..., :-2] == past[..., -2:-1]) & (past[..., 1:-1] == past[..., -1:])
    third = past[..., 2:]  # (B, K, t-2)
    hits = torch.zeros_like(logp).scatter_add_(-1, third, again.to(logp.dtype))
    logp.masked_fill_(hits > 0, _NEVER)


def draw(head: Steps, memory: Memory, rows: int, rules: Rules, width: int) -> Decoded:
    """``width`` captions per image, word by word: the likeliest or a sample of each next word."""
    c, words = rules.config, rules.words
    state = head.start(memory, width)
    device = next(iter(memory.values())).device
    tokens = torch.full((rows, width), words.bos, device=device)
    past, kept = tokens.new_zeros(rows, width, 0), torch.zeros(rows, width, 0, device=device)
    done = torch.zeros(rows, width, dtype=torch.bool, device=device)
    for t in range(c.longest):
        logits, state = head.step(memory, state, tokens, t)
        logp = rules.logprobs(logits, past, t)  # (B, K, V)
        chosen = _sample(logp, c) if c.sample else logp.argmax(-1)
        picked = logp.gather(-1, chosen[..., None])[..., 0]
        tokens = torch.where(done, words.pad, chosen)
        past = torch.cat([past, tokens[..., None]], -1)
        kept = torch.cat([kept, torch.where(done, 0.0, picked)[..., None]], -1)
        done = done | (tokens == words.eos)
        if bool(done.all()):
            break
    return Decoded(past, kept, kept.sum(-1))


def _sample(logp: Tensor, c: Decode) -> Tensor:
    """(B, K, V) -> (B, K) words drawn at the temperature from the top k or the top p nucleus."""
    scaled = logp / c.temperature
    if c.top_k:
        least = scaled.topk(min(c.top_k, scaled.shape[-1]), -1).values[..., -1:]
        scaled = scaled.masked_fill(scaled < least, _NEVER)
    if c.top_p < 1:
        ordered, at = scaled.softmax(-1).sort(-1, descending=True)
        # A word stays while the mass before it is below p, so at least one always stays.
        cut = (ordered.cumsum(-1) - ordered) >= c.top_p
        scaled = scaled.masked_fill(torch.zeros_like(cut).scatter(-1, at, cut), _NEVER)
    # By inverting the distribution: one random number per word, where torch.multinomial draws one
    # for every word of the vocabulary (ten times slower on a CPU).
    mass = scaled.softmax(-1).cumsum(-1)
    point = torch.rand_like(mass[..., :1]) * mass[..., -1:]
    return torch.searchsorted(mass, point, right=True)[..., 0]


class Beams:
    """Beam search over all images at once. Scores are sums of log-probabilities.

    finished = "kept": a finished hypothesis keeps its place among the K (HIN, M2, GRIT, ClipCap);
    "released": it is put aside and its place goes on with another one (self-critical.pytorch).
    """

    def __init__(self, rules: Rules, rows: int) -> None:
        c = rules.config
        self.rules, self.c, self.words, self.rows, self.width = rules, c, rules.words, rows, c.beam
        self.past: Tensor  # (B, K, t)
        self.kept: Tensor  # (B, K, t)
        self.scores: Tensor  # (B, K)
        self.done: Tensor  # (B, K) bool
        self.lengths: Tensor  # (B, K)
        self.aside: Decoded | None = None

    def search(self, head: Steps, memory: Memory) -> Decoded:
        """The K best captions of every image."""
        device = next(iter(memory.values())).device
        state = head.start(memory, 1)  # all hypotheses are one until the first word
        tokens = torch.full((self.rows, 1), self.words.bos, device=device)
        self.past = tokens.new_zeros(self.rows, 1, 0)
        self.kept = torch.zeros(self.rows, 1, 0, device=device)
        self.scores = torch.zeros(self.rows, 1, device=device)
        self.done = torch.zeros(self.rows, 1, dtype=torch.bool, device=device)
        self.lengths = torch.zeros(self.rows, 1, device=device)
        for t in range(self.c.longest):
            logits, state = head.step(memory, state, tokens, t)
            parent, tokens = self.advance(logits, t)
            if self.settled(t):
                break
            state = follow(state, parent)
        return self.best()

    def advance(self, logits: Tensor, t: int) -> tuple[Tensor, Tensor]:
        """Choose the next K: which hypothesis each goes on from, and with which word, (B, K)."""
        logp = self.rules.logprobs(logits, self.past, t)
        over = torch.full_like(logp[:1, :1], _NEVER)
        over[..., self.words.eos] = 0.0  # a finished hypothesis only repeats its end
        logp = torch.where(self.done[..., None], over, logp)
        parent, word = self.choose(logp, t)
        gained = _at(logp.flatten(1), parent * logp.shape[-1] + word)
        done = _at(self.done, parent)
        self.scores = _at(self.scores, parent) + gained
        self.lengths = torch.where(done, _at(self.lengths, parent), t + 1.0)
        written = torch.where(done, self.words.pad, word)
        self.past = torch.cat([_rows(self.past, parent), written[..., None]], -1)
        self.kept = torch.cat([_rows(self.kept, parent), gained[..., None]], -1)
        self.done = done | (word == self.words.eos)
        if self.c.finished == "released":
            self.put_aside(t)
        return parent, torch.where(self.done, self.words.eos, word)

    def choose(self, logp: Tensor, t: int) -> tuple[Tensor, Tensor]:
        """Parents and words, each (B, K); group by group for diverse beam search."""
        size = logp.shape[-1]
        total = self.scores[..., None] + logp  # (B, k, V)
        if self.c.length_penalty:
            length = torch.where(self.done, self.lengths, t + 1.0) ** self.c.length_penalty
            total = total / length[..., None]
        if self.c.groups == 1:
            return _top(total, self.width)
        per, parents, chosen = self.width // self.c.groups, [], []
        counts = torch.zeros(self.rows, size, device=logp.device)
        for g in range(self.c.groups):
            own = total if t == 0 else total[:, g * per : (g + 1) * per]
            parent, word = _top(own - self.c.diversity * counts[:, None], per)
            counts = counts.scatter_add(1, word, torch.ones_like(word, dtype=counts.dtype))
            parents.append(parent if t == 0 else parent + g * per)
            chosen.append(word)
        return torch.cat(parents, 1), torch.cat(chosen, 1)

    def put_aside(self, t: int) -> None:
        """Move what has ended to ``aside`` (its K best) and let its place die."""
        ended = self.done | (t == self.c.longest - 1)
        scores = torch.where(ended & torch.isfinite(self.scores), self.scores, _NEVER)
        now = Decoded(self.past, self.kept, scores)
        if self.aside is not None:
            blank = (0, 1)
            old = torch.nn.functional.pad(self.aside.tokens, blank, value=self.words.pad)
            worth = torch.nn.functional.pad(self.aside.logprobs, blank)
            now = Decoded(
                torch.cat([old, now.tokens], 1),
                torch.cat([worth, now.logprobs], 1),
                torch.cat([self.aside.scores, now.scores], 1),
            )
        self.aside = self.ordered(now)
        self.scores = torch.where(self.done, _NEVER, self.scores)

    def settled(self, t: int) -> bool:
        """Whether no further step can change the best caption of any image."""
        if self.aside is not None:
            worst = self.aside.scores[:, -1 if self.c.all_beams else 0]
            return bool((worst >= self.scores.amax(1)).all())
        if self.c.length_penalty or self.c.all_beams:
            return bool(self.done.all())
        alive = torch.where(self.done, _NEVER, self.scores).amax(1)
        ended = torch.where(self.done, self.scores, _NEVER).amax(1)
        return bool((ended >= alive).all())

    def best(self) -> Decoded:
        """The captions found so far, best first."""
        return self.aside or self.ordered(Decoded(self.past, self.kept, self.scores))

    def ordered(self, found: Decoded) -> Decoded:
        """Sorted by (length-penalised) score, the first K."""
        rank = found.scores
        if self.c.length_penalty:
            length = (found.tokens != self.words.pad).sum(-1)
            if self.words.eos == self.words.pad:
                length = (length + 1).clamp_max(found.tokens.shape[-1])
            rank = rank / length.clamp_min(1) ** self.c.length_penalty
        at = rank.argsort(dim=1, descending=True, stable=True)[:, : self.width]
        return Decoded(_rows(found.tokens, at), _rows(found.logprobs, at), _at(found.scores, at))


def follow(state: State, parent: Tensor) -> State:
    """Regather every (B, k, ...) tensor of the state as its hypotheses' (B, K) parents say."""
    return {name: _rows(value, parent) for name, value in state.items()}


def _top(total: Tensor, many: int) -> tuple[Tensor, Tensor]:
    flat = total.flatten(1)
    at = flat.topk(min(many, flat.shape[1]), 1).indices  # (B, K), fewer while there are fewer
    return at // total.shape[-1], at % total.shape[-1]


def _at(x: Tensor, index: Tensor) -> Tensor:
    return x.gather(1, index)


def _rows(x: Tensor, index: Tensor) -> Tensor:
    rows, width = x.shape[:2]
    base = torch.arange(rows, device=x.device)[:, None] * width
    return (
        x.flatten(0, 1).index_select(0, (base + index).flatten()).view(*index.shape, *x.shape[2:])
    )
