#!/usr/bin/env python3
"""report_test.py TDAGEN ROOT [SCREENSHOTS]: the HTML report of tdagen explore in a real browser: it draws every plot, asks the
network for nothing and logs no error. Exits with 77, which CTest takes as skipped, where Chromium or plotly is missing.
With SCREENSHOTS, a folder, pictures of the pages are left there to be looked at."""
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile

TDAGEN, ROOT = sys.argv[1], pathlib.Path(sys.argv[2])
SHOTS = pathlib.Path(sys.argv[3]) if sys.argv[3:] else None
PYTHON = os.environ.get("TDAGEN_PYTHON") or "python3"
BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
SPECS, CUT = ROOT / "dsl" / "specs", ROOT / "tests" / "data" / "heads_cut.npz"

passed = failed = 0


def expect(ok, what, *details):
    global passed, failed
    if ok:
        passed += 1
    else:
        failed += 1
        print(f"FAILED: {what}", *details, sep="\n    ")


def skip(why):
    print(f"skipped: {why}")
    sys.exit(77)


def browse(page, folder):
    """What a browser makes of the page: the document after its scripts ran, the console's lines, addresses it asked for."""
    log = folder / "net.json"
    shot = [f"--screenshot={SHOTS / page.stem}.png", "--window-size=1300,3600", "--hide-scrollbars"] if SHOTS else []
    common = [BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr", "--virtual-time-budget=20000",
              "--disable-background-networking", "--no-first-run", f"--user-data-dir={folder / 'profile'}"]
    result = subprocess.run([*common, f"--log-net-log={log}", "--dump-dom", page.as_uri()], capture_output=True, text=True, timeout=240)
    if shot:
        subprocess.run([*common, *shot, page.as_uri()], capture_output=True, timeout=240)
    console = [line for line in result.stderr.splitlines() if "CONSOLE" in line]
    asked = set(re.findall(r'"url":"(https?://[^"]+)"', log.read_text())) if log.exists() else {"no log"}
    # Chromium's own: updates and accounts
    asked = {address for address in asked if not re.match(r"https?://([\w-]+\.)*(google|googleapis|gstatic|gvt1)\.com", address)}
    return result.stdout, console, asked


def make(folder, name, spec, *options):
    page = folder / f"{name}.html"
    result = subprocess.run([TDAGEN, "explore", SPECS / spec, *map(str, options), "--report", page, "--json", folder / f"{name}.json"],
                            capture_output=True, text=True)
    expect(result.returncode == 0, f"the report of {name}", result.stderr)
    return page, json.loads((folder / f"{name}.json").read_text())


def test_page(folder, name, figures, spec, *options):
    page, report = make(folder, name, spec, *options)
    document, console, asked = browse(page, folder)
    drawn = document.count('class="plot-container')
    expect(not console, f"{name}: the console has messages", *console)
    expect(not asked, f"{name}: the page asks the network", *asked)
    expect(drawn == figures, f"{name}: {drawn} figures are drawn, not {figures}")
    heads = sum(len(run["by_head"]) for run in report["runs"] if run["settings"] == report["runs"][0]["settings"])
    expect(len(re.findall(r'<g class="hm">', document)) == heads, f"{name}: a map for each of {heads} heads",
           len(re.findall(r'<g class="hm">', document)))
    for times in filter(None, report["runs"][0]["prediction"]["plans"].values()):
        expect(f"<td>{times['forward_ms']:.4f}</td>" in document and f">{times['not_timed']}</td>" in document, f"{name}: predicted times")
    for verdict in report["runs"][0]["theory"]:
        expect(verdict["text"].split(";")[0].split("^")[0][:40] in document, f"{name}: the verdict on {verdict['key']}")
    for metric in report["metrics"]:
        if report["runs"][0]["all"][metric["key"]] is not None:
            expect(f">{metric['title']}</th>" in document, f"{name}: a column for {metric['key']}")


def test_noticed(folder):
    """What this test looks for would be found: an error in a script, and an address."""
    page = folder / "bad.html"
    page.write_text("<!doctype html><script>missing()</script><img src=http://127.0.0.1:9/picture.png>")
    document, console, asked = browse(page, folder)
    expect(any("missing is not defined" in line for line in console), "an error of a script is noticed", *console)
    expect("http://127.0.0.1:9/picture.png" in asked, "an address is noticed", *asked)


def test_failures(folder):
    run = lambda **variables: subprocess.run([TDAGEN, "explore", SPECS / "tra.lua", "--q-len", "20", "--report", folder / "none.html"],
                                             capture_output=True, text=True, env={**os.environ, **variables})
    result = run(TDAGEN_PYTHON="/no/python")
    expect(result.returncode == 1 and "cannot run /no/python" in result.stderr and "install Python 3 with plotly" in result.stderr
           and not result.stdout, "no Python", result.stderr)
    (folder / "plotly.py").write_text("raise ImportError('planted')\n")
    result = run(PYTHONPATH=str(folder))
    expect(result.returncode == 1 and "lacks (planted): python3 -m pip install plotly" in result.stderr and not result.stdout,
           "no plotly", result.stderr)
    (folder / "plotly.py").unlink()
    expect(not (folder / "none.html").exists(), "nothing is written then")


def main():
    if not shutil.which(PYTHON):
        skip(f"there is no {PYTHON}: the report is drawn with Python")
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as name:
        folder = pathlib.Path(name)
        test_failures(folder)
        if subprocess.run([PYTHON, "-c", "import plotly"], capture_output=True).returncode:
            skip(f"{PYTHON} has no plotly (python3 -m pip install plotly; TDAGEN_PYTHON names another Python)")
        if not BROWSER:
            skip("there is no Chromium (apt-get install chromium)")
        if SHOTS:
            SHOTS.mkdir(exist_ok=True)
        test_noticed(folder)
        # two of survivors by length, one of maps; of each layer one of tails and, where there are several, one of heads; sweeps: one
        # for each name; layers: one
        test_page(folder, "one", 4, "tda.lua", "--in", CUT, "--softmax")
        test_page(folder, "sweep", 6, "tda.lua", "--in", CUT, "--sweep", "beta=0.5:1.5:0.5", "--sweep", "p=1,2")
        test_page(folder, "layers", 6, "tda_layers.lua", "--in", CUT, "--in", CUT)
        test_page(folder, "odd", 4, "sigmoid.lua", "--heads", 6, "--kv-heads", 2, "--q-len", 70, "--k-len", 333)
    print(f"{passed} passed, {failed} failed")
    return failed > 0 or passed == 0


sys.exit(main())
