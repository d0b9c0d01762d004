"""The page that shows responses: what it holds, that hostile text stays text, and a browser that clicks through it."""

import json
import shutil
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from longthink.cli import main
from longthink.errors import CheckpointError
from longthink.view import CASES, gallery, write_view

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)
HOSTILE = "</script><script>document.title='owned'</script><img src=x onerror=\"document.title='owned'\"> $TITLE"


def evaluation(folder, texts, score):
    folder.mkdir()
    facts = {"name": folder.name, "window": 64, "benchmarks": {"set": {}}}
    (folder / "eval.json").write_text(json.dumps(facts))
    (folder / "summary.json").write_text("{}")
    problems, samples = [], []
    for i, text in enumerate(texts):
        problems.append(
            {"benchmark": "set", "id": f"p{i}", "prompt": [{"role": "user", "content": f"{i} plus 7?"}], "gold": i + 7}
        )
        row = {"benchmark": "set", "problem": i, "sample": 0, "tokens": 10 + i, "finish_reason": "stop" if i else "length"}
        samples.append(row | {"score": score, "status": "ok", "extracted": "7", "detail": {}, "text": text})
    (folder / "problems.jsonl").write_text("".join(json.dumps(p) + "\n" for p in problems))
    (folder / "samples.jsonl").write_text("".join(json.dumps(s) + "\n" for s in samples))
    return folder


@pytest.fixture
def two(tmp_path):
    before = evaluation(tmp_path / "before", ["Wait, is it 7?", HOSTILE, "plain"], 0.0)
    after = evaluation(tmp_path / "after", ["<think>so 7</think> 7", "hold on ```python\nprint(7)\n``` yes", "plain"], 1.0)
    return before, after


def test_the_page_holds_every_response_as_text(two):
    made = gallery(two)
    assert [item["source"] for item in made.items] == ["before"] * 3 + ["after"] * 3 and len(made.problems) == 3
    page = write_view(two, two[0] / "view.html").read_text()
    assert page.count("<script") == 2 and "owned'</script>" not in page
    data = page.partition('id="data">')[2].partition("</script>")[0]
    assert json.loads(data)["texts"][1] == HOSTILE and "$DATA" not in page and "$DIGEST" not in page


def test_two_folders_of_one_name_stay_apart(two):
    for folder in two:
        (folder / "eval").mkdir()
        for name in ("eval.json", "problems.jsonl", "samples.jsonl", "summary.json"):
            text = (folder / name).read_text().replace(f'"name": "{folder.name}"', '"name": "eval"')
            (folder / "eval" / name).write_text(text)
    made = gallery([folder / "eval" for folder in two])
    assert {item["source"] for item in made.items} == {"before/eval", "after/eval"}


def test_a_run_by_step_and_stage(tmp_path, capsys):
    run = tmp_path / "run"
    (run / "rollouts").mkdir(parents=True)
    (run / "metrics.jsonl").write_text('{"step": 1, "stage": 2}\n')
    verdict = {"score": 1.0, "status": "ok", "extracted": "7", "detail": {}}
    row = {"step": 1, "problem": "p", "sample": 0, "prompt": [], "text": "7", "response_ids": [1, 2], "finish_reason": "stop"}
    (run / "rollouts" / "step_000001.jsonl").write_text(json.dumps(row | {"reward": 0.5, "verdict": verdict}) + "\n")
    (item,) = gallery([run]).items
    assert (item["stage"], item["step"], item["score"], item["set"], item["tokens"]) == (2, 1, 0.5, "training", 2)
    assert main(["view", str(run)]) == 0 and (run / "view.html").is_file()
    with pytest.raises(CheckpointError, match="neither an evaluation nor a run"):
        gallery([tmp_path])
    capsys.readouterr()


def test_a_served_gallery_sends_texts_one_by_one_and_keeps_cases(two):
    command = [sys.executable, "-m", "longthink.cli", "view", *map(str, two), "--serve", "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        address = process.stdout.readline().split(" on ")[1].split(";")[0]
        page = urllib.request.urlopen(address).read().decode()
        assert '"texts": null' in page and "owned" not in page
        assert json.loads(urllib.request.urlopen(f"{address}text?i=1").read()) == HOSTILE
        assert json.loads(urllib.request.urlopen(f"{address}search?q=PLAIN").read()) == [2, 5]
        cases = [{"source": "after", "key": "set:p0", "sample": 0, "text": "7"}]
        urllib.request.urlopen(urllib.request.Request(f"{address}cases", json.dumps(cases).encode())).read()
        foreign = urllib.request.Request(f"{address}cases", b"[]", {"Origin": "http://elsewhere"})
        rebound = urllib.request.Request(f"{address}text?i=1", headers={"Host": "evil.example"})
        none = urllib.request.Request(f"{address}cases", b"3")
        for bad in (f"{address}text?i=99", f"{address}text?i=-1", f"{address}etc/passwd", foreign, rebound, none):
            with pytest.raises(urllib.error.HTTPError):
                urllib.request.urlopen(bad)
        process.terminate()
        assert process.wait() == 0
    assert json.loads((two[0] / CASES).read_text()) == cases
    assert gallery(two).kept() == [3]


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here")
@pytest.mark.parametrize("width", [1280, 390])
def test_a_browser_shows_filters_searches_and_keeps(two, width):
    playwright = pytest.importorskip("playwright.sync_api")
    page_file = write_view(two, two[0] / "view.html")
    with playwright.sync_playwright() as p:
        browser = p.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": width, "height": 800})
        errors: list[str] = []
        page.on("pageerror", lambda e: errors.append(str(e)))
        page.on("console", lambda m: errors.append(m.text) if m.type == "error" else None)
        page.goto(page_file.as_uri())
        page.wait_for_selector("article")
        assert page.inner_text("#count") == "6 of 6 responses" and page.title() == "longthink view: before and after"
        assert page.locator(".sides h3").all_inner_texts() == ["before: 0 of 1 right", "after: 1 of 1 right"]
        assert page.locator("mark.reflection").all_inner_texts() == ["Wait"]
        page.select_option("select[name=source]", "before")
        assert page.inner_text("#count") == "3 of 6 responses"
        page.select_option("select[name=source]", "")
        page.fill("input[name=search]", "python")
        page.wait_for_function("document.getElementById('count').textContent.startsWith('1 of')")
        page.wait_for_selector("mark.found, mark.tool")
        assert HOSTILE in page.locator("article pre").all_inner_texts()[0] + page.locator("article pre").all_inner_texts()[1]
        page.locator("article button").first.click()
        assert page.locator("article button").first.inner_text() == "★ kept"
        with page.expect_download() as download:
            page.click("#export")
        kept = json.loads(Path(download.value.path()).read_text())
        assert len(kept) == 1 and kept[0]["key"] == "set:p1"
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        assert not errors and page.title() != "owned"
        page.goto(f"{page_file.as_uri()}#set%3Ap2/5")
        page.reload()
        page.wait_for_selector("article")
        assert page.inner_text("#case h2") == "p2"
        browser.close()


def test_kept_cases_go_into_the_report(two, capsys):
    (two[0] / CASES).write_text(json.dumps([{"problem": "p1", "source": "before", "score": 0, "tokens": 11, "text": HOSTILE}]))
    out = two[0].parent / "figures"
    assert main(["analyze", "lengths", *map(str, two), "--out", str(out)]) == 0
    page = (out / "report.html").read_text()
    assert "Kept responses" in page and "&lt;script&gt;document.title=" in page and "<script>" not in page
    (two[0] / CASES).write_text("[3]")
    assert main(["analyze", "lengths", *map(str, two), "--out", str(out)]) == 0
    assert "Kept responses" not in (out / "report.html").read_text()
    capsys.readouterr()
