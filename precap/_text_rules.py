"""The rules of the Penn Treebank scanner that ``precap.text`` runs; see there for how they work."""

import re
import unicodedata
from collections.abc import Callable
from functools import cache
from typing import NamedTuple

# What becomes of a matched token: (the word or "" for none, how many characters it used).
Action = Callable[[str], tuple[str, int]]


class Rule(NamedTuple):
    match: Callable[[str, int], re.Match[str] | None]
    action: Action
    needs: str  # a text without this cannot match: keeps the rare rules off ordinary captions


def _keep(token: str) -> tuple[str, int]:
    return token, len(token)


def _drop(token: str) -> tuple[str, int]:
    return "", len(token)


def _spaced(token: str) -> tuple[str, int]:
    return token.replace(" ", "\u00a0"), len(token)


def _soft(token: str) -> tuple[str, int]:
    """Without soft hyphens, which are there for line breaking only."""
    return token.replace("\u00ad", "") or "-", len(token)


def _amp(token: str) -> tuple[str, int]:
    return _AMP.sub("&", token), len(token)


def _round(token: str) -> tuple[str, int]:
    return token.replace("(", "-LRB-").replace(")", "-RRB-"), len(token)


def _phone(token: str) -> tuple[str, int]:
    return _round(_spaced(token)[0])[0], len(token)


def _quote(token: str, left: bool = False) -> tuple[str, int]:
    """Quotation marks the way LaTeX types them."""
    single, double = ("`", "``") if left else ("'", "''")
    text = token.replace("&apos;", single).replace("'", single)
    text = text.replace("&quot;", double).replace('"', double)
    return text.translate(_QUOTES), len(token)


def _opening(token: str) -> tuple[str, int]:
    return _quote(token, left=True)


def _currency(token: str) -> tuple[str, int]:
    return token.translate(_MONEY), len(token)


def _fraction(token: str) -> tuple[str, int]:
    return token.translate(_FRACTIONS), len(token)


def _hyphens(token: str) -> tuple[str, int]:
    return ("--" if len(token) in (3, 4) else token), len(token)


def _acronym(token: str) -> tuple[str, int]:
    """Before a sentence's first word a letter leaves its full stop, an acronym shares it."""
    return (token[0], 1) if len(token) == 2 else (token, len(token) - 1)


def _full_stop(token: str) -> tuple[str, int]:
    return token, len(token) - 1


def _first(count: int) -> Action:
    return lambda token: (token[:count], count)


def _as(word: str) -> Action:
    return lambda token: (word, len(token))


_AMP = re.compile("&amp;", re.I)
_QUOTES = str.maketrans(
    {
        **dict.fromkeys("\x91‘‛‹", "`"),
        **dict.fromkeys("\x92’›", "'"),
        **dict.fromkeys("\x93“«", "``"),
        **dict.fromkeys("\x94”»", "''"),
    }
)
_MONEY = str.maketrans({"¢": "cents", "£": "#", **dict.fromkeys("\x80¤₠€", "$")})
_BRACKETS = {"{": "LCB", "}": "RCB", "[": "LSB", "]": "RSB", "(": "LRB", ")": "RRB"}
_FRACTIONS = str.maketrans({"¼": "1/4", "½": "1/2", "¾": "3/4", "⅓": "1/3", "⅔": "2/3"})

# The alphabet is that of Unicode 6.1, which the scanner was generated with: nothing newer.
_NEWER = (
    "037F-037F 0528-052F 0560-0560 0588-0588 05EF-05EF 0860-089F 08A1-08A1 08AD-08FF 0978-0978 "
    "0980-0980 09FC-09FC 0AF9-0AF9 0C34-0C34 0C5A-0C5D 0C80-0C80 0CDD-0CDD 0D04-0D04 0D54-0D5F "
    "0E86-0E86 0E89-0E89 0E8C-0E8C 0E8E-0E93 0E98-0E98 0EA0-0EA0 0EA8-0EA9 0EAC-0EAC 13F5-13FD "
    "16F1-16F8 170D-170D 171F-171F 1878-1878 191D-191E 19B0-19C0 19C8-19C9 1B4C-1B4C 1C80-1CBF "
    "1CF2-1CF4 1CFA-1CFA 2C2F-2C2F 2C5F-2C5F 312E-312F 31BB-31BF 4DB6-4DBF 9FCD-9FFF A698-A69D "
    "A78F-A78F A794-A79F A7AB-A7F7 A8FD-A8FE A9E0-A9FE AA7E-AA7F AB30-ABBF 0DE6-0DEF A9F0-A9F9"
)
_WORDLIKE = (  # marks, modifiers and letters that the scanner adds to the letters
    "\u00ad\u0237-\u024f˂-˅˒-˟˥-˿\u0300-\u036f\u0370-\u037d\u0384\u0385\u03cf\u03f6\u03fc-\u03ff"
    "\u0483-\u0487\u04cf\u04f6-\u04ff\u0510-\u0525\u055a-\u055f\u0591-\u05bd\u05bf\u05c1\u05c2"
    "\u05c4\u05c5\u05c7\u0615-\u061a\u063b-\u063f\u064b-\u065e\u0670\u06d6-\u06ef\u06fa-\u06ff"
    "\u070f\u0711\u0730-\u074f\u0750-\u077f\u07a6-\u07b1\u07ca-\u07f5\u07fa\u0900-\u0903\u093c"
    "\u093e-\u094e\u0951-\u0955\u0962-\u0963\u0981-\u0983\u09bc-\u09c4\u09c7\u09c8\u09cb-\u09cd"
    "\u09d7\u09e2\u09e3\u0a01-\u0a03\u0a3c\u0a3e-\u0a4f\u0a81-\u0a83\u0abc-\u0acf\u0b82"
    "\u0bbe-\u0bc2\u0bc6-\u0bc8\u0bca-\u0bcd\u0c01-\u0c03\u0c3e-\u0c56\u0d3e-\u0d44\u0d46-\u0d48"
    "\u0e30-\u0e3a\u0e47-\u0e4e\u0eb1-\u0ebc\u0ec8-\u0ecd"
)
_SYMBOLS = (
    r"+%&~^|\\¦§¨©¬®¯\u00b0-\u00b3\u00b4-\u00ba×÷\u0387\u05be\u05c0\u05c3\u05c6\u05f3\u05f4"
    r"\u0600-\u0603\u0606-\u060a\u060c\u0614\u061b\u061e\u066a\u066d\u0703-\u070d\u07f6-\u07f8"
    r"\u0964\u0965\u0e4f\u1fbd\u2016\u2017\u2020-\u2023\u2030-\u2038\u203b\u203e-\u2042\u2044"
    r"\u207a-\u207f\u208a-\u208e\u2100-\u214f\u2190-\u21ff\u2200-\u2bff\u3012\u30fb\uff01-\uff0f"
    r"\uff1a-\uff20\uff3b-\uff40\uff5b-\uff65"
)
_MONEY_SIGNS = "\u00a2-\u00a5\u0080\u20a0\u20ac\u060b\u0e3f\u20a4\uffe0\uffe1\uffe5\uffe6"
_SPACE = " \t\u00a0\u2000-\u200a\u3000"
_LINE_END = "\r\n\u2028\u2029\x0b\x0c\x85"
_AFTER_SENTENCE = (
    "About According Additionally After An A As At But Earlier He Her Here However If In It Last "
    r"Many More Mr\. Ms\. Now Once One Other Our She Since So Some Such That The Their Then There "
    "These They This We When While What Yet You"
)
# Abbreviations; a capital in brackets is one that must be a capital.
_BEFORE_SMALL = (  # usually followed by a small letter
    "Jan Feb Mar Apr Jun Jul Aug Sept? Oct Nov Dec Mon Tues? Wed Thu Thurs Fri Ala Ariz [A]z [A]rk "
    "Calif Colo Conn Ct Dak [D]el Fla Ga [I]ll Ind Kans? Ky [L]a [M]ass Md Mich Minn [M]iss Mo "
    "Mont Neb Nev Okla [O]re [P]a Penn Tenn [T]ex Va Vt [W]ash Wisc? Wyo Inc Cos? Corp Pp?t[ye]s? "
    r"Ltd Plc Rt Bancorp Bhd Assn Univ Intl Sys tel est ext sq Jr Sr Bros (?:Ed|Ph)\.D Blvd Rd "
    "Esq etc al seq Bldg"
)
_BEFORE_CAPITAL = (  # usually followed by a capital
    "Mr Mrs Ms [M]iss Drs? Profs? Sens? Reps? Attys? Lt Col Gen Messrs Govs? Adm Rev Maj Sgt Cpl "
    "Pvt Capt Ste? Ave Pres Lieut Hon Brig Co?mdr Pfc Spc Supts? Det Mt Ft Adj Adv Asst Assoc Ens "
    r"Insp Mlle Mme Msgr Sfc vs Alex Wm Jos Cie a\.k\.a cf TREAS Ph Invt Elec Natl M[ft]g Dept"
)
_BEFORE_NUMBER = "ca figs? prop nos? art bldg pp op"


def _any(words: str) -> str:
    return "(?:" + "|".join(map(_caseless, words.split())) + ")"


def _caseless(pattern: str) -> str:
    """``pattern`` in either case, but for what stands in brackets."""
    parts = re.split(r"(\[[^\]]*\])", pattern)
    return "".join(p if p.startswith("[") else f"(?i:{p})" for p in parts if p)


ABBREVIATIONS = re.compile(f"{_any(_BEFORE_SMALL)}|{_any(_BEFORE_CAPITAL)}", re.I)


def _category(prefix: str) -> str:
    """The characters below U+10000 of a Unicode category, as the inside of a character class."""
    newer = [tuple(int(end, 16) for end in r.split("-")) for r in _NEWER.split()]
    codes = (c for c in range(0x10000) if unicodedata.category(chr(c)).startswith(prefix))
    spans: list[list[int]] = []
    for code in codes:
        if any(low <= code <= high for low, high in newer):
            continue
        if spans and code == spans[-1][1] + 1:
            spans[-1][1] = code
        else:
            spans.append([code, code])
    return "".join(f"{chr(low)}-{chr(high)}" for low, high in spans)


@cache
def rules() -> list[Rule]:
    """All rules, strongest first. Names in braces of the templates below stand for ``parts``."""
    parts = _parts()
    made = []
    for needs, template, action in _table():
        for name, part in parts.items():
            template = template.replace(f"<{name}>", part)
        made.append(Rule(re.compile(template).match, action, needs))
    return made


def _parts() -> dict[str, str]:
    letters = _category("L") + "\u1885\u1886"
    digit = f"[{_category('Nd')}\u07c0-\u07c9]"
    letter = f"(?:[{letters}{_WORDLIKE}]|&[aeiouAEIOU](?i:acute|grave|uml);)"
    apos = "(?:['\x92’]|(?i:&apos;))"
    acronym_tail = r"(?i:(?:Canada|Sino|Korean|EU|Japan|non)-U\.S|U\.S\.-(?:U\.K|U\.S\.S\.R))"
    attribute = r"[A-Za-z][A-Za-z0-9_:.\-]*"
    return {  # a part stands before the parts it is made of
        "ABBR1": _any(_BEFORE_SMALL) + r"\.",
        "ABBR3": _any(_BEFORE_NUMBER) + r"\.",
        "ABBR4": f"(?:<ACRO>|{_any(_BEFORE_CAPITAL)})",
        "WORD": "<LETTER>(?:<LETTER>|<DIGIT>)*(?:[.!?]<LETTER>(?:<LETTER>|<DIGIT>)*)*",
        "NUM": "(?:<DIGIT>*(?:[.:,\u00ad\u066b\u066c]<DIGIT>+)+|<DIGIT>+)",
        "THING": "(?:[dDoOlL]<APOSETC>[<LETTERS><DIGITS>])?[<LETTERS><DIGITS>]+",
        "HTHING": "[A-Za-z0-9][A-Za-z0-9.,\u00ad]*"
        r"(?:-(?:[A-Za-z](?:\.[A-Za-z])+\.|[A-Za-z0-9\u00ad]+))+",
        "SGML": rf"<(?:[!?][A-Za-z\-][^>\r\n]*|{attribute}"
        rf"(?:[ ]+(?:{attribute}[ ]*=[ ]*(?:'[^']*'|\"[^\"]*\")|{attribute}))*[ ]*/?"
        rf"|/{attribute})[ ]*>",
        "ACRO": rf"(?:{acronym_tail}|[A-Za-z](?:\.[A-Za-z])*)",
        "AUX": f"{apos}(?:[msdMSD]|(?i:re|ve|ll))",
        "NOT": "(?i:n)<APOSETC>(?i:t)",
        "APOSETC": f"(?:{apos}|[`\x91‘‛])",
        "APOS": apos,
        "LETTERS": letters,
        "DIGITS": digit[1:-1],
        "LETTER": letter,
        "DIGIT": digit,
        "HYPHEN": "[-_\u058a\u2010\u2011]",
        "SPACE": f"[{_SPACE}]",
        "SPACENL": f"[{_SPACE}{_LINE_END}]",
        "AMP": "(?i:&amp;)",
    }


_Rows = list[tuple[str, str, Action]]


def _table() -> _Rows:
    """(a character without which it cannot match, pattern with the token as group 1, action)."""
    return [
        *_words(),
        *_addresses(),
        *_numbers(),
        *_abbreviations(),
        *_signs(),
        *_compounds_and_quotes(),
    ]


def _words() -> _Rows:
    """Words, tags and entities; a word before 's and n't ends there."""
    return [
        ("+", r"((?i:c)\+\+)", _keep),
        ("#", "((?i:c|f)#)", _keep),
        ("", "((?i:cannot))", _first(3)),
        ("'", "('(?i:twas))", _first(2)),
        ("'", "('(?i:tis))", _first(2)),
        ("", "((?i:gonna|gotta|lemme|gimme|wanna))", _first(3)),
        (">", "(<SGML>)", _spaced),
        ("", "((?i:&(?:MD|mdash|ndash);)|[\x96\x97–—―])", _as("--")),
        ("&", "(<AMP>)", _amp),
        ("&", "((?i:&(?:HT|TL|UR|LR|QC|QL|QR|odq|cdq|#[0-9]+);))", _keep),
        ("", "(<WORD>)<AUX>", _soft),
        ("", "([A-Za-z\u00ad]*[A-MO-Za-mo-z]\u00ad*)<NOT>", _soft),
        ("", "(<WORD>)", _soft),
        *[("", f"({pattern})", _keep) for pattern in _apostrophe_words()],
        ("", "((?i:y)<APOS>)[<LETTERS>]", _keep),
    ]


def _addresses() -> _Rows:
    """URLs, hosts of four well-known kinds, mail addresses, @names and #topics."""
    url_end = r"[^ \t\n\f\r\"<>|.!?(){},-]"
    path = rf"/[^ \t\n\f\r\"<>|()]+{url_end}"
    host = r"(?i:www)\.(?:[^ \t\n\f\r\"<>|.!?(){},]+\.)+[a-zA-Z]{2,4}"
    site = r"(?:[^ \t\n\f\r\"`'<>|.!?(){},-_$]+\.)+(?i:com|net|org|edu)"
    mailbox = r"[^ \t\n\f\r\"<>|(){}.\u00a0]+"
    return [
        ("/", rf"((?i:https?)://[^ \t\n\f\r\"<>|(){{}}]+{url_end})", _keep),
        (".", f"({host}{path})", _keep),
        (".", f"({host})", _keep),
        (".", f"({site}{path})", _keep),
        (".", f"({site})", _keep),
        (
            "@",
            r"((?:(?i:&lt;)|<)?[a-zA-Z0-9][^ \t\n\f\r\"<>|()\u00a0{}]*"
            rf"@(?:{mailbox}\.)*{mailbox}(?:(?i:&gt;)|>)?)",
            _keep,
        ),
        ("@", "(@[a-zA-Z_][a-zA-Z_0-9]*)", _keep),
        ("#", "(#<LETTER>+)", _keep),
    ]


def _numbers() -> _Rows:
    """Clitics, dates, numbers, fractions, amounts, and words with slashes."""
    part = "[A-Za-z0-9]+(?:-[A-Za-z]+){0,2}"
    return [
        ("", "(<AUX>)[^A-Za-z]", _quote),
        ("", "(<NOT>)[^A-Za-z]", _quote),
        ("", r"(<DIGIT>{1,2}[\-/]<DIGIT>{1,2}[\-/]<DIGIT>{2,4})", _keep),
        ("", r"([\-+]?<NUM>)", _soft),
        ("", "([⁺⁻₊₋]?(?:[⁰¹²³⁴-⁹]+|[₀-₉]+))", _keep),
        ("", r"((?:<DIGIT>{1,4}[- \u00a0])?<DIGIT>{1,4}(?:\\?/|⁄)<DIGIT>{1,4})", _spaced),
        ("", "([¼½¾⅓-⅞])", _fraction),
        ("-", r"((?i:-(?:RRB|LRB|RCB|LCB|RSB|LSB)-|pro-|anti-|S(?:&|&amp;)P-500))", _amp),
        ("", r"((?i:C\.D\.s|S(?:&|&amp;)Ls|Cap<APOS>n|c<APOS>est))", _amp),
        ("/", rf"({part}(?:\\?/{part}){{1,2}})", _keep),
        ("", r"([A-Z]*\$|#)", _keep),
        ("", f"([{_MONEY_SIGNS}])", _currency),
    ]


def _abbreviations() -> _Rows:
    """Acronyms and abbreviations, which keep their full stop, and file names."""
    ext = (
        "bat bmp class cgi cpp c docx doc dll exe gif gz html htm h java jar jpeg jpg mov mp3 pdf "
        "php pl png ppt ps py sql tar txt wav xml x zip"
    )
    name = "(?:<LETTER>|<DIGIT>)+"
    starts = "|".join(f"{w[0]}(?i:{w[1:]})" if w[1:] else w for w in _AFTER_SENTENCE.split())
    return [
        (".", rf"(<ACRO>\.)<SPACENL>+(?:{starts}|<SGML>)<SPACENL>", _acronym),
        (".", "(<ABBR3>)<SPACENL>?<DIGIT>", _keep),
        (".", r"((?i:pt[ey]|co)\.)<SPACE>(?i:ltd|lim)", _keep),
        (".", r"(<ABBR1>)[\s\S]{2}", _keep),
        (".", "(<ABBR1>)", _full_stop),
        (".", r"(<ABBR4>\.)", _keep),
        ("", "(<ABBR4>)<SPACE>", _keep),
        ("", "(<ACRO>)<SPACENL>", _keep),
        ("", "(<APOS>[0-9][0-9])<SPACENL>", _keep),
        (".", rf"({name}(?:\.{name})*\.{_any(ext)})(?:<SPACENL>|[.?!,])", _keep),
        (".", r"(<WORD>\.)[,;:\u3001]", _soft),
    ]


def _signs() -> _Rows:
    """Telephone numbers, straight double quotes, faces, brackets, dashes, punctuation."""
    return [
        *[("", f"({pattern})", _phone) for pattern in _phones()],
        ("", r"(\"|(?i:&quot;))[A-Za-z0-9$]", _opening),
        ("", r"(\"|(?i:&quot;))", _quote),
        ("", "(\x7f)", _drop),
        ("", "(<|(?i:&lt;))", _as("<")),
        ("", "(>|(?i:&gt;))", _as(">")),
        ("", r"([<>]?[:;=][-o*']?[()DPdpO\\{@|\[\]])[^A-Za-z0-9]", _round),
        *[("", f"({pattern})", _round) for pattern in _faces()],
        *[(mark, rf"(\{mark})", _as(f"-{name}-")) for mark, name in _BRACKETS.items()],
        ("-", "(-+)", _hyphens),
        ("", r"(\.{3,5}|(?:\.[ \u00a0]){2,4}\.|[\x85…])", _as("...")),
        ("", "(@+|#+|_+)", _keep),
        ("*", r"(\*+|(?:\\\*){1,3})", _keep),
        ("", "([,;:\u3001]|[?!]+|=|/)", _keep),
        ("", "([.¡¿\u037e\u0589\u061f\u06d4\u0700-\u0702\u07fa\u3002])", _keep),
    ]


def _compounds_and_quotes() -> _Rows:
    """Hyphenated words, names such as AT&T, quotation marks, symbols; space is dropped."""
    return [
        (".", r"(<HTHING>\.)[,;:\u3001]", _soft),
        ("", "(<HTHING>)", _soft),
        (".", r"(<THING>(?:<HYPHEN><THING>)*\.)[,;:\u3001]", _keep),
        ("", "(<THING>(?:<HYPHEN><THING>)*)", _keep),
        ("", r"([A-Z]+(?:(?:<AMP>|[+&])[A-Z]+)+\.)[,;:\u3001]", _amp),
        ("", "([A-Z]+(?:(?:<AMP>|[+&])[A-Z]+)+)", _amp),
        ("'", r"(')[A-Za-z][^ \t\n\r\u00a0]", _opening),
        ("", "(<AUX>)", _quote),
        ("", "(<NOT>)", _quote),
        ("", "([`‘’‚‛“”\x91-\x94„‟‹›«»]{1,2}|''|<APOS>)", _quote),
        ("", "(<<|>>)", _keep),
        ("", f"([{_SYMBOLS}])", _keep),
        ("", f"([{_SPACE}]+|[{_LINE_END}\u200b\u200e\u200f\ufeff]|(?i:&nbsp;))", _drop),
    ]


def _apostrophe_words() -> list[str]:
    """Words that hold, begin or end with an apostrophe and stay whole."""
    fixed = "(?i:cont'd)(?:\\.)?|(?i:'twas|nor'easter|c'mon|e'er|s'mores|ev'ry|li'l|nat'l)"
    return [
        "<APOS>(?i:n)<APOS>|<APOS>(?i:n)|<APOS>(?i:cause|em|till|til)",
        "[lLdDjJ]<APOS>|(?i:Dunkin|somethin|ol)<APOS>",
        "[A-HJ-XZn]<APOSETC>[<LETTERS>]{2,}",
        "<APOS>[2-9]0(?i:s)",
        "[<LETTERS>]+[aeiouyAEIOUY]<APOSETC>[aeiouA-Z][<LETTERS>]*",
        f"{fixed}|(?i:O)<APOSETC>(?i:o)",
    ]


def _phones() -> list[str]:
    """American telephone numbers."""
    end = r"[0-9]{3,4}[\- \u00a0]?[0-9]{3,5}"
    return [
        rf"\([0-9]{{2,3}}\)[ \u00a0]?{end}",
        rf"(?:\+\+?)?(?:[0-9]{{2,4}}[\- \u00a0])?[0-9]{{2,4}}[\- \u00a0]{end}",
        r"(?:(?:\+\+?)?[0-9]{2,4}\.)?[0-9]{2,4}\.[0-9]{3,4}\.[0-9]{3,5}",
    ]


def _faces() -> list[str]:
    """Faces without a mouth at the side."""
    return [
        r"[\^x=~<>]\.\[\^(?i:x)=~<>\]",
        r"[\-\^x=~<>']_[\-\^x=~<>']",
        r"\([\-\^x=~<>'][_.]?[\-\^x=~<>']\)",
        r"\([\^x=~<>']-[\^x=~<>'`]\)",
    ]
