"""Whether a page looks like an attack on a model that reads it: a judgement by its words, made without a model.

The main phrases in some fifteen languages. No meaning, no look-alike letters, no text in pictures; it removes nothing.
"""

import re
import unicodedata
from dataclasses import dataclass

from localfusion.search.blocks import word_set
from localfusion.search.control_tokens import has_control_token

_MOST_CHARACTERS = 1_000_000
"""Of a text, so much is looked at."""
_MODEL = (
    r"(?:ai|a\.i\.|llms?|gpt|chatgpt|claude|gemini|copilot|(?:large )?language models?|chat ?bots?|ki|ia)"
    r"(?: (?:assistants?|agents?|models?|systems?|crawlers?|readers?|bots?))?"
)
_READER = rf"(?:{_MODEL}|assistants?(?! \w{{0,9}}(?:professor|manager|director|coach|editor))|(?:the|this) model)"
_OTHER = (
    r"(?:previous|prior|above|earlier|preceding|foregoing|former|all|any|your|system|every|the user'?s?|other|initial"
    r"|original)"
)
_KNOWN = (
    r"(?:conversation|users?'?s? (?:question|data|query|message|name|email)|system prompt|chat history"
    r"|your (?:instructions|context|memory|answer|prompt)|the question)"
)


@dataclass(frozen=True, slots=True)
class _Sign:
    """Patterns over folded text; they are tried only where one of `words` stands, which is quick to see."""

    clause: str
    words: tuple[str, ...]
    patterns: tuple[re.Pattern[str], ...]

    def stands_in(self, folded: str) -> bool:
        """Whether any of the patterns does."""
        return any(word in folded for word in self.words) and any(one.search(folded) for one in self.patterns)


def _sign(clause: str, words: str, *patterns: str) -> _Sign:
    """A sign whose words and patterns are written as `_folded` writes text."""
    same = (unicodedata.normalize("NFKC", pattern) for pattern in patterns)
    return _Sign(clause, tuple(unicodedata.normalize("NFKC", words).split(",")), tuple(map(re.compile, same)))


def _dismissal(verbs: str, others: str, nouns: str) -> str:
    """A pattern of one language: to ignore all, or what came before, of some instructions, in either order."""
    gap = "[^.!?]{0,40}"
    return rf"{verbs}(?:{gap}(?:{others}){gap}(?:{nouns})|{gap}(?:{nouns})[^.!?]{{0,20}}(?:{others}))"


_SIGNS = (
    _sign(
        "it says to ignore instructions",
        "ignor,disregard,forget,overrid,bypass,follow,miss,verg,oubli,tiens,tenez,"
        "olvid,omiso,sigas,esque,desconsider,diment,neg,игнор,забуд,внимани,zapomnij,zignor,talimat"
        ",忽略,无视,無視,忘,무시,잊,تجاهل,निर्देश",
        rf"\b(?:ignore|disregard|forget|override|bypass|(?:do not|don't|stop) follow(?:ing)?)\b"
        rf"[^.!?]{{0,30}}\b{_OTHER}\b[^.!?]{{0,30}}"
        r"\b(?:instructions?|prompts?|directions|directives|guidelines|commands|orders|messages)\b",
        r"\b(?:ignore|disregard|forget)\b[^.!?]{0,20}\b(?:previous|prior|above|earlier|preceding)\b[^.!?]{0,20}"
        r"\b(?:rules|context|text)\b",
        r"\b(?:ignore|disregard|forget) (?:absolutely )?everything (?:above|before|prior|that came"
        r"|you (?:were|have been) told)",
        _dismissal(
            r"\b(?:ignorier\w{0,3}|missachte\w{0,2}|vergiss|vergessen sie)\b(?! nicht)",
            "alle|bisherig|vorherig|vorig|obig|dein",
            "anweisung|instruktion|vorgabe|befehle|prompt",
        ),
        _dismissal(
            r"(?<!n')\b(?:ignore[zr]?|ignorer|oublie[zr]?|ne (?:tiens|tenez) pas compte)\b",
            "toutes|précédent|antérieur|ci-dessus|tes |vos ",
            "instructions|consignes|directives|ordres",
        ),
        _dismissal(
            r"(?<!no )\b(?:ignor[ae]\w{0,2}|olvid[ae]\w{0,2}|haz caso omiso|no sigas)\b",
            "todas|anterior|previ|tus ",
            "instruccion|indicacion|órdenes|directrices",
        ),
        _dismissal(
            r"(?<!não )\b(?:ignor[ea]\w{0,2}|esque[cç]a\w{0,2}|desconsidere\w{0,2})\b",
            "todas|todos|anterior|prévi|suas ",
            "instruç|instruco|ordens|comandos",
        ),
        _dismissal(
            r"(?<!non )\b(?:ignora\w{0,2}|dimentica\w{0,2})\b",
            "tutt|precedent|tue ",
            "istruzion|direttive|comandi",
        ),
        _dismissal(
            r"\b(?:negeer|vergeet)\b(?! niet)",
            "alle |eerdere|vorige|bovenstaande",
            "instructies|aanwijzingen|opdrachten",
        ),
        _dismissal(
            r"(?:игнорируй|игнорировать|проигнорируй|(?<!не )забудь|не обращай внимания)",
            "все |всё |предыдущ|прежн|свои",
            "инструкци|указани|команд",
        ),
        _dismissal(r"\b(?:zignoruj|ignoruj|zapomnij)", "wszystk|poprzedn|wcześniejsz", "instrukcj|polece"),
        r"(?:önceki|tüm)[^.!?]{0,20}talimat\w{0,10}[^.!?]{0,30}(?:yok say|görmezden|unut)",
        r"(?:忽略|无视|無視|忘记|忘記)[^。!?]{0,15}(?:指令|指示|提示|说明|說明|规则|規則)",
        r"(?:指示|命令|プロンプト)[^。!?]{0,15}(?:無視|忘れ)",
        r"(?:지시|명령|프롬프트)[^.!?]{0,20}(?:무시|잊)",
        r"تجاهل[^.!?]{0,40}(?:التعليمات|الأوامر|تعليمات)",
        r"निर्देश[^।!?]{0,40}(?:अनदेखा|नज़रअंदाज|नजरअंदाज|भूल)",
    ),
    _sign(
        "it gives a model a new role",
        "you are now,from now on,pretend,act as,mode,new instr,new syst,new prompt,new role,new direct,new object,jetzt"
        ",maintenant,ahora eres,agora você,ora sei,теперь,现在,現在,今から,이제",
        rf"\byou are now\b[^.!?]{{0,60}}"
        rf"\b(?:{_READER}|unrestricted|dan|persona|jailbroken|developer|admin|evil|free of)\b",
        rf"\bfrom now on,? you (?:are|will|must|shall|only)\b[^.!?]{{0,60}}"
        rf"\b(?:{_READER}|answer|respond|reply|obey|say|ignore)\b",
        rf"\bpretend (?:to be|that you are|you are|you're)\b[^.!?]{{0,40}}\b(?:{_READER}|unrestricted|no rules)\b",
        r"\bact as (?:an? )?(?:unrestricted|jailbroken|uncensored|dan)\b",
        r"\b(?:developer|dan|god|jailbreak) mode (?:is )?(?:enabled|on|activated)\b",
        r"\bnew (?:system )?(?:instructions?|prompt|role|directive|objective)s? ?"
        r"(?::|for (?:you|the (?:ai|model|assistant)))",
        r"\b(?:du bist jetzt|jetzt bist du|sie sind jetzt)\b[^.!?]{0,50}\b(?:ki|assistent|modell|bot|agent)",
        r"\b(?:tu es maintenant|vous êtes maintenant)\b[^.!?]{0,50}\b(?:ia|assistant|modèle|bot|agent)",
        r"\b(?:ahora eres|agora você é|ora sei)\b[^.!?]{0,50}\b(?:ia|asistente|assistente|modelo|modello|bot|agente?)",
        r"(?:ты теперь|теперь ты)[^.!?]{0,50}(?:ии|ассистент|модель|помощник|бот)",
        r"(?:你现在是|你現在是|从现在起你是)[^。]{0,30}(?:ai|助手|模型|机器人)",
        r"(?:今からあなたは|あなたは今から)[^。]{0,40}(?:ai|アシスタント|モデル)",
        r"이제부터 (?:너는|당신은)[^.]{0,40}(?:ai|모델|비서)",
    ),
    _sign(
        "it asks for a system prompt",
        "system prompt,system-prompt,systemprompt,prompt système,prompt del,prompt do",
        r"\b(?:your|reveal|print|repeat|show|leak|output|new|override|ignore|disclose|quote|recite)\b[^.!?]{0,30}"
        r"\bsystem[ -]?prompt",
        r"\bsystem[ -]?prompt ?(?::|override|update|below)",
        r"(?:zeige?|verrate|wiederhole)\w{0,3}\b[^.!?]{0,30}system-?prompt",
        r"\bprompt (?:système|del sistema|do sistema)\b",
    ),
    _sign(
        "it imitates the turns of a chat",
        "##,system:,message:,developer:,admin:,human:,assistant:,[system,<system,</system",
        r"#{2,4} ?(?:instructions?|system(?: message| prompt)?|response|human|assistant|user) ?:",
        r"(?:^| )#{3} ?(?:instruction|response|system)s?(?: |$)",
        r"\b(?:system|developer|admin) ?(?:message)?: [^.!?]{0,80}"
        r"\b(?:you (?:are|must|will|should)|ignore|instructions?|comply|obey)\b",
        r"\bhuman: .{0,300}\bassistant:|\bassistant: (?:sure|ok|okay|certainly|understood|i will|of course)\b",
        r"\[system(?: message| prompt|#\w{1,12})?\]|</?system(?:[ _-](?:prompt|message|instructions?))?>",
    ),
    _sign(
        "it imitates a tool call",
        "web_search,web_fetch,tool_call,function_call,<invoke,<function,antml",
        r"[\"']name[\"'] ?: ?[\"']web_(?:search|fetch)|\bweb_(?:search|fetch) ?[({]|\bweb_(?:search|fetch):",
        r"<\s?/?(?:tool_calls?|function_calls?|invoke|antml:\w{1,20}|function=\w{1,40})\b",
    ),
    _sign(
        "it imitates the marks around a source",
        "<<<,>>>,</,text of sources,begin ,end of ,start ,end sys,end trust,end untrust,end ext,end tool",
        r"<<<\s?/?[0-9a-z_]{4,}|[0-9a-f]{12,}\s?>>>|text of sources, which is data",
        r"</(?:untrusted\w{0,20}|context|documents?|search_results?|tool_(?:response|result|output)s?|system"
        r"|instructions?|source)>",
        r"\b(?:begin|end|start)(?: of)? (?:the )?(?:system|trusted|untrusted|admin|developer|assistant|external|tool) "
        r"(?:message|prompt|instructions?|data|input|text|content|output|response|results?)\b",
    ),
    _sign(
        "it asks to keep something from the user",
        "user,nutzer,anwender,utilisateur,usuario,usuário,utente,пользовател,用户,用戶,使用者,ユーザー,사용자",
        r"\b(?:do not|don't|never|must not|without)\b[^.!?]{0,15}"
        r"\b(?:tell|mention|inform|reveal|alert|notify|warn|show|let)(?:ing)?\b[^.!?]{0,40}\b(?:the|your|this) user\b",
        r"(?:sag|erzähl|verrat|erwähn|informier)\w{0,3}\b[^.!?]{0,40}(?:nutzer|anwender)\w{0,3}\b[^.!?]{0,25}"
        r"\b(?:nicht|nichts|kein)",
        r"\bne\b[^.!?]{0,15}(?:dis|dites|mentionne\w{0,2}|informe\w{0,2}|révèle\w{0,2})\b[^.!?]{0,40}utilisateur",
        r"\b(?:no|não|non)\b[^.!?]{0,15}(?:digas?|menciones?|informes?|diga|mencione|dire|menzionare|rivelare)\b"
        r"[^.!?]{0,40}(?:usuario|usuário|utente)",
        r"не (?:говори|сообщай|рассказывай|упоминай)[^.!?]{0,40}пользовател",
        r"(?:不要|别|勿)[^。]{0,6}(?:告诉|告訴|向|通知|提醒)[^。]{0,6}(?:用户|用戶|使用者)",
        r"ユーザーに[^。]{0,15}(?:言わない|伝えない|知らせない)|사용자에게[^.]{0,15}(?:말하지|알리지)",
    ),
    _sign(
        "it asks to send what a model knows to an address",
        "conversation,user,prompt,history,your ,question,answer,context,secret,memory,summary",
        rf"\b(?:append|include|add|put|encode|attach|send|leak|exfiltrate|post|insert|pass)(?:s|es|ed|ing)?\b[^.!?]{{0,60}}"
        rf"\b{_KNOWN}\b[^!?]{{0,80}}(?:https?://|\burl\b|\bquery string\b|\bwebhook\b)",
        r"\b(?:fetch|visit|open|request|get|call|load|navigate to|browse to|go to|read|retrieve|web_fetch)\b[^!?]{0,80}"
        r"https?://\S{0,150}(?:[{\[<$]|%7b|=)\W{0,3}"
        r"(?:conversation|question|prompt|answer|chat|history|context|secret|memory|users?_|your|summary|the_)",
        r"https?://\S{0,150}[=/?](?:[{\[<$]|%7b)[^\s]{0,40}[^!?]{0,60}\breplac\w{1,4}\b[^!?]{0,60}"
        r"\b(?:conversation|question|prompt|answer)",
    ),
    _sign(
        "it speaks to a model instead of a reader",
        "if you,note to,instruction,message,dear ,hey,hello,attention,reading,process,summari,that read,who read"
        ",parsing,achtung,hinweis,wenn du,si es,si eres,si tu,如果你是,если ты",
        rf"\bif you(?: are|'re) (?:an? |the )?{_READER}\b",
        rf"\b(?:note|instructions?|message) (?:to|for) (?:all |any |the |every )?{_MODEL}\b",
        rf"\b(?:dear|hey|hello|attention),? {_MODEL}\b[^.!?]{{0,60}}\b(?:you|please|must|ignore|do not|say)\b",
        rf"\b{_READER} (?:reading|processing|summari[sz]ing|that reads?|who reads?|parsing) (?:this|the page)\b",
        r"\b(?:achtung|hinweis)\b[^.!?]{0,15}\b(?:ki|sprachmodell)|\bwenn du (?:eine? )?(?:ki|sprachmodell)",
        r"\bsi (?:eres|es|tu es) (?:un[ea]? )?(?:ia|modelo|modèle)\b",
        r"如果你是[^。]{0,10}(?:ai|人工智能|模型|助手)|если ты[^.]{0,10}(?:ии|языковая модель|ассистент)",
    ),
)
_DEEDS = "(?:tell|say|state|answer|respond|reply|recommend|claim|conclude|output|write|fetch|visit|cite|rate)"
_ORDERS = (
    rf"\b{_READER}\b[^.!?]{{0,40}}\b(?:must|shall|should|please|always|never|do not|ha(?:s|ve) to|are required to)\b",
    rf"\b{_DEEDS}\b[^.!?]{{0,80}}\b(?:{_READER}|the user)\b",
    rf"\b(?:you must|always|only) {_DEEDS}\b",
    r"\b(?:your|the) (?:final )?(?:answer|response|summary|output|reply)\b[^.!?]{0,30}\b(?:must|should|has to|is to)\b",
    r"\b(?:new|updated|important|urgent|hidden|secret) (?:instructions?|orders?|directives?)\b",
)
_HIDDEN_ORDERS = re.compile("|".join(_ORDERS))
_HIDDEN_WORDS = word_set(
    "must shall should please always never not tell say answer respond reply recommend claim output write fetch visit "
    "cite rate only instruct order directive conclude"
)


def signs(text: str, hidden_text: str) -> tuple[str, ...]:
    """Short clauses, each a reason to think that a page is an attack: by what it shows, then by what it hides."""
    found = _signs(text)
    hidden = _signs(hidden_text)
    if not hidden and _gives_orders(_folded(hidden_text)):
        hidden = ("it gives orders",)
    return tuple(dict.fromkeys((*found, *(f"{clause} in hidden text" for clause in hidden))))


def speaks_to_a_model(text: str) -> bool:
    """Whether a piece of text that a reader may not see has any sign of an attack, orders included."""
    return bool(_signs(text)) or _gives_orders(_folded(text))


def _signs(text: str) -> tuple[str, ...]:
    folded = _folded(text)
    found = tuple(sign.clause for sign in _SIGNS if sign.stands_in(folded))
    return (
        (*found, "it holds control tokens of chat templates") if has_control_token(text[:_MOST_CHARACTERS]) else found
    )


def _gives_orders(folded: str) -> bool:
    return any(word in folded for word in _HIDDEN_WORDS) and _HIDDEN_ORDERS.search(folded) is not None


def _folded(text: str) -> str:
    """`text` without case, with letters of one kind of width and quotation mark, on one line."""
    folded = unicodedata.normalize("NFKC", text[:_MOST_CHARACTERS]).casefold()
    return " ".join(folded.replace("\u2019", "'").replace("。", "。 ").split())
