#!/usr/bin/env python3
"""check.py ROOT BUILD [--update]: the README and docs/ say what the files and programs say.

A fenced block after one of these comments is compared, where a line "..." leaves lines out:
    <!-- from FILE -->          lines of FILE
    <!-- output of COMMAND -->  what COMMAND prints. Measured errors, in exponent notation, may differ by a factor
                                of four, and the row after one freely: they move with the C library and
                                with the order of sums.
    <!-- spec -->               a spec that compiles
    <!-- run -->                commands of a shell, which must succeed
    <!-- output of the block above, without a GPU -->
Commands run in a scratch folder in which `build` is BUILD, and dsl, runtime and tests are those of ROOT.
Paths in backquotes must exist, and options be those of --help.
--update writes outputs anew: whole ones, and measured errors.
"""
import os
import pathlib
import re
import subprocess
import sys
import tempfile

ROOT, BUILD = (pathlib.Path(argument).resolve() for argument in sys.argv[1:3])
UPDATE = sys.argv[3:] == ["--update"]
FOLDERS = ["compiler", "docs", "dsl", "lit", "runtime", "templates", "tests", "tools"]
MARKED = re.compile(r"<!-- (from|output of|spec|run) ?(.*?)-->\n```\w*\n(.*?)```", re.S)
NO_GPU = "the block above, without a GPU"
MEASURED = re.compile(r"\d\.\de[+-]\d\d")

passed = failed = 0


def expect(ok, what, *details):
    global passed, failed
    if ok:
        passed += 1
    else:
        failed += 1
        print(f"FAILED: {what}", *details, sep="\n    ")


def same_line(want, got):
    want, got = want.split(), got.split()
    if len(want) != len(got):
        return False
    after_measured = False
    for w, g in zip(want, got):
        measured = MEASURED.fullmatch(w) and MEASURED.fullmatch(g)
        if measured and not float(w) <= 4 * float(g) <= 16 * float(w):
            return False
        if not measured and w != g and not (after_measured and w.isdigit() and g.isdigit()):
            return False
        after_measured = measured
    return True


def find_lines(lines, text):
    """The lines as they stand in text, by runs between "..."; or None and the line that is not there."""
    runs, at = [[]], 0
    for line in lines:
        if line.strip() == "...":
            runs.append([])
        else:
            runs[-1].append(line)
    found = []
    for run in runs:
        while at + len(run) <= len(text) and not all(map(same_line, run, text[at:])):
            at += 1
        if at + len(run) > len(text):
            return None, run[0]
        found.append(text[at:at + len(run)])
        at += len(run)
    return found, None


def shell(commands, folder):
    return subprocess.run(["bash", "-ec", commands], cwd=folder, capture_output=True, text=True)


def check_block(name, kind, subject, block, folder, last):
    """Compares one block; returns what it should hold, and the output that the next block may speak of."""
    lines = block.splitlines()
    if kind == "run":
        result = shell(block, folder)
        expect(result.returncode == 0, f"{name}: a command of the block fails", block, result.stderr)
        return block, result.stdout
    if kind == "spec":
        pathlib.Path(folder, "page.lua").write_text(block)
        result = shell("build/tdagen page.lua -o page.ptx", folder)
        expect(result.returncode == 0, f"{name}: a spec does not compile", result.stderr)
        return block, last
    if kind == "from":
        text = (ROOT / subject).read_text().splitlines()
    elif subject == NO_GPU:
        text = last.splitlines()
        if "no GPU here" not in last:              # where there is one, the program goes on
            lines = lines[:-1]
    else:
        result = shell(subject, folder)
        expect(result.returncode == 0, f"{name}: {subject} fails", result.stderr)
        text = result.stdout.splitlines()
    if UPDATE and kind == "output of" and "..." not in lines and text[-1:] == lines[-1:]:
        return "\n".join(text) + "\n", last
    found, missing = find_lines(lines, text)
    expect(found is not None, f"{name}: not in {subject}, at this place:", missing or "")
    if found is None or kind == "from" or "..." not in lines:
        return block, last
    return "\n...\n".join("\n".join(run) for run in found) + "\n", last


def check_marked(path, folder):
    text, last, at, pieces = path.read_text(), "", 0, []
    name = path.relative_to(ROOT)
    for match in MARKED.finditer(text):
        kind, subject, block = match[1], match[2].strip(), match[3]
        new, last = check_block(name, kind, subject, block, folder, last)
        pieces += [text[at:match.start(3)], new]
        at = match.end(3)
    if UPDATE and pieces:
        path.write_text("".join(pieces) + text[at:])


def check_paths(path):
    text = path.read_text()
    for word in sorted(set(re.findall(r"`([\w./*-]+)`|\]\(([\w./-]+)\)", text))):
        word = word[0] or word[1]
        if word.split("/")[0] not in FOLDERS or "/" not in word:
            continue
        base = path.parent if f"({word})" in text else ROOT
        expect(list(base.glob(word)) or list(ROOT.glob(word)), f"{path.relative_to(ROOT)}: there is no {word}")


def check_options(path):
    printed = "".join(subprocess.run([BUILD / program, "--help"], capture_output=True, text=True).stdout
                      for program in ("tdagen", "tdarun"))
    real = set(re.findall(r"--[a-z][a-z-]*", printed))
    table = "".join(line for line in path.read_text().splitlines(True) if line.startswith("| `--"))
    named = set(re.findall(r"--[a-z][a-z-]*", table))
    expect(real <= named, f"{path.name}: its table of options lacks", *sorted(real - named))
    expect(named <= real, f"{path.name}: no program has the options", *sorted(named - real))


def main():
    with tempfile.TemporaryDirectory() as folder:
        for name in ("dsl", "runtime", "tests"):
            os.symlink(ROOT / name, pathlib.Path(folder, name))
        os.symlink(BUILD, pathlib.Path(folder, "build"))
        for path in [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]:
            check_marked(path, folder)
            check_paths(path)
    check_options(ROOT / "README.md")
    print(f"{passed} passed, {failed} failed")
    return failed > 0 or passed == 0


sys.exit(main())
