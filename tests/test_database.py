"""The door to SQLite: migrations, transactions, several users at once, and the name of every failure."""

import sqlite3
import stat
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
import sqlite_vec

from localfusion.database import Database, Migration, Transaction
from localfusion.errors import ConfigError, LocalFusionError

NOTES: tuple[Migration, ...] = (("CREATE TABLE note (id INTEGER PRIMARY KEY, text TEXT NOT NULL)",),)


def write(database: Database, text: str) -> None:
    with database.transaction() as transaction:
        transaction.execute("INSERT INTO note (text) VALUES (?)", (text,))


def notes(database: Database) -> list[str]:
    return database.rows(str, "SELECT text FROM note ORDER BY id")


def test_what_is_committed_is_there_when_opened_again(tmp_path: Path) -> None:
    with closing(Database(tmp_path / "a.db", NOTES)) as database:
        write(database, "one")
    with closing(Database(tmp_path / "a.db", NOTES)) as database:
        assert notes(database) == ["one"]


def test_a_transaction_that_raises_leaves_nothing(tmp_path: Path) -> None:
    with closing(Database(tmp_path / "a.db", NOTES)) as database:
        with pytest.raises(LocalFusionError), database.transaction() as transaction:
            transaction.execute_many("INSERT INTO note (text) VALUES (?)", [("lost",), (None,)])
        write(database, "kept")
        assert notes(database) == ["kept"]


@pytest.mark.parametrize(("durable", "level"), [(True, 2), (False, 1)])
def test_only_a_durable_transaction_waits_for_the_disk(tmp_path: Path, durable: bool, level: int) -> None:
    """SQLite's own levels: 2 (FULL) waits at every commit, 1 (NORMAL) only where the log is written back."""
    with closing(Database(tmp_path / "a.db", NOTES)) as database:
        for other in (not durable, durable):
            with database.transaction(durable=other) as transaction:
                found = transaction.rows(int, "PRAGMA synchronous")
        assert found == [level]


def test_the_file_and_a_folder_made_for_it_are_private(tmp_path: Path) -> None:
    path = tmp_path / "home" / "a.db"
    with closing(Database(path, NOTES)) as database:
        write(database, "one")
        assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
        assert {stat.S_IMODE(file.stat().st_mode) for file in path.parent.iterdir()} == {0o600}


def test_migrations_go_on_from_the_version_of_the_file(tmp_path: Path) -> None:
    with closing(Database(tmp_path / "a.db", NOTES)) as database:
        write(database, "old")
    longer = (*NOTES, ("ALTER TABLE note ADD COLUMN mark TEXT", "UPDATE note SET mark = 'm'"))
    with closing(Database(tmp_path / "a.db", longer)) as database:
        assert database.rows(str, "SELECT mark FROM note") == ["m"]


def test_a_migration_that_fails_changes_nothing(tmp_path: Path) -> None:
    broken = (*NOTES, ("CREATE TABLE other (id INTEGER)", "CREATE TABLE note (id INTEGER)"))
    with pytest.raises(LocalFusionError):
        Database(tmp_path / "a.db", broken)
    with closing(Database(tmp_path / "a.db", NOTES)) as database:
        assert database.rows(str, "SELECT name FROM sqlite_master WHERE type = 'table'") == ["note"]


def test_a_file_of_a_newer_version_is_refused(tmp_path: Path) -> None:
    Database(tmp_path / "a.db", (*NOTES, ("CREATE TABLE later (id INTEGER)",))).close()
    with pytest.raises(ConfigError, match="newer localfusion"):
        Database(tmp_path / "a.db", NOTES)


def not_a_database(path: Path) -> None:
    path.write_text("This is no database at all. " * 100)


def damage(path: Path) -> None:
    with closing(Database(path, NOTES)) as database:
        for index in range(200):
            write(database, f"{index} " * 100)
    content = bytearray(path.read_bytes())
    content[4096:] = b"\xff" * len(content[4096:])
    path.write_bytes(content)


@pytest.mark.parametrize(("spoil", "says"), [(not_a_database, "is not a database"), (damage, "is damaged")])
def test_a_spoilt_file_is_named(tmp_path: Path, spoil: Callable[[Path], None], says: str) -> None:
    path = tmp_path / "a.db"
    spoil(path)
    with pytest.raises(LocalFusionError, match=says) as caught, closing(Database(path, NOTES)) as database:
        notes(database)
    assert str(path) in caught.value.message
    assert caught.value.hint


def fill(transaction: Transaction) -> None:
    transaction.execute("PRAGMA max_page_count = 4")
    transaction.execute("INSERT INTO note (text) VALUES (?)", ("x" * 100_000,))


def write_read_only(transaction: Transaction) -> None:
    transaction.execute("PRAGMA query_only = 1")
    transaction.execute("INSERT INTO note (text) VALUES ('x')")


@pytest.mark.parametrize(("fail", "says"), [(fill, "disk .* is full"), (write_read_only, "cannot be written")])
def test_a_write_that_cannot_be_is_named(tmp_path: Path, fail: Callable[[Transaction], None], says: str) -> None:
    with closing(Database(tmp_path / "a.db", NOTES)) as database:
        with pytest.raises(LocalFusionError, match=says) as caught, database.transaction() as transaction:
            fail(transaction)
        assert caught.value.hint


def test_a_locked_file_is_named_after_the_timeout(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    with closing(Database(path, NOTES)) as holder, closing(Database(path, NOTES, timeout_s=0.01)) as waiting:
        with holder.transaction(), pytest.raises(LocalFusionError, match="is locked"):
            write(waiting, "never")
        write(waiting, "now")


def test_a_snapshot_sees_one_state_and_waits_for_nobody(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    with closing(Database(path, NOTES)) as writer, closing(Database(path, NOTES, timeout_s=0.01)) as reader:
        write(writer, "old")
        with reader.snapshot() as snapshot:
            assert snapshot.rows(str, "SELECT text FROM note") == ["old"]
            with writer.transaction() as transaction:
                transaction.execute("INSERT INTO note (text) VALUES ('new')")
                assert notes(reader) == ["old"]
            assert notes(reader) == ["old"]
        assert notes(reader) == ["old", "new"]


def test_a_place_that_is_no_folder_is_the_users_mistake(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="cannot be opened"):
        Database(tmp_path / "file" / "a.db", NOTES)


def test_text_that_is_no_unicode_is_the_users_mistake() -> None:
    with closing(Database(None, ())) as database, pytest.raises(ConfigError, match="not UTF-8"):
        database.rows(str, "SELECT ?", ("\udcff",))


def test_a_closed_database_says_so_in_our_words(tmp_path: Path) -> None:
    database = Database(tmp_path / "a.db", NOTES)
    database.close()
    database.close()
    with pytest.raises(LocalFusionError):
        notes(database)


def test_every_thread_may_write() -> None:
    with closing(Database(None, NOTES)) as database:
        threads = [threading.Thread(target=write, args=(database, str(index))) for index in range(20)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted(notes(database), key=int) == [str(index) for index in range(20)]


def test_several_processes_make_and_write_one_file(tmp_path: Path) -> None:
    program = (
        "import sys; from pathlib import Path; from tests.test_database import NOTES, write;"
        "from localfusion.database import Database; database = Database(Path(sys.argv[1]), NOTES);"
        "[write(database, sys.argv[2]) for _ in range(20)]"
    )
    path = tmp_path / "a.db"
    commands = [[sys.executable, "-c", program, str(path), str(index)] for index in range(4)]
    running = [subprocess.Popen(command) for command in commands]
    assert [process.wait() for process in running] == [0, 0, 0, 0]
    with closing(Database(path, NOTES)) as database:
        assert sorted(notes(database)) == sorted(str(index) for index in range(4) for _ in range(20))


def test_there_is_full_text_search() -> None:
    with closing(Database(None, (("CREATE VIRTUAL TABLE t USING fts5(x)",),))) as database:
        with database.transaction() as transaction:
            transaction.execute("INSERT INTO t VALUES ('a lamp')")
        assert database.rows(int, "SELECT count(*) FROM t WHERE t MATCH 'lamp'") == [1]


def test_a_file_that_pythons_own_sqlite_made_is_opened(tmp_path: Path) -> None:
    with closing(sqlite3.connect(tmp_path / "a.db")) as connection:
        connection.execute("PRAGMA journal_mode = WAL")
        for statement in (*NOTES[0], "CREATE VIRTUAL TABLE t USING fts5(x)", "PRAGMA user_version = 1"):
            connection.execute(statement)
        connection.execute("INSERT INTO note (text) VALUES ('old')")
        connection.execute("INSERT INTO t VALUES ('a lamp')")
        connection.commit()
    with closing(Database(tmp_path / "a.db", NOTES)) as database:
        write(database, "new")
        assert notes(database) == ["old", "new"]
        assert database.rows(str, "SELECT x FROM t WHERE t MATCH 'lamp'") == ["a lamp"]


def test_vectors_are_there_where_they_are_asked_for() -> None:
    distance = "SELECT vec_distance_l2('[0, 0]', '[3, 4]')"
    with closing(Database(None, (), vectors=True)) as database:
        assert database.rows(float, distance) == [5.0]
    with closing(Database(None, ())) as database, pytest.raises(LocalFusionError):
        database.rows(float, distance)


@pytest.mark.parametrize("vectors", [False, True])
def test_no_statement_loads_an_extension(vectors: bool) -> None:
    with closing(Database(None, (), vectors=vectors)) as database, pytest.raises(LocalFusionError, match="not auth"):
        database.rows(str, "SELECT load_extension(?)", (sqlite_vec.loadable_path(),))
