"""What a scene holds, and the sentences that describe it: five different ones per scene."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np

SHAPES = ("circle", "square", "triangle", "star", "cross")
COLOURS = ("red", "green", "blue", "yellow", "purple", "orange")
TEXTURES = ("plain", "striped", "dotted")
SIZES = ("small", "large")
BACKGROUNDS = ("white", "grey", "black", "sandy")
PLACES = ("left", "right", "top", "bottom", "middle")
NUMBERS = {2: "two", 3: "three", 4: "four"}
CAPTIONS = 5
#: Colour-shape pairs of which no training or validation picture shows any; test pictures do.
HELD_OUT = frozenset(
    [("red", "star"), ("green", "circle"), ("blue", "cross"), ("yellow", "square"),
     ("purple", "triangle"), ("orange", "star")]
)  # fmt: skip

Relation = Literal["left", "above"]
_RELATED = {"left": "to the left of", "above": "above"}
_INVERSE = {"left": "to the right of", "above": "below"}
_PLACED = {
    "left": "on the left",
    "right": "on the right",
    "top": "at the top",
    "bottom": "at the bottom",
    "middle": "in the middle",
}


@dataclass(frozen=True, slots=True)
class Thing:
    """One kind of drawn shape."""

    shape: str
    colour: str
    texture: str
    size: str

    @property
    def pair(self) -> tuple[str, str]:
        """The colour-shape composition."""
        return self.colour, self.shape


@dataclass(frozen=True, slots=True)
class Scene:
    """One thing in a place, two things in a relation, or several things of one kind.

    ``things`` has one entry, or two when ``relation`` holds (the first is left of or above the
    second). ``count``: how many of the first thing. ``place``: where a single one is.
    """

    things: tuple[Thing, ...]
    background: str
    place: str = "middle"
    relation: Relation | None = None
    count: int = 1

    @property
    def unseen(self) -> bool:
        """Whether it shows a held-out colour-shape pair."""
        return any(thing.pair in HELD_OUT for thing in self.things)


def draw_scene(rng: np.random.Generator, *, unseen: bool) -> Scene:
    """A random scene; with ``unseen`` its first thing is a held-out pair, otherwise none is."""
    kind = rng.choice(["single", "pair", "group"], p=[0.35, 0.4, 0.25])
    first = _thing(rng, unseen=unseen)
    background = _pick(rng, BACKGROUNDS)
    if kind == "single":
        return Scene((first,), background, place=_pick(rng, PLACES))
    if kind == "group":
        return Scene((first,), background, count=int(rng.integers(2, 5)))
    second = _thing(rng, unseen=False, unlike=first)
    things = (first, second) if rng.random() < 0.5 else (second, first)
    relation: Relation = "left" if rng.random() < 0.5 else "above"
    return Scene(things, background, relation=relation)


def describe(scene: Scene, rng: np.random.Generator) -> list[str]:
    """Five different sentences about the scene, in random order."""
    templates = _templates(scene)
    chosen = rng.permutation(len(templates))[:CAPTIONS]
    return [_sentence(templates[i](scene)) for i in chosen]


def _templates(scene: Scene) -> tuple["_Template", ...]:
    if scene.relation is not None:
        return _PAIR
    return _GROUP if scene.count > 1 else _SINGLE


def _thing(rng: np.random.Generator, *, unseen: bool, unlike: Thing | None = None) -> Thing:
    if unseen:
        held = sorted(HELD_OUT)
        colour, shape = held[int(rng.integers(len(held)))]
        return Thing(shape, colour, _texture(rng), _pick(rng, SIZES))
    while True:
        thing = Thing(_pick(rng, SHAPES), _pick(rng, COLOURS), _texture(rng), _pick(rng, SIZES))
        same = unlike is not None and unlike.colour == thing.colour
        if thing.pair not in HELD_OUT and not same:
            return thing


def _texture(rng: np.random.Generator) -> str:
    return str(rng.choice(TEXTURES, p=[0.5, 0.25, 0.25]))


def _pick(rng: np.random.Generator, values: tuple[str, ...]) -> str:
    return values[int(rng.integers(len(values)))]


def _brief(thing: Thing) -> str:
    return _article(f"{thing.colour} {thing.shape}")


def _full(thing: Thing) -> str:
    return _article(_words(thing) + thing.shape)


def _words(thing: Thing) -> str:
    texture = "" if thing.texture == "plain" else f"{thing.texture} "
    return f"{thing.size} {texture}{thing.colour} "


def _article(phrase: str) -> str:
    return f"{'an' if phrase[0] in 'aeiou' else 'a'} {phrase}"


def _many(scene: Scene, words: str) -> str:
    thing = scene.things[0]
    plural = thing.shape + ("es" if thing.shape == "cross" else "s")
    return f"{NUMBERS[scene.count]} {words}{plural}"


def _sentence(text: str) -> str:
    return f"{text[0].upper()}{text[1:]} ."


_Template = Callable[[Scene], str]


def _one(scene: Scene) -> Thing:
    return scene.things[0]


_SINGLE: tuple[_Template, ...] = (
    lambda s: f"{_full(_one(s))} {_PLACED[s.place]} of a {s.background} background",
    lambda s: f"{_brief(_one(s))} {_PLACED[s.place]} of a {s.background} background",
    lambda s: f"there is {_full(_one(s))} on a {s.background} background",
    lambda s: f"{_full(_one(s))} {_PLACED[s.place]} of the picture",
    lambda s: f"there is {_brief(_one(s))} {_PLACED[s.place]} of the picture",
    lambda s: f"the picture shows {_full(_one(s))} {_PLACED[s.place]}",
)
_PAIR: tuple[_Template, ...] = (
    lambda s: f"{_brief(s.things[0])} {_RELATED[s.relation or 'left']} {_brief(s.things[1])}",
    lambda s: f"{_brief(s.things[1])} {_INVERSE[s.relation or 'left']} {_brief(s.things[0])}",
    lambda s: f"{_full(s.things[0])} {_RELATED[s.relation or 'left']} {_brief(s.things[1])}",
    lambda s: (
        f"there is {_brief(s.things[0])} {_RELATED[s.relation or 'left']} {_full(s.things[1])}"
    ),
    lambda s: (
        f"{_brief(s.things[0])} {_RELATED[s.relation or 'left']} {_brief(s.things[1])} "
        f"on a {s.background} background"
    ),
    lambda s: f"{_brief(s.things[0])} and {_brief(s.things[1])} on a {s.background} background",
)
_GROUP: tuple[_Template, ...] = (
    lambda s: f"{_many(s, _words(_one(s)))} on a {s.background} background",
    lambda s: f"{_many(s, f'{_one(s).colour} ')} on a {s.background} background",
    lambda s: f"there are {_many(s, _words(_one(s)))} on a {s.background} background",
    lambda s: f"there are {_many(s, f'{_one(s).colour} ')} in the picture",
    lambda s: f"a group of {_many(s, _words(_one(s)))}",
    lambda s: f"the picture shows {_many(s, _words(_one(s)))}",
)
