"""What was odd about a dataset: kinds, counts, examples, and what became of the items."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

EXAMPLES = 5

#: kind -> (what became of it, what it means). docs/data.md explains each.
KINDS: dict[str, tuple[str, str]] = {
    "path_escape": ("left out", "the path leaves the image root (.., absolute, symlink, NUL, URL)"),
    "duplicate_id": ("left out", "another image has this id already; the first one is kept"),
    "malformed": ("left out", "a record without a usable file name, id or caption list"),
    "caption_without_image": ("left out", "captions of an image that is not listed"),
    "empty_caption": ("left out", "a caption of white space only; its image is kept"),
    "unlisted_image": ("left out", "on disk beside the listed images, but not listed"),
    "hidden_file": ("left out", "an image whose name starts with a dot"),
    "unknown_split_entry": ("left out", "a split list names what the annotations do not have"),
    "file_not_read": ("left out", "a file in the source folder that is no annotation of the set"),
    "repeated_image": ("merged", "the same id and file once more; new captions were added"),
    "two_splits": ("kept", "in two splits; it stays in the one furthest from training"),
    "missing_image": ("kept", "listed, but no file on disk; imported features may cover it"),
    "image_without_caption": ("kept", "an image without any caption"),
    "caption_not_in_split": ("kept", "a caption whose id is in no split list, of a listed image"),
    "not_in_split": ("kept", "an image in no split list; its split is 'unused'"),
    "one_file_two_ids": ("kept", "one file under several ids"),
    "string_id": ("kept", "an id that is not a plain integer; all ids are kept as strings"),
    "restval": ("kept", "Karpathy's restval, counted as train"),
    "mojibake": ("kept", "a caption that looks decoded with the wrong encoding"),
    "same_stem": ("renamed", "images of one stem in one set; their ids are the longer paths"),
    "odd_id": ("renamed", "an empty id or one with control characters; the file name is used"),
    "control_character": ("changed", "control characters and line separators, now a space"),
    "lone_surrogate": ("changed", "half a UTF-16 pair, now U+FFFD"),
    "not_utf8": ("changed", "a line that is not UTF-8, read as Windows-1252"),
    "byte_order_mark": ("changed", "a byte order mark at the start of a file, removed"),
}


@dataclass
class Problems:
    """A tally by kind, with the first few examples and how many images and captions it cost."""

    found: dict[str, dict[str, Any]] = field(default_factory=dict)
    images_out: int = 0
    captions_out: int = 0

    def add(self, kind: str, example: object, *, images: int = 0, captions: int = 0) -> None:
        """Count one more of ``kind``; ``images``, ``captions``: how many are left out for it."""
        entry = self.found.setdefault(kind, {"count": 0, "fate": KINDS[kind][0], "examples": []})
        entry["count"] += 1
        if len(entry["examples"]) < EXAMPLES:
            entry["examples"].append(_printable(str(example)))
        self.images_out += images
        self.captions_out += captions

    def absorb(self, other: "Problems") -> None:
        """Add another tally to this one."""
        for kind, entry in other.found.items():
            mine = self.found.setdefault(kind, {**entry, "count": 0, "examples": []})
            mine["count"] += entry["count"]
            mine["examples"] = [*mine["examples"], *entry["examples"]][:EXAMPLES]
        self.images_out += other.images_out
        self.captions_out += other.captions_out


@dataclass(frozen=True)
class Report:
    """What ``prepare`` read, kept and found. ``str(report)`` is a table for people.

    images, captions: split -> count of what was kept; ``read`` counts what the source listed:
    images read = kept + left out + merged, and captions likewise.
    """

    name: str
    format: str
    out: Path
    image_root: Path
    images: dict[str, int]
    captions: dict[str, int]
    read: dict[str, int]
    problems: dict[str, dict[str, Any]]

    def as_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        kept = {"images": sum(self.images.values()), "captions": sum(self.captions.values())}
        return {
            "name": self.name,
            "format": self.format,
            "out": str(self.out),
            "image_root": str(self.image_root),
            "splits": self.images,
            "captions": self.captions,
            "read": self.read,
            "kept": kept,
            "problems": self.problems,
        }

    def __str__(self) -> str:
        lines = [
            f"{self.name} ({self.format}) -> {self.out}",
            f"images below {self.image_root}",
            "",
        ]
        rows = [("split", "images", "captions")]
        rows += [(s, f"{n:,}", f"{self.captions[s]:,}") for s, n in self.images.items()]
        images, captions = sum(self.images.values()), sum(self.captions.values())
        rows += [("together", f"{images:,}", f"{captions:,}")]
        rows += [("listed", f"{self.read['images']:,}", f"{self.read['captions']:,}")]
        lines += [f"{a:<12}{b:>10}{c:>12}" for a, b, c in rows]
        if self.problems.get("missing_image", {}).get("count") == images:
            lines += ["", "None of the images is on disk: --images names the folder they are in."]
        lines += ["", "no problems" if not self.problems else "problems"]
        for kind, entry in self.problems.items():
            lines.append(f"  {kind:<22}{entry['count']:>9,}  {entry['fate']}: {KINDS[kind][1]}")
            lines.append(f"  {'':<22}{'':>9}  e.g. {'; '.join(entry['examples'][:3])}")
        return "\n".join(lines)


def _printable(text: str) -> str:
    """Safe to print and to store: control characters and halves of pairs escaped, 120 at most."""
    shown = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
    return shown if len(shown) <= 120 else shown[:117] + "..."
