"""What runs on the GPU: PyTorch's tensors, times, memory, the split by kernel, and our kernels through libtda.

All work is on one stream of its own, captures too, so that autograd's backward stays on it.
"""
import gc
import os
import statistics

import torch
from tda import _lib

from . import inputs, reference
from .shell import output_of

DTYPES = {"bf16": torch.bfloat16, "f32": torch.float32}
LEAST, MOST = 3, 100           # calls that count
CHECK_PAIRS = 1 << 31          # (row, key) pairs that the reference looks at, per view: heads are left out beyond
SETS_BYTES = 4                 # times the L2 cache: what the rotated inputs take, at least


class TorchOps:
    def __init__(self, device="cuda"):
        self.device = device

    def normal(self, shape, seed):
        generator = torch.Generator(self.device).manual_seed(seed)
        return torch.randn(shape, generator=generator, device=self.device)

    def array(self, values):
        return torch.as_tensor(values).to(self.device)

    def f32(self, x):
        return x.float()

    def f64(self, x):
        return x.double()


def describe():
    properties = torch.cuda.get_device_properties(0)
    smi = output_of("nvidia-smi", "--query-gpu=driver_version,power.limit,clocks.max.sm", "--format=csv,noheader", "-i", "0")
    driver, power, clock = smi.split(", ") if smi.count(", ") == 2 else ["unknown"] * 3
    try:
        import triton
        triton_version = triton.__version__
    except ImportError:
        triton_version = None
    return {"device": properties.name, "capability": f"{properties.major}.{properties.minor}",
            "multiprocessors": properties.multi_processor_count, "memory": properties.total_memory,
            "l2": properties.L2_cache_size, "driver": driver, "power limit": power, "clock": clock,
            "torch": torch.__version__, "cuda": torch.version.cuda, "cudnn": torch.backends.cudnn.version(),
            "triton": triton_version}


# ---- times ----

def median_ms(calls, seconds):
    """Median milliseconds of a call, by events on the current stream around each. The calls, each with memory of its own,
    take turns; as many of them count as take about `seconds`. Two rounds go first, to warm up and to see how long they
    take."""
    timed(calls, len(calls))
    estimate = sum(timed(calls, len(calls))) / len(calls)
    return statistics.median(timed(calls, int(min(MOST, max(LEAST, 1000 * seconds / max(estimate, 1e-3))))))


def timed(calls, count):
    """Milliseconds of `count` calls. Nothing waits in between, so that the stream is not idle where a call is launched
    faster than it runs."""
    marks = [(torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)) for _ in range(count)]
    torch.cuda.synchronize()
    for n, (start, end) in enumerate(marks):
        start.record()
        calls[n % len(calls)]()
        end.record()
    torch.cuda.synchronize()
    return [start.elapsed_time(end) for start, end in marks]


def graph_of(call):
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=torch.cuda.current_stream()):
        call()
    return graph


def phase_times(runs, seconds):
    """{"stream": {"forward": ms, "backward": ms}, "graph": ...} of runs (see OurRun); a "graph note" where capture
    failed."""
    times = {"stream": {}}
    for run in runs:
        run.prepare()
    for phase in ("forward", "backward"):
        times["stream"][phase] = median_ms([getattr(run, phase) for run in runs], seconds)
    try:
        graphs = {phase: [graph_of(getattr(run, phase)) for run in runs] for phase in ("forward", "backward")}
        times["graph"] = {phase: median_ms([graph.replay for graph in graphs[phase]], seconds) for phase in graphs}
    except RuntimeError as error:
        times["graph note"] = first_line(error)
    return times


def first_line(error):
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]


def split(runs):
    """[(kernel, ms)] of one forward and backward in launch order, the mean over the runs, from PyTorch's profiler. Each kernel runs
    by itself, so together they take longer than they do beside one another."""
    from torch.profiler import ProfilerActivity, profile
    os.environ["TDA_SERIAL"] = "1"
    try:
        with profile(activities=[ProfilerActivity.CUDA]) as profiler:
            for run in runs:
                run.forward()
                run.backward()
            torch.cuda.synchronize()
    finally:
        del os.environ["TDA_SERIAL"]
    events = [event for event in profiler.events() if event.device_type == torch.autograd.DeviceType.CUDA]
    total = {}
    for event in sorted(events, key=lambda event: event.time_range.start):
        total[event.name] = total.get(event.name, 0.0) + event.time_range.elapsed_us() / 1000 / len(runs)
    return list(total.items())


def peak_bytes(step):
    """Bytes that a training step takes beyond what is allocated before it."""
    gc.collect()
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    results = step()
    torch.cuda.synchronize()
    peak = torch.cuda.max_memory_allocated() - before
    return {"peak": peak, "results": sum(x.numel() * x.element_size() for x in results)}


def int8_tops():
    """TOP/s of the library's int8 matrix product; None where PyTorch has none."""
    size = 8192
    a, b = (torch.randint(-127, 128, (size, size), dtype=torch.int8, device="cuda") for _ in range(2))
    try:
        return 2 * size ** 3 / median_ms([lambda: torch._int_mm(a, b.t())], 0.2) / 1e9
    except (AttributeError, RuntimeError):
        return None


# ---- our kernels ----

def tensor_arg(x):
    batch, head, row, _ = x.stride()
    return _lib.Tensor(x.data_ptr(), batch, head, row)


def work(byte_count):
    return torch.empty(byte_count, dtype=torch.uint8, device="cuda")


class OurRun:
    """A kernel's forward and backward on one set of inputs, with results and workspaces of its own."""

    def __init__(self, kernel, problem):
        info = kernel.info
        self.kernel, self.problem = kernel.handle, problem
        views = info.views
        batch, heads, length, _ = problem.shape
        self.shape = _lib.Shape(batch=batch, heads=heads, kv_heads=heads, q_len=length, k_len=length)
        self.sizes = self.kernel.sizes(self.shape)
        self.q, self.k = problem.q[:views], problem.k[:views]
        values = {"beta": torch.tensor(problem.beta, dtype=torch.float32, device="cuda"),
                  "lambda": torch.tensor([problem.lam], dtype=torch.float32, device="cuda")}
        self.names = [info.params[n].name.decode() for n in range(info.param_count)]
        self.params = [values[name] for name in self.names]

    def prepare(self):
        """Allocates what is kept from call to call, and runs the forward that the backward reads."""
        self.kernel.preload()
        self.new_forward()
        self.new_backward()
        self.forward()

    def new_forward(self):
        """Results and workspaces of the forward, and its arguments."""
        self.o = torch.empty_like(self.problem.v)
        self.saved, self.forward_scratch = work(self.sizes.saved), work(self.sizes.forward_scratch)
        args = self.forward_args = _lib.ForwardArgs()
        self.fill(args, self.forward_scratch)
        args.o = tensor_arg(self.o)

    def new_backward(self):
        self.dq, self.dk = [torch.empty_like(x) for x in self.q], [torch.empty_like(x) for x in self.k]
        self.dv = torch.empty_like(self.problem.v)
        self.dparams = [torch.empty_like(x) for x in self.params]
        self.backward_scratch = work(self.sizes.backward_scratch)
        args = self.backward_args = _lib.BackwardArgs()
        self.fill(args, self.backward_scratch)
        args.grad_o, args.dv = tensor_arg(self.problem.grad_o), tensor_arg(self.dv)
        for n in range(len(self.q)):
            args.dq[n], args.dk[n] = tensor_arg(self.dq[n]), tensor_arg(self.dk[n])
        for n, x in enumerate(self.dparams):
            args.dparams[n] = x.data_ptr()

    def fill(self, args, scratch):
        args.shape, args.v = self.shape, tensor_arg(self.problem.v)
        for n in range(len(self.q)):
            args.q[n], args.k[n] = tensor_arg(self.q[n]), tensor_arg(self.k[n])
        for n, x in enumerate(self.params):
            args.params[n] = x.data_ptr()
        args.saved, args.saved_bytes = self.saved.data_ptr(), self.sizes.saved
        args.scratch, args.scratch_bytes = scratch.data_ptr(), scratch.numel()

    def forward(self):
        self.kernel.forward(self.forward_args, torch.cuda.current_stream().cuda_stream)

    def backward(self):
        self.kernel.backward(self.backward_args, torch.cuda.current_stream().cuda_stream)

    def step(self):
        """A training step as a program would do it: the forward's scratch is gone before the backward's is made."""
        self.new_forward()
        self.forward()
        del self.forward_scratch
        self.new_backward()
        self.backward()
        return self.results()

    def results(self):
        return [self.o, *self.dq, *self.dk, self.dv, *self.dparams]

    def spoil(self):
        """So that results which the next calls don't write show."""
        for x in self.results():
            x.fill_(float("nan"))

    def named_results(self):
        named = {"o": self.o, "dv": self.dv}
        for n in range(len(self.q)):
            named[f"dq{n + 1}"], named[f"dk{n + 1}"] = self.dq[n], self.dk[n]
        return {**named, **{f"d{name}": x for name, x in zip(self.names, self.dparams)}}


def checked_heads(problem):
    """All heads, or as many as CHECK_PAIRS allows: the first, which may be the heaviest, and others spread out."""
    batch, heads, length, _ = problem.shape
    count = max(1, min(heads, CHECK_PAIRS // (batch * length * (length + 1) // 2)))
    return sorted({n * heads // count for n in range(count)})


class Gpu:
    """The backend of sweep.py on a GPU."""

    def __init__(self, options):
        if not torch.cuda.is_available():
            raise SystemExit("tools/bench: PyTorch finds no GPU here")
        from . import peers
        self.options, self.ops, self.peers = options, TorchOps(), peers
        self.stream = torch.cuda.Stream()
        torch.cuda.set_stream(self.stream)
        self.paper = peers.load_paper(options.paper) if options.paper else {}
        self.wanted_of, self.wanted = None, {}

    def describe(self):
        return describe()

    def int8_tops(self):
        return int8_tops()

    def rounded(self, problem, dtype):
        return problem.map(lambda x: x.to(DTYPES[dtype]).contiguous())

    def sets(self, problem):
        """The problem and copies of it in other memory: enough that their inputs don't fit in the L2 cache, at least 2."""
        size = sum(x.numel() * x.element_size() for x in problem.arrays())
        l2 = torch.cuda.get_device_properties(0).L2_cache_size
        count = max(2, min(8, -(-SETS_BYTES * l2 // size)))
        return [problem] + [problem.map(torch.clone) for _ in range(count - 1)]

    def ours(self, kernel, sets, seconds):
        """A record of times, memory, the split by kernel, and errors; or a note of what went wrong."""
        try:
            return self.measure_ours(kernel, sets, seconds)
        except (RuntimeError, _lib.TdaError) as error:
            return {"note": first_line(error)}

    def measure_ours(self, kernel, sets, seconds):
        runs = [OurRun(kernel, problem) for problem in sets]
        record = phase_times(runs, seconds)
        timed_results = [x.clone() for x in runs[-1].results()]
        runs[-1].spoil()
        runs[-1].forward()
        runs[-1].backward()
        record["errors"] = self.errors(sets[-1], runs[-1].named_results())
        record["same bits"] = all(map(torch.equal, timed_results, runs[-1].results()))
        del timed_results
        try:
            record["split"] = split(runs)
        except Exception as error:                 # the profiler depends on much of the machine; the times stand without it
            record["split note"] = f"{type(error).__name__}: {first_line(error)}"
        del runs
        record["memory"] = peak_bytes(OurRun(kernel, sets[0]).step)
        return record

    def peer(self, name, sets, seconds):
        """The same of what a user would pick instead."""
        try:
            runs = [self.peers.new(name, problem, self.paper) for problem in sets]
            record = phase_times(runs, seconds)
            for run in runs:
                run.forget()
            record["memory"] = peak_bytes(runs[0].step)
            if name.startswith("paper-") and sets[0].beta.min() == sets[0].beta.max():
                record["errors"] = self.errors(sets[-1], runs[-1].named_results())
            return record
        except Exception as error:                 # others' code: it may raise anything, and only its line is lost
            return {"note": f"{type(error).__name__}: {first_line(error)}"}

    def errors(self, problem, results):
        """Against the reference, which is kept for further results of the same problem."""
        views = sum(name.startswith("dq") for name in results)
        if self.wanted_of is not problem:
            self.wanted_of, self.wanted = problem, {}
        if views not in self.wanted:
            self.wanted[views] = reference.expected(self.ops, problem, views, checked_heads(problem))
        return reference.errors(self.ops, self.wanted[views], results)

    def forget(self):
        """The problem at hand is done with."""
        self.wanted_of, self.wanted = None, {}
        gc.collect()
        torch.cuda.synchronize()
        torch.cuda.empty_cache()
