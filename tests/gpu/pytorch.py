#!/usr/bin/env python3
"""pytorch.py ROOT TDAGEN LIBRARY [--target TARGET] [--only TEST]...: the package tda on a GPU, what the CPU can't show.

Tests: specs, graphs, streams, memory, arrays, training, times. Ends with "N passed, N failed".
"""
import os
import statistics
import sys
import tempfile
import threading
import time
import warnings

import torch

ROOT, TDAGEN, LIBRARY = sys.argv[1:4]
options = list(zip(sys.argv[4::2], sys.argv[5::2]))
only = [name for option, name in options if option == "--only"]
target = dict(options).get("--target")
scratch = tempfile.TemporaryDirectory()
os.environ.update(TDA_LIBRARY=LIBRARY, TDAGEN=TDAGEN)
os.environ.setdefault("TDA_CACHE_DIR", f"{scratch.name}/cache")
sys.path[:0] = [f"{ROOT}/runtime/python", f"{ROOT}/tests/python"]
import pathlib  # noqa: E402
import tda  # noqa: E402
import tda.nn  # noqa: E402
from testing import expect, run_tests  # noqa: E402

SPECS = sorted(path.stem for path in pathlib.Path(ROOT, "dsl/specs").glob("*.lua"))
LAYERS = 3
STEPS = 500
SLACK = 2 << 20                # bytes that PyTorch's allocator may give beyond what two large blocks take
NO_GRAD_US, WITH_GRAD_US, LIBTDA_US = 25, 60, 8


def compiled(spec, **settings):
    return tda.compile(spec, target=target, **settings)


class Case:
    """Random inputs on the GPU, [batch, length, heads, dim] in memory; two heads of q to one of k and v."""

    def __init__(self, attn, batch=2, heads=4, kv_heads=2, q_len=300, k_len=333, seed=1):
        self.attn = attn
        random = torch.Generator("cuda").manual_seed(seed)

        def tensor(heads, length, dim):
            x = torch.randn(batch, length, heads, dim, device="cuda", generator=random).to(attn.dtype)
            return x.transpose(1, 2).requires_grad_()

        self.q = [tensor(heads, q_len, attn.head_dim) for _ in range(attn.views)]
        self.k = [tensor(kv_heads, k_len, attn.head_dim) for _ in range(attn.views)]
        self.v = tensor(kv_heads, k_len, attn.value_dim)
        self.grad_o = tensor(heads, q_len, attn.value_dim).detach()
        self.layer = 1 if any("LAYER" in p.shape.name for p in attn.params) else 0
        self.params = {p.name: (0.3 + 0.3 * torch.rand(attn.program.param_length(p, heads, LAYERS), device="cuda",
                                                       generator=random)).requires_grad_() for p in attn.params}

    def inputs(self):
        return [*self.q, *self.k, self.v, *self.params.values()]

    def names(self):
        views = range(1, self.attn.views + 1)
        return ["o", *(f"dq{n}" for n in views), *(f"dk{n}" for n in views), "dv", *(f"d{name}" for name in self.params)]

    def run(self, attn=None):
        return (attn or self.attn)(q=self.q, k=self.k, v=self.v, layer=self.layer, **self.params)

    def results(self, attn=None):
        o = self.run(attn)
        return [o.detach(), *torch.autograd.grad(o, self.inputs(), self.grad_o.to(o.dtype))]


def same(a, b):
    return len(a) == len(b) and all(map(torch.equal, a, b))


def relative(x, wanted):
    return ((x.double() - wanted.double()).norm() / wanted.double().norm()).item()


def test_specs():
    """Outputs and gradients of every shipped spec and dtype against the formulas in plain PyTorch, in f64."""
    for spec in SPECS:
        for dtype in ("bf16", "f16", "f32"):
            case = Case(compiled(spec, dtype=dtype))
            forward, backward = case.attn.program.tolerances
            found = {name: relative(got, wanted) for name, got, wanted in
                     zip(case.names(), case.results(), case.results(tda.reference(case.attn)))}
            worst = max(found, key=lambda name: found[name] / (forward if name == "o" else backward))
            print(f"{spec} {dtype}: worst is {worst}, {found[worst]:.1e}")
            for name, error in found.items():
                expect(error <= 2 * (forward if name == "o" else backward), f"{spec} {dtype}: {name} is off by {error}")


def test_graphs():
    """torch.compile, its CUDA graphs, and a graph captured by hand give the bits of eager."""
    for spec in ("tda", "tda_layers", "tda_rmsnorm"):
        case = Case(compiled(spec))
        eager = case.results()
        expect(same(case.results(), eager), f"{spec}: two runs differ")
        for mode in ("default", "reduce-overhead"):
            torch._dynamo.reset()
            in_graph = torch.compile(case.attn, fullgraph=True, mode=mode)
            for _ in range(4):                     # the third run of CUDA graphs replays
                torch.compiler.cudagraph_mark_step_begin()
                results = [x.clone() for x in case.results(in_graph)]
            expect(same(results, eager), f"{spec}: compiled with mode {mode}")
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
        expect(same(captured, eager), f"{spec}: a captured graph")


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
        got = case.results()
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


# ---- training ----

class Model(torch.nn.Module):
    def __init__(self, spec, vocabulary=96, dim=128, heads=4, layers=3):
        super().__init__()
        self.embed = torch.nn.Embedding(vocabulary, dim)
        self.layers = torch.nn.ModuleList(torch.nn.ModuleDict({
            "norm1": torch.nn.RMSNorm(dim), "norm2": torch.nn.RMSNorm(dim),
            "attention": tda.nn.ThresholdDifferentialAttention(dim, heads, spec=spec, layer=n, target=target),
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
    return torch.tensor([min(max(ord(c) - 32, 0), 95) for c in text], device="cuda")


def test_training():
    data, batch, length = text_tokens(), 16, 256
    for spec in ("tda", "tda_layers"):
        torch.manual_seed(3)
        model = Model(spec).cuda()
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
        losses, start = [], time.perf_counter()
        for _ in range(STEPS):
            start_at = torch.randint(0, len(data) - length - 1, (batch, 1), device="cuda")
            tokens = data[start_at + torch.arange(length + 1, device="cuda")]
            with torch.autocast("cuda", dtype=torch.bfloat16):
                logits = model(tokens[:, :-1])
            loss = torch.nn.functional.cross_entropy(logits.float().flatten(0, 1), tokens[:, 1:].flatten())
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.detach())
        losses = torch.stack(losses).cpu()
        first, last = losses[:10].mean().item(), losses[-50:].mean().item()
        rate = STEPS * batch * length / (time.perf_counter() - start)
        moved = {name: (p - (0.5 if "lambda" in name else 1)).abs().max().item() for name, p in model.named_parameters()
                 if "learned" in name}
        print(f"{spec}: loss {first:.3f} to {last:.3f}, {rate:.0f} tokens/s, learned parameters moved "
              f"{min(moved.values()):.3f} to {max(moved.values()):.3f}")
        expect(losses.isfinite().all().item(), f"{spec}: a loss is not finite")
        expect(last < 0.7 * first, f"{spec}: the loss does not fall")
        expect(min(moved.values()) > 0, f"{spec}: a parameter did not learn: {moved}")


# ---- times ----

def host_us(call, count=200):
    """Median microseconds that the host takes to enqueue; the GPU catches up in between."""
    times = []
    for n in range(count + 20):
        if n % 10 == 0:
            torch.cuda.synchronize()
        start = time.perf_counter_ns()
        result = call()
        times.append(time.perf_counter_ns() - start)
        del result
    return statistics.median(times[20:]) / 1000


def libtda_us(case):
    """Median microseconds of a forward's and of a backward's call of libtda within the same."""
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
    return [statistics.median(each[20:]) / 1000 for each in times]


def test_times():
    attn = compiled("tda")
    case = Case(attn, batch=1, heads=16, kv_heads=16, q_len=128, k_len=128)
    plain = [x.detach() for x in case.inputs()]
    case.results()

    def without():
        return attn(q=plain[:2], k=plain[2:4], v=plain[4], beta=plain[5], lam=plain[6])

    forward, both, no_grad = host_us(case.run), host_us(case.results), host_us(without)
    library = libtda_us(case)
    print(f"host us at length 128: {no_grad:.1f} without grad, {forward:.1f} a forward with grad, {both:.1f} forward and "
          f"backward; in libtda {library[0]:.1f} forward, {library[1]:.1f} backward")
    expect(no_grad <= NO_GRAD_US, f"without grad {no_grad} us")
    expect(forward <= WITH_GRAD_US, f"with grad {forward} us")
    expect(library[0] <= LIBTDA_US, f"libtda's forward {library[0]} us")


warnings.filterwarnings("ignore", message=".*Lazily|.*cudagraph")
tests = {name[5:]: test for name, test in list(globals().items()) if name.startswith("test_")}
run_tests(*(test for name, test in tests.items() if not only or name in only))
