"""Reading models.yaml and the surroundings: what is accepted, and the line that each refusal names."""

import re
import stat
from collections.abc import Mapping
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from localfusion.config import (
    Surroundings,
    YamlValue,
    find_models_file,
    forget_note,
    home_directory,
    load_models,
    load_models_file,
    make_home,
    note,
    read_yaml,
)
from localfusion.config.located import MAX_CHARACTERS
from localfusion.config.surroundings import packaged_models_file
from localfusion.errors import ConfigError

GOOD = """\
models:
  one: {path: one.gguf, n_ctx: 4096}
  two:
    shipped: two.gguf
presets:
  pair:
    panel:
      - one
      - model: second
        id: again
        temperature: 0
        tools: {enabled: [], web_search: {max_results: 1}}
    judge: two
aliases:
  second: two
  default: pair
"""


def surroundings(folder: Path, variables: Mapping[str, str] | None = None, *, platform: str = "linux") -> Surroundings:
    return Surroundings(variables or {}, folder, folder / "user", platform)


def written(folder: Path, text: str) -> Path:
    path = folder / "models.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def refusal(folder: Path, text: str) -> ConfigError:
    with pytest.raises(ConfigError) as caught:
        load_models_file(written(folder, text))
    return caught.value


def test_a_good_file_is_read(tmp_path: Path) -> None:
    models = load_models_file(written(tmp_path, GOOD))
    assert models.models["one"].path == str(tmp_path.resolve() / "one.gguf")
    assert models.models["one"].n_ctx == 4096
    assert models.models["two"].n_ctx == "auto"
    first, second = models.presets["pair"].panel
    assert (first.model, first.id, first.temperature) == ("one", None, 0.7)
    assert (second.model, second.id, second.temperature, second.tools.enabled) == ("second", "again", 0, ())
    assert models.presets["pair"].judge.model == "two"


def test_the_file_that_ships_is_good() -> None:
    models = load_models_file(packaged_models_file())
    assert "micro" in models.presets
    assert models.aliases["default"] in models.presets


@pytest.mark.parametrize(
    ("line", "old", "new", "message"),
    [
        (2, "n_ctx: 4096", "n_ctxx: 4096", 'unknown key "n_ctxx"'),
        (2, "n_ctx: 4096", "n_ctx: '4096'", "models.one.n_ctx must be a valid integer or must be 'auto'"),
        (2, "n_ctx: 4096", "n_ctx: 1", "models.one.n_ctx must be greater than or equal to 256 or must be 'auto'"),
        (2, "n_ctx: 4096", "path: other.gguf", 'the key "path" is there twice'),
        (2, "n_ctx: 4096", "shipped: one.gguf", "a model has just one of shipped, path, hub, provider"),
        (2, "n_ctx: 4096", "n_batch: 64", "n_ubatch is larger than n_batch"),
        (2, "one.gguf", "''", "models.one.path must be a path on one line"),
        (4, "two.gguf", "../two.gguf", "models.two.shipped must be the bare name of a .gguf file"),
        (7, "presets:\n  pair:\n", "presets:\n  pair:\n    typo: 1\n", 'unknown key "typo"'),
        (8, "- one\n", "- won\n", 'unknown model "won"'),
        (9, "model: second", "persona: p", 'the key "model" is missing'),
        (10, "id: again", "id: judge", 'the id "judge" is taken'),
        (10, "id: again", "id: a", 'the id "a" is taken'),
        (10, "id: again", "id: A!", "presets.pair.panel.1.id must match pattern"),
        (11, "temperature: 0", "temperature: .inf", "presets.pair.panel.1.temperature must be"),
        (11, "temperature: 0", "temperature: true", "presets.pair.panel.1.temperature must be a valid number"),
        (12, "[]", "[python]", "presets.pair.panel.1.tools.enabled.0 must be 'web_search' or 'web_fetch'"),
        (12, "max_results: 1", "max_result: 1", 'unknown key "max_result"'),
        (13, "judge: two", "judge: three", 'unknown model "three"'),
        (13, "judge: two", "judge: {model: two, seed: 1}", 'unknown key "seed"'),
        (14, "judge: two", "judge: two\n    max_tool_calls: 17", "max_tool_calls must be less than or equal to 16"),
        (15, "second: two", "second: too", 'the alias "second" stands for "too", which is not there'),
        (15, "second: two", "one: two", 'the alias "one" is also a model or a preset'),
    ],
)
def test_a_refusal_names_its_line(tmp_path: Path, line: int, old: str, new: str, message: str) -> None:
    assert old in GOOD
    error = refusal(tmp_path, GOOD.replace(old, new, 1))
    found, rest = error.message.split("models.yaml:", 1)[1].split(":", 1)
    assert int(found) == line
    assert message in rest
    assert error.hint


def test_the_line_of_a_nested_key_is_exact(tmp_path: Path) -> None:
    error = refusal(tmp_path, GOOD.replace("temperature: 0", "temprature: 0"))
    assert error.message.endswith('models.yaml:11: unknown key "temprature"')
    assert error.hint.startswith('did you mean "temperature"?')


@pytest.mark.parametrize(
    ("text", "line", "message"),
    [
        ("- a\n", 1, "must be a mapping"),
        ("models:\n  a: {path: x\n", 3, "not valid YAML"),
        ("models:\n\ta: 1\n", 2, "not valid YAML"),
        ("a: 1\n---\nb: 2\n", 2, "not valid YAML"),
        ("a: 1\nb: \x00\n", 2, "not valid YAML"),
        ("a: *nobody\n", 1, "not valid YAML"),
        ("a: 1\n2: b\n", 2, "a key must be text"),
        ("a: &a {x: 1}\nb:\n  <<: *a\n", 3, "merge keys (<<) are not read"),
        ("a: !!python/object:os.system {}\n", 1, "is not read"),
        ("a: !thing x\n", 1, "is not read"),
        ("a: " + "9" * 5000 + "\n", 1, "is not a value"),
        ("a: &a [*a]\n", 1, "expand to too many values"),
        ("a: " + "[" * 5000, 1, "nested deeper"),
        ("a:\n" + "- 1\n" * 30_000, 19_997, "more than"),
    ],
)
def test_what_is_not_plain_yaml_is_refused(tmp_path: Path, text: str, line: int, message: str) -> None:
    error = refusal(tmp_path, text)
    assert f"models.yaml:{line}: " in error.message
    assert message in error.message
    assert error.hint


def test_aliases_cannot_multiply(tmp_path: Path) -> None:
    levels = ["a0: &a0 [1, 1, 1, 1, 1, 1, 1, 1, 1]"]
    levels += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 12)]
    assert "expand to too many values" in refusal(tmp_path, "\n".join(levels)).message


def test_a_file_that_is_too_large_is_refused(tmp_path: Path) -> None:
    assert "characters" in refusal(tmp_path, "#" * (MAX_CHARACTERS + 1)).message


def test_a_file_that_is_no_text_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "models.yaml"
    path.write_bytes(b"models: \xff\xfe")
    with pytest.raises(ConfigError, match="not UTF-8"):
        load_models_file(path)


@pytest.mark.parametrize("name", ["absent.yaml", "."])
def test_a_file_that_cannot_be_read_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        load_models_file(tmp_path / name)


@given(text=st.text(alphabet="ab:-[]{}&*!|>'\"#,%@` \n\t0.~<", max_size=60))
def test_any_text_is_read_or_refused(text: str) -> None:
    try:
        said = f"some.yaml:{read_yaml(text, name='some.yaml').line(('a', 0, 'b'))}"
    except ConfigError as error:
        said = error.message
    assert re.match(r"some\.yaml:[1-9]", said)


def test_models_files_are_looked_up_in_order(tmp_path: Path) -> None:
    assert find_models_file(surroundings(tmp_path)) == packaged_models_file()
    written(tmp_path, GOOD)
    assert find_models_file(surroundings(tmp_path)) == tmp_path / "models.yaml"
    named = surroundings(tmp_path, {"LOCALFUSION_MODELS": "~/mine.yaml"})
    assert find_models_file(named) == tmp_path / "user" / "mine.yaml"
    assert find_models_file(named, Path("sub/other.yaml")) == tmp_path / "sub" / "other.yaml"
    assert find_models_file(surroundings(tmp_path, {"LOCALFUSION_MODELS": ""})) == tmp_path / "models.yaml"


@pytest.mark.parametrize(
    ("platform", "variables", "expected"),
    [
        ("linux", {}, "user/.local/share/localfusion"),
        ("linux", {"XDG_DATA_HOME": "relative"}, "user/.local/share/localfusion"),
        ("darwin", {"XDG_DATA_HOME": "/x"}, "user/Library/Application Support/localfusion"),
        ("win32", {}, "user/AppData/Local/localfusion"),
        ("linux", {"LOCALFUSION_HOME": "state"}, "state"),
        ("win32", {"LOCALFUSION_HOME": "~/state"}, "user/state"),
    ],
)
def test_the_home_directory_follows_the_platform(
    tmp_path: Path, platform: str, variables: dict[str, str], expected: str
) -> None:
    assert home_directory(surroundings(tmp_path, variables, platform=platform)) == tmp_path / expected


def test_xdg_data_home_is_used_where_it_is_absolute(tmp_path: Path) -> None:
    found = home_directory(surroundings(tmp_path, {"XDG_DATA_HOME": str(tmp_path / "xdg")}))
    assert found == tmp_path / "xdg" / "localfusion"


def test_the_home_directory_is_the_owners_alone(tmp_path: Path) -> None:
    home = make_home(surroundings(tmp_path, {"LOCALFUSION_HOME": "state"}))
    assert stat.S_IMODE(home.stat().st_mode) == 0o700


def test_a_folder_that_holds_something_keeps_its_mode(tmp_path: Path) -> None:
    folder = tmp_path / "state"
    folder.mkdir(mode=0o755)
    (folder / "other").touch()
    before = folder.stat().st_mode
    assert make_home(surroundings(tmp_path, {"LOCALFUSION_HOME": "state"})).stat().st_mode == before


def test_a_home_that_is_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "state").touch()
    with pytest.raises(ConfigError, match="cannot be used") as caught:
        make_home(surroundings(tmp_path, {"LOCALFUSION_HOME": "state"}))
    assert "LOCALFUSION_HOME" in caught.value.hint


def test_the_process_has_surroundings() -> None:
    found = Surroundings.of_this_process()
    assert found.working_directory == Path.cwd()
    assert "PATH" in found.variables


def test_what_commands_note_is_known_and_forgotten_again(tmp_path: Path) -> None:
    here = surroundings(tmp_path, {"LOCALFUSION_HOME": "home"})
    contents: dict[str, YamlValue] = {
        "models": {"org/mine:1": {"path": "/m/Grüße.gguf", "licence": "yes"}},
        "presets": {"own": {"panel": ("org/mine:1",), "judge": {"model": "org/mine:1"}}},
    }
    path = note(here, "org/mine:1", contents)
    assert (path.parent, path.name) == (tmp_path / "home" / "models.d", "org%2Fmine%3A1.yaml")
    assert (stat.S_IMODE(path.stat().st_mode), stat.S_IMODE(path.parent.stat().st_mode)) == (0o600, 0o700)
    note(here, "org/mine:1", contents)
    note(here, "default", {"aliases": {"default": "own"}})
    models = load_models(here)
    assert (models.models["org/mine:1"].path, models.models["org/mine:1"].licence) == ("/m/Grüße.gguf", "yes")
    assert models.aliases["default"] == "own"
    assert sorted(file.name for file in path.parent.iterdir()) == ["default.yaml", "org%2Fmine%3A1.yaml"]
    with pytest.raises(ConfigError, match=r'default.yaml:\d: the alias "default" stands for "own"'):
        forget_note(here, "org/mine:1")
    assert forget_note(here, "default")
    assert forget_note(here, "org/mine:1")
    assert not forget_note(here, "org/mine:1")
    assert load_models(here).aliases["default"] == "micro"


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=20)
@given(st.text(max_size=80), st.text(alphabet="ab.#:@+-/9", min_size=1, max_size=20).map("a".__add__))
def test_what_is_noted_is_read_back_as_it_was(tmp_path: Path, description: str, name: str) -> None:
    here = surroundings(tmp_path, {"LOCALFUSION_HOME": "home"})
    name = name.replace("#", "_")
    note(here, name, {"models": {name: {"path": "/m.gguf", "description": description}}})
    assert load_models(here).models[name].description == description
    assert forget_note(here, name)


@pytest.mark.parametrize(
    ("contents", "message"),
    [
        ({"models": {"mine": {"path": "/m.gguf", "n_ctxx": 4096}}}, 'unknown key "n_ctxx"'),
        ({"models": {"mine": {}}}, "a model has just one of"),
        ({"models": {"mine thing": {"path": "/m.gguf"}}}, "must match pattern"),
        ({"aliases": {"default": "nothing"}}, 'stands for "nothing", which is not there'),
        ({"aliases": {"micro-a": "micro"}}, 'the preset "micro", which this file extends, has "micro-a" for a model'),
    ],
)
def test_a_wrong_note_is_refused_and_changes_nothing(
    tmp_path: Path, contents: Mapping[str, YamlValue], message: str
) -> None:
    here = surroundings(tmp_path, {"LOCALFUSION_HOME": "home"})
    with pytest.raises(ConfigError) as caught:
        note(here, "mine", contents)
    assert re.search(r"models.d/mine.yaml:\d+: ", caught.value.message)
    assert message in caught.value.message
    assert not (tmp_path / "home").exists()


def test_a_note_has_no_place_where_the_folder_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "models.d").touch()
    here = surroundings(tmp_path, {"LOCALFUSION_HOME": "home"})
    with pytest.raises(ConfigError, match="cannot be written"):
        note(here, "mine", {"models": {"mine": {"path": "/m.gguf"}}})


BELOW = """\
models:
  one: {path: one.gguf}
  two: {path: two.gguf}
  vectors: {path: vectors.gguf, embeddings: true}
presets:
  pair: {panel: [one, {model: one, fallback: [spare]}], judge: two}
aliases:
  spare: two
  pairs: pair
"""


@pytest.mark.parametrize(
    ("text", "line", "message"),
    [
        ("presets:\n  one: {panel: [two], judge: two}\n", 2, 'the preset "pair", which this file extends, has "one"'),
        ("\naliases:\n  two: pair\n", 3, 'the preset "pair", which this file extends, has "spare"'),
        ("aliases: {spare: pair}\n", 1, 'the preset "pair", which this file extends, has "spare"'),
        ("models:\n  two: {path: x.gguf, embeddings: true}\n", 2, 'the preset "pair", which this file extends'),
        ("aliases:\n  pair: one\n", 2, 'the alias "pairs", which this file extends, stands for "pair"'),
    ],
)
def test_a_name_that_is_still_used_keeps_its_meaning(tmp_path: Path, text: str, line: int, message: str) -> None:
    below = load_models_file(written(tmp_path, BELOW))
    above = tmp_path / "above.yaml"
    above.write_text(text)
    with pytest.raises(ConfigError) as caught:
        load_models_file(above, extends=below)
    assert f"above.yaml:{line}: {message}" in caught.value.message


@pytest.mark.parametrize(
    "text",
    [
        "models:\n  one: {path: other.gguf}\n",
        "models:\n  spare: {path: other.gguf}\n",
        "presets:\n  one: {panel: [two], judge: two}\n  pair: {panel: [two], judge: two}\n",
        "aliases:\n  one: two\n",
    ],
)
def test_a_name_may_change_where_nobody_minds(tmp_path: Path, text: str) -> None:
    below = load_models_file(written(tmp_path, BELOW))
    above = tmp_path / "above.yaml"
    above.write_text(text)
    assert "pair" in load_models_file(above, extends=below).presets


@pytest.mark.parametrize(
    ("old", "new"), [("[one,", "[vectors,"), ("[spare]", "[vectors]"), ("judge: two", "judge: vectors")]
)
def test_an_embedding_model_takes_no_seat(tmp_path: Path, old: str, new: str) -> None:
    error = refusal(tmp_path, BELOW.replace(old, new, 1))
    assert 'models.yaml:6: "vectors" is an embedding model' in error.message
