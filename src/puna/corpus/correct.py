"""Rule-based correction of one repaired text, and which addresses are blocked.

Comes in: text after `clean.repair`. Goes out: the text without invisible characters, boilerplate lines, words broken at a
line's end and endless runs of one mark; how often each rule struck; for addresses, whether a user's list names them.
Must never happen: a change that nobody counts; full- or half-width forms, quotes or ligatures changed; a line of prose
taken for boilerplate because of one word in it; time that grows faster than the text.

The rules for lines are those of C4 (Raffel et al. 2020, section 2.2), narrowed: C4 drops every line with the word
"javascript" or a cookie notice in it; here a line also has to be short and to speak like one. They hold for any language,
because English notices stand on pages in all languages.
"""

import gzip
import re
import zlib
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np

from puna.errors import PunaError


@dataclass(frozen=True, slots=True)
class LineRule:
    """A kind of boilerplate line: it has at most `longest` characters, begins with one of `begins` (after marks such as
    ">") or contains one of `hints`, and each of `patterns` is found in it. All look at it in lower case, without the
    blanks around it. What `begins` names costs a line almost nothing, a hint a look at the whole text."""

    name: str
    longest: int
    begins: tuple[str, ...]
    hints: tuple[str, ...]
    patterns: tuple[re.Pattern[str], ...]


def _rule(name: str, longest: int, begins: str, hints: str, *patterns: str) -> LineRule:
    starts, inside = (tuple(filter(None, words.split("|"))) for words in (begins, hints))
    return LineRule(name, longest, starts, inside, tuple(re.compile(pattern) for pattern in patterns))


def _whole(*choices: str) -> str:
    return f"^{_MARKS}(?:{'|'.join(choices)})$"


_MARK_CHARACTERS = ">»›«‹←<[(（【|·• \t\u3000"
_MARKS = r"[>»›«‹←<\[(（【|·•\s]*"
_BAR = r"[\s|·•,、/»>‹›\-–—]*"  # between the entries of a menu
_LEGAL = (
    r"(?:terms(?: of (?:use|service|sale)| (?:and|&) conditions)?|privacy(?: (?:policy|notice|statement))?|faqs?|help|home"
    r"|cookies?(?: (?:policy|settings|preferences))?|legal(?: notice)?|disclaimer|accessibility|site ?map|contact(?: us)?"
    r"|about(?: us)?|careers|advertise(?: with us)?|imprint|feedback)"
)
_LEGAL_ZH = (
    r"(?:网站地图|網站地圖|联系我们|聯絡我們|联系方式|关于我们|關於我們|法律声明|法律聲明|隐私政策|隱私權?政策|服务条款|服務條款"
    r"|(?:网站|網站|返回)?首[页頁]|广告服务|诚聘英才|友情[链鏈][接]|加入收藏|设为首页|設為首頁|返回顶部)"
)
_NETWORK = r"(?:facebook|twitter|x|linkedin|whatsapp|pinterest|reddit|tumblr|telegram|instagram|youtube|google\+?|e-?mail|print)"
_NETWORK_ZH = r"(?:微信|(?:新浪|腾讯)?微博|朋友圈|qq(?:空间|好友)?|豆瓣|人人网|更多)"
_SHARE = r"(?:(?:click to )?(?:share|tweet|pin it|follow us|like)(?: this(?: (?:page|post|article|story))?)?[:\s]*(?:(?:on|to|via)\s+)?)"

LINE_RULES: tuple[LineRule, ...] = (
    _rule("javascript", 300, "", "javascript",
          r"\b(?:enabled?|turn on|activate|disabled|supports?|requires?|switched off)\b|启用|開啟|开启|支持"),
    _rule("cookie notice", 400, "", "cookies|cookie policy", r"\b(?:we|site|website|browser|you|your|accept|all)\b|继续|網站|网站",
          r"\b(?:uses?|using|accept|consent|agree)\b|\buse of cookies\b|使用|同意"),
    _rule("lorem ipsum", 10_000, "", "lorem ipsum", r"lorem ipsum"),
    _rule("copyright", 160, "©|℗|(c)|c)|copyright", "all rights reserved|版权所有|版權所有|著作權所有",
          r"^(?:[©℗]|\(c\)|copyright\b).{0,20}\d{4}.{0,50}$|\ball rights reserved\b.{0,40}$|[版著][权權作]權?所有"),
    _rule("filing number", 120, "", "icp备|icp備|icp证|公网安备", r"\d"),
    _rule("legal menu", 200, "terms|privacy|faq|help|home|cookie|legal|disclaimer|accessib|site|contact|about|career|advert|imprint|feedback",
          "", _whole(rf"{_LEGAL}(?:{_BAR}{_LEGAL})+{_BAR}")),
    _rule("menu in Chinese", 200, "网站|網站|联系|聯絡|关于|關於|法律|隐私|隱私|服务|服務|返回|首|广告|诚聘|友情|加入|设为|設為", "",
          _whole(rf"{_LEGAL_ZH}(?:{_BAR}{_LEGAL_ZH})+{_BAR}")),
    _rule("menu", 60, "skip to|toggle|back to top|load more|read more|learn more|continue reading|click here|previous|next|log in|sign|subscribe",
          "", _whole(r"skip to (?:main |the )?(?:content|navigation)", r"toggle (?:navigation|menu)", r"back to top", r"load more",
                     r"(?:read|learn) more[.…»> ]*", r"continue reading[.…»→> ]*", r"click here(?: (?:to|for)\b.{0,40})?[.!]?",
                     r"(?:previous|next) post[»→: ]*", r"(?:log|sign) in ?(?:[|/]|or) ?(?:register|sign up|join)",
                     r"(?:subscribe to|sign up for) (?:our|the) (?:\w+ )?newsletter[.!]?")),
    _rule("breadcrumb", 200, "home|you are here|首|您|当前|目前|现在", "",
          _whole(r"(?:you are here:?\s*)?(?:home|首[页頁])\s*[>»›].*", r"您?的?(?:当前|目前|现在的)?位置\s*[:：].*[>»›].*")),
    _rule("share buttons", 200, "click to|share|tweet|pin it|follow us|like|分享|一键", "",
          _whole(rf"{_SHARE}+(?:{_BAR}(?:(?:on|via|and)\s+)?{_NETWORK})*(?: \(opens in new window\))?[:!.]?",
                 rf"(?:一键)?分享(?:[到至]\s*[:：]?|[:：])?(?:{_BAR}{_NETWORK_ZH})*")),
    _rule("neighbours", 120, "上一|下一", "",
          _whole(r"[上下]一[篇页頁章]\s*[:：].*", r"[上下]一[篇页頁章](?:[\s>»→|]*(?:[上下]一[篇页頁章]|(?:返回)?(?:目[录錄]|列表)))*[>»→\s]*")),
    _rule("editor", 60, "责任编|責任編|责编|責編|本文编|编辑|編輯", "", rf"^{_MARKS}(?:责任编辑|責任編輯|责编|責編|本文编辑|编辑|編輯)\s*[:：]"),
    _rule("click here in Chinese", 50, "请点|點|点|阅读|閱讀|查看|展开|展開|返回|收藏|加入|字体|打印|关闭", "扫码|扫一扫|掃描二維碼|扫描二维码",
          _whole(r"(?:请)?[点點][击擊](?:此处|這裡|这里)?(?:查看|下载|下載|进入|進入|阅读|閱讀|观看|收藏|关注|放大|加载|展开|获取|订阅).{0,20}",
                 r"(?:阅读|閱讀|查看|展开|展開)(?:原文|全文|更多|详情|詳情|全部)[>»\s.…]*",
                 r".{0,20}(?:扫码|扫一扫|掃描二維碼|扫描二维码).{0,25}", r"返回(?:顶部|頂部|首页|首頁|目录|目錄|列表|上页)",
                 r"(?:打印|关闭)(?:本页|窗口|本文).{0,16}", r"字体\s*[:：].{0,20}", r"(?:加入收藏|收藏本[页文站]).{0,10}")),
)  # fmt: skip
_BEGINNINGS = tuple(sorted({begin for rule in LINE_RULES for begin in rule.begins}))
_BEGIN_LONGEST = max(rule.longest for rule in LINE_RULES if rule.begins)

# Characters that no reader sees: soft hyphen, zero-width ones, marks and overrides of direction, annotation anchors,
# tags, and the variation selectors that stand for nothing (both of the latter have been used to hide text).
_INVISIBLE = re.compile(
    "[\xad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180e\u200b-\u200f\u202a-\u202e\u2060-\u206f\ufe00-\ufe0f\ufff9-\ufffb\U000e0000-\U000e0fff]+"
)
_RTL = re.compile("[\u0590-\u08ff\ufb1d-\ufdff\ufe70-\ufefe]")
# Joiners shape letters in these scripts (Arabic, Syriac, the Indic ones, Khmer, Mongolian) and emoji.
_JOINING = re.compile("[\u0600-\u07bf\u0840-\u08ff\u0900-\u0dff\u0f00-\u109f\u1780-\u18af\ufb50-\ufdff\ufe70-\ufefc]")
_UNSPACED = re.compile(
    "[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u1950-\u19df\ua9e0-\uaa7f]"
)  # a zero-width space parts words
_PICTURE = re.compile("[\u00a9\u00ae\u203c-\u3299#*0-9\U0001f000-\U0001faff]")
_IDEOGRAPH = re.compile("[\u3400-\u9fff\uf900-\ufaff\U00020000-\U000323af]")
_EMOJI = re.compile("[\u2190-\u2bff\U0001f000-\U0001faff]")
_FLAG = re.compile("[\U000e0030-\U000e007a]{1,8}\U000e007f")
_VARIANT = re.compile("[\ufe00-\ufe02\U000e0100-\U000e01ef]")
_BOXES = "□■○●◯"
_KEPT = 3
_ROUNDS = 4  # a line taken away can bring the halves of a word together; then nothing more changes

_BREAK = re.compile(r"-\n(?<=[^\W\d_]-\n)(?=[ \t]{0,8}[^\W\d_])")
_WORD_BEFORE = re.compile(r"(?<![\w-])[^\W\d_]{2,30}$")
_WORD_AFTER = re.compile(r"[ \t]{0,8}([^\W\d_]{2,30})(?![\w-])([^\w\s]{0,3})[ \t]*\n?")
_WORDS = re.compile(r"[^\W\d_]+(?:-[^\W\d_]+)*")
_BROKEN = re.compile(r"(?<![^\W\d_])[^\W\d_]+-\n[ \t]*[^\W\d_]+")
_NUMERALS = frozenset({"twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"})
_LIST_BYTES = 256 << 20
_HOST = r"[\w-]{1,63}(?:\.[\w-]{1,63}){1,20}"
_ADBLOCK = re.compile(rf"\|\|(?P<domain>{_HOST})(?:\^|(?P<path>/[^*^$|]*))(?:\$(?!.*(?:domain|subdocument)=).*)?")
_DOMAIN = re.compile(rf"(?:(?:0\.0\.0\.0|127\.0\.0\.1|::1?)\s+)?({_HOST})\.?(?:\s+#.*)?")
_UNHYPHENATED = frozenset({"zh", "yue", "ja", "ko", "th", "lo", "my", "km"})


def correct(text: str, lang: str) -> tuple[str, Counter[str]]:
    """The corrected text and how often each rule changed it; `lang` is its language ("en", "zh", "und").

    Correcting twice changes nothing more. Names: "invisible characters" (characters taken away), "broken words", "runs of
    one character", and for whole lines taken away the names of `LINE_RULES`.
    """
    done: Counter[str] = Counter()
    for _ in range(_ROUNDS):
        before = text
        if not text.isascii():
            text = _drop_invisible(text, done)
        text = _shorten_runs(text, done)
        text = _drop_lines(text, done)
        if _BREAK.search(text) and lang not in _UNHYPHENATED:
            text = _join_words(text, done)
        if text == before:
            break
    return text, +done


def _drop_invisible(text: str, done: Counter[str]) -> str:
    if not _INVISIBLE.search(text):
        return text
    has_rtl = _RTL.search(text) is not None

    def kept(found: re.Match[str]) -> str:
        begin, end = found.span()
        before, after = text[begin - 1 : begin] if begin else "", text[end : end + 1]
        result = _needed(found[0], before, after, has_rtl)
        done["invisible characters"] += len(found[0]) - len(result)
        return result

    return _INVISIBLE.sub(kept, text)


def _needed(run: str, before: str, after: str, has_rtl: bool) -> str:
    """What of a run of invisible characters does something between these two neighbours: at most one, but for the tags
    that name the flag of a region and for a picture's selector with a joiner."""
    if before == "\U0001f3f4" and run[-1] == "\U000e007f" and _FLAG.fullmatch(run):
        return run
    if before and _PICTURE.match(before):
        return ("\ufe0f" if "\ufe0f" in run else "") + ("\u200d" if "\u200d" in run and _EMOJI.match(after) else "")
    if before and _JOINING.match(before):
        return next((c for c in run if c in "\u200c\u200d\u180e"), "") or (_mark(run) if has_rtl else "")
    if before and _UNSPACED.match(before) and "\u200b" in run:
        return "\u200b"
    if before and _IDEOGRAPH.match(before) and (found := _VARIANT.match(run)):
        return found[0]
    return _mark(run) if has_rtl else ""


def _mark(run: str) -> str:
    # A mark of direction beside right-to-left text orders its numbers and punctuation. Overrides and embeddings go.
    return next((c for c in run if c in "\u200e\u200f\u061c"), "")


def _shorten_runs(text: str, done: Counter[str]) -> str:
    """Runs of 20 or more of one mark, or of 10 or more of one letter, become three. Digits, blanks and the boxes that stand
    for lost characters of an old text stay."""
    points = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.uint32)
    # Ten equal characters in a row are nine equal neighbours, of which three are seen looking at every third.
    alike = ((points[1:] == points[:-1]) & (points[1:] > ord(" ")))[::3]
    pieces, rest, seen = [], 0, 0
    for place in (3 * np.flatnonzero(alike[2:] & alike[1:-1] & alike[:-2])).tolist():
        if place < seen:
            continue
        mark, begin, end = text[place], place, place
        while begin > seen and text[begin - 1] == mark:
            begin -= 1
        while end < len(text) and text[end] == mark:
            end += 1
        seen = end
        if mark.isspace() or mark.isdigit() or mark in _BOXES or end - begin < (10 if mark.isalpha() else 20):
            continue
        pieces.append(text[rest:begin] + mark * _KEPT)
        rest = end
        done["runs of one character"] += 1
    return "".join(pieces) + text[rest:]


def _drop_lines(text: str, done: Counter[str]) -> str:
    low = text.lower()
    hinted = [rule for rule in LINE_RULES if any(hint in low for hint in rule.hints)]
    longest = max([_BEGIN_LONGEST, *(rule.longest for rule in hinted)])
    lines, dropped = text.split("\n"), set()
    for number, line in enumerate(lines):
        if len(line) > longest:
            continue
        small = line.strip().lower()
        head = small.lstrip(_MARK_CHARACTERS)
        rules = hinted
        if head.startswith(_BEGINNINGS):
            rules = [*hinted, *(rule for rule in LINE_RULES if rule.begins and head.startswith(rule.begins))]
        if rules and (name := _boilerplate(small, head, rules)):
            dropped.add(number)
            done[name] += 1
    return "\n".join(line for number, line in enumerate(lines) if number not in dropped) if dropped else text


def _boilerplate(line: str, head: str, rules: list[LineRule]) -> str | None:
    for rule in rules:
        if len(line) > rule.longest or not (head.startswith(rule.begins) or any(hint in line for hint in rule.hints)):
            continue
        if all(pattern.search(line) for pattern in rule.patterns):
            return rule.name
    return None


def _join_words(text: str, done: Counter[str]) -> str:
    """Words that a hyphen breaks at a line's end, whole again and at the end of their first line.

    Joined where the text writes it so elsewhere, with the hyphen or without. Where neither half is a word of the text it
    is joined in a text that breaks words (more of its breaks are proven to be broken words than to be compounds). In
    doubt the line stays as it is.
    """
    words = {word.lower() for word in _WORDS.findall(_BROKEN.sub(" ", text))}
    breaks = []  # begin and end of what is replaced, the two halves, the mark behind them
    for found in _BREAK.finditer(text):
        before = _WORD_BEFORE.search(text, max(0, found.start() - 31), found.start())
        after = _WORD_AFTER.match(text, found.end())
        if before and after and after[1].islower():
            breaks.append((found.start(), after.end(), before[0].lower(), after[1], after[2]))
    whole = [one + two in words for _, _, one, two, _ in breaks]
    hyphened = [f"{one}-{two}" in words or one in _NUMERALS for _, _, one, two, _ in breaks]
    breaks_words = sum(whole) > sum(hyphened)
    pieces, rest = [], 0
    for (begin, end, one, two, mark), is_word, is_compound in zip(breaks, whole, hyphened, strict=True):
        if begin < rest or not (is_word or is_compound or (breaks_words and one not in words and two not in words)):
            continue
        pieces.append(f"{text[rest:begin]}{'-' if is_compound and not is_word else ''}{two}{mark}\n")
        rest = end
        done["broken words"] += 1
    return "".join(pieces) + text[rest:]


@dataclass(frozen=True, slots=True)
class Blocklist:
    """Addresses that are not wanted: whole domains (with all below them), and beginnings of paths on one domain."""

    domains: frozenset[str]
    paths: dict[str, tuple[str, ...]]  # of a domain
    skipped: int  # lines of the list that say nothing about whole pages: rules for parts of a page, exceptions

    def blocked(self, url: str) -> bool:
        """Whether the list names the page at `url`. An address without a host is not blocked."""
        try:
            parts = urlsplit(url if "://" in url else f"//{url}")
            host = (parts.hostname or "").rstrip(".")
        except ValueError:  # what urlsplit says of a malformed address, such as http://[
            return False
        labels = host.split(".")
        for start in range(len(labels)):
            domain = ".".join(labels[start:])
            if domain in self.domains or parts.path.startswith(self.paths.get(domain, ("\n",))):
                return True
        return False


def load_blocklist(path: Path) -> Blocklist:
    """Read a list of blocked addresses: one domain a line, a hosts file ("0.0.0.0 example.com"), or Adblock Plus rules.

    Of the latter those that name a domain ("||example.com^") or the beginning of a path on one ("||example.com/ads/")
    and do not depend on the page that asks; `#` and `!` begin comments. `.gz` is unpacked. Raises PunaError where the file
    is missing, damaged, not UTF-8, or larger than 256 MB unpacked.
    """
    path = Path(path)
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            content = file.read(_LIST_BYTES + 1)
        lines = content.decode("utf-8").splitlines()
    except (OSError, EOFError, zlib.error, UnicodeDecodeError) as error:
        raise PunaError(f"the block list cannot be read ({error})", where=str(path)) from error
    if len(content) > _LIST_BYTES:
        raise PunaError("the block list is larger than 256 MB", where=str(path), mend="split it")
    domains: set[str] = set()
    paths: dict[str, set[str]] = {}
    skipped = 0
    for line in map(str.strip, lines):
        if not line or line[0] in "#![":
            continue
        if rule := _ADBLOCK.fullmatch(line):
            if rule["path"]:
                paths.setdefault(rule["domain"].lower(), set()).add(rule["path"])
            else:
                domains.add(rule["domain"].lower())
        elif entry := _DOMAIN.fullmatch(line):
            domains.add(entry[1].lower())
        else:
            skipped += 1
    return Blocklist(frozenset(domains), {domain: tuple(sorted(some)) for domain, some in paths.items()}, skipped)
