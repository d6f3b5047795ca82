#!/usr/bin/env python3
"""pytorch.py ROOT TDAGEN LIBRARY [--only TEST]... [--spec SPEC]... [--target TARGET] [--steps N] [--device DEVICE]: the package
tda on a GPU, what the CPU can't show.

Tests: specs, graphs, streams, at_once, memory, arrays, libraries, training, times. --spec: of the tests that take several specs, these
alone. --steps: of training, 500 by default. --device cpu tries the script itself on CPU tensors, as far as that goes: specs,
training. Ends with "N passed, N failed"; a check that fails hides no other.
"""
import argparse
import copy
import importlib.util
import itertools
import os
import pathlib
import statistics
import sys
import tempfile
import threading
import time
import warnings

import torch
from torch._dynamo.utils import counters

LAYERS = 3
SLACK = 2 << 20                # bytes that PyTorch's allocator may give beyond what two large blocks take
LENGTHS = (300, 333), (130, 700)                       # the second is the sparse plan's, where a spec has one
NO_GRAD_US, WITH_GRAD_US = 25, 60
BOUNDS = {"bf16": 5e-3, "f16": 1e-3, "f32 ieee": 1e-5, "f32 tf32": 2e-3}       # relative 2-norms; gradients: twice that


def parse():
    parser = argparse.ArgumentParser(usage=__doc__.split(": the package")[0])
    for name in ("root", "tdagen", "library"):
        parser.add_argument(name)
    parser.add_argument("--only", action="append")
    parser.add_argument("--spec", action="append")
    parser.add_argument("--target")
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--device", default="cuda")
    return parser.parse_args()


options = parse()
ROOT, DEVICE = options.root, options.device
scratch = tempfile.TemporaryDirectory()
os.environ.update(TDA_LIBRARY=options.library, TDAGEN=options.tdagen, XLA_PYTHON_CLIENT_PREALLOCATE="false")
os.environ.setdefault("TDA_CACHE_DIR", f"{scratch.name}/cache")
sys.path[:0] = [f"{ROOT}/runtime/python", f"{ROOT}/tests/python"]
import tda  # noqa: E402
import tda.nn  # noqa: E402
from testing import attempt, expect, run_tests  # noqa: E402

SPECS = sorted(path.stem for path in pathlib.Path(ROOT, "dsl/specs").glob("*.lua"))


def chosen(*specs):
    return [spec for spec in specs if not options.spec or spec in options.spec]


def compiled(spec, **settings):
    return tda.compile(spec, target=options.target, **settings)


class Case:
    """Random inputs, [batch, length, heads, dim] in memory; two heads of q to one of k and v. Drawn on the CPU: the same on
    every machine, so that what lies at a threshold does so everywhere."""

    def __init__(self, attn, batch=2, heads=4, kv_heads=2, q_len=300, k_len=333, seed=1):
        self.attn = attn
        random = torch.Generator().manual_seed(seed)

        def tensor(heads, length, dim):
            x = torch.randn(batch, length, heads, dim, generator=random).to(DEVICE, attn.dtype)
            return x.transpose(1, 2).requires_grad_()

        self.q = [tensor(heads, q_len, attn.head_dim) for _ in range(attn.views)]
        self.k = [tensor(kv_heads, k_len, attn.head_dim) for _ in range(attn.views)]
        self.v = tensor(kv_heads, k_len, attn.value_dim)
        self.grad_o = tensor(heads, q_len, attn.value_dim).detach()
        self.layer = 1 if any("LAYER" in p.shape.name for p in attn.params) else 0
        self.params = {p.name: (0.3 + 0.3 * torch.rand(attn.program.param_length(p, heads, LAYERS), generator=random))
                       .to(DEVICE).requires_grad_() for p in attn.params}

    def inputs(self):
        return [*self.q, *self.k, self.v, *self.params.values()]

    def names(self):
        views = range(1, self.attn.views + 1)
        return ["o", *(f"dq{n}" for n in views), *(f"dk{n}" for n in views), "dv", *(f"d{name}" for name in self.params)]

    def run(self, attn=None):
        return (attn or self.attn)(q=self.q, k=self.k, v=self.v, layer=self.layer, **self.params)

    def exact(self):
        """[o, gradients of all inputs] by the formulas in plain PyTorch, in float64 from end to end."""
        return self.with_inputs(lambda x: x.detach().double()).results(tda.reference(self.attn))

    def with_inputs(self, change):
        """The same case on inputs of its own, which are leaves of a graph."""
        other = copy.copy(self)
        other.q, other.k, (other.v,) = ([change(x).requires_grad_() for x in xs] for xs in (self.q, self.k, [self.v]))
        other.params = {name: change(x).requires_grad_() for name, x in self.params.items()}
        return other

    def results(self, attn=None):
        o = self.run(attn)
        return [o.detach(), *torch.autograd.grad(o, self.inputs(), self.grad_o.to(o.dtype))]


def same(a, b):
    return len(a) == len(b) and all(map(torch.equal, a, b))


def relative(x, wanted):
    """The 2-norm of the difference relative to the wanted one; what is not finite is infinitely wrong."""
    error = ((x.double() - wanted.double()).norm() / wanted.double().norm()).item()
    return error if error == error else float("inf")


def kinds_of(spec):
    """[(kind of BOUNDS, settings)]: the dtypes, float32 in both precisions where the spec has them."""
    found = [("bf16", {"dtype": "bf16"}), ("f16", {"dtype": "f16"}), ("f32 ieee", {"dtype": "f32"})]
    if 'option("precision"' in pathlib.Path(ROOT, f"dsl/specs/{spec}.lua").read_text():
        found.append(("f32 tf32", {"dtype": "f32", "precision": "tf32"}))
    return found


def errors_of(spec, settings, lengths):
    case = Case(compiled(spec, **settings), q_len=lengths[0], k_len=lengths[1])
    return {name: relative(got, wanted) for name, got, wanted in zip(case.names(), case.results(), case.exact())}


def compare(spec, kind, settings):
    """A row of the table: of each output the worse of all lengths."""
    errors = {}
    for lengths in LENGTHS:
        found = attempt(f"{spec} {kind} {lengths}", lambda: errors_of(spec, settings, lengths)) or {}
        for name, error in found.items():
            errors[name] = max(error, errors.get(name, 0))
            bound = BOUNDS[kind] * (1 if name == "o" else 2)
            expect(error <= bound, f"{spec} {kind} {lengths}: {name} is off by {error:.2e}, bound {bound:.0e}")
    if errors:
        worst = max((name for name in errors if name != "o"), key=lambda name: errors[name])
        print(f"{spec:14}{kind:10}{errors['o']:10.1e}{BOUNDS[kind]:9.0e}{errors[worst]:12.1e} {worst:9}"
              f"{2 * BOUNDS[kind]:8.0e}", flush=True)


def test_specs():
    """Outputs and gradients of every shipped spec, dtype and precision against the formulas in plain PyTorch, in f64."""
    print(f"{'spec':14}{'dtype':10}{'o':>10}{'bound':>9}{'worst gradient':>22}{'bound':>8}")
    for spec in chosen(*SPECS):
        for kind, settings in kinds_of(spec):
            compare(spec, kind, settings)


def compiled_results(case, mode):
    torch._dynamo.reset()
    counters.clear()
    in_graph = torch.compile(case.attn, fullgraph=True, mode=mode)
    for _ in range(4):                             # the third run of CUDA graphs replays
        torch.compiler.cudagraph_mark_step_begin()
        results = [x.clone() for x in case.results(in_graph)]
    skipped = counters["inductor"]["cudagraph_skips"]
    expect(not skipped or DEVICE == "cpu", f"torch.compile, mode {mode}: {skipped} graphs ran without CUDA graphs")
    return results


def captured_results(case):
    # Leaves that were used before, in another stream, would tie the capture to that stream.
    case = case.with_inputs(torch.Tensor.detach)
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        case.results()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = case.results()
    for x in captured:
        x.fill_(float("nan"))
    graph.replay()
    return [x.clone() for x in captured]


def test_graphs():
    """torch.compile, its CUDA graphs, and a graph captured by hand give the bits of eager."""
    ways = {"a second run": lambda case: case.results(),
            "torch.compile": lambda case: compiled_results(case, "default"),
            "torch.compile, CUDA graphs": lambda case: compiled_results(case, "reduce-overhead"),
            "a captured graph": captured_results}
    for spec, lengths in itertools.product(chosen("tda", "tda_layers", "tda_rmsnorm"), LENGTHS):
        case = Case(compiled(spec), q_len=lengths[0], k_len=lengths[1])
        eager = case.results()
        for way, run in ways.items():
            results = attempt(f"{spec} {lengths}, {way}", lambda: run(case))
            if results is not None:
                expect(same(results, eager), f"{spec} {lengths}: {way} has not the bits of eager")
                print(f"{spec:14}{lengths[0]:5}{lengths[1]:5}  {way:28}"
                      f"{'the bits of eager' if same(results, eager) else 'FAIL'}", flush=True)


def test_streams():
    """The current stream is used, in threads that are new to CUDA too; a call never waits for the GPU."""
    case = Case(compiled("tda"))
    wanted = case.results()
    torch.cuda.synchronize()
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        torch.cuda._sleep(200_000_000)
        before = time.perf_counter()
        torch.cuda.set_sync_debug_mode("error")
        try:
            got = case.results()
        finally:
            torch.cuda.set_sync_debug_mode("default")
        enqueued = time.perf_counter() - before
        expect(not stream.query(), f"calls took {enqueued} s: they waited for the stream, or ran on another")
    torch.cuda.synchronize()
    expect(same(got, wanted), "results on another stream")
    results = []
    plain = [x.detach() for x in case.inputs()]
    thread = threading.Thread(target=lambda: results.append(
        case.attn(q=plain[:2], k=plain[2:4], v=plain[4], beta=plain[5], lam=plain[6])))
    thread.start()
    thread.join()
    expect(results and torch.equal(results[0], wanted[0]), "a call from a thread that is new to CUDA")
    case.attn.preload()
    if torch.cuda.device_count() > 1:
        moved = [x.to("cuda:1") for x in plain]
        o = case.attn(q=moved[:2], k=moved[2:4], v=moved[4], beta=moved[5], lam=moved[6])
        expect(o.device.index == 1 and torch.equal(o.to("cuda:0"), wanted[0]), "tensors of a GPU that is not current")


def test_at_once():
    """Launches that wait for others beside them find them running whatever else runs: results are those of calls one by one."""
    attn = compiled("tda")
    shapes = (1, 16, 16, 2048, 2048), (2, 8, 2, 700, 1300), (3, 4, 4, 512, 4096), (1, 64, 64, 640, 640), (8, 4, 1, 1030, 1030)
    cases = [Case(attn, *shape, seed=n) for n, shape in enumerate(shapes)]
    wanted = [case.results() for case in cases]
    streams = [torch.cuda.Stream() for _ in cases]
    torch.cuda.synchronize()
    for again in range(20):
        got = []
        for case, stream in zip(cases, streams):
            with torch.cuda.stream(stream):
                got.append(case.results())
        torch.cuda.synchronize()
        for shape, results, one_by_one in zip(shapes, got, wanted):
            expect(same(results, one_by_one), f"batch, heads, lengths {shape}, round {again}")


def test_memory():
    """Workspaces come from PyTorch's allocator and go back to it."""
    case = Case(compiled("tda"), heads=16, kv_heads=16, q_len=4096, k_len=4096)
    case.results()
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    o = case.run()
    kept = torch.cuda.memory_allocated() - before
    saved = case.attn.program.sizes(next(iter(case.attn.program.plans.values())).shape).saved
    most = o.numel() * o.element_size() + saved + SLACK
    expect(kept <= most, f"a forward keeps {kept} bytes, o and saved are {most - SLACK}")
    del o
    expect(torch.cuda.memory_allocated() == before, "memory is left behind")
    with torch.no_grad():
        o = case.run()
    expect(torch.cuda.memory_allocated() - before <= o.numel() * o.element_size() + SLACK // 2, "kept without gradients")


def test_arrays():
    """The calls for other arrays, on memory that PyTorch shows by DLPack."""
    case = Case(compiled("tda", dtype="f32"))
    wanted = case.results()
    plain = [x.detach() for x in case.inputs()]
    torch.cuda.synchronize()
    result = tda.forward(case.attn, q=plain[:2], k=plain[2:4], v=plain[4], beta=plain[5], lam=plain[6])
    expect(torch.equal(torch.from_dlpack(result.o), wanted[0]), "o")
    grads = tda.backward(result, case.grad_o)
    got = [*grads.q, *grads.k, grads.v, grads.params["beta"], grads.params["lambda"]]
    expect(same([torch.from_dlpack(x) for x in got], wanted[1:]), "gradients")


def cupy_ways():
    import cupy
    return cupy.from_dlpack, cupy.from_dlpack


def jax_ways():
    import jax
    return lambda x: jax.dlpack.from_dlpack(x.contiguous()), jax.dlpack.from_dlpack


def test_libraries():
    """Arrays of other libraries, where they are: what goes in and comes out is theirs."""
    case = Case(compiled("tda", dtype="f32"))
    wanted = case.results()
    plain = [x.detach() for x in case.inputs()]
    torch.cuda.synchronize()

    def results(ways):
        theirs, taken = ways()
        x = [theirs(each) for each in plain]
        result = tda.forward(case.attn, q=x[:2], k=x[2:4], v=x[4], beta=x[5], lam=x[6])
        grads = tda.backward(result, theirs(case.grad_o))
        got = [result.o, *grads.q, *grads.k, grads.v, grads.params["beta"], grads.params["lambda"]]
        return [torch.from_dlpack(taken(each)) for each in got]

    for name, ways in (("cupy", cupy_ways), ("jax", jax_ways)):
        if importlib.util.find_spec(name) is None:
            print(f"{name}: not here")
            continue
        got = attempt(name, lambda: results(ways))
        if got is not None:
            expect(same(got, wanted), f"{name}: results")
            print(f"{name}: {'the bits of PyTorch' if same(got, wanted) else 'FAIL'}")


# ---- training ----

class Model(torch.nn.Module):
    def __init__(self, spec, vocabulary=96, dim=128, heads=4, layers=3):
        super().__init__()
        self.embed = torch.nn.Embedding(vocabulary, dim)
        self.layers = torch.nn.ModuleList(torch.nn.ModuleDict({
            "norm1": torch.nn.RMSNorm(dim), "norm2": torch.nn.RMSNorm(dim),
            "attention": tda.nn.ThresholdDifferentialAttention(dim, heads, spec=spec, layer=n, target=options.target),
            "mlp": torch.nn.Sequential(torch.nn.Linear(dim, 4 * dim), torch.nn.GELU(), torch.nn.Linear(4 * dim, dim))})
            for n in range(layers))
        self.norm, self.head = torch.nn.RMSNorm(dim), torch.nn.Linear(dim, vocabulary)

    def forward(self, tokens):
        x = self.embed(tokens)
        for layer in self.layers:
            x = x + layer["attention"](layer["norm1"](x))
            x = x + layer["mlp"](layer["norm2"](x))
        return self.head(self.norm(x))


def text_tokens():
    """The repository's own text."""
    text = "".join(path.read_text() for path in sorted(pathlib.Path(ROOT).glob("runtime/*.[ch]")))
    return torch.tensor([min(max(ord(c) - 32, 0), 95) for c in text], device=DEVICE)


def train(model, data, batch=16, length=256):
    """The loss of each step."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    losses = []
    for _ in range(options.steps):
        start_at = torch.randint(0, len(data) - length - 1, (batch, 1), device=DEVICE)
        tokens = data[start_at + torch.arange(length + 1, device=DEVICE)]
        with torch.autocast(DEVICE, dtype=torch.bfloat16):
            logits = model(tokens[:, :-1])
        loss = torch.nn.functional.cross_entropy(logits.float().flatten(0, 1), tokens[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.detach())
    return torch.stack(losses).cpu()


def test_training():
    """Losses stay finite and fall, and every learned parameter moves."""
    data = text_tokens()
    for spec in chosen("tda", "tda_layers"):
        torch.manual_seed(3)
        model = Model(spec).to(DEVICE)
        start = time.perf_counter()
        losses = attempt(f"training {spec}", lambda: train(model, data))
        if losses is None:
            continue
        first, last = losses[:10].mean().item(), losses[-50:].mean().item()
        moved = {name: (p - (0.5 if "lambda" in name else 1)).abs().max().item() for name, p in model.named_parameters()
                 if "learned" in name}
        print(f"{spec:14}{options.steps} steps, {time.perf_counter() - start:.1f} s: loss {first:.3f} to {last:.3f}, learned "
              f"parameters moved {min(moved.values()):.3f} to {max(moved.values()):.3f}", flush=True)
        expect(losses.isfinite().all().item(), f"{spec}: a loss is not finite")
        expect(last < 0.7 * first or options.steps < 500, f"{spec}: the loss does not fall")
        expect(min(moved.values()) > 0, f"{spec}: a parameter did not learn: {moved}")


# ---- times ----

def host_us(call, count=2000, warm_up=2000):
    """Median microseconds that the host takes to enqueue; the GPU catches up in between. A processor that was idle takes a few
    thousand calls to come to its speed."""
    times = []
    for n in range(count + warm_up):
        if n % 10 == 0:
            torch.cuda.synchronize()
        start = time.perf_counter_ns()
        result = call()
        times.append(time.perf_counter_ns() - start)
        del result
    return statistics.median(times[warm_up:]) / 1000


def launch_us(case):
    """Median microseconds of a forward's and of a backward's call of libtda within the same, nearly all of it the driver's: gpu_api
    prints what is libtda's own."""
    plan = list(case.attn.program.plans.values())[-1]
    times = [[], []]

    def timed(function, times):
        def call(*arguments):
            start = time.perf_counter_ns()
            status = function(*arguments)
            times.append(time.perf_counter_ns() - start)
            return status
        return call

    plan.functions = [timed(function, each) for function, each in zip(plan.functions, times)]
    host_us(case.results)
    return [statistics.median(each[len(each) // 2:]) / 1000 for each in times]


def test_times():
    attn = compiled("tda")
    case = Case(attn, batch=1, heads=16, kv_heads=16, q_len=128, k_len=128)
    plain = [x.detach() for x in case.inputs()]
    case.results()

    def without():
        return attn(q=plain[:2], k=plain[2:4], v=plain[4], beta=plain[5], lam=plain[6])

    rows = [("a call without grad", host_us(without), NO_GRAD_US), ("a call with grad", host_us(case.run), WITH_GRAD_US),
            ("a call and its backward", host_us(case.results), None)]
    rows += zip(("of a forward: libtda, driver", "of a backward: libtda, driver"), launch_us(case), (None, None))
    rows.append(("beside it: torch.add of [heads]", host_us(lambda: torch.add(plain[5], plain[5])), None))
    print("host time at length 128, us: the driver's launches included")
    for what, us, bound in rows:
        print(f"{what:32}{us:8.1f}" + (f"   at most {bound}: {'ok' if us <= bound else 'FAIL'}" if bound else ""), flush=True)
        expect(bound is None or us <= bound, f"{what} takes {us:.1f} us, more than {bound}")


warnings.filterwarnings("ignore", message=".*Lazily|.*cudagraph")
tests = {name[5:]: test for name, test in list(globals().items()) if name.startswith("test_")}
for unknown in sorted({*(options.only or ())} - {*tests}) + sorted({*(options.spec or ())} - {*SPECS}):
    sys.exit(f"pytorch.py: {unknown} is no test and no spec; tests: {', '.join(tests)}; specs: {', '.join(SPECS)}")
run_tests(*(test for name, test in tests.items() if not options.only or name in options.only))
