"""Documents without files: carried from one index to another, searched, kept by refresh, forgotten by name."""

from contextlib import closing
from pathlib import Path

import pytest

from localfusion.errors import ConfigError
from localfusion.search.documents import DocumentIndex
from localfusion.search.source import Search
from localfusion.search.zim_identity import zim_uuid


@pytest.fixture
def notes(tmp_path: Path) -> Path:
    folder = tmp_path / "notes"
    (folder / "ä b").mkdir(parents=True)
    (folder / "skerry.md").write_text("# Skerry\n\nThe height of Skerry is 40 metres.\n")
    (folder / "ä b" / "hallow.md").write_text("# Port Hallow\n\nThe depth of Port Hallow is 9 metres.\n")
    (folder / "broken.pdf").write_bytes(b"no")
    return folder


def lines_of(path: Path) -> list[bytes]:
    with closing(DocumentIndex(None)) as index:
        index.add([path])
        index.register([path])
        return list(index.carried_lines(path))


def carried(index: DocumentIndex, lines: list[bytes], root: Path, *, is_file: bool = False) -> None:
    index.carry(lines, root, is_file=is_file, n_documents=len(lines))


def test_a_folder_is_carried_and_found(notes: Path, tmp_path: Path) -> None:
    lines, root = lines_of(notes), tmp_path / "home" / "carried" / "notes"
    assert len(lines) == 2
    with closing(DocumentIndex(None)) as index, closing(DocumentIndex(None)) as real:
        carried(index, lines, root)
        there, here = real.add([notes]).source, index.add([root]).source
        assert here.urls == there.urls
        for query in ("Skerry", "height", "depth of Port Hallow"):
            mine, other = (source.find(Search(query, 3, 200)) for source in (here, there))
            assert [found.passage for found in mine] == [found.passage for found in other]
            assert [found.page for found in mine] == [found.page for found in other]
        (known,) = index.roots()
        assert (known.is_carried, known.is_there, known.n_files, known.n_unreadable) == (True, True, 2, 0)


def test_a_single_file_is_carried(notes: Path, tmp_path: Path) -> None:
    root = tmp_path / "home" / "carried" / "skerry.md"
    with closing(DocumentIndex(None)) as index:
        carried(index, lines_of(notes / "skerry.md"), root, is_file=True)
        assert index.add([root]).source.urls == ("doc://carried/skerry.md",)
        assert index.is_file(root)


def test_it_is_searched_beside_folders_that_are_here(notes: Path, tmp_path: Path) -> None:
    root = tmp_path / "home" / "carried" / "notes"
    with closing(DocumentIndex(None)) as index:
        carried(index, lines_of(notes), root)
        source = index.add([notes, root]).source
        assert {"doc://notes/skerry.md", "doc://notes-2/skerry.md"} < set(source.urls)
        assert len(source.urls) == 4


def test_nothing_that_is_looked_at_on_the_disk_forgets_it(notes: Path, tmp_path: Path) -> None:
    """A folder above it is added, refreshed and removed: what is carried stays, and is not counted twice."""
    root = tmp_path / "carried" / "notes"
    with closing(DocumentIndex(None)) as index:
        carried(index, lines_of(notes), root)
        index.register([tmp_path])
        assert index.refresh().removed == 0
        assert [(known.path, known.n_files) for known in index.roots()] == [(tmp_path, 2), (root, 2)]
        assert len(index.add([tmp_path]).source.urls) == 2
        index.unregister(tmp_path)
        assert len(index.add([root]).source.urls) == 2
        when = index.roots()[0].refreshed
        index.refresh()
        assert index.roots()[0].refreshed == when
        assert index.unregister(root) == 2
        with pytest.raises(ConfigError, match="does not exist"):
            index.add([root])


def test_what_is_carried_again_takes_the_place_of_the_first(notes: Path, tmp_path: Path) -> None:
    root = tmp_path / "home" / "carried" / "notes"
    with closing(DocumentIndex(None)) as index:
        carried(index, lines_of(notes), root)
        (notes / "skerry.md").unlink()
        (notes / "new.md").write_text("The width of Fallow is 3 metres.")
        carried(index, lines_of(notes), root)
        source = index.add([root]).source
        assert source.find(Search("Skerry", 3, 200)) == ()
        assert len(source.find(Search("Fallow", 3, 200))) == 1


def test_a_refused_carrying_leaves_what_was_there(notes: Path, tmp_path: Path) -> None:
    root, lines = tmp_path / "home" / "carried" / "notes", lines_of(notes)
    with closing(DocumentIndex(None)) as index:
        carried(index, lines, root)
        for wrong in ([*lines, b"{}\n"], [lines[0], lines[0]], [lines[0][:-9]]):
            with pytest.raises(ConfigError, match="are refused"):
                carried(index, wrong, root)
        with pytest.raises(ConfigError, match="1 documents are in the bundle, and 2 are named"):
            index.carry(lines[:1], root, is_file=False, n_documents=2)
        assert len(index.add([root]).source.urls) == 2


def test_names_that_are_paths_elsewhere_are_carried_as_plain_ones(tmp_path: Path) -> None:
    (tmp_path / "notes").mkdir()
    for name in ("C:a.md", "a\\b.md", "a\nb.md"):
        (tmp_path / "notes" / name).write_text("The height of Skerry is 40 metres.\n")
    with closing(DocumentIndex(None)) as index:
        carried(index, lines_of(tmp_path / "notes"), tmp_path / "carried" / "notes")
        urls = index.add([tmp_path / "carried" / "notes"]).source.urls
    assert len(urls) == 3


def test_what_was_not_added_is_not_carried(notes: Path) -> None:
    with closing(DocumentIndex(None)) as index:
        index.add([notes])
        with pytest.raises(ConfigError, match="was not added"):
            list(index.carried_lines(notes))


def test_an_archive_is_known_by_its_uuid(tmp_path: Path) -> None:
    archive = tmp_path / "w.zim"
    archive.write_bytes((72173914).to_bytes(4, "little") + bytes(4) + bytes(range(16)))
    assert zim_uuid(archive) == bytes(range(16)).hex()
    for raw in (b"", b"short", bytes(40)):
        archive.write_bytes(raw)
        with pytest.raises(ConfigError, match="is no ZIM archive"):
            zim_uuid(archive)
    with pytest.raises(ConfigError, match="cannot be read"):
        zim_uuid(tmp_path / "nowhere.zim")
