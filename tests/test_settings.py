"""config.yaml: what it may say, what the command line overrides, and how a mistake in it is named."""

from dataclasses import replace
from pathlib import Path

import pytest

from localfusion.cli.sources import NamedSources, narrowed
from localfusion.config import Surroundings, load_settings
from localfusion.errors import ConfigError
from localfusion.messages import SourcesSpec
from tests.harbour import HARBOUR, surroundings

NOTHING = NamedSources((), (), False, (), None, (), (), (), (), False)


def with_settings(home: Path, text: str) -> Surroundings:
    (home / "config.yaml").write_text(text)
    return surroundings(home)


def test_without_a_file_everything_is_as_it_comes(tmp_path: Path) -> None:
    spec = NOTHING.spec(surroundings(tmp_path))
    assert (spec.docs, spec.zim, spec.web, spec.searxng, spec.offline, spec.embedding) == (
        (),
        (),
        False,
        "",
        False,
        None,
    )
    assert load_settings(surroundings(tmp_path)).settings.search.keep_pages_hours == 24


def test_what_the_file_names_is_searched_where_nothing_else_is_named(tmp_path: Path) -> None:
    (tmp_path / "notes").mkdir()
    around = with_settings(tmp_path, "search: {docs: [notes], web: true, engines: [brave], searxng: 'http://s:1/x/'}\n")
    spec = NOTHING.spec(around)
    assert spec.docs == (tmp_path / "notes",)
    assert (spec.web, spec.engines, spec.searxng) == (True, ("brave",), "http://s:1/x")
    named = replace(NOTHING, docs=(str(HARBOUR),)).spec(around)
    assert (named.docs, named.web, named.searxng) == ((HARBOUR,), False, "")


def test_domains_add_up(tmp_path: Path) -> None:
    text = "search: {allowed_domains: [a.com], excluded_domains: [x.a.com], blocked_domains: ['@benchmarks']}\n"
    around = with_settings(tmp_path, text)
    named = replace(
        NOTHING, allowed_domains=("b.com, c.com",), excluded_domains=("y.b.com",), blocked_domains=("z.b.com",)
    )
    spec = named.spec(around)
    assert spec.allowed_domains == ("b.com", "c.com")
    assert spec.excluded_domains == ("x.a.com", "y.b.com")
    assert spec.blocked_domains == ("@benchmarks", "z.b.com")
    assert NOTHING.spec(around).allowed_domains == ("a.com",)


def test_another_file_may_be_named(tmp_path: Path) -> None:
    other = tmp_path / "other.yaml"
    other.write_text("offline: true\n")
    around = surroundings(tmp_path)
    around = replace(around, variables={**around.variables, "LOCALFUSION_CONFIG": str(other)})
    assert load_settings(around).settings.offline
    other.unlink()
    with pytest.raises(ConfigError, match=r"the settings file .*other.yaml cannot be read"):
        load_settings(around)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("offlin: true", 'config.yaml:1: unknown key "offlin"'),
        ("offline: yes please", "config.yaml:1: offline must be a valid boolean"),
        ("- a", "config.yaml:1: the file must be a mapping"),
        ("search:\n  searxng: s.example", "config.yaml:2: search.searxng must be an address like"),
        ("search:\n  blocked_domains: [a.com, nonsense]", "has no domain in it"),
        ("search:\n  keep_pages_hours: -1", "config.yaml:2: search.keep_pages_hours must be greater than"),
        ("cloud:\n  max_cost: .nan", "config.yaml:2: cloud.max_cost must be"),
        ("cloud:\n  max_cost: .inf", "config.yaml:2: cloud.max_cost must be"),
        ("search:\n  docs: ['']", "must be a path on one line"),
        ("search: {docs: [missing]}", "no such file or folder"),
        ("search: {embedding: missing.gguf}", "no such file or folder"),
    ],
)
def test_a_mistake_is_named_with_its_line(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(ConfigError) as refused:
        NOTHING.spec(with_settings(tmp_path, text + "\n"))
    assert said in refused.value.message
    assert refused.value.hint


def test_an_embedding_model_is_a_file_or_a_name_of_the_catalogue(tmp_path: Path) -> None:
    (tmp_path / "vectors.gguf").write_bytes(b"GGUF")
    (tmp_path / "models.yaml").write_text("models:\n  meaning: {path: vectors.gguf, embeddings: true}\n")
    for named, name in (("meaning", "meaning"), ("vectors.gguf", "vectors")):
        found = NOTHING.spec(with_settings(tmp_path, f"search: {{embedding: {named}}}\n")).embedding
        assert found is not None
        assert (found.name, found.path) == (name, tmp_path / "vectors.gguf")
    for named, said in (("qwen3-embedding-0.6b", "is not here yet"), ("micro-a", "is no embedding model")):
        with pytest.raises(ConfigError, match=said):
            NOTHING.spec(with_settings(tmp_path, f"search: {{embedding: {named}}}\n"))


@pytest.mark.parametrize(
    "named",
    [
        {"docs": ("missing",)},
        {"zim": ("missing.zim",)},
        {"searxng": "s.example"},
        {"kiwix": ("ftp://s",)},
        {"allowed_domains": ("nonsense",)},
        {"excluded_domains": ("a.com,nonsense",)},
    ],
)
def test_a_wrong_argument_is_refused(tmp_path: Path, named: dict[str, object]) -> None:
    with pytest.raises(ConfigError) as refused:
        replace(NOTHING, **named).spec(surroundings(tmp_path))  # type: ignore[arg-type]
    assert refused.value.hint


@pytest.mark.parametrize("text", ["", "# nothing yet\n", "search:\n", "offline:\nsearch:\n"])
def test_a_file_that_says_nothing_changes_nothing(tmp_path: Path, text: str) -> None:
    assert NOTHING.spec(with_settings(tmp_path, text)) == NOTHING.spec(surroundings(tmp_path / "none"))


def test_a_file_that_cannot_be_read_is_not_taken_for_none(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").symlink_to(tmp_path / "nowhere.yaml")
    with pytest.raises(ConfigError, match="cannot be read"):
        NOTHING.spec(surroundings(tmp_path))
    (tmp_path / "config.yaml").unlink()
    (tmp_path / "config.yaml").mkdir()
    with pytest.raises(ConfigError, match="cannot be read"):
        NOTHING.spec(surroundings(tmp_path))


def test_a_stored_run_keeps_to_what_is_allowed_today(tmp_path: Path) -> None:
    stored = SourcesSpec(web=True, blocked_domains=("a.com",))
    assert narrowed(stored, surroundings(tmp_path)) == stored
    around = with_settings(tmp_path, "offline: true\nsearch: {blocked_domains: [b.com], excluded_domains: [c.com]}\n")
    today = narrowed(stored, around)
    assert (today.offline, today.blocked_domains, today.excluded_domains) == (True, ("a.com", "b.com"), ("c.com",))
