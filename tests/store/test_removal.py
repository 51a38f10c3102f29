"""Removing a store: all of it or a typed error, and nothing that is not the store's own."""

import errno
import shutil
from pathlib import Path
from typing import Any

import pytest

from precap.errors import ConfigError, LockedError, ResourceError, StoreError
from precap.store.manifest import ls
from precap.store.removal import remove
from precap.store.writer import Writer
from tests.store import sabotage, toy


def test_removing_takes_only_stores_that_nobody_writes(tmp_path: Path) -> None:
    (tmp_path / "x").mkdir()
    with pytest.raises(StoreError, match="not a feature store"):
        remove(tmp_path / "x")
    path = toy.build(tmp_path / "s", 5)
    with Writer(path) as writer:
        toy.extend(path, toy.ids(3, 5))
        writer.claim(writer.remaining()[0])
        with pytest.raises(LockedError, match="pid"):
            remove(path)
    remove(path)
    assert not list(tmp_path.glob("*s*"))


@pytest.mark.parametrize("format", ["hdf5", "zarr"])
def test_what_crashes_left_goes_with_the_store(tmp_path: Path, format: str) -> None:
    path = toy.build(tmp_path / "s", 20, format=format)
    (path / "shards" / ".000001.h5.host-1-ab.partial").write_text("half")
    (path / ".images-1.partial").write_text("half")
    (path / "import.json").write_text("{}")
    remove(path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("number", [1, 3])
def test_what_cannot_be_removed_is_an_error_that_names_the_rest(
    tmp_path: Path, number: int
) -> None:
    path = toy.build(tmp_path / "s", 20)
    failing = sabotage.failing("remove", number, errno.EACCES)
    with failing, pytest.raises(ResourceError, match="Could not remove all") as caught:
        remove(path)
    (rest,) = tmp_path.iterdir()
    assert str(rest) in str(caught.value)
    assert ls(tmp_path).rows == []  # hidden: no store that looks complete


@pytest.mark.parametrize("error", [errno.EROFS, errno.EACCES, errno.EPERM])
def test_a_store_that_cannot_be_moved_is_left_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: int
) -> None:
    path = toy.build(tmp_path / "s", 20)

    def refuse(self: Path, target: Any) -> None:
        raise OSError(error, "no", str(self))

    monkeypatch.setattr(Path, "replace", refuse)
    with pytest.raises(ResourceError, match=f"Could not remove {path}: "):
        remove(path)
    toy.check_all(path, 20)


def test_a_link_is_left_alone(tmp_path: Path) -> None:
    path = toy.build(tmp_path / "s", 5)
    (tmp_path / "link").symlink_to(path)
    with pytest.raises(ConfigError, match="is a link"):
        remove(tmp_path / "link")
    assert (tmp_path / "link").is_symlink()
    toy.check_all(path, 5)


@pytest.mark.parametrize("where", [".", "shards", "plan/.."])
def test_the_folder_one_is_in_is_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    path = toy.build(tmp_path / "s", 5)
    monkeypatch.chdir(path / where)
    for named in (path, Path() if where != "shards" else Path("..")):
        with pytest.raises(ConfigError, match="You are in"):
            remove(named, force=True)
    toy.check_all(path, 5)


@pytest.mark.parametrize("name", ["thesis.tex", "shards/thesis.tex", "notes/a.txt", ".git/HEAD"])
def test_other_files_are_removed_only_by_force(tmp_path: Path, name: str) -> None:
    path = toy.build(tmp_path / "s", 5)
    (path / name).parent.mkdir(exist_ok=True)
    (path / name).write_text("precious")
    with pytest.raises(ConfigError, match=name.removesuffix("/a.txt").removesuffix("/HEAD")):
        remove(path)
    assert (path / name).read_text() == "precious"
    remove(path, force=True)
    assert not path.exists()


def test_shards_that_lie_elsewhere_are_told(tmp_path: Path) -> None:
    path = toy.build(tmp_path / "s", 5)
    shutil.move(path / "shards", tmp_path / "elsewhere")
    (path / "shards").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ConfigError, match="shards@"):
        remove(path)
    assert list((tmp_path / "elsewhere").iterdir())


def test_a_folder_whose_store_json_says_nothing_needs_force(tmp_path: Path) -> None:
    (tmp_path / "s").mkdir()
    (tmp_path / "s" / "store.json").write_text("{}")
    with pytest.raises(StoreError, match="--force"):
        remove(tmp_path / "s")
    remove(tmp_path / "s", force=True)
    assert not list(tmp_path.iterdir())


def test_listing_skips_hidden_folders_and_refuses_what_is_no_folder(tmp_path: Path) -> None:
    toy.build(tmp_path / ".s.1-ab.partial", 5)
    toy.build(tmp_path / "s", 5)
    assert [row["name"] for row in ls(tmp_path).rows] == ["s"]
    for name in ("nothere", "s/store.json"):
        with pytest.raises(ConfigError, match="no folder"):
            ls(tmp_path / name)
