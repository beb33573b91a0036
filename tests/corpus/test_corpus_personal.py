"""Personal data: what is replaced, by what, and what stays."""

import random
import re
import subprocess
import sys
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from puna.corpus import personal
from puna.corpus.personal import replace


@pytest.mark.parametrize(
    ("text", "kinds"),
    [
        ("身份证号11010519491231002X，电话13800138000", {"resident id": 1, "phone": 1}),
        ("邮箱zhang.san@qq.com发给我", {"e-mail": 1}),
        ("write to A.B+c@foo.co.uk.", {"e-mail": 1}),
        ("from 52.14.200.7 to 8.8.100.8", {"IPv4": 2}),
        ("IP地址为114.114.240.110。", {"IPv4": 1}),
        ("2001:4860:4860::8888", {"IPv6": 1}),
        ("(415) 867-5309 or 415.867.5309, +1 415 867 5309", {"phone": 3}),
        ("+44 20 7946 0958, +86 138 0013 8000, +49 (30) 123456", {"phone": 3}),
        ("电话：010-62345678 传真(021)52345678 座机01062345678 0755-26771234-801", {"phone": 4}),
        ("Phone: 030 1234567", {"phone": 1}),
        ("4111 1111 1111 1111, 378282246310005, 卡号6222020000000000008", {"bank card": 2}),
        ("DE89 3704 0044 0532 0130 00 and GB29NWBK60161331926819. FR1420041010050500013M02606 OK", {"IBAN": 3}),
    ],
)
def test_kinds(text: str, kinds: dict[str, int]) -> None:
    fixed, done = replace(text)
    assert dict(done) == kinds
    assert replace(fixed) == (fixed, {})


@pytest.mark.parametrize(
    "text",
    [
        "user1@example.com, git@github.com:x/y, img@2x.png, @name, a@b",
        "192.168.1.1 10.0.0.1 127.0.0.1 203.0.113.9 version 140.40.50.60 v81.2.3.4 1.2.3.4 第41.2.34.5条 300.1.2.3",
        "fe80::1 2001:db8::1 12:30:45 a::b std::vector<int>",
        "1-888-595-5485 (800) 335-4824 400-810-1234 202-555-0123 +44 7700 900123",
        "ISBN 978-7-111-12345-6, 2019-01-01 12:00:00, 1,234,567.89, 3.14159265358979, 1234567890, 20190101123000",
        "11010519491231002Y 110105194912310021 110105199913310021 4111111111111112 DE89370400440532013001",
        "https://x.com/13800138000/a 0.13800138000 A13800138000",
        "第一百二十条 二〇一九年 １３８００１３８０００",
        "",
    ],
)
def test_left_alone(text: str) -> None:
    assert replace(text) == (text, {})


def test_equal_values_have_equal_stand_ins_everywhere() -> None:
    one, two = replace("call +86 138 0013 8000")[0], replace("电话：13800138000。")[0]
    assert one.split()[-1] == two[3:-1] == "10000009725"
    assert replace("ZHANG@QQ.com")[0] == replace("zhang@qq.COM")[0]
    assert replace("4111 1111 1111 1111")[0].replace(" ", "") == replace("4111111111111111")[0]
    code = "from puna.corpus.personal import replace; print(replace('mail a@b.cn, 13800138000, 52.1.2.3')[0])"
    runs = [
        subprocess.run(
            [sys.executable, "-c", code], env={"PYTHONHASHSEED": str(seed)}, capture_output=True, text=True, check=True
        ).stdout
        for seed in (1, 2)
    ]
    assert runs[0] == runs[1] == replace("mail a@b.cn, 13800138000, 52.1.2.3")[0] + "\n"


def test_stand_ins_are_nobodys() -> None:
    number = replace("11010519491231002X")[0]
    assert len(number) == 18
    assert number.startswith("99")
    assert number[17] != personal._id_check(number)
    card = replace("5500005555555559")[0]
    assert len(card) == 16
    assert card.startswith("0000")
    assert personal._luhn(card) % 10
    assert re.fullmatch(r"(192\.0\.2|198\.51\.100|203\.0\.113)\.\d+", replace("52.14.200.7")[0])
    assert re.fullmatch(r"\d{3}-555-01\d\d", replace("415-867-5309")[0])
    assert replace("DE89370400440532013000")[0].startswith("XX00")


def _planted(draw: random.Random) -> list[tuple[str, str]]:
    digits = lambda n: "".join(draw.choice("0123456789") for _ in range(n))  # noqa: E731
    body = f"{draw.choice(['110101', '440305', '310115'])}{draw.randrange(1940, 2010)}{draw.randrange(1, 13):02}{draw.randrange(1, 29):02}{digits(3)}"
    card = draw.choice(["4", "51", "6222", "3528"]) + digits(20)
    card = card[:15]
    card += str(-personal._luhn(card + "0") % 10)
    bban = digits(18)
    iban = f"DE{98 - int(bban + '131400') % 97:02}{bban}"
    area = f"{draw.randrange(2, 10)}{draw.randrange(0, 9)}{draw.randrange(1, 10)}"
    return [
        ("e-mail", f"{draw.choice(['li', 'j.smith', 'a_b-c'])}{digits(3)}@{draw.choice(['qq.com', 'mail.example.cn', 'uni-x.de'])}"),
        ("IPv4", f"{draw.randrange(40, 90)}.{draw.randrange(256)}.{draw.randrange(256)}.{draw.randrange(256)}"),
        ("IPv6", f"2400:{draw.randrange(1, 65536):x}::{draw.randrange(1, 65536):x}"),
        ("phone", f"1{draw.choice('3456789')}{digits(9)}"),
        ("phone", f"+86 1{draw.choice('3578')}{digits(1)} {digits(4)} {digits(4)}"),
        ("phone", f"0{draw.choice(['10', '21', '755'])}-{draw.randrange(2, 9)}{digits(7)}"),
        ("phone", f"+49 30 {digits(8)}"),
        ("phone", f"({area}) {draw.randrange(2, 10)}{digits(2)}-{digits(4)}" if area[0] + area[1:] not in personal._TOLL_FREE else "(415) 867-5309"),
        ("resident id", body + personal._id_check(body)),
        ("bank card", card),
        ("bank card", " ".join(card[i : i + 4] for i in range(0, 16, 4))),
        ("IBAN", iban),
    ]  # fmt: skip


def test_planted_values_are_all_found_in_english_and_chinese() -> None:
    draw = random.Random(7)
    for _ in range(100):
        for kind, value in _planted(draw):
            for frame in ("请联系他：{}，谢谢。", "他的{}是", "Please note {} today.", "({})", "x\n{}\ny"):
                fixed, done = replace(frame.format(value))
                assert dict(done) == {kind: 1}, value
                assert value not in fixed
                assert replace(fixed) == (fixed, {}), (value, fixed)


@settings(deadline=None, max_examples=300)
@given(
    st.lists(
        st.sampled_from(
            [
                *"0123456789",
                "138",
                " ",
                "-",
                ".",
                "(",
                ")",
                "+",
                "@",
                "a",
                ":",
                "::",
                "电话",
                "tel ",
                "x.com",
                "86",
                "DE89",
                "/",
                "，",
                "https://",
            ]
        ),
        max_size=40,
    ).map("".join)
)
def test_replacing_twice_changes_nothing_more(text: str) -> None:
    fixed, _ = replace(text)
    assert replace(fixed) == (fixed, {})


@pytest.mark.parametrize(
    "part",
    [
        "1",
        "1 ",
        "@",
        "a@",
        "a.",
        "1.",
        "AB12",
        "::",
        "a:",
        "(",
        "+1 ",
        "1-",
        "DE89 ",
        "电话1",
        "a@a.",
        "1111-",
        "1:",
        "0" * 40 + "://",
    ],
)
def test_hostile_text_takes_linear_time(part: str) -> None:
    start = time.process_time()
    replace(part * (1_000_000 // len(part)))
    assert time.process_time() - start < 5
