"""A corpus report's data as a build fills it, with numbers that look real and are made here."""

from typing import Any

ARABIC = (
    "اشتر الآن واحصل على خصم 50%! العرض محدود، اتصل على الرقم 0501234567 أو زر موقعنا (متجر الهضبة) قبل نهاية الشهر."
)
CHINESE = (
    "点击下载APP，注册即送888元红包！！！加微信：gaoyuan888，名额有限，先到先得。版权所有 © 高原网 京ICP备00000000号"
)
ENGLISH = "Home | About | Contact | Login\nClick here to read more >> Click here to read more >>\nThis site uses cookies. Accept? [Yes] [No]"

# (stage, Yi's name for it, share of documents that go, share of bytes that go, reasons)
STAGES: list[tuple[str, str | None, float, float, list[str]]] = [
    ("read", None, 0.021, 0.0, ["no main content", "cannot be decoded"]),
    ("repair", "rule-based correction", 0.0, 0.004, []),
    ("split long documents", None, -0.034, 0.0, []),
    ("url block list", "heuristic", 0.012, 0.009, ["domain is on the list", "word in the address"]),
    ("language", "1 language filtering", 0.213, 0.187, ["none of en, zh, ar", "less than 65 % sure"]),
    ("text metrics", "2 text-metric filtering", 0.164, 0.092, ["fewer than 50 words", "symbols above 10 %", "mean word length", "few stop words"]),
    ("repetition", "3 repetitive-document removal", 0.058, 0.041, ["duplicate lines above 30 %", "top 3-gram above 18 %"]),
    ("boilerplate lines", "4 rule-based correction", 0.0, 0.031, ["line seen in 200 documents"]),
    ("perplexity", "5 perplexity filtering", 0.049, 0.037, ["above the 95th percentile of its language"]),
    ("quality", "6 document-quality filtering", 0.118, 0.081, ["score below 0.2"]),
    ("coherence", "6 document-quality filtering", 0.009, 0.006, ["sentences that do not belong together"]),
    ("duplicate paragraphs", "7 paragraph dedup", 0.002, 0.046, ["paragraph seen before"]),
    ("near duplicates", "8 minhash dedup", 0.142, 0.151, ["nearly the same as a longer document"]),
    ("exact duplicates", "9 exact dedup", 0.007, 0.003, ["document seen before"]),
    ("repeated spans", "9 exact dedup", 0.0, 0.018, ["span of 50 words seen before"]),
    ("safety", "10 safety filtering", 0.0041, 0.0032, ["violence", "gambling"]),
    ("topics", "11 topic filtering", 0.027, 0.014, ["cluster 17: advertisements"]),
    ("semantic clusters", "12 semantic filtering", 0.003, 0.002, ["cluster of low quality"]),
    ("personal data", None, 0.0, -0.0004, []),
    ("overlap with evaluation items", None, 0.0003, 0.0005, ["13 words of mmlu", "13 characters of cmmlu"]),
]  # fmt: skip


def stages() -> list[dict[str, Any]]:
    rows, documents, size = [], 184_211, 1_240_331_008
    for name, stage, gone, lost, reasons in STAGES:
        out, left = round(documents * (1 - gone)), round(size * (1 - lost))
        shares = [max(1, abs(documents - out) // len(reasons) // (1 + index)) for index in range(len(reasons))]
        samples = [
            {
                "reason": reason,
                "source": f"crawl/CC-MAIN-2026-05/{index:05d}.warc.gz#https://例え.example/{name}",
                "text": text,
            }
            for index, reason in enumerate(reasons)
            for text in (ENGLISH, CHINESE, ARABIC)[index % 2 :]
        ]
        rows.append({"step": name, "stage": stage, "documents_in": documents, "documents_out": out, "bytes_in": size, "bytes_out": left,
                     "removed": dict(zip(reasons, shares, strict=True)), "samples": samples,
                     "changed": {"pieces cut off": out - documents} if out > documents else {"line ends": 912} if name == "repair" else {}})  # fmt: skip
        documents, size = out, left
    rows[0]["bytes_in"] = 9_870_112_334  # files
    return rows


def spread(shape: list[int], edges: list[float], low: float | None, high: float | None) -> dict[str, Any]:
    return {"edges": edges, "counts": shape, "low": low, "high": high, "below": 4_120 if low is not None else 0, "above": 0 if high is None else 812}  # fmt: skip


def histograms(scale: int) -> dict[str, Any]:
    bell = [round(scale * 2.718 ** (-(((i - 14) / 5) ** 2))) for i in range(40)]
    tail = [round(scale * 0.86**i) for i in range(40)]
    return {
        "words": spread(bell, [10 * 1.25**i for i in range(41)], 50.0, 40_000.0),
        "mean_word_length": spread(bell, [i / 4 for i in range(41)], 3.0, 10.0),
        "share_of_symbols": spread(tail, [i / 80 for i in range(41)], None, 0.1),
        "duplicate_lines": spread(tail, [i / 40 for i in range(41)], None, 0.3),
        "perplexity": spread(bell, [0.0, *(5 * 1.3**i for i in range(40))], None, 1_843.2),
        "quality": spread(list(reversed(tail)), [i / 40 for i in range(41)], 0.2, None),
        "coherence": spread(bell, [i / 40 - 0.2 for i in range(41)], None, None),
    }


def whole_corpus() -> dict[str, Any]:
    """Every part of a corpus report, with numbers that look real and are made here."""
    steps = stages()
    gone = {
        row["step"]: row["documents_in"] - row["documents_out"]
        for row in steps
        if row["documents_in"] > row["documents_out"]
    }
    split_off = sum(max(0, row["documents_out"] - row["documents_in"]) for row in steps)
    left = steps[-1]["documents_out"]
    return {
        "run": "高原 mine", "created": "2026-11-24T16:53:10+00:00", "puna_version": "0.3.0", "seconds": 1_874.2,
        "documents": {"train": left - 804, "heldout": 804}, "bytes": {"train": steps[-1]["bytes_out"] - 5_200_000, "heldout": 5_200_000},
        "steps": steps,
        "accounts": {"documents_in": steps[0]["documents_in"], "split_off": split_off, "kept": left - 21_300, "changed": 21_300, "removed": gone},
        "histograms": {"en": histograms(9_000), "zh": histograms(5_200), "ar": histograms(800)},
        "languages": {"en": {"documents": 54_012, "bytes": 301_220_400}, "zh": {"documents": 21_411, "bytes": 141_100_200},
                      "ar": {"documents": 4_100, "bytes": 28_300_000}, "und": {"documents": 12, "bytes": 8_120}},
        "scripts": {"Latn": {"documents": 54_020, "bytes": 301_228_000}, "Hans": {"documents": 19_200, "bytes": 130_000_000},
                    "Hant": {"documents": 2_211, "bytes": 11_100_200}, "Arab": {"documents": 4_100, "bytes": 28_300_000}},
        "topics": [
            {"id": 0, "words": ["court", "law", "section", "shall", "act"], "documents": 9_120, "bytes": 88_000_100, "weight": 1.0},
            {"id": 1, "words": ["法律", "规定", "人民法院", "第一条", "应当"], "documents": 7_300, "bytes": 61_200_000, "weight": 1.0},
            {"id": 2, "words": ["الله", "كتاب", "المدينة", "الهضبة"], "documents": 2_004, "bytes": 14_000_000, "weight": 2.0},
            {"id": 17, "words": ["sale", "buy", "discount", "优惠", "红包"], "documents": 611, "bytes": 2_100_000, "weight": 0.1}],
        "mixture": [
            {"source": "crawl", "lang": "en", "topic": 0, "documents": 9_120, "bytes": 88_000_100, "tokens": 21_120_000, "weight": 1.0, "epochs": 1.0, "share": 0.52},
            {"source": "法律/全国", "lang": "zh", "topic": 1, "documents": 7_300, "bytes": 61_200_000, "tokens": 17_400_000, "weight": 1.5, "epochs": 1.5, "share": 0.43},
            {"source": "notes", "lang": "ar", "topic": 2, "documents": 2_004, "bytes": 14_000_000, "tokens": 2_100_000, "weight": 2.0, "epochs": 4.0, "share": 0.05}],
        "sources": [{"name": "crawl", "digest": "9f2c5a" + "0b" * 29, "files": 212, "bytes": 9_400_112_334, "licence": "unstated"},
                    {"name": "法律/全国", "digest": "77aa01" + "4c" * 29, "files": 565, "bytes": 470_000_000, "licence": "CC0-1.0"}],
        "licences": {"unstated": {"documents": 70_010, "bytes": 390_000_000}, "CC0-1.0": {"documents": 9_525, "bytes": 80_628_720}},
        "quality": {"auc": 0.973, "interval": [0.969, 0.977], "good": 12_000, "crawl": 12_000, "notes": ["Good examples: the books of the user's own shelf."]},
        "perplexity": {"en": {"percentile": 95, "threshold": 1_843.2, "n": 40_000}, "zh": {"percentile": 95, "threshold": 903.1, "n": 21_000}},
        "duplicates": {"clusters": 9_011, "documents": 27_400, "sizes": {"2": 6_000, "3": 1_900, "4": 700, "9": 400, "212": 11},
                       "largest": [{"size": 212, "sample": CHINESE}, {"size": 97, "sample": ARABIC}, {"size": 44, "sample": ENGLISH}]},
        "personal": {"e-mail": 4_120, "ip v4": 311, "phone": 2_011, "chinese resident id": 4, "bank card": 19, "iban": 2},
        "safety": {"violence": {"documents": 120, "threshold": 0.8}, "gambling": {"documents": 211, "threshold": 0.7}},
        "contamination": {"mmlu": {"items": 14_042, "clean": 13_990, "touched": 31, "contaminated": 12, "undecidable": 9},
                          "cmmlu": {"items": 5_664, "clean": 5_640, "touched": 14, "contaminated": 10, "undecidable": 0}},
        "encodings": {"utf-8": 190_112, "gb18030": 211, "windows-1256": 40}, "skipped": {"binary": 12, "nested too deep": 1, "too large": 0},
        "split": [{"source": "crawl", "by": "document", "units": 70_010, "heldout_units": 700, "bytes_heldout": 4_100_000},
                  {"source": "法律/全国", "by": "tail", "units": 104, "heldout_units": 104}],
        "versions": {"thresholds": "2026-11", "language_model": "py3langid 0.3.0", "quality_model": "sha256 9f2c…"},
        "notes": ["Two workers, 1.6 GB of memory at most."],
    }  # fmt: skip
