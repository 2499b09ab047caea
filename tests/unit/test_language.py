"""A text's language is named when it can be told, and only then."""

from __future__ import annotations

import subprocess
import sys

import pytest

from fleet.routing.language import LONGEST, identify, is_multilingual

SENTENCES = {
    "en": "please move my appointment from tuesday morning to friday afternoon",
    "de": "Bitte verschieben Sie meinen Termin von Dienstag auf Freitagnachmittag.",
    "fr": "Je voudrais savoir pourquoi ma commande n'est toujours pas arrivée.",
    "es": "Quisiera saber por qué mi pedido todavía no ha llegado a casa.",
    "pt": "Não consigo entrar na minha conta desde ontem à noite.",
    "it": "Vorrei sapere perché il mio ordine non è ancora arrivato.",
    "nl": "Ik kan sinds gisteravond niet meer inloggen op mijn rekening.",
    "pl": "Od wczoraj wieczorem nie mogę zalogować się na swoje konto.",
    "tr": "Dün akşamdan beri hesabıma giriş yapamıyorum.",
    "fi": "En ole päässyt kirjautumaan tililleni eilisillan jälkeen.",
    "vi": "Tôi không thể đăng nhập vào tài khoản của mình từ tối qua.",
    "ru": "Я не могу войти в свою учётную запись со вчерашнего вечера.",
    "uk": "Я не можу увійти до свого облікового запису з учорашнього вечора.",
    "el": "Δεν μπορώ να συνδεθώ στον λογαριασμό μου από χθες το βράδυ.",
    "ar": "لا أستطيع الدخول إلى حسابي منذ مساء أمس.",
    "he": "אני לא מצליח להיכנס לחשבון שלי מאז אתמול בערב.",
    "hi": "मैं कल शाम से अपने खाते में लॉग इन नहीं कर पा रहा हूँ।",
    "th": "ฉันเข้าสู่ระบบบัญชีของฉันไม่ได้ตั้งแต่เมื่อคืนนี้",
    "zh": "从昨天晚上开始我就无法登录我的账户。",
    "ja": "昨日の夜から自分のアカウントにログインできません。",
    "ko": "어제 저녁부터 제 계정에 로그인할 수 없습니다.",
}


@pytest.mark.parametrize("language", SENTENCES)
def test_a_sentence_is_named_by_its_language(language: str) -> None:
    found = identify(SENTENCES[language])
    assert found is not None
    assert found[0] == language
    assert 0.7 <= found[1] <= 1.0


@pytest.mark.parametrize(
    "text",
    [
        "",
        " \n\t",
        "ok",
        "да",
        "好的",
        "no problem",
        "4711 0815 2026-11-26 +49 30 1234567",
        "٠١٢٣٤٥٦٧٨٩٠١٢٣٤٥٦٧٨٩",
        "😀🎉🔥👍🏽👨‍👩‍👧‍👦🇩🇪😀🎉🔥👍🏽",
        "{}[]()<>;;;;;;;===+++---***",
        "@somebody @somebody.else https://example.org/where/is/my/order www.example.org/parcels",
        "someone.with.a.long.name@example.org",
        "\ud800\udfff\udc00" * 20,
        "\x00" * 100,
        "xkcd qwrt zzxq vbnm plkj hgfd sdfg",
    ],
)
def test_what_says_too_little_has_no_language(text: str) -> None:
    assert identify(text) is None


def test_a_language_without_a_code_of_two_letters_counts_for_the_nearest_that_has_one() -> None:
    cantonese, pidgin = (
        identify("我哋琴晚開始就登入唔到個戶口，唔知點解"),
        identify("I no fit enter my account since yesterday, wetin dey happen abeg"),
    )
    assert cantonese is not None
    assert cantonese[0] == "zh"
    assert pidgin is not None
    assert pidgin[0] == "en"


def test_a_text_that_could_be_in_many_languages_has_none() -> None:
    assert identify("Madonna Madrid Milano") is None


@pytest.mark.parametrize(
    "noise",
    ["\ud800", "\udc00\ud83d", "\x00\x01", "😂😂", "https://example.org/wo?q=der+Termin ", "@irgendwer "],
)
def test_noise_does_not_change_the_answer(noise: str) -> None:
    english = SENTENCES["en"]
    assert identify(noise + english + " " + noise) == identify(english)


def test_a_link_or_name_inside_text_without_spaces_takes_nothing_of_it_away() -> None:
    chinese = SENTENCES["zh"]
    assert identify(f"https://example.org/order{chinese}") == identify(f" {chinese}")


def test_marks_that_belong_to_words_stay() -> None:
    # A zero-width non-joiner, vowel signs and a virama: signs to Python, letters to their readers.
    for language, text in (
        ("fa", "نمی‌توانم از دیشب وارد حساب کاربری خود شوم"),
        ("hi", "क्या मेरी बुकिंग पक्की हो गई है"),
    ):
        found = identify(text)
        assert found is not None
        assert found[0] == language


def test_only_the_beginning_of_a_long_text_is_judged() -> None:
    german = (SENTENCES["de"] + " ") * 50
    assert len(german) > LONGEST
    begun = identify(german[:LONGEST])
    assert begun is not None
    assert identify(german[:LONGEST] + SENTENCES["ru"] * 2_000) == begun


def test_the_judge_is_neither_imported_nor_loaded_before_it_is_asked() -> None:
    asks = "import sys, fleet.routing.language as l; l.identify('ok'); print('py3langid' in sys.modules)"
    ended = subprocess.run([sys.executable, "-c", asks], capture_output=True, text=True, check=True)
    assert ended.stdout == "False\n"


def test_the_judge_of_the_process_is_left_as_it_was() -> None:
    from py3langid import langid

    identify(SENTENCES["en"])
    assert langid.IDENTIFIER is None


@pytest.mark.parametrize(
    ("languages", "expected"),
    [
        ({}, False),
        ({"en": 500}, False),
        ({"en": 90, "de": 10}, True),
        ({"en": 91, "de": 9}, False),  # too few rows
        ({"en": 910, "de": 90}, False),  # too small a share
        ({"en": 900, "de": 100}, True),
        ({"en": 5, "de": 5}, False),
        (dict.fromkeys("abcdefghij", 100), True),
        (dict.fromkeys("abcdefghijk", 100), False),  # each below a tenth
    ],
)
def test_several_languages_are_two_or_more_with_rows_enough(
    languages: dict[str, int], expected: bool
) -> None:
    assert is_multilingual(languages) is expected
