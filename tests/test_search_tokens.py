"""Terms: what counts as one word, in which scripts and languages, and the language that a text is taken for."""

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from localfusion.search.languages import STOP_WORDS, guess
from localfusion.search.query import parse_queries, parse_query
from localfusion.search.tokens import fold, term_line, terms, written_words

LANGUAGES = st.sampled_from(sorted(STOP_WORDS))
PIECES = st.sampled_from(
    ["foo_bar-2", "1,000", "Straße", "高さは", "ไทย", "हिन्दी", "l'eau", "a.b", " ", "\n", "The", "-", "½", "x-⑴", "猫"]
)
TEXTS = st.one_of(st.text(max_size=80), st.lists(PIECES, max_size=12).map("".join))


@pytest.mark.parametrize(
    ("text", "language", "found"),
    [
        ("Lamps, ropes", "english", "lamp rope"),
        ("foo_bar-2", "english", "foo_bar-2 foo bar 2"),
        ("std::vector<int>", "english", "std::vector std vector int"),
        ("os.path.join()", "english", "os.path.join os path join"),
        ("__init__", "english", "init"),
        ("3.14 or 1,000,000.", "english", "3.14 3 14 or 1,000,000 1 000 000"),
        ("well-known", "english", "well-known well known"),
        ("don't", "english", "don t"),
        ("Naïve naive NAI\u0308VE", "english", "naiv naiv naiv"),
        ("Häuser Haus", "german", "haus haus"),
        ("Straße STRASSE", "german", "strass strass"),
        ("chevaux cheval", "french", "cheval cheval"),
        ("l'élève", "french", "l elev"),
        ("Ångström Øre łódź", "english", "angstrom ore lodz"),
        ("города город", "russian", "город город"),
        ("İstanbul istanbul", "english", "istanbul istanbul"),
        ("高さは四十。色は白", "english", "高さ さは は四 四十 色は は白"),
        ("猫", "english", "猫"),
        ("Python言語", "english", "python 言語"),
        ("한국", "english", "한국"),
        ("ภาษา", "english", "ภา าษ ษา"),
        ("हिन्दी", "english", "हिन्दी"),
        ("\uff26\uff55\uff4c\uff4c", "english", "full"),
        ("½ ⑴", "english", "1 2 1"),
        ("x-⑴", "english", "x 1"),
        ("?! \ud800 \0", "english", ""),
    ],
)
def test_what_counts_as_a_term(text: str, language: str, found: str) -> None:
    assert " ".join(terms(text, language)) == found


@given(TEXTS, LANGUAGES)
def test_terms_are_bounded_and_hold_nothing_but_words(text: str, language: str) -> None:
    for term in terms(text, language):
        assert 0 < len(term) <= 80
        assert not set(term) & set(" \"'/+()*^{}")
        assert term.casefold() == term


@given(TEXTS, LANGUAGES)
def test_case_and_composition_do_not_matter(text: str, language: str) -> None:
    composed = unicodedata.normalize("NFC", text)
    assert terms(composed, language) == terms(unicodedata.normalize("NFD", composed), language)
    if composed.isascii():
        assert terms(composed.upper(), language) == terms(composed, language)


@given(TEXTS, TEXTS, LANGUAGES)
def test_terms_of_a_text_are_those_of_its_lines(first: str, second: str, language: str) -> None:
    assert terms(f"{first}\n{second}", language) == terms(first, language) + terms(second, language)
    assert term_line(f"{first}\n{second}", language).count("\n") == f"{first}{second}".count("\n") + 1


@given(TEXTS)
def test_a_text_is_found_by_its_own_words(text: str) -> None:
    composed = unicodedata.normalize("NFC", text)
    assert terms(" ".join(written_words(composed))) == terms(composed)


@given(st.text(max_size=40))
def test_folding_again_changes_nothing(text: str) -> None:
    assert fold(fold(text)) == fold(text)


@pytest.mark.parametrize(
    ("text", "language"),
    [
        ("The height of the lighthouse is what they asked for.", "english"),
        ("Wie hoch ist der Leuchtturm und wer hat ihn gebaut?", "german"),
        ("Quelle est la hauteur du phare et qui l'a construit ?", "french"),
        ("¿Cuál es la altura del faro y quién lo construyó?", "spanish"),
        ("Qual è l'altezza del faro e chi lo ha costruito?", "italian"),
        ("Qual é a altura do farol e quem o construiu, não sei.", "portuguese"),
        ("Hoe hoog is de vuurtoren en wie heeft het gebouwd?", "dutch"),
        ("Hur hög är fyren och vem har byggt den, det vet jag inte.", "swedish"),
        ("Hvor højt er fyret, og hvem er det blevet bygget af?", "danish"),
        ("Hvor høyt er fyret, og hvem ble det bygget av, vet noen det nå?", "norwegian"),
        ("Kuinka korkea majakka on ja kuka sen on rakentanut, mutta ei ole?", "finnish"),
        ("Jak wysoka jest latarnia i kto ją zbudował, to nie wiem.", "polish"),
        ("Какая высота у маяка и кто его построил?", "russian"),
        ("Deniz feneri ne kadar ve bu kim için yapıldı?", "turkish"),
        ("Milyen magas a torony és ki az, aki ezt meg is építette?", "hungarian"),
        ("lamp ropes Merriden", "english"),
        ("", "english"),
        ("高さは四十", "english"),
    ],
)
def test_the_language_of_a_text(text: str, language: str) -> None:
    assert guess(text) == language


@given(TEXTS, st.sets(LANGUAGES, min_size=1))
def test_a_guess_is_one_of_those_there_are(text: str, among: set[str]) -> None:
    assert guess(text, among) in among


def test_a_query_has_the_terms_of_each_language_and_not_its_own_stop_words() -> None:
    queries = parse_queries("Wie hoch sind die Häuser?", ["english", "german"])
    assert queries["german"].words == queries["english"].words == ("hoch", "Häuser")
    assert (queries["german"].stems, queries["english"].stems) == (("hoch", "haus"), ("hoch", "hauser"))


def test_an_identifier_is_looked_for_whole_and_in_parts() -> None:
    query = parse_query("What is foo_bar-2?")
    assert query.words == ("foo_bar-2",)
    assert query.stems == ("foo_bar-2", "foo", "bar", "2")


def test_a_text_that_is_looked_in_has_single_characters_behind_their_pairs() -> None:
    assert " ".join(terms("高さは40です 猫", with_characters=True)) == "高さ さは 高 さ は 40 です で す 猫"
    assert terms("Lamps", with_characters=True) == terms("Lamps")


@pytest.mark.parametrize("text", ["lamp ropes " * 10**5, "lamp." * 10**5, "高さは" * 10**5, "a" * 10**6])
def test_a_query_is_read_up_to_a_bound(text: str) -> None:
    query = parse_query(" ".join(f"{text[:40]}{n}" for n in range(1000)) + text)
    assert 0 < len(query.words) <= 256
    assert len(parse_query(text).stems) <= 4096
    assert len(parse_query("".join(map(chr, range(0x4E00, 0x9000)))).stems) < 4096
