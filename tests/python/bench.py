#!/usr/bin/env python3
"""bench.py ROOT TDAGEN TDARUN LIBRARY: what of tools/bench needs no GPU. Needs NumPy; the plot is looked at where matplotlib
is."""
import importlib.util
import io
import json
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import types

import numpy as np

ROOT, TDAGEN, TDARUN, LIBRARY = sys.argv[1:]
os.environ["TDA_LIBRARY"] = LIBRARY
sys.path[:0] = [f"{ROOT}/tools", f"{ROOT}/runtime/python"]
from benchlib import goals, inputs, kernels, options, reference, report, sweep  # noqa: E402
from testing import expect, run_tests  # noqa: E402

OPS = inputs.NumpyOps
BENCH = f"{ROOT}/tools/bench"


def small(heads, tokens):
    """The inputs of so many heads and tokens."""
    inputs.HEADS, inputs.TOKENS = heads, tokens


def shares(problem, name):
    return {part: row[name] for part, row in inputs.occupancy(OPS, problem).items()}


# ---- inputs ----

def test_planted():
    """Exactly the pairs that were planted survive, and each tile that was drawn has one."""
    rng, length, dim, heads = np.random.default_rng(5), 1024, 64, 2
    for share in (0, 0.07, 0.3):
        plans = [inputs.plan_tiles(rng, length, dim, share) for _ in range(heads)]
        q, k = inputs.planted_view(OPS, heads, length, dim, plans, 3)
        expect(all(np.allclose(np.linalg.norm(x, axis=-1), 1, atol=1e-6) for x in (q, k)), f"{share}: unit rows")
        for n, (row, key, _) in enumerate(plans):
            pairs = set(zip(row, key))
            alive = q[n] @ k[n].T > inputs.thresholds(length, dim)[:, None]
            found = set(zip(*np.nonzero(alive & (np.arange(length) <= np.arange(length)[:, None]))))
            expect(found == pairs, f"{share}: {len(pairs - found)} planted pairs don't survive, "
                   f"{len(found - pairs)} others do")
            counts = inputs.count_units(OPS, [(q[n], k[n])], 1.0, chunk=1 << 16)
            units = [len({(i // 64, j // width) for i, j in pairs}) for width in (64, 16, 1)]
            expect(counts[0].tolist() == [*units, len(pairs)], f"{share}: counted {counts[0]}, not {units}")
            expect(abs(units[0] / inputs.unit_totals(length)[0] - share) < 0.11, f"{share}: {units[0]} tiles")
            expect((counts[0] == counts[1]).all(), "the union of one view is that view")


def test_kinds():
    small(2, 1024)
    for kind, least, most in (("tiles-0", 0, 0), ("tiles-50", 0.4, 0.6), ("tiles-100", 0.95, 1)):
        problem = inputs.make(OPS, kind, 512, 64)
        found = shares(problem, "64x64")
        expect(problem.shape == (2, 2, 512, 64) and problem.beta.shape == (2,), f"{kind}: its shape is {problem.shape}")
        expect(least <= found["view 1"] <= most and least <= found["view 2"] <= most, f"{kind}: tiles {found}")
        views = found["view 1"], found["view 2"]
        expect(max(views) <= found["union"] <= sum(views), f"{kind}: {found}")
    found = shares(inputs.make(OPS, "rows", 512, 64), "survivors a row")
    expect(abs(found["view 1"] - 1) < 0.01, f"rows: one survivor a row, not {found}")
    problem = inputs.make(OPS, "one-head", 512, 64)
    alone, rest = sweep.head_of(problem), problem.map(lambda x: x[:, 1:])
    rest.beta = problem.beta[1:]
    expect(problem.shape == (1, 4, 512, 64), f"one-head: all heads in one batch entry, not {problem.shape}")
    expect(shares(alone, "64x64")["view 2"] > 0.9 and shares(rest, "64x64")["union"] == 0, "one-head: the first is full")
    same, other = (inputs.make(OPS, "tiles-7", 512, 64, seed) for seed in (1, 2))
    expect((same.q[0] == inputs.make(OPS, "tiles-7", 512, 64).q[0]).all() and (same.q[0] != other.q[0]).any(), "seeds")


def test_trained():
    small(4, 512)
    rng = np.random.default_rng(1)
    trained = {name: {array: rng.standard_normal((2, 128, 32)).astype(np.float16) for array in ("q1", "k1", "q2", "k2", "v")}
               | {"lam": np.float32(0.25), "beta": np.float32(1.5)} for name in ("mild", "skewed")}
    problem = inputs.make(OPS, "mixed", 512, 32, trained=trained)
    expect(problem.shape == (1, 4, 512, 32) and problem.lam == 0.25 and (problem.beta == 1.5).all(), "mixed: its shape")
    for part, name in enumerate(("mild", "skewed", "mild", "skewed")):
        rows = slice(128 * part, 128 * (part + 1))
        expect((problem.k[1][0, 3, rows] == trained[name]["k2"][1]).all(), f"mixed: part {part} is {name}")
    problem = inputs.make(OPS, "skewed", 128, 32, trained=trained)
    expect(problem.shape == (4, 4, 128, 32) and (problem.v[3, 2] == trained["skewed"]["v"][0]).all(), "skewed: repeated")
    chosen = options.parse([])
    expect(sweep.kinds_of(chosen, 512, 32, trained)[-1:] == ["mixed"], "mixed is measured at its length")
    others = sweep.kinds_of(chosen, 512, 32, trained) + sweep.kinds_of(chosen, 128, 32, None)
    expect("mild" not in others, "the others are not")


# ---- the reference ----

def test_reference():
    """Against libtda's own, on a small problem; and errors are found."""
    small(2, 256)
    problem = inputs.make(OPS, "tiles-50", 128, 64)
    problem.beta = np.array([0.6, 0.8], np.float32)
    with tempfile.TemporaryDirectory() as folder:
        np.savez(f"{folder}/in.npz", q1=problem.q[0], q2=problem.q[1], k1=problem.k[0], k2=problem.k[1], v=problem.v,
                 do=problem.grad_o, beta=problem.beta, lam=np.float32(problem.lam))
        for command in ([TDAGEN, f"{ROOT}/dsl/specs/tda.lua", "--set", "dtype=f32", "-o", f"{folder}/tda.ptx"],
                        [TDARUN, f"{folder}/tda.ptx", "--in", f"{folder}/in.npz", "--out", f"{folder}/out", "--backward",
                         "--device", "reference"]):
            subprocess.run(command, check=True, capture_output=True)
        results = {path.stem: np.load(path) for path in pathlib.Path(folder, "out").iterdir()}
    results["dlambda"] = results["dlambda"].reshape(1)
    wanted = reference.expected(OPS, problem, 2, range(2), chunk=128 * 50)
    found = reference.errors(OPS, wanted, results)
    expect(set(found) == {"o", "dq1", "dq2", "dk1", "dk2", "dv", "dbeta", "dlambda"}, f"compared {sorted(found)}")
    expect(max(found.values()) < 1e-6 and not reference.is_wrong(found, 1e-6, 1e-6), f"errors {found}")
    for name in results:
        # gradients of parameters cancel, and are compared with what does
        factor = 2 if name in ("dbeta", "dlambda") else 1.001
        spoilt = reference.errors(OPS, wanted, {**results, name: results[name] * np.float32(factor)})
        expect(spoilt[name] > 5e-4 and reference.is_wrong(spoilt, 5e-4, 5e-4), f"{name} times {factor}: {spoilt[name]}")
    some = reference.errors(OPS, reference.expected(OPS, problem, 2, [1]), results)
    expect("dlambda" not in some and max(some.values()) < 1e-6, "dlambda takes all heads")
    expect(reference.is_wrong({"o": float("nan")}, 1, 1), "NaN is wrong")
    expect(reference.relative(0, 0) == 0 and reference.relative(1, 0) == float("inf"), "a reference of 0")


# ---- sweep, table, goals, plot ----

class FakeBackend:
    """Times that follow from the arguments: softmax takes 4 ms for 16384 rows, our kernels 1; in graphs half of that."""
    ops = OPS

    def __init__(self, wrong=False):
        self.wrong, self.asked = wrong, []

    def int8_tops(self):
        return 900.0

    def rounded(self, problem, dtype):
        return problem

    def sets(self, problem):
        return [problem]

    def times(self, ms):
        return {"stream": {"forward": ms / 4, "backward": 3 * ms / 4}, "graph": {"forward": ms / 8, "backward": 3 * ms / 8},
                "memory": {"peak": 3 << 20, "results": 2 << 20}}

    def ours(self, kernel, sets, seconds):
        self.asked.append((kernel.label, sets[0].kind, sets[0].shape))
        return {**self.times(sets[0].shape[2] / 16384), "split": [["prepare", 0.125], ["screen", 0.25], ["forward", 0.5]],
                "errors": {"o": 0.5 if self.wrong else 1e-3, "dq1": 2e-3}}

    def peer(self, name, sets, seconds):
        self.asked.append((name, sets[0].kind, sets[0].shape))
        if name == "flash":
            return {"note": "it refuses"}
        return {**self.times(sets[0].shape[2] / 4096), **({"errors": {"o": 0.5}} if name == "paper-tda" else {})}

    def forget(self):
        pass


def fake_kernel(spec, plan):
    info = types.SimpleNamespace(forward_tolerance=5e-3, backward_tolerance=1e-2)
    return sweep.Kernel(None, info, spec, plan, "sm_80", "bf16", "", 64)


def fake_run(*arguments, backend=None):
    small(2, 512)
    chosen = options.parse(["--paper", "x", "--only", "dtype=bf16", "--only", "dim=64", *arguments])
    ours = [fake_kernel(spec, plan) for spec in ("tda", "tra") for plan in ("dense", "sparse")]
    saved = []
    records = sweep.run(chosen, backend or FakeBackend(), ours, save=lambda records: saved.append(len(records)),
                        progress_out=io.StringIO())
    expect(saved and saved == list(range(saved[0], len(records) + 1)), f"of {len(records)} records, saved {saved}")
    return records


def test_sweep():
    backend = FakeBackend()
    records = fake_run("--only", "length=128,256", "--only", "input=tiles-0,tiles-7", "--only", "peer=cudnn,flash,paper-tda",
                       "--only", "plan=sparse", backend=backend)
    counts = {of: sum(record["of"] == of for record in records) for of in ("int8", "peer", "input", "ours")}
    expect(counts == {"int8": 1, "peer": 6, "input": 4, "ours": 8}, f"records {counts}")
    expect(("cudnn", "tiles-0", (4, 2, 128, 64)) in backend.asked, f"asked for {backend.asked}")
    text = report.table(records)
    for words in ("library int8 product: 900 TOP/s", "bf16, head_dim 64, length 256", "it refuses", "errors o 5.0e-01",
                  "error 1.0e-03 (o), bound 5e-03: ok", "kernels prepare 0.1250, screen 0.2500, forward 0.5000",
                  "union: 64x64 0.00 %"):
        expect(words in text, f"the table lacks: {words}\n{text}")
    # tda is compared with the paper's tda, tra not
    for peers in ("cudnn 4.00, paper-tda 4.00", "cudnn 4.00"):
        expect(text.count(f"times faster than {peers}\n") == 4, f"ratios in\n{text}")
    expect(not any(map(report.is_wrong, records)), "nothing is wrong")
    wrong = fake_run("--only", "length=128", "--only", "input=tiles-0", "--only", "peer=", backend=FakeBackend(True))
    expect(sum(map(report.is_wrong, wrong)) == 4 and report.table(wrong).count("WRONG") == 4, "wrong results are not marked")
    expect(all(goal.met is None for goal in goals.all_goals(wrong) if "int8" not in goal.what), "wrong results reach goals")
    expect(report.is_wrong({**ours_at("rows", 64, 1, 1), "same bits": False}), "other bits are wrong")
    sweep.ONLY_AT = {"one-head": (512,)}
    bad = [report.is_bad({"of": of, "note": "refused"}) for of in ("ours", "peer")]
    expect(bad == [True, False], "refusals of ours alone are bad")
    heavy = fake_run("--only", "length=512", "--only", "input=one-head", "--only", "peer=", "--only", "spec=tda")
    expect([record["input"] for record in heavy if record["of"] == "ours"] == ["one-head", "one-head", "one-head-alone"],
           "the heavy head alone is measured on the dense plan")


def ours_at(input, length, forward, backward, **other):
    record = {"of": "ours", "input": input, "dtype": "bf16", "dim": 64, "length": length, "spec": "tda", "plan": "sparse",
              "target": "sm_80", "precision": "", "label": "tda sparse sm_80", "bounds": [5e-3, 1e-2], "errors": {"o": 1e-3},
              "stream": {"forward": forward, "backward": backward}, "memory": {"peak": 105, "results": 100},
              "split": [["terms", 0.2], ["screen", 0.4], ["forward", 0.4]]}
    return {**record, **other}


def test_goals():
    peer = {"of": "peer", "peer": "cudnn", "dtype": "bf16", "dim": 64, "length": 16384,
            "stream": {"forward": 1.0, "backward": 3.0}}
    records = [peer, ours_at("mixed", 16384, 0.5, 0.5), ours_at("mixed", 16384, 0.1, 0.1, errors={"o": 1.0}),
               ours_at("rows", 16384, 0.5, 0.5), ours_at("rows", 65536, 4.4, 4.4, split=[["screen", 6.4], ["forward", 2.4]]),
               ours_at("one-head", 4096, 0.5, 0.5), ours_at("one-head-alone", 4096, 0.4, 0.4, plan="dense")]
    found = {goal.what: goal for goal in goals.all_goals(records)}

    def expect_goal(what, measured, met):
        goal = found.get(what) or next(goal for name, goal in found.items() if name.startswith(what))
        expect((goal.measured, goal.met) == (measured, met), f"{goal}")

    expect_goal("forward, bf16, mixed, T=16384", "0.5 ms", True)
    expect_goal("backward, bf16, mixed, T=16384", "0.5 ms", False)
    expect_goal("both by cuDNN softmax with one view, bf16, mixed", "4 x", True)
    expect_goal("both, f32 ieee, mixed, T=16384", "not measured", None)
    expect_goal("peak memory of a training step by output + gradients, bf16", "1.05 x", True)
    expect_goal("one head at 100 %", "1.25 x", True)
    expect_goal("T 16384 to 65536, one survivor a row: the screen", "16 x", True)
    expect_goal("T 16384 to 65536, one survivor a row: all the rest", "4 x", True)
    operations = 2 * 64 * 2 * 16 * 16384 * 16385 / 2
    expect_goal("screen alone, D=64", f"{operations / 0.4e-3 / 1e12:.4g} TOP/s", True)
    text = goals.goals_table(records)
    expect(text.count("NOT MET") == 1 and len(text.splitlines()) == len(found), f"the table of goals\n{text}")


def test_command():
    """--help, mistakes, and --from, which merges files."""
    def bench(*arguments):
        return subprocess.run([sys.executable, BENCH, *arguments], capture_output=True, text=True)

    helped = bench("--help").stdout
    for words in ("--kernels", "--paper", "times faster", "64 rows x 64, 16 and 1 keys", "one-head"):
        expect(words in helped, f"--help lacks {words}")
    for mistake, words in ((["--only", "length=100"], "there is no length 100"), (["--only", "colour=red"], "KEY one of"),
                           (["--only", "dim=x"], "not a number"), (["--unknown"], "--unknown")):
        result = bench(*mistake)
        expect(result.returncode == 2 and words in result.stderr, f"{mistake}: {result.returncode}, {result.stderr}")
    with tempfile.TemporaryDirectory() as folder:
        old, new = ours_at("mixed", 16384, 0.5, 0.25), ours_at("mixed", 16384, 0.5, 0.125)
        for name, records in (("a", [old, ours_at("rows", 16384, 1, 1)]), ("b", [new])):
            report.write_json(f"{folder}/{name}.json", {"head": {"device": "GPU", "date": name}, "records": records})
        result = bench("--compile", f"{folder}/ptx", "--tdagen", TDAGEN, "--only", "dim=64", "--only", "spec=tra",
                       "--only", "dtype=bf16", "--only", "plan=dense")
        compiled = pathlib.Path(folder, "ptx/tra-bf16-64-dense-sm_80.ptx")
        expect(result.returncode == 0 and compiled.is_file(), f"--compile: {result.stderr}")
        result = bench("--from", f"{folder}/a.json", "--from", f"{folder}/b.json", "--goals", "--out", f"{folder}/out")
        merged = json.loads(pathlib.Path(folder, "out/bench.json").read_text())
        expect(result.returncode == 0 and merged["head"] == {"device": "GPU", "date": "b"}, f"merging: {result.stderr}")
        expect([record["stream"]["backward"] for record in merged["records"]] == [0.125, 1], f"merged {merged['records']}")
        report.write_json(f"{folder}/c.json", {"head": {"device": "another"}, "records": []})
        mixed = bench("--from", f"{folder}/a.json", "--from", f"{folder}/c.json", "--out", f"{folder}/out")
        expect(mixed.returncode == 1 and "c.json is of another, those before it of GPU" in mixed.stderr, mixed.stderr)
        written = pathlib.Path(folder, "out/bench.txt").read_text()
        expect(written == result.stdout and "0.125 ms" in written, f"the text: {written}")


def test_kernels():
    """Which PTX files are taken; linear is none of the specs that are measured."""
    with tempfile.TemporaryDirectory() as folder:
        chosen = options.parse(["--only", "spec=tra", "--only", "dim=64", "--only", "plan=dense", "--only", "target=sm_80",
                                "--only", "precision=tf32"])
        refused = kernels.compile_all(TDAGEN, chosen, folder)
        shutil.copy(f"{ROOT}/tests/runtime/linear.ptx", folder)
        found, left_out = kernels.open_all(folder, "9.0")
        expect(refused == [] and len(left_out) == 1 and "linear" in left_out[0], f"refused {refused}, left out {left_out}")
        expect([kernel.label for kernel in found] == ["tra dense sm_80", "tra tf32 dense sm_80"], f"opened {found}")
        kinds = [(kernel.dtype, kernel.precision, kernel.dim) for kernel in found]
        expect(kinds == [("bf16", "", 64), ("f32", "tf32", 64)], f"they are {kinds}")
        expect(len(kernels.open_all(folder, "7.5")[1]) == 3, "an old GPU runs none")
        chosen.specs = ("tda",)
        pathlib.Path(folder, "tda-bf16-64-dense-sm_80.ptx").mkdir()
        refused = kernels.compile_all(TDAGEN, chosen, folder)
        expect(len(refused) == 1 and refused[0].startswith("tda-bf16-64-dense-sm_80: "), f"one that fails: {refused}")
    expect([kernels.runs_on("sm_90a", have) for have in ("8.0", "9.0", "10.0")] == [False, True, False], "sm_90a")
    expect([kernels.runs_on("sm_80", have) for have in ("7.5", "8.0", "10.0")] == [False, True, True], "sm_80")


def test_plot():
    records = [ours_at(kind, length, 1, 1) for kind in ("tiles-7", "rows") for length in (2048, 1024)]
    records += [ours_at("tiles-100", 1024, 1, 1, errors={"o": 1.0})]
    lines = report.plot_lines(records, "bf16", 64)
    expect(lines == {"tda sparse sm_80, tiles-7": [(1024, 2), (2048, 2)]}, f"plotted {lines}")
    drawn = importlib.util.find_spec("matplotlib") is not None
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder, "bench.png")
        expect(report.write_plot(path, {"head": {}, "records": records}) == drawn == path.is_file(), "the plot")
        expect(not report.write_plot(path, {"head": {}, "records": []}), "a plot of nothing")


run_tests(test_planted, test_kinds, test_trained, test_reference, test_sweep, test_goals, test_command, test_kernels,
          test_plot)
