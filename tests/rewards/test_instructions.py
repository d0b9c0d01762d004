"""The 25 checks of IFEval by hand-written texts, and the verifier that asks them."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from longthink.ifeval import CHECKS, arguments, num_capital_words, split_sentences
from longthink.rewards.instructions import Instructions

ROWS = Path(__file__).resolve().parents[2].parent / "shared" / "data" / "ifeval" / "ifeval_input_data.jsonl"
ENGLISH = "the weather is lovely today and we are going to walk along the river with our old dog."
GERMAN = "heute ist das wetter sehr schön und wir gehen mit unserem alten hund am fluss entlang."
FRENCH = "Aujourd'hui il fait beau et nous allons nous promener avec notre vieux chien au bord de la rivière."

# id -> arguments, texts that follow, texts that do not
CASES: dict[str, tuple[dict[str, Any], list[str], list[str]]] = {
    "keywords:existence": (
        {"keywords": ["cat", "c++"]},
        ["A cat writes C++.", "CAT c++", "concatenate in c++", "c++cat", "cat\n\nc++", "C++? Cats!"],
        ["A cat.", "c++", "c a t c++", "cat ccc", "cat c+ +", "dog"],  # plain text, no regular expression
    ),
    "keywords:frequency": (
        {"keyword": " an ", "frequency": 3, "relation": "at least"},
        ["an an an", "AN An aN", "banana ananas", "an, an. An!", "can man fan", "ananan"],
        ["an an", "a n an an", "ana", "", "nananb b", "one two three"],
    ),
    "keywords:forbidden_words": (
        {"forbidden_words": ["rock", "hard place"]},
        ["rocks", "a hard\nplace", "Rocky", "bedrock", "rock_n_roll", "place hard", ""],
        ["rock", "ROCK", "a rock.", "rock-n-roll", "A Hard Place", "(rock)", "rock's"],
    ),
    "keywords:letter_frequency": (
        {"letter": "q", "let_frequency": 3, "let_relation": "less than"},
        ["", "q", "qQ", "no such letter", "Quite quiet"],
        ["qqq", "QQQ", "q q q", "Quite quiet Q", "qu qu qu qu", "Q.Q.q"],  # less than is strict
    ),
    "language:response_language": (
        {"language": "de"},
        [GERMAN, GERMAN.upper(), GERMAN * 3, "Das ist ein ganz gewöhnlicher deutscher Satz.", "12345 678", "!!! ???", "\n."],
        [ENGLISH, FRENCH, ENGLISH.upper(), "Это обычное русское предложение.", "यह एक हिंदी वाक्य है।"],
    ),
    "length_constraints:number_sentences": (
        {"num_sentences": 3, "relation": "at least"},
        [
            "One. Two. Three.",
            "What?! No. Yes!",
            "one. two. three",  # a small letter begins a sentence too
            '"Go." He left. "Why?"',
            "1. Wash them.\n2. Dry",  # a number before a capital letter is a sentence
            "Done. **Really?**",  # and so are stars left over
            "P.S. Call me. Soon.",
            "He lives in the U.S. The end. Bye.",
            "Wait... The end. Bye.",
            "So do I. Then we go. Bye.",
        ],
        [
            "One. Two.",
            "Dr. Smith met Mrs. J. R. Jones at 5 p.m. today.",
            "It costs 3.50 in the U.S. today. Yes.",
            "E.g. apples, i.e. fruit. Yes.",
            "Title\n\nOne\n\nTwo\n\nThree",
            "Wait... what... no. Yes",
            'He said "Go." Yes. "',  # a mark left over belongs to the last sentence
            "See example.com or a.b.c for v1.2.3. Yes",
            "on no. 5. or 6. or 7. it fails",
        ],
    ),
    "length_constraints:number_paragraphs": (
        {"num_paragraphs": 2},
        ["A\n***\nB", "A***B", "***\nA\n***\nB", "A *** B\n***", " *** A *** B *** ", "A\n****\nB"],
        ["A", "A\n\nB", "A***B***C", "A\n***\n***\nB", "A\n** *\nB", "A***", ""],
    ),
    "length_constraints:number_words": (
        {"num_words": 4, "relation": "less than"},
        ["", "one two three", "don't go", "a-b c", "one_two three four", "... ?! --"],
        ["one two three four", "a-b-c-d", "it's John's", "1.2.3.4", "a b c d e f", "don't don't"],
    ),
    "length_constraints:nth_paragraph_first_word": (
        {"num_paragraphs": 2, "nth_paragraph": 2, "first_word": "Then"},
        [
            "A\n\nThen b",
            "A\n\nTHEN, b",
            "A\n\n'then' b",
            'A\n\n"Then." b',
            "A\n\n  then's",
            "A\n\nThen\n\n",
            "A\nB\n\nthen",
            "\n\nThen\n\nB",
        ],
        ["A", "Then\n\nB", "A\n\nthen\n\nB", "A\n\nThen-a", "A\n\n*Then*", "\n\nA\n\nThen", "A\n\n\n\nThen", "A\n\n\"'Then"],
    ),
    "detectable_content:number_placeholders": (
        {"num_placeholders": 2},
        ["[a] [b]", "[][]", "[a]\n[b] [c]", "[[a] [b]", "x[1]y[2]", "[a [b] [c]"],
        ["[a]", "[a\n] [b]", "[a [b]", "(a) (b)", "]a[ ]b[", "[[a]]", ""],
    ),
    "detectable_content:postscript": (
        {"postscript_marker": "P.S."},
        ["Bye\nP.S. I", "p.s.", "P. S. I", "xp.s.", "P.\nS. I", "P.P.S. I", "P.S.I"],
        ["PS I", "P.S I", "P.  S.", "P S.", "postscript: I", ""],
    ),
    "detectable_format:number_bullet_lists": (
        {"num_bullets": 2},
        ["* a\n* b", "- a\n- b", "* a\n- b", "  * a\n\n\n\t* b", "*a\n*b", "text\n* a\ntext\n* b", "--- \n-", "*\n* a\n* b"],
        ["* a", "* a\n* b\n* c", "** a\n** b", "1. a\n2. b", "x * a\nx * b", "*", "• a\n• b", "*\n* a"],
    ),
    "detectable_format:constrained_response": (
        {},
        ["My answer is yes.", "My answer is no.", " My answer is maybe.\n", "Well, My answer is no. Bye", '"My answer is yes."'],
        ["My answer is yes", "my answer is no.", "Yes.", "My answer is  no.", "My answer is perhaps.", "My answer\nis no."],
    ),
    "detectable_format:number_highlighted_sections": (
        {"num_highlights": 2},
        ["*a* *b*", "*a*b*c* *d*", "**a**b*c*", "**a** **b**", "*a b*\n* c *", "x *a* **b** y"],
        ["*a*", "*a\n* b*", "* * * *", "** ** ****", "_a_ _b_", "**a**", ""],  # ** a ** is also two empty * *
    ),
    "detectable_format:multiple_sections": (
        {"section_spliter": "Section", "num_sections": 2},
        [
            "Section 1\na\nSection 2\nb",
            "Section1Section2",
            "Section\n1 Section 10",
            "xSection 1 Section 1",
            "Section 1 Section 2 Section 3",
        ],
        ["Section 1", "SECTION 1 SECTION 2", "Section one Section two", "Section  1 Section  2", "Section A", "Section 12"],
    ),
    "detectable_format:json_format": (
        {},
        ['{"a": 1}', '```json\n{"a": [1]}\n```', "```\n[]\n```", " 7 ", '"text"', "```JSON{}```", "NaN", "```json7"],
        ["{'a': 1}", "{", "text", "", "```python\n{}\n```", '{"a": 1} done', '{"a": 1,}', "[" * 50_000, "9" * 5000],
    ),
    "detectable_format:title": (
        {},
        ["<<Title>>\nText", "x <<a>> y", "<<<a>>>", "<<a\n<<b>>", "<<a > b>>", "<< a>> <<>>"],
        ["Title", "<Title>", "<<Title\n>>", "<<>>", "<< >>", "<<>>>>", ">>a<<", "<<a>"],
    ),
    "combination:two_responses": (
        {},
        ["A\n******\nB", "A******B", "******A******B", "A******B******", "******A******B******\n", "A ****** a"],
        ["A", "A******A", "A\n******\n A ", "A******B******C", "A******\n******B", "A*****B", "******A******", ""],
    ),
    "combination:repeat_prompt": (
        {"prompt_to_repeat": " Write a Poem.\nNow"},
        [
            "Write a Poem.\nNow I do",
            " \nwrite a poem.\nnow",
            "WRITE A POEM.\nNOW!",
            "Write a Poem.\nNowhere",
            "Write a Poem.\nNow\n",
        ],
        ["I Write a Poem.\nNow", "Write a Poem. Now", "Write a poem", '"Write a Poem.\nNow"', "write  a poem.\nnow", ""],
    ),
    "startend:end_checker": (
        {"end_phrase": "The End. "},
        ["x the end.", "The End.", 'x "The End."', "THE END. \n", "bathe end.", 'the end.""'],
        ["The End. Bye", "The End", "The End!", "the end. '", 'the end. "', "", "The  End."],  # blanks before the mark stay
    ),
    "startend:quotation": (
        {},
        ['"a"', ' "a"\n', '""', '"a" and "b"', '"a\nb"', '""a""'],
        ['"', "a", '"a', 'a"', "“a”", "'a'", '"a".', ""],
    ),
    "change_case:english_capital": (
        {},
        [ENGLISH.upper(), ENGLISH.upper() * 2, "1. " + ENGLISH.upper(), "THIS IS A PLAIN ENGLISH SENTENCE.", "A@A.CO"],
        [ENGLISH, ENGLISH.title(), ENGLISH.upper() + " no", GERMAN.upper(), FRENCH.upper(), "", "123"],
    ),
    "change_case:english_lowercase": (
        {},
        [ENGLISH, ENGLISH * 2, "1. " + ENGLISH, "this is a plain english sentence.", "a@a.co"],  # nothing to tell by: followed
        [ENGLISH.upper(), ENGLISH.capitalize(), ENGLISH + " I", GERMAN, FRENCH.lower(), "", "123"],
    ),
    "change_case:capital_word_frequency": (
        {"capital_frequency": 3, "capital_relation": "at least"},
        [
            "A B C",
            "I AM HERE.",
            "DON'T GO",
            "NASA's U.S. team and I",
            "A--B C",
            "CANNOT GO",
            "IT'S. He said: I",
            "X,Y;Z",
            "A4 B5 C6",
        ],
        ["A B", "Abc Def Ghi", "A-B-C", "1 2 3", "C,5D E", "", "USA's Usa", "A.B.C. D", "iPHONE NO"],
    ),
    "punctuation:no_comma": (
        {},
        ["", "a b", "a; b", "a， b", "a'b", "1.000"],
        [",", "a, b", "1,000", "a\n,", "a,b,c", "end,"],
    ),
}
WRONG_GOLDS: list[Any] = [
    None,
    5,
    "not json",
    "[]",
    [],
    {},
    {"instruction_id_list": [], "kwargs": []},
    {"instruction_id_list": ["punctuation:no_comma"]},
    {"instruction_id_list": ["punctuation:no_comma"], "kwargs": []},
    {"instruction_id_list": ["punctuation:no_comma"], "kwargs": [None]},
    {"instruction_id_list": ["punctuation:no_comma"], "kwargs": [{"num_words": 3}]},
    {"instruction_id_list": ["punctuation:no_dots"], "kwargs": [{}]},
    {"instruction_id_list": [["punctuation:no_comma"]], "kwargs": [{}]},
    *(
        {"instruction_id_list": [name], "kwargs": [kwargs]}
        for name, kwargs in [
            ("length_constraints:number_words", {"num_words": 3}),
            ("length_constraints:number_words", {"num_words": 0, "relation": "at least"}),
            ("length_constraints:number_words", {"num_words": -3, "relation": "at least"}),
            ("length_constraints:number_words", {"num_words": "3", "relation": "at least"}),
            ("length_constraints:number_words", {"num_words": True, "relation": "at least"}),
            ("length_constraints:number_words", {"num_words": 3, "relation": "at most"}),
            ("length_constraints:number_words", {"num_words": 3, "relation": ["at least"]}),
            ("keywords:existence", {"keywords": "cat"}),
            ("keywords:existence", {"keywords": [1]}),
            ("keywords:letter_frequency", {"letter": "qu", "let_frequency": 3, "let_relation": "at least"}),
            ("length_constraints:nth_paragraph_first_word", {"num_paragraphs": 2, "nth_paragraph": 3, "first_word": "a"}),
        ]
    ),
]
HOSTILE = [
    "A",
    " ",
    "\n",
    "[",
    "*",
    "<< ",
    ". ",
    "a.",
    "!)a",
    "-\n",
    '"',
    "A'S ",
    "SECTION 1 ",
    "A.B. ",
    "a@",
    '{"a":[',
    "``",
    "\x00",
]


def follows(name: str, text: str) -> bool:
    return CHECKS[name](text, **arguments(name, CASES[name][0]))


def gold(*names: str) -> dict[str, Any]:
    return {"instruction_id_list": list(names), "kwargs": [CASES[name][0] for name in names]}


def test_every_check_has_cases() -> None:
    assert CASES.keys() == CHECKS.keys() and len(CHECKS) == 25
    assert all(len(texts) >= 5 for _, right, wrong in CASES.values() for texts in (right, wrong))


@pytest.mark.parametrize("name", CASES)
def test_texts_that_follow_and_texts_that_do_not(name: str) -> None:
    _, right, wrong = CASES[name]
    assert [text for text in right if not follows(name, text)] == []
    assert [text[:80] for text in wrong if follows(name, text)] == []


@pytest.mark.parametrize(
    ("name", "changed", "right", "wrong"),
    [
        ("keywords:letter_frequency", {"let_relation": "at least"}, "qqq", "qq"),
        ("keywords:letter_frequency", {"letter": "#"}, "##", "###"),
        ("keywords:frequency", {"relation": "less than"}, "an an", "an an an"),
        ("length_constraints:number_words", {"relation": "at least"}, "a b c d", "a b c"),
        ("length_constraints:number_sentences", {"relation": "less than"}, "One. Two.", "One. Two. Three."),
        ("change_case:capital_word_frequency", {"capital_relation": "less than"}, "A B", "A B C"),
        ("detectable_content:postscript", {"postscript_marker": "P.P.S"}, "p. p.s", "P.S."),
        ("detectable_content:postscript", {"postscript_marker": "NB:"}, "Oh nb: x", "N.B. x"),
    ],
)
def test_other_arguments(name: str, changed: dict[str, Any], right: str, wrong: str) -> None:
    kwargs = arguments(name, CASES[name][0] | changed)
    assert CHECKS[name](right, **kwargs) and not CHECKS[name](wrong, **kwargs)


def test_sentences() -> None:
    assert split_sentences("He (Dr. No) left.) Bye") == ["He (Dr. No) left.)", "Bye"]
    assert split_sentences("so--Mr. Smith… of Ph.D. fame") == ["so--Mr. Smith… of Ph.D. fame"]
    assert split_sentences("Wow!!!") == ["Wow!!", "!"]
    assert split_sentences("Plan A. Smith. 3. then. (5.) X") == ["Plan A. Smith.", "3. then.", "(5.)", "X"]
    assert split_sentences(" \n") == []


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("I'LL'D GO", 4),
        ("'DON'T'", 2),
        ("GONNA D'YE", 4),
        ("IT’S", 2),
        ("X/'Y", 2),
        ("ROCK'N'ROLL", 1),
        ("A...B", 2),
        ("I'Ll", 0),
    ],
)
def test_capital_words(text: str, number: int) -> None:
    assert num_capital_words(text) == number


def test_all_or_a_share() -> None:
    names = ("punctuation:no_comma", "startend:quotation", "detectable_format:title")
    response = "<think>a, b</think>\n\n<<Title>> and no mark"
    detail = {"per_instruction": [True, False, True], "followed": 2, "instructions": 3}
    for credit, score in (("all", 0.0), ("fraction", 2 / 3)):
        verdict = Instructions(credit=credit).grade(response, json.dumps(gold(*names)))
        assert (verdict.score, verdict.status, dict(verdict.detail)) == (score, "ok", detail)
        assert verdict.extracted == "<<Title>> and no mark"
    assert Instructions().grade('"<<Title>>"', gold(*names)).score == 1.0


def test_where_the_answer_stands() -> None:
    first = gold("length_constraints:nth_paragraph_first_word")
    assert Instructions().grade("</think>\n\nA\n\nThen", first).score == 1.0  # the blanks behind the tag are no paragraph
    assert Instructions().grade("\n\nA\n\nThen", first).score == 0.0
    for response in ("", " \n", "<think> a", "<think>a</think> \n", "a </think> b <think> c"):
        verdict = Instructions().grade(response, gold("punctuation:no_comma"))
        assert (verdict.score, verdict.status) == (0.0, "no_answer")
    assert Instructions(think="required").grade("a</think>b", gold("punctuation:no_comma")).detail["lenient"] == 1.0
    assert Instructions().grade('<think>"a"', gold("startend:quotation")).detail == {"lenient": 1.0, "lenient_answer": '"a"'}
    assert Instructions().grade("x" * 3000, gold("punctuation:no_comma")).extracted == "x" * 1000


@pytest.mark.parametrize("wrong", WRONG_GOLDS, ids=repr)
def test_a_bad_gold_is_our_fault(wrong: Any) -> None:
    verdict = Instructions().grade("a", wrong)
    assert (verdict.score, verdict.status) == (None, "verifier_error")


def test_empty_arguments_are_dropped() -> None:
    kwargs = {"num_words": 4, "relation": "less than", "keywords": None, "frequency": 0, "letter": "", "forbidden_words": []}
    stored = {"instruction_id_list": ["length_constraints:number_words"], "kwargs": [kwargs]}
    assert Instructions().read(stored) == Instructions().read(gold("length_constraints:number_words"))


@pytest.mark.skipif(not ROWS.is_file(), reason="the rows of IFEval are not here")
def test_every_row_of_the_benchmark_can_be_read() -> None:
    rows = [json.loads(line) for line in ROWS.read_text().splitlines()]
    read = [Instructions().read(row) for row in rows]
    assert len(rows) == 541 and sum(map(len, read)) == 834 and {one.id for row in read for one in row} == CHECKS.keys()


@given(st.text(st.characters(), max_size=200) | st.text(alphabet="aB1 .,?!'\"*-[]<>#`:;\n\t()“’é中", max_size=200))
@settings(derandomize=True, deadline=None, max_examples=150)
def test_no_text_raises(text: str) -> None:
    everything = gold(*CHECKS)
    for response in (text, f"<think></think>{text}", f"<think>{text}"):
        verdict = Instructions(credit="fraction").grade(response, everything)
        assert verdict.score is not None and 0.0 <= verdict.score <= 1.0


@pytest.mark.parametrize("length", [100_000, pytest.param(1_000_000, marks=pytest.mark.full)])
@pytest.mark.parametrize("piece", HOSTILE)
def test_long_texts_are_read_once(piece: str, length: int) -> None:
    text = piece * (length // len(piece)) + ")b."
    verdict = Instructions(credit="fraction").grade(text, gold(*CHECKS))
    assert verdict.status == "ok" and verdict.score < 1.0
