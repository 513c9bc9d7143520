"""The language of a text, guessed from its most common words; and which words of a language say nothing.

Languages are named as Snowball names its stemmers. A text of another language is treated as English, whose stemmer
leaves what it does not know nearly alone. Pure.
"""

from collections import Counter
from collections.abc import Collection, Mapping

from localfusion.search.blocks import word_set

DEFAULT = "english"

STOP_WORDS: Mapping[str, frozenset[str]] = {
    "english": word_set(
        "a about after all also an and any are as at be been before between but by can could did do does during for "
        "from had has have he her his how i if in into is it its me more most my no not of on or our over please say "
        "said says she should so some source sources such tell than that the their them then there these they this "
        "those to under us was we were what when where which while who whom whose why will with would you your s t"
    ),
    "german": word_set(
        "aber als am an auch auf aus bei beim bis da das dass dem den der des die dies diese dieser dieses doch "
        "durch ein eine einem einen einer eines er es etwa für hat hatte ich ihm ihr ihre im in ist ja kann kein "
        "keine man mehr mit nach nicht noch nun nur oder ob ohne sein seine sich sie sind so soll über um und uns "
        "unter viel vom von vor war waren warum was welche welcher welches wenn wer werden wie wird wir wird wo "
        "worden wurde wurden zu zum zur zwischen"
    ),
    "french": word_set(
        "à au aux avec c ce ces cette ceux comme comment d dans de des donc dont du elle elles en entre est et été "
        "être eu fut il ils j je l la le les leur leurs lui ma mais me même mes mon n ne nos notre nous on ont ou où "
        "par pas plus pour pourquoi qu quand que quel quelle quels quelles qui s sa sans se sera ses si son sont sur "
        "t ta te tu un une vos votre vous y était étaient"
    ),
    "spanish": word_set(
        "a al ante antes como con cómo cual cuál cuales cuando cuándo cuyo de del desde donde dónde e el él ella "
        "ellas ellos en entre era eran es esa ese eso esta está estas este esto están fue fueron ha han hasta hay la "
        "las le les lo los más me mi muy ni no nos o os otra otro para pero por porque qué que quien quién se según "
        "ser si sí sin sobre son su sus también tiene un una uno unos y ya yo"
    ),
    "italian": word_set(
        "a ad agli ai al alla alle allo anche che chi ci come con cosa cui d da dagli dai dal dalla dalle dei del "
        "della delle dello di dove e è ed era erano essere fu gli ha hanno i il in io l la le lo loro ma mi ne negli "
        "nei nel nella nelle no noi non o per perché più qual quale quali quando quanto quella quello questa queste "
        "questi questo se si sia sono stata stato su sua sue sugli sui sul sulla suo suoi tra un una uno vi"
    ),
    "portuguese": word_set(
        "a à ao aos as às até com como da das de dela dele deles do dos e é ela elas ele eles em entre era eram essa "
        "esse esta está este eu foi foram há isso isto já lhe mais mas me mesmo muito na nas nem no nos nós não o "
        "onde os ou para pela pelas pelo pelos por porque qual quais quando que quem se sem ser seu seus são só sua "
        "suas também tem têm um uma você"
    ),
    "dutch": word_set(
        "aan al als bij dan dat de deze die dit door een en er had heb hebben heeft het hij hoe hun ik in is ja je "
        "kan maar me meer men met mij mijn na naar niet nog nu of om omdat onder ons ook op over te tegen tot u uit "
        "van veel voor waar waarom wanneer want waren was wat welke werd wie wij wordt worden zal ze zich zij zijn "
        "zo zonder zou"
    ),
    "swedish": word_set(
        "alla att av blev bli blir de dem den denna deras det detta dig din där efter ej eller en ett för från ha "
        "hade han hans har henne hon honom hur här i icke inte jag ju kan kunde man med mellan men mig min mot "
        "mycket ni nu när och om oss på sedan sig sin sina sitt skulle som så till under upp ut utan vad var varför "
        "vem vi vid vilka vilken vilket är än åt över"
    ),
    "danish": word_set(
        "af alle at blev blive bliver da de dem den denne der deres det dette dig din dog du efter eller en end er "
        "et for fra ham han hans har havde hende her hos hun hvad hvem hvilken hvis hvor hvorfor hvordan hvornår i "
        "ikke ind jeg jo kan kunne man med meget mellem men mig min mod ned nogle nu når og også om op os over på "
        "sig sin skal skulle som så til ud under var ved vi vil være været"
    ),
    "norwegian": word_set(
        "alle at av ble bli blir da de deg dem den denne der dere deres det dette du eller en enn er et etter for "
        "fordi fra før ha hadde han hans har henne her hun hva hvem hvilken hvis hvor hvordan hvorfor i ikke inn jeg "
        "kan kunne man med meg mellom men mot mye noe noen nå når og også om opp oss over på seg sin skal skulle som "
        "så til ut uten var ved vi vil være vært"
    ),
    "finnish": word_set(
        "ei eivät eli en ennen että he hän häntä ilman itse ja jo joka jolla jonka jos jossa jota jotka kanssa koko "
        "koska kuin kuinka kuka kun kuten me mihin miksi mikä milloin minä missä mitkä mitä mutta mukaan myös ne "
        "niin nyt näin oli olivat olla olleet ollut on ovat saa se sekä sen siellä siitä sinä sitä tai te tämä tässä "
        "tätä vaan vai vain vielä voi yli"
    ),
    "polish": word_set(
        "aby albo ale bardzo bez był była było były być co czy dla do gdy gdzie go i ich ile im inne ja jak jaka "
        "jaki jakie jako je jego jej jest jeszcze już kiedy kto która które który ma mnie może na nad nie nich o od "
        "on ona one oni oraz po pod przed przez przy się są ta tak także tam te tego tej ten to tu tylko tym w we z "
        "za ze że"
    ),
    "russian": word_set(
        "а без более бы был была были было быть в вам вас во вот все всё вы где да для до его ее её если есть еще "
        "ещё же за здесь и из или им их к как какая какие какой ко когда которая которые который кто ли мне мы на "
        "над не него нет них но о об он она они оно от по под после потому почему при про с со так также там тем то "
        "того тоже только том ты у уже чего чем что чтобы эта эти это этот я"
    ),
    "turkish": word_set(
        "ama ancak bana bazı ben bir bu bunu bunun çok da daha de değil diye gibi göre hem hangi her için ile ise "
        "kadar ki kim mı mi mu mü nasıl ne neden nerede o olan olarak oldu olduğu olur on ona onu onun sonra şu "
        "tarafından ve veya ya yok zaman"
    ),
    "hungarian": word_set(
        "a az azt azok az be csak de egy egyik ez ezek ezt és fel ha hanem hogy hogyan hol ill illetve is itt ki "
        "kell le lehet lesz már még meg mely mert mi miért mikor mint mit most nagy nem nincs olyan ott össze pedig "
        "s sem ti után vagy van vannak volt voltak"
    ),
}
"""Language -> its words that say nothing of themselves, in lower case."""

_SAMPLE_CHARACTERS = 4000
_MIN_SHARE = 0.08
"""The share of a text's words that must be a language's stop words; any prose has three times as many."""


def guess(text: str, among: Collection[str] = STOP_WORDS.keys()) -> str:
    """The language of a text or a question, of those given; English, or the first of them, where nothing tells."""
    words = Counter(text[:_SAMPLE_CHARACTERS].casefold().split())
    fallback = DEFAULT if DEFAULT in among else min(among, default=DEFAULT)
    counts = {language: sum(words[word] for word in STOP_WORDS[language] & words.keys()) for language in among}
    best = max(counts, key=lambda language: (counts[language], language == fallback), default=fallback)
    return best if counts.get(best, 0) > _MIN_SHARE * words.total() else fallback
