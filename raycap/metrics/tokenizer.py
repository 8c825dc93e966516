"""A Penn Treebank tokenizer, nearly equal to that of the published caption metrics.

coco-caption tokenizes with Stanford's PTBTokenizer (CoreNLP 3.4.1, `-lowerCase`), a Java program,
and drops punctuation. This is one regular expression, whose rules were found by probing that
program. It splits all 202,654 captions of COCO 2014's validation set as that does, and all but 5 of
the 414,113 for training ("C++", "corner.4-5", underscores). There, whether an initial at the end of
a caption ("Avenue S.") keeps its period depends on how the next caption begins; here it is treated
as if that were "A": it loses its period.
"""

import re
from unicodedata import category

TOKENIZER = "raycap-ptb-1"
"""The name of this tokenizer in results."""

# Words that keep their period: always; if they begin with a capital; before a number.
_ABBREVIATIONS = """
    adj adm adv al ala alex apr ariz assn asst atty aug ave bancorp bhd bldg blvd brig bros calif
    capt cf cie cmdr co col colo comdr conn corp cos cpl ct dak dec dept det dr drs elec ens esq est
    etc ext feb fla fri ft ga gen gov govs hon inc ind insp intl invt jan jos jr jul jun kan kans ky
    lieut lt ltd maj mar md messrs mfg mich minn mlle mme mo mon mont mr mrs ms msgr mt mtg natl neb
    nev nov oct okla penn pfc ph plc ppte ppty pres prof profs pte ptes pty ptys pvt rd rep reps rev
    rt sen sens sep sept seq sfc sgt spc sq sr st ste supt sys tel tenn thu thurs tue tues univ va
    vs vt wed wis wisc wm wyo"""
_STATES = "ark az del ill la mass miss ore pa tex wash"
_NUMBERED = "art ca fig figs no nos op pp prop"
# Words that begin a sentence: a single letter with a period before them is not an initial.
_STARTERS = """
    a about according additionally after an as at but earlier he her here however if in it last many
    more now once one other our she since so some such that the their then there these they this we
    what when while yet you"""


def _any_of(words: str) -> str:
    return f"(?:{'|'.join(words.split())})"


# Accents and vowel signs of other scripts, which \w does not match.
_MARKS = "".join(chr(code) for code in range(0x300, 0x2000) if category(chr(code)) in ("Mn", "Mc"))

_A = r"[^\W\d_]"  # a letter
_W = rf"[\w{_MARKS}]"  # a character within a word
_CAPITAL = "(?-i:(?=[A-Z]))"
_CLITIC = r"'(?:s|m|d|re|ve|ll)\b"
_HYPHENATED = rf"{_W}+(?:-{_W}+)*"

# The first alternative that matches is taken, so longer ones precede shorter ones with the same
# beginning. Plain words come first, for speed; lookbehinds prevent repeated scans of a long run.
_TOKEN = re.compile(
    rf"""(?<!\s)\s*+(
      [A-Za-z][a-z]*+(?=[ ,])(?<!annot|gonna|gotta|wanna|gimme|lemme)
    | (?i:
      (?:can(?=not\b) | (?:gon|wan)(?=na\b) | got(?=ta\b) | (?:gim|lem)(?=me\b))(?!\w+-)
    | https?://[^\s"<>()]*[^\s"<>().,:;!?]
    | (?<![\w.+-])[\w.+-]++@\w+(?:[.-]\w+)+ | [@\#]{_A}{_W}*  # e-mail, @name, #tag
    | </?{_A}[^\s<>]*>  # <unk>
    | n't\b | {_CLITIC} | 't(?=is\b|was\b) | '(?:n'|n\b|em\b|cause\b|till?\b|\d0s\b|\d\d(?=\s|$))
    | (?={_A}+')(?:
          {_A}+?(?=n't\b) | c'mon\b | (?:dunkin|somethin|ol)' | y'(?=all\b)
        | (?:[dlo]|c|qu)'{_A}{_W}+  # o'clock, d'oeuvres
        | {_A}+[aeiouy](?!{_CLITIC})'(?:[aeiouy]|{_CAPITAL}{_A}){_A}*  # graffiti'ed
      )
    | {_HYPHENATED}(?:/{_HYPHENATED})+  # his/her, 1/2
    | (?={_A}{_W}*[.!?])(?:
          (?:  {_any_of(_ABBREVIATIONS)} | {_CAPITAL}{_any_of(_STATES)}
             | ph\.d | {_A}(?:\.{_A})+  # u.s.
          )\.(?!{_A})(?:-{_W}+)*
        | {_any_of(_NUMBERED)}\.(?=\s?\d)
        | {_A}\.(?!{_A}|\s*$|\s+{_CAPITAL}{_any_of(_STARTERS)}(?!\S))  # an initial
        | {_A}{_W}*(?:[.!?]{_A}{_W}*)+(?:-{_W}+)*  # a forgotten space: "street.A"
      )
    | {_HYPHENATED}\.(?=[,:;])
    | \d+[.,]\d+(?:-{_A}{_W}*)+  # 3.5-inch
    | (?<!-)[+-]?\d*(?:[.,:]\d+)+ | (?<!-)[+-]\d+\b  # 12:45, -5
    | (?-i:[A-Z]+&[A-Z]+)
    | {_HYPHENATED}
    | [:;]-?[()] | [?!]{{2,}} | \*\* | << | >>
    | [^\w\s{_MARKS}.,:;?!"'`\U00010000-\U0010ffff-]  # a symbol; none beyond the first plane
    ))""",
    re.VERBOSE,
)

_PLAIN = str.maketrans(
    dict.fromkeys("’\x92", "'")  # noqa: RUF001  the characters themselves are meant
    | dict.fromkeys("‘‛‹›“”«»\x91\x93\x94", '"')  # noqa: RUF001
    | dict.fromkeys("–—―\x96\x97", "--")  # noqa: RUF001
    | {"½": "1/2", "¼": "1/4", "¾": "3/4", "⅓": "1/3", "⅔": "2/3"}
    | {"€": "$", "£": "#", "¢": " cents ", "…": " ... ", "\xad": ""}
)
_ENTITIES = {"amp": "&", "quot": '"', "lt": "<", "gt": ">"}
_ENTITY = re.compile(f"&({'|'.join(_ENTITIES)});")
_BRACKETS = str.maketrans(
    {"(": "-lrb-", ")": "-rrb-", "[": "-lsb-", "]": "-rsb-", "{": "-lcb-", "}": "-rcb-"}
)


# Scripts without spaces between words: Chinese and Japanese, where few words have six letters;
# Thai, Lao, Myanmar and Khmer, where many have. A longer run of letters is a phrase.
_HAN_AND_KANA = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
_SOUTH_EAST_ASIAN = "\u0e01-\u0e4f\u0e81-\u0ecf\u1000-\u109f\u1780-\u17d3"
_PHRASE = re.compile(f"[{_HAN_AND_KANA}]{{6}}|[{_SOUTH_EAST_ASIAN}]{{16}}")


def is_unsplit(caption: str) -> bool:
    """Whether a caption has a phrase without spaces between its words, which stays one token."""
    return not caption.isascii() and _PHRASE.search(caption) is not None


def tokenize(caption: str) -> list[str]:
    """Split a caption into lower-case tokens, without punctuation."""
    text = caption if caption.isascii() else caption.translate(_PLAIN)
    if "&" in text:
        text = _ENTITY.sub(lambda entity: _ENTITIES[entity[1]], text)
    return [token.lower().translate(_BRACKETS) for token in _TOKEN.findall(text)]
