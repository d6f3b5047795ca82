#!/usr/bin/env python3
"""explore_test.py TDAGEN ROOT: the command line of tdagen explore, and what it writes. Needs Python alone."""
import csv
import io
import json
import math
import os
import pathlib
import random
import struct
import subprocess
import sys
import tempfile

TDAGEN, ROOT = sys.argv[1], pathlib.Path(sys.argv[2])
SPECS = ROOT / "dsl" / "specs"
CUT = ROOT / "tests" / "data" / "heads_cut.npz"

passed = failed = 0


def expect(ok, what, *details):
    global passed, failed
    if ok:
        passed += 1
    else:
        failed += 1
        print(f"FAILED: {what}", *details, sep="\n    ")


def explore(spec, *options, device="reference", **more):
    return subprocess.run([TDAGEN, "explore", str(spec), "--device", device, *map(str, options)], capture_output=True, text=True,
                          **more)


def expect_error(status, text, spec, *options):
    result = explore(spec, *options)
    expect(result.returncode == status and text in result.stderr, f"explore {spec} {options}",
           f"status {result.returncode}, not {status}; or it lacks:", text, "in:", result.stderr)


def write_npy(path, shape, values):
    header = f"{{'descr': '<f4', 'fortran_order': False, 'shape': {tuple(shape)}, }}".ljust(117) + "\n"
    path.write_bytes(b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header.encode() +
                     struct.pack(f"<{len(values)}f", *values))


def write_heads(folder, heads=2, length=40, dim=64, **changed):
    """Random tensors for tda; changed: name=(index, value), or name=None to leave a tensor out."""
    folder.mkdir(exist_ok=True)
    draw = random.Random(1)
    for name in ("q1", "k1", "q2", "k2", "v"):
        values = [draw.gauss(0, 1) for _ in range(heads * length * dim)]
        if name in changed and changed[name] is None:
            continue
        if name in changed:
            values[changed[name][0]] = changed[name][1]
        write_npy(folder / f"{name}.npy", (heads, length, dim), values)
    return folder


def test_tables(folder):
    result = explore(SPECS / "tda.lua", "--in", CUT)
    expect(result.returncode == 0 and not result.stderr, "the heads of a model", result.stderr)
    for line in (" head    zeros survivors dead rows consensus     sink  uniform    64x64    64x16     64x1  visited",
                 "        keys      rows  survivors    at most  dead rows", "      128-255       128 ",
                 "     256         1 ", "gradients of parameters: |dbeta| "):
        expect(line in result.stdout, f"the table lacks: {line}", result.stdout)
    one = explore(SPECS / "tra.lua", "--heads", 1, "--q-len", 33, "--k-len", 65)
    expect(one.returncode == 0 and "consensus  " not in one.stdout and "the spec has one view" in one.stdout, "one view",
           one.stdout, one.stderr)
    dense = explore(SPECS / "sigmoid.lua", "--heads", 2, "--kv-heads", 1, "--q-len", 70, "--softmax")
    expect("no exact zeros are proved" in dense.stdout and "  cosine its sink" in dense.stdout, "sigmoid", dense.stdout)


def test_json(folder):
    path = folder / "out.json"
    result = explore(SPECS / "tda.lua", "--in", CUT, "--sweep", "beta=0.5:1.5:0.5", "--sweep", "p=1,2", "--json", path)
    expect(result.returncode == 0, "a sweep", result.stderr)
    report = json.loads(path.read_text())
    runs = report["runs"]
    expect([run["settings"] for run in runs] ==
           [{"beta": beta, "p": p} for beta in ("0.5", "1", "1.5") for p in ("1", "2")], "settings of the sweep")
    expect(len(result.stdout.splitlines()) == 4 + len(runs), "a line for each run", result.stdout)
    zeros = [run["all"]["zeros"] for run in runs]
    expect(zeros[0] == zeros[1] < zeros[2] == zeros[3] < zeros[4] == zeros[5], "zeros rise with beta", zeros)
    expect(runs[0]["all"]["o_norm"] != runs[1]["all"]["o_norm"], "p was compiled in")
    for run in runs:
        survivors = round(run["all"]["survivors"] * 2 * 256)
        if run is runs[0]:
            expect(survivors == sum(filter(None, sum(run["by_head"][0]["map"], []))), "the map holds every survivor")
        else:
            expect("map" not in run["by_head"][0], "maps are of the first settings alone")
        expect(survivors == round(2 * sum(l["survivors"] * l["rows"] for l in run["all"]["lengths"])), "so do the lengths")
        expect({key for key in run["all"]} >= {metric["key"] for metric in report["metrics"]}, "every metric")
        expect(len(run["theory"]) == 5 and all(v["text"] and v["holds"] in (True, False, None) for v in run["theory"]),
               "verdicts")
    # what tdagen run counts with the same settings
    reference = subprocess.run([TDAGEN, "run", SPECS / "tda.lua", "--in", CUT, "--out", folder, "--device", "reference"],
                               capture_output=True, text=True).stdout
    expect(f"{round(runs[3]['all']['survivors'] * 512)} of 65792 pairs survive" in reference, "the reference", reference)


def test_csv(folder):
    result = explore(SPECS / "tda_layers.lua", "--in", write_heads(folder / "a"), "--in", write_heads(folder / "b"), "--layer", 3,
                     "--csv", "-")
    rows = list(csv.DictReader(io.StringIO(result.stdout)))
    expect(result.returncode == 0 and [(r["layer"], r["head"]) for r in rows] ==
           [(layer, head) for layer in "34" for head in ("0", "1", "all")], "a line for each layer and head", result.stdout)
    expect("tda_layers by layer" in result.stderr, "the tables are on standard error then", result.stderr)
    expect(all(0 < float(r["visited"]) <= 1 and math.isfinite(float(r["dq_norm"])) and r["forward_ms"] == "" or r["forward_ms"]
               for r in rows), "values")


def test_predicted(folder):
    """Which plan is predicted, by shape and target; and where it is beyond what was timed. Times are tested with the model."""
    for target, length, taken, text in (
            ("sm_80", 500, "dense", "   dense plan: forward 0."), ("sm_80", 512, "sparse", "the screen of sm_80, length 512, "),
            ("sm_90a", 512, "sparse", " extrapolated, as nothing was timed with: length 512, 8 blocks of 64 rows\n")):
        path = folder / "predicted.json"
        result = explore(SPECS / "tda.lua", "--heads", 1, "--q-len", length, "--target", target, "--sweep", "beta=2", "--json", path)
        run = json.loads(path.read_text())["runs"][0]
        prediction = run["prediction"]
        plan = prediction["plans"][taken]
        expect(prediction["taken"] == taken and prediction["target"] == target, f"{target}, {length}: the plan", prediction)
        expect(run["all"]["predicted_forward_ms"] == plan["forward_ms"] > 0 and run["all"]["predicted_backward_ms"] ==
               plan["backward_ms"] > 0 and run["all"]["extrapolated"] == 1, "figures are those of the plan taken", run["all"])
        expect(math.isclose(sum(plan["kernels"].values()), plan["forward_ms"] + plan["backward_ms"], rel_tol=1e-6), "kernels", plan)
        expect(run["by_head"][0]["predicted_forward_ms"] is None, "heads have no time of their own")
        expect("; this shape takes it" in result.stdout and text in result.stdout, f"{target}, {length}: the tables", result.stdout)
    for options, known in ((["--plan", "dense"], ["dense"]), (["--plan", "sparse"], ["sparse"])):
        result = explore(SPECS / "tra.lua", "--heads", 1, "--q-len", 70, *options, "--csv", folder / "one.csv", "--json", path)
        plans = json.loads(path.read_text())["runs"][0]["prediction"]["plans"]
        expect([name for name, times in plans.items() if times] == known, f"plans of {options}", plans)
        expect(float(list(csv.DictReader((folder / "one.csv").open()))[-1]["predicted_backward_ms"]) > 0, "CSV")
    table = explore(SPECS / "tda.lua", "--heads", 1, "--q-len", 70, "--sweep", "beta=1,2").stdout
    expect(" fwd pred bwd pred extrapolated" in table and table.count(" yes\n") == 2, "a sweep's columns", table)


def same(a, b, tolerance):
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key], tolerance) for key in a if key not in ("text", "device"))
    if isinstance(a, list):
        return len(a) == len(b) and all(same(x, y, tolerance) for x, y in zip(a, b))
    return a == b or isinstance(a, float) and math.isclose(a, b, rel_tol=tolerance, abs_tol=1e-5)


def test_devices(folder):
    """What kernels count is what the reference counts: all whole numbers; the rest is float32, or, of o and gradients, the dtype's."""
    reports = []
    write_heads(folder / "devices", length=70)
    for device in ("reference", "sim"):
        path = folder / f"{device}.json"
        result = explore(SPECS / "tda.lua", "--in", folder / "devices", "--sweep", "beta=0.25,0.75", "--softmax", "--json", path,
                         device=device)
        name = {"reference": "reference (f64 on this CPU)", "sim": "sim (the PTX simulator on this CPU)"}[device]
        expect(result.returncode == 0 and f"\ndevice: {name}\n" in result.stdout, f"--device {device}", result.stdout, result.stderr)
        reports.append(json.loads(path.read_text()))
        expect(reports[-1]["device"] == name, "the device in JSON")
    for a, b in zip(*(report["runs"] for report in reports)):
        expect(same(a, b, 2e-2), f"{a['settings']}: the figures of both", json.dumps(a), json.dumps(b))
        for key in ("zeros", "survivors", "dead_rows", "consensus", "tiles_64x16", "tiles_64x1", "visited"):
            expect(a["all"][key] == b["all"][key], f"{a['settings']}: {key}", a["all"][key], b["all"][key])
        expect(a["by_head"][0].get("map") == b["by_head"][0].get("map"), f"{a['settings']}: the map")
    result = explore(SPECS / "tda.lua", "--in", write_heads(folder / "nan", q2=((40 + 3) * 64, math.nan)), device="sim")
    expect(result.returncode == 1 and "nan: a score of batch entry 0, head 1, row 3 is NaN or infinite: q or k holds such a value" in
           result.stderr, "NaN on the simulator", result.stderr)
    expect_error(2, "unknown value of --device: 'cpu'", SPECS / "tda.lua", "--device", "cpu")
    expect_error(2, "kernels that count compute no attention", SPECS / "tda.lua", "--plan", "count")


def test_random(folder):
    runs = [explore(SPECS / "tra.lua", "--q-len", 100, "--heads", 2, "--seed", seed).stdout for seed in (1, 1, 2)]
    expect(runs[0] == runs[1] and runs[0] != runs[2], "the seed decides")


def test_sweep_errors(folder):
    tda = SPECS / "tda.lua"
    small = ("--q-len", 20, "--heads", 1)
    for status, sweep, text in (
            (2, "beta", "--sweep beta: it takes NAME=VALUES, not 'beta'"),
            (2, "beta=", "'beta=' gives no value: write 1,2,3 or 0.5:1.5:0.25"),
            (2, "beta=1:0:0.5", "'1:0:0.5' holds no value: its step leads away from its end"),
            (2, "beta=0:1:0", "the step of '0:1:0' is 0"),
            (2, "beta=0:1:0.0001", "'0:1:0.0001' holds more than 1000 values"),
            (2, "beta=0:x:1", "the last value of a range FROM:TO:STEP must be a number, not 'x'"),
            (2, "beta=0:1", "the step of a range FROM:TO:STEP must be a number, not ''"),
            (2, "beta=0:1:1:2", "a range is FROM:TO:STEP"),
            (2, "p=1,,2", "there is a comma without a value beside it in '1,,2'"),
            (2, "p=1,2,", "there is a comma without a value beside it in '1,2,'"),
            (1, "beta=1,high", "--sweep beta: the values of a learned parameter are numbers, not 'high'"),
            (1, "lambda=0.5,1.5", "--sweep lambda: 1.5 is outside of its bounds, 0 to 1"),
            (1, "kappa=1,2", "'kappa' is a constant: constant(option(\"kappa\", 1)) can be swept"),
            (1, "gamma=1,2", "--sweep takes a learned parameter or an option() of the spec"),
            (1, "dtype=f16,f8", "f8")):
        expect_error(status, text, tda, *small, "--sweep", sweep)
    expect_error(2, "--sweep is given twice for 'p'", tda, *small, "--sweep", "p=1", "--sweep", "p=2")
    expect_error(2, "'p' is both in --set and in --sweep", tda, *small, "--sweep", "p=1", "--set", "p=2")
    expect_error(2, "these sweeps make 1000000 runs", tda, *small, "--sweep", "beta=0.001:1:0.001", "--sweep", "p=1:1000:1")


def test_input_errors(folder):
    tda = SPECS / "tda.lua"
    for name, text, changed in (
            ("nan_q", "a score of batch entry 0, head 1, row 3 is NaN or infinite: q or k holds such a value",
             {"q2": ((40 + 3) * 64, math.nan)}),
            ("nan_v", "o of batch entry 0, head 0, row ", {"v": (0, math.inf)}),
            ("missing", "missing: the input 'k2' is missing", {"k2": None})):
        expect_error(1, text, tda, "--in", write_heads(folder / name, **changed), "--sweep", "beta=-1")
    write_npy(write_heads(folder / "shape") / "v.npy", (2, 40, 32), [0.0] * 2 * 40 * 32)
    expect_error(1, "'v' has the shape [1, 2, 40, 32]: beside q1 and k1 it must have [1, 2, 40, 64]", tda, "--in",
                 folder / "shape")
    expect_error(1, "none.npz: can't be opened", tda, "--in", folder / "none.npz")
    expect_error(1, "no row sees a key: there is nothing to count", tda, "--in", write_heads(folder / "empty", length=0))
    expect_error(1, "kv_heads", tda, "--heads", 3, "--kv-heads", 2, "--q-len", 10)
    expect_error(2, "--batch, --heads, --kv-heads, --q-len and --k-len don't go with --in", tda, "--in", CUT, "--heads", 2)
    expect_error(2, "--q-len takes a number from 1 to 2^30, not '0'", tda, "--q-len", 0)
    expect_error(2, "--layer takes a number from 0, not 'x'", tda, "--layer", "x")
    expect_error(2, "--csv and --json name the same file", tda, "--csv", "-", "--json", "-")
    expect_error(1, "cannot", tda, "--in", CUT, "--json", folder / "no" / "out.json")
    expect_error(1, "did you mean", folder / "broken.lua")


def main():
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        (folder / "broken.lua").write_text((SPECS / "tda.lua").read_text().replace("threshold", "treshold"))
        for test in (test_tables, test_json, test_csv, test_predicted, test_devices, test_random, test_sweep_errors, test_input_errors):
            test(folder)
        expect(not [f for f in os.listdir(folder) if "tmp" in f], "temporary files are left")
    print(f"{passed} passed, {failed} failed")
    return failed > 0 or passed == 0


sys.exit(main())
