import json
import re
import subprocess
import sys
from html.parser import HTMLParser

import pytest

from longthink.errors import CheckpointError
from longthink.report import render_table, write_report

VOID = {"meta", "br", "link", "img", "hr"}
PANELS = (
    "Reward",
    "Response length",
    "Clip ratio",
    "Window",
    "Entropy",
    "Validation accuracy by step",
    "Validation accuracy by generated tokens",
    "Accuracy by response length",
    "Accuracy by window",
)
STEP_PANELS = PANELS[:6]
SUMMARY = {
    "before": {
        "accuracy": 0.302,
        "low": 0.27,
        "high": 0.335,
        "mean_tokens": 69.4,
        "truncated": 0.046,
        "problems": 192,
        "samples": 4,
    },
    "after": {
        "accuracy": 0.617,
        "low": 0.584,
        "high": 0.65,
        "mean_tokens": 91.5,
        "truncated": 0.021,
        "problems": 192,
        "samples": 4,
    },
    "difference": {"mean": 0.315, "low": 0.274, "high": 0.356},
    "seconds": 171.4,
    "generated_tokens": 32000,
    "seed": 7,
}
CURVE = {
    "cutoffs": [32, 64, 128, 256],
    "accuracy": [0.1, 0.3, 0.35, 0.36],
    "low": [0.08, 0.27, 0.32, 0.33],
    "high": [0.12, 0.33, 0.38, 0.39],
    "coverage": [0.3, 0.5, 0.6, 0.6],
    "truncated": [0.8, 0.4, 0.1, 0.0],
    "recommended": 64,
    "direct": False,
    "reason": "past 64 tokens <the gain> falls",
}
EVENTS = [
    {
        "step": 7,
        "kind": "stage",
        "rule": "plateau",
        "action": {"stage": 2, "window": 128},
        "evidence": {"reward_slope": {"mean": 0.0004, "low": -0.0021, "high": 0.0029}, "clip_ratio": 0.231},
    },
    {"step": 11, "kind": "reset", "rule": "<b>r</b>", "action": {}, "evidence": {"reason": "<script>alert('x')</script>"}},
]


def metric_rows(steps):
    for step in range(1, steps + 1):
        stage = 1 + (step > 7) + (step > 13)
        row = {"step": step, "stage": stage, "window": 32 * 2**stage, "tokens/generated": 1600 * step, "time/step_s": 2.0}
        row |= {
            "reward/mean": 0.3 + step / 100,
            "length/mean": 40.0 + step,
            "length/clip_ratio": 0.2,
            "policy/entropy/mean": 0.28,
        }
        if step % 5 == 0:
            accuracy = 0.3 + step / 80
            row |= {"validation/accuracy": accuracy, "validation/low": accuracy - 0.03, "validation/high": accuracy + 0.03}
            row |= {"validation/mean_tokens": 60.0 + step}
        yield row


def write_run(folder, *, rows=(), events=(), recipe=None, **objects):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    if events:
        (folder / "events.jsonl").write_text("".join(json.dumps(row) + "\n" for row in events))
    for name, value in objects.items():
        (folder / f"{name}.json").write_text(json.dumps(value))
    if recipe is not None:
        (folder / "recipe.toml").write_text(recipe)
    return folder


def page_of(folder):
    return write_report(folder).read_text("utf-8")


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    recipe = '[run]\nseed = 7  # a < b & "c"\n'
    folder = tmp_path_factory.mktemp("runs") / "tiny & <odd>"
    return page_of(
        write_run(folder, rows=metric_rows(20), events=EVENTS, recipe=recipe, summary=SUMMARY, window_curve=CURVE),
    )


class Balance(HTMLParser):
    """Follows open tags and gathers the visible text."""

    def __init__(self):
        super().__init__(convert_charrefs=True)
        self.open, self.faults, self.tags, self.text = [], [], [], []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        if not self.open or self.open.pop() != tag:
            self.faults.append(tag)

    def handle_data(self, data):
        self.text.append(data)


def parsed(page):
    parser = Balance()
    parser.feed(page)
    parser.close()
    assert (parser.open, parser.faults) == ([], [])
    return parser


def panels_of(page):
    """Title -> SVG source."""
    return {m[1]: m[2] for m in re.finditer(r"<figure><figcaption><b>(.*?)</b>.*?(<svg.*?</svg>)", page, re.S)}


def test_the_page_has_every_panel_and_is_balanced(page):
    assert tuple(panels_of(page)) == PANELS
    assert sum(tag == "svg" for tag, _ in parsed(page).tags) == len(PANELS)


def test_the_page_loads_nothing_and_runs_nothing(page):
    assert "http://" not in page
    assert "https://" not in page
    tags = parsed(page).tags
    assert not {"script", "link", "img", "iframe", "object"} & {tag for tag, _ in tags}
    loaded = [v for _, attrs in tags for k, v in attrs.items() if k in ("src", "href", "xlink:href")]
    assert loaded
    assert all(v.startswith("#") for v in loaded)
    assert re.findall(r"url\((?!#)|@import", page) == []
    policy = [attrs["content"] for tag, attrs in tags if attrs.get("http-equiv") == "Content-Security-Policy"]
    assert policy == ["default-src 'none'; style-src 'unsafe-inline'"]


def test_what_comes_from_files_is_escaped(page):
    assert "<script" not in page
    assert "&lt;script&gt;alert(&#x27;x&#x27;)&lt;/script&gt;" in page
    assert "&lt;b&gt;r&lt;/b&gt;" in page
    assert "past 64 tokens &lt;the gain&gt; falls" in page
    assert "# a &lt; b &amp; &quot;c&quot;" in page
    assert "<title>longthink run tiny &amp; &lt;odd&gt;</title>" in page


def test_stages_and_other_events_are_marked_in_every_step_panel(page):
    for title, svg in panels_of(page).items():
        labels = re.findall(r"font-size: 7\.5px[^>]*>([^<]*)</text>", svg)
        dashed = len(re.findall(r"stroke-dasharray: 2\.7,2\.7", svg))
        expected = (["stage 1", "2", "3"], 1) if title in STEP_PANELS else ([], 0)
        assert (labels, dashed) == expected, title


def test_the_words_above_and_below_the_figures(page):
    text = re.sub(r"\s+", " ", " ".join(parsed(page).text))
    assert "Accuracy rose from 30.2 % to 61.7 %: +31.5 points (95 % interval +27.4 to +35.6)." in text
    assert "20 steps · 32,000 tokens generated in training · 171 s · seed 7" in text
    assert "reward slope 0.0004 (-0.0021 to 0.0029), clip ratio 0.231" in text
    assert "stage 2 " in text
    assert re.search(r'data-label="truncated">4\.6 %</td>', page)


def test_the_same_run_gives_the_same_bytes(tmp_path):
    run = write_run(tmp_path / "run", rows=metric_rows(6))
    assert page_of(run) == page_of(run)
    assert sorted(p.name for p in run.iterdir()) == ["metrics.jsonl", "report.html"]


def test_missing_pieces_are_absent(tmp_path):
    rows = [{"step": s, "reward/mean": 0.1 * s, "length/mean": None, "policy/entropy/mean": float("nan")} for s in (1, 2)]
    page = page_of(write_run(tmp_path / "run", rows=rows))
    parser = parsed(page)
    assert list(panels_of(page)) == ["Reward"]
    assert not {"table", "details"} & {tag for tag, _ in parser.tags}
    assert 'class="verdict"' not in page


def test_a_validation_without_interval_and_a_summary_without_tokens(tmp_path):
    rows = [{"step": 3, "validation/accuracy": 0.4, "validation/low": None}]
    summary = {"before": {"accuracy": 0.3}, "after": {"mean_tokens": 5}, "difference": {"mean": 0.1}}
    page = page_of(write_run(tmp_path / "run", rows=rows, summary=summary))
    parsed(page)
    assert list(panels_of(page)) == ["Validation accuracy by step"]
    assert "no interval is recorded" in page


def test_a_run_without_steps_says_so(tmp_path):
    page = page_of(write_run(tmp_path / "run", recipe="[run]\n"))
    assert "No step is recorded yet" in page
    assert panels_of(page) == {}
    parsed(page)


def test_a_long_run_with_many_stages_and_events_stays_small(tmp_path):
    rows = [{"step": s, "stage": f"$<{s // 200}>", "reward/mean": (s * 7919 % 100) / 100} for s in range(4000)]
    events = [
        {"step": s, "kind": "window", "rule": "cosine", "action": {"window": s}, "evidence": {}} for s in range(0, 4000, 10)
    ]
    page = page_of(write_run(tmp_path / "run", rows=rows, events=events))
    parsed(page)
    assert "and 200 more in events.jsonl" in page
    assert len(page) < 600_000


def test_odd_stage_names_are_drawn_as_plain_text(tmp_path):
    rows = [{"step": s, "stage": name, "reward/mean": 0.5} for s, name in enumerate(["$\\frac$", "<i>", "\u9577"])]
    page = page_of(write_run(tmp_path / "run", rows=rows))
    assert ">&lt;i&gt;</text>" in page
    assert ">stage $\\frac$</text>" in page
    parsed(page)


def test_a_folder_that_is_no_run_is_refused(tmp_path):
    for folder in (tmp_path, tmp_path / "absent"):
        with pytest.raises(CheckpointError, match=r"not a run folder; expected metrics\.jsonl"):
            write_report(folder)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("text", "message"), [("{", "not JSON"), ("[1]", "holds a list, expected a JSON object")])
def test_a_broken_summary_is_named(tmp_path, text, message):
    run = write_run(tmp_path / "run")
    (run / "summary.json").write_text(text)
    with pytest.raises(CheckpointError, match=rf"summary\.json: {message}"):
        write_report(run)


@pytest.mark.parametrize(
    ("difference", "verdict"),
    [
        ({"mean": -0.02, "low": -0.05, "high": 0.01}, "not distinguishable from before: -2.0 points, 95 % interval -5.0 to +1.0"),
        ({"mean": 0.0, "low": 0.0, "high": 0.0}, "not distinguishable"),
        ({"mean": -0.2, "low": -0.25, "high": -0.15}, "Accuracy fell from 30.2 % to 61.7 %: -20.0 points"),
        ({}, "No comparison of before and after is recorded."),
    ],
)
def test_the_verdict_follows_the_interval(tmp_path, difference, verdict):
    page = page_of(write_run(tmp_path / "run", summary=SUMMARY | {"difference": difference}))
    assert verdict in page.replace("&nbsp;", " ")


def test_the_table_for_the_terminal():
    assert render_table(SUMMARY).splitlines() == [
        "                accuracy   95 % interval  mean tokens  truncated  problems  samples",
        "before            30.2 %    27.0 to 33.5         69.4      4.6 %       192        4",
        "after             61.7 %    58.4 to 65.0         91.5      2.1 %       192        4",
        "difference  +31.5 points  +27.4 to +35.6            -          -         -        -",
    ]
    assert render_table({"seconds": 3}) == "no evaluation is recorded\n"
    assert "control" in render_table({"control": SUMMARY["before"]})


def test_the_drawing_library_is_loaded_only_to_draw():
    code = "import sys, longthink.report; sys.exit('matplotlib' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_decisions_come_first_in_words_and_with_what_their_twins_say(tmp_path):
    evidence = {"best": 0.6, "best_step": 4, "accuracy": [0.4], "error": [0.05]}
    event = {"step": 8, "kind": "rule", "rule": "drop", "evidence": evidence}
    event["action"] = {"do": "rollback", "from_step": 4, "set": {"learner": {"lr": 1e-4}}}
    twin = [{"step": 8, "difference": {"mean": 0.1, "low": 0.02, "high": 0.18}}]
    write_run(tmp_path, rows=metric_rows(12), events=[event])
    (tmp_path / "twins.json").write_text(json.dumps(twin))
    text = re.sub(r"\s+", " ", " ".join(parsed(page_of(tmp_path)).text))
    assert "8 drop rollback to step 4; learner.lr = 0.0001 accuracy 40.0 %, up to 4.0 standard errors (5.0 points)" in text
    assert "yes: +10.0 points (+2.0 to +18.0)" in text
    (tmp_path / "twins.json").write_text("[1]")
    with pytest.raises(CheckpointError, match="longthink twins"):
        write_report(tmp_path)


def test_events_of_another_make_are_shown_as_they_are(tmp_path):
    event = {
        "step": 3,
        "kind": "rule",
        "rule": "lengthen",
        "action": {"do": "set", "set": 5},
        "evidence": {"steps": "x", "best": 1},
    }
    odd = {"step": 4, "kind": "rule", "rule": "drop", "action": {}, "evidence": {"best": 1, "accuracy": 2, "error": 3}}
    write_run(tmp_path, rows=metric_rows(12), events=[event, odd])
    text = re.sub(r"\s+", " ", " ".join(parsed(page_of(tmp_path)).text))
    assert "do set, set 5" in text and "best 1, accuracy 2, error 3" in text
