"""Personal data of seven kinds, replaced by stand-ins that are nobody's.

Comes in: any text. Goes out: the text with stand-ins, and how many of each kind. Must never happen: two stand-ins for one
value, in whatever document, process or order it stands; a stand-in that could be somebody's; a change when a text is
replaced a second time; time that grows faster than the text.

A stand-in is a function of SHA-256 over the kind and the value without its separators, so equal values stay equal across a
corpus and a text that speaks of two numbers still speaks of two. It is no anonymity by cryptography: who guesses a value
can check the guess (there are 10^10 phone numbers); the stand-ins are far fewer than the values, which blurs it.

    e-mail        user01234567@example.com     RFC 2606 reserves example.com
    IPv4, IPv6    192.0.2.1, 2001:db8::1:2     RFC 5737 and RFC 3849 reserve these for documentation
    phone         202-555-0123                 North America keeps 555-0100 to 555-0199 for fiction
                  10000001234, 010-00001234    China: no mobile number begins with 100, no subscriber's with 0
                  +44 7700 900123              the rest: Ofcom keeps it for drama
    resident id   99....19000101...            no region 99, and a wrong check digit
    bank card     0000 ....                    no issuer begins with 0, and a wrong check digit
    IBAN          XX00....                     no country XX, check digits that never occur

Left alone, because they are no person's: private, reserved and documentation addresses; four small numbers (a version, a
section: all below 32, or after "version", "v."); toll-free numbers (800, 888 ... in North America, 400 and 800 in China).
"""

import datetime
import hashlib
import ipaddress
import re
from collections import Counter

_FILE_ENDINGS = frozenset(
    {"png", "jpg", "jpeg", "gif", "svg", "webp", "js", "ts", "css", "html", "php", "py", "json", "pdf"}
)
_LOCAL = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._%+-"
_DOMAIN = re.compile(r"@((?:[A-Za-z0-9](?:[A-Za-z0-9-]{0,62})\.){1,8})([A-Za-z]{2,24})(?![A-Za-z0-9])")
_RESERVED_DOMAIN = re.compile(r"(?:^|\.)(?:example\.(?:com|net|org)|example|test|invalid|localhost|local)$")

# Length of a country's IBAN (SWIFT registry, release 99).
_IBAN_TABLE = (
    "AD24 AE23 AL28 AT20 AZ28 BA20 BE16 BG22 BH22 BI27 BR29 BY28 CH21 CR22 CY28 CZ24 DE22 DJ27 DK18 DO28 EE20 EG29 ES24 "
    "FI18 FK18 FO18 FR27 GB22 GE22 GI23 GL18 GR27 GT28 HN28 HR21 HU28 IE22 IL23 IQ23 IS26 IT27 JO30 KW30 KZ20 LB28 LC32 "
    "LI21 LT20 LU20 LV21 LY25 MC27 MD24 ME22 MK19 MN20 MR27 MT31 MU30 NI28 NL18 NO15 OM23 PK24 PL28 PS29 PT25 QA29 RO24 "
    "RS22 RU33 SA24 SC31 SD18 SE24 SI19 SK24 SM27 SO23 ST25 SV28 TL23 TN24 TR26 UA29 VA22 VG24 XK20 YE30"
)
_IBAN_LENGTHS = {entry[:2]: int(entry[2:]) for entry in _IBAN_TABLE.split()}
_IBAN = re.compile(r"[A-Z](?<![A-Za-z0-9]{2})[A-Z][0-9]{2}(?:[ -]?[A-Z0-9]){11,30}(?![A-Za-z0-9])")

_V6_HINT = re.compile(r":[0-9A-Fa-f]{0,4}:[0-9A-Fa-f]")
_V6 = re.compile(
    r"[0-9A-Fa-f:](?<![\w:.][0-9A-Fa-f:])(?:[0-9A-Fa-f]{0,4}:){2,7}[0-9A-Fa-f]{1,4}(?![\w:]|\.[0-9])", re.ASCII
)

_ANY_DIGITS = re.compile(r"[0-9][0-9 .()（）-]{4}")
_ROUNDS = 8  # a stand-in can uncover a number beside it; then nothing more changes
# A stretch of digits and what separates them; the shapes below are looked for inside it.
_STRETCH = re.compile(r"[0-9+(（][0-9 .()（）\-]{5,}[0-9Xx]")
_SHAPES = re.compile(
    r"""(?<![0-9A-Za-z_@\#$€£¥])(?<![0-9][.\-])(?<![A-Za-z]-)(?:
      (?P<ip>(?:[0-9]{1,3}\.){3}[0-9]{1,3})
    | (?P<id>[1-9][0-9]{16}[0-9Xx])
    | (?P<card>[0-9]{12,19} | [0-9]{4}([ -])[0-9]{4}\4[0-9]{4}\4[0-9]{1,7} | [0-9]{4}([ -])[0-9]{6}\5[0-9]{4,5})
    | (?P<mobile>(?:(?:\+|00)86[ -]?|86[ -])?1[3-9][0-9][ -]?[0-9]{4}[ -]?[0-9]{4})
    | (?P<land>(?:(?:\+|00)86[ -]?|86[ -])?(?:[(（]0(?:10|2[0-9]|[3-9][0-9]{2})[)）]\ ?|0(?:10|2[0-9]|[3-9][0-9]{2})[ -])[2-9][0-9]{2,3}[ -]?[0-9]{4}(?:-[0-9]{1,5})?)
    | (?P<america>(?:\+?1[ .-]?)?(?:\([2-9][0-8][0-9]\)[ .-]?|[2-9][0-8][0-9](?P<sep>[ .-]))[2-9][0-9]{2}[ .-][0-9]{4})
    | (?P<abroad>\+[1-9][0-9]{0,2}(?:[ .-]?\(?[0-9]{1,5}\)?){2,5})
    | (?P<loose>[0-9](?:[ .()-]{0,2}[0-9]){6,14})
    )(?![0-9A-Za-z_%]|[.\-][0-9])""",
    re.VERBOSE,
)
# What stands before a number that only its label makes a phone number.
_PHONE_LABEL = re.compile(
    r"(?:\b(?:tel(?:ephone|efon|éfono)?|phone|mobile|cell|call|fax|whatsapp)(?:\s(?:number|no\.?))?|电话|電話|手机|手機|传真|傳真|座机|热线|熱線|联系方式|联系人)"
    r"[\s.:：号码號碼(（为是]{0,6}$", re.IGNORECASE)  # fmt: skip
_VERSION_LABEL = re.compile(
    r"(?:\bv(?:er(?:sion)?)?\.?|\brelease|\bbuild|\bsection|§|版本|版|第)[\s:：号號]{0,3}$", re.IGNORECASE
)
_TOLL_FREE = frozenset({"400", "800", "822", "833", "844", "855", "866", "877", "888"})
_PROVINCES = frozenset(map(str, (*range(11, 16), *range(21, 24), *range(31, 38), *range(41, 47), *range(50, 55), *range(61, 66), 71, *range(81, 84))))  # fmt: skip
_ID_WEIGHTS = (7, 9, 10, 5, 8, 4, 2, 1, 6, 3, 7, 9, 10, 5, 8, 4, 2)  # ISO 7064 MOD 11-2; GB 11643-1999
_ISSUERS = (  # first digits from .. to, possible lengths (ISO/IEC 7812; the issuers' published ranges)
    ("4", "4", (13, 16, 19)), ("51", "55", (16,)), ("2221", "2720", (16,)), ("34", "34", (15,)), ("37", "37", (15,)),
    ("6011", "6011", (16, 19)), ("644", "659", (16, 19)), ("3528", "3589", (16, 17, 18, 19)), ("300", "305", (14, 16, 19)),
    ("36", "36", (14, 16, 19)), ("38", "39", (14, 16, 19)), ("62", "62", (16, 17, 18, 19)), ("2200", "2204", (16,)),
)  # fmt: skip
_AREAS = (
    "201",
    "202",
    "212",
    "303",
    "305",
    "312",
    "404",
    "415",
    "503",
    "512",
    "602",
    "617",
    "702",
    "713",
    "804",
    "907",
)


def replace(text: str) -> tuple[str, Counter[str]]:
    """The text with stand-ins for personal data, and how many of each kind were replaced.

    Kinds: "e-mail", "IPv4", "IPv6", "phone", "resident id", "bank card", "IBAN". Replacing twice changes nothing more.
    """
    done: Counter[str] = Counter()
    for _ in range(_ROUNDS):
        before = done.total()
        if "@" in text:
            text = _replace_mail(text, done)
        if _V6_HINT.search(text):
            text = _V6.sub(lambda found: _ipv6(found[0], done), text)
        if _ANY_DIGITS.search(text):
            text = _IBAN.sub(lambda found: _iban(found[0], done), text)
            text = _replace_numbers(text, done)
        if done.total() == before:
            break
    return text, done


def _draw(kind: str, value: str, n: int) -> int:
    """A number below n that depends on kind and value alone."""
    return int.from_bytes(hashlib.sha256(f"{kind}\0{value}".encode()).digest()[:8], "big") % n


def _replace_mail(text: str, done: Counter[str]) -> str:
    pieces, rest = [], 0
    at = text.find("@")
    while at >= 0:
        domain = _DOMAIN.match(text, at)
        if domain:
            before = text[max(rest, at - 64) : at]
            local = before[len(before.rstrip(_LOCAL)) :].lstrip(".%+-")
            host = (domain[1] + domain[2]).lower()
            if (
                local and local.lower() != "git"  # git@github.com is everybody's
                and domain[2].lower() not in _FILE_ENDINGS and not _RESERVED_DOMAIN.search(host)
            ):  # fmt: skip
                pieces.append(
                    f"{text[rest : at - len(local)]}user{_draw('e-mail', f'{local.lower()}@{host}', 10**8):08}@example.com"
                )
                rest = domain.end()
                done["e-mail"] += 1
        at = text.find("@", max(at + 1, rest))
    return "".join(pieces) + text[rest:]


def _ipv6(raw: str, done: Counter[str]) -> str:
    try:
        address = ipaddress.IPv6Address(raw)
    except ValueError:
        return raw
    if not address.is_global or address.packed[0] >> 5 != 1:  # 2000::/3 is all that is given out
        return raw
    done["IPv6"] += 1
    number = _draw("IPv6", address.compressed, 1 << 32)
    return f"2001:db8::{number >> 16:x}:{number & 0xFFFF:x}"


def _iban(raw: str, done: Counter[str]) -> str:
    value = raw.replace(" ", "").replace("-", "")
    length = _IBAN_LENGTHS.get(value[:2], 0)
    # What follows an IBAN after a blank can look like more of it.
    places = [place for place, character in enumerate(raw, start=1) if character not in " -"]
    if not 0 < length <= len(places):
        return raw
    value, tail = value[:length], raw[places[length - 1] :]
    if tail and tail[0] not in " -":
        return raw
    digits = "".join(str(int(c, 36)) for c in value[4:] + value[:4])
    if int(digits) % 97 != 1:  # ISO 13616: MOD 97-10
        return raw
    done["IBAN"] += 1
    return f"XX00{_draw('IBAN', value, 10**16):016}{tail}"


def _replace_numbers(text: str, done: Counter[str]) -> str:
    pieces, rest = [], 0
    for stretch in _STRETCH.finditer(text):
        for found in _SHAPES.finditer(text, stretch.start(), stretch.end()):
            if found.start() < rest:
                continue
            stand_in = _number(found, text[max(0, found.start() - 24) : found.start()])
            if stand_in is None or _in_address(text, found.start()):
                continue
            kind, value = stand_in
            pieces.append(text[rest : found.start()] + value)
            rest = found.end()
            done[kind] += 1
    return "".join(pieces) + text[rest:]


def _in_address(text: str, at: int) -> bool:
    """Whether what stands at `at` is part of a URL: no blank and no Chinese between it and "://"."""
    before = text[max(0, at - 200) : at]
    scheme = before.rfind("://")
    return scheme >= 0 and not any(c.isspace() or ord(c) > 0x2E7F for c in before[scheme:])


def _number(found: re.Match[str], before: str) -> tuple[str, str] | None:
    shape, raw = next((name, value) for name, value in found.groupdict().items() if value and name != "sep")
    digits = "".join(c for c in raw if c in "0123456789Xx").upper()
    if shape == "ip":
        return _ipv4(raw, before)
    if shape == "id" and _is_resident_id(digits):
        return "resident id", _no_resident_id(digits)
    if shape in ("id", "card") and _is_card(digits):
        return "bank card", _fill(raw, _no_card(digits))
    if shape == "card" and len(digits) > 15:
        return None
    if shape == "mobile":
        return "phone", f"1000000{_draw('phone', digits[-11:], 10**4):04}"
    if shape == "land" and digits.removeprefix("00").removeprefix("86")[:4] not in ("0400", "0800"):
        return "phone", f"010-0000{_draw('phone', digits.removeprefix('00').removeprefix('86').lstrip('0'), 10**4):04}"
    if shape == "america":
        national = digits[-10:]
        if national[:3] in _TOLL_FREE or national[3:8] == "55501":
            return None
        return "phone", _american(national)
    if shape == "abroad" and 8 <= len(digits) <= 15 and not digits.startswith(("447700900", "1000000")):
        return "phone", _abroad(digits)
    return _labelled(digits, before) if shape in ("loose", "card", "land") else None


def _labelled(digits: str, before: str) -> tuple[str, str] | None:
    """A number in no country's usual form: a phone number if the text says so."""
    if (
        not 7 <= len(digits) <= 15
        or not _PHONE_LABEL.search(before)
        or digits.startswith(("0000", "1000000", "0100000"))
    ):
        return None
    national = digits[1:] if len(digits) == 11 and digits[0] == "1" else digits
    if national[:3] in _TOLL_FREE or national[3:8] == "55501" or _is_date(digits[:8]):
        return None
    if before[-1:] > "\u2e7f" or any(ord(c) > 0x2E7F for c in before[-8:]):
        return "phone", f"010-0000{_draw('phone', digits.lstrip('0'), 10**4):04}"
    return "phone", _american(national) if len(national) in (7, 10) else _abroad(digits)


def _american(national: str) -> str:
    drawn = _draw("phone", national, 100 * len(_AREAS))
    return f"{_AREAS[drawn // 100]}-555-01{drawn % 100:02}"


def _abroad(digits: str) -> str:
    return f"+44 7700 900{_draw('phone', digits, 1000):03}"


def _ipv4(raw: str, before: str) -> tuple[str, str] | None:
    parts = raw.split(".")
    if any((len(part) > 1 and part[0] == "0") or int(part) > 255 for part in parts):
        return None
    if (
        all(int(part) < 32 for part in parts)
        or _VERSION_LABEL.search(before)
        or not ipaddress.IPv4Address(raw).is_global
    ):
        return None
    drawn = _draw("IPv4", raw, 3 * 254)
    return "IPv4", f"{('192.0.2', '198.51.100', '203.0.113')[drawn // 254]}.{drawn % 254 + 1}"


def _is_date(digits: str) -> bool:
    try:
        return 1900 <= datetime.datetime.strptime(digits, "%Y%m%d").year <= 2100
    except ValueError:
        return False


def _id_check(digits: str) -> str:
    return "10X98765432"[sum(int(d) * w for d, w in zip(digits[:17], _ID_WEIGHTS, strict=True)) % 11]


def _is_resident_id(digits: str) -> bool:
    return digits[:2] in _PROVINCES and _is_date(digits[6:14]) and _id_check(digits) == digits[17]


def _no_resident_id(digits: str) -> str:
    drawn = _draw("resident id", digits, 10**7)
    body = f"99{drawn // 1000:04}19000101{drawn % 1000:03}"
    right = _id_check(body)
    return body + ("0" if right == "X" else str((int(right) + 1) % 10))


def _luhn(digits: str) -> int:
    """The sum that is a multiple of ten for a valid number (ISO/IEC 7812-1, annex B)."""
    return sum(sum(divmod(int(d) * (1 + place % 2), 10)) for place, d in enumerate(reversed(digits)))


def _is_card(digits: str) -> bool:
    if "X" in digits or not 13 <= len(digits) <= 19 or _luhn(digits) % 10 or len(set(digits)) == 1:
        return False
    return any(first <= digits[: len(first)] <= last and len(digits) in lengths for first, last, lengths in _ISSUERS)


def _no_card(digits: str) -> str:
    body = f"0000{_draw('bank card', digits, 10**8):08}".ljust(len(digits) - 1, "0")
    right = -_luhn(body + "0") % 10
    return body + str((right + 1) % 10)


def _fill(raw: str, digits: str) -> str:
    """`digits` with the separators of `raw`."""
    supply = iter(digits)
    return "".join(next(supply) if c.isdigit() else c for c in raw)
