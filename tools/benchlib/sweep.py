"""The order of measurements: for each dtype, head_dim and length, the peers once, then our kernels on every input."""
import dataclasses
import sys
import time

from . import inputs

LENGTHS = (1024, 2048, 4096, 8192, 16384, 32768, 65536)
DIMS = (64, 128)
DTYPES = ("bf16", "f32")
PEERS = ("cudnn", "flash", "efficient", "flex", "paper-tra", "paper-tda")
# Inputs of one goal each, so not at every length.
ONLY_AT = {"one-head": (4096,), "rows": (16384, 65536)}


@dataclasses.dataclass
class Kernel:
    """An open PTX file and what it says of itself."""
    handle: object
    info: object
    spec: str
    plan: str
    target: str
    dtype: str
    precision: str             # "" but for f32
    dim: int

    @property
    def label(self):
        return " ".join(filter(None, (self.spec, self.precision, self.plan, self.target)))


class Progress:
    def __init__(self, total, out=sys.stderr):
        self.total, self.done, self.out, self.start = total, 0, out, time.monotonic()

    def step(self, what):
        self.done += 1
        print(f"[{self.done}/{self.total}, {time.monotonic() - self.start:.0f} s] {what}", file=self.out, flush=True)


def kinds_of(options, length, dim, trained):
    """The inputs that a length and head_dim are measured on."""
    def fits(kind):
        if kind in ("mild", "skewed", "mixed"):
            return trained is not None and inputs.trained_shape(kind, trained) == (length, dim)
        return length in ONLY_AT.get(kind, (length,))
    return [kind for kind in options.inputs if fits(kind)]


def plan(options, kernels, trained):
    """[(dtype, dim, length, kinds, kernels)], without those that leave nothing to measure."""
    groups = []
    for dtype in options.dtypes:
        for dim in options.dims:
            ours = [kernel for kernel in kernels if (kernel.dtype, kernel.dim) == (dtype, dim)
                    and kernel.spec.split("_")[0] in options.specs and kernel.plan in options.plans
                    and kernel.target in options.targets and kernel.precision in (*options.precisions, "")]
            for length in options.lengths:
                kinds = kinds_of(options, length, dim, trained)
                if kinds and (ours or options.peers):
                    groups.append((dtype, dim, length, kinds, ours))
    return groups


def run(options, backend, kernels, trained=None, save=lambda records: None, progress_out=sys.stderr):
    """A list of records; each says what it is of by "of": "input", "peer", "ours" or "int8". save is given all that there
    are after each."""
    groups = plan(options, kernels, trained)
    steps = sum(len(options.peers) + len(kinds) * (1 + len(ours)) for _, _, _, kinds, ours in groups)
    progress = Progress(steps, progress_out)
    records = []
    tops = backend.int8_tops() if options.int8 else None
    if tops:
        records.append({"of": "int8", "tops": tops})
    for group in groups:
        for record in group_records(options, backend, trained, progress, *group):
            records.append(record)
            save(records)
    return records


def group_records(options, backend, trained, progress, dtype, dim, length, kinds, kernels):
    where = {"dtype": dtype, "dim": dim, "length": length}
    name = f"{dtype}, head_dim {dim}, length {length}"
    for number, kind in enumerate(kinds):
        progress.step(f"{name}: input {kind}")
        problem = backend.rounded(inputs.make(backend.ops, kind, length, dim, options.seed, trained), dtype)
        sets = backend.sets(problem)
        if number == 0:                            # the time of softmax, and of the paper's kernels, does not depend on data
            for peer in options.peers:
                progress.step(f"{name}: {peer}")
                yield {"of": "peer", "peer": peer, **where, **backend.peer(peer, sets, options.seconds)}
        yield {"of": "input", "input": kind, **where, "batch": problem.shape[0], "heads": problem.shape[1],
               "beta": [float(problem.beta.min()), float(problem.beta.max())], "lambda": problem.lam,
               "occupancy": inputs.occupancy(backend.ops, problem)}
        for kernel in kernels:
            progress.step(f"{name}, {kind}: {kernel.label}")
            yield ours_record(backend, kernel, kind, where, sets, options.seconds)
        if kind == "one-head":
            alone = backend.sets(head_of(problem))
            for kernel in kernels:
                if kernel.plan == "dense":
                    yield ours_record(backend, kernel, "one-head-alone", where, alone, options.seconds)
        del problem, sets
        backend.forget()


def ours_record(backend, kernel, kind, where, sets, seconds):
    record = {"of": "ours", "input": kind, **where, "spec": kernel.spec, "plan": kernel.plan, "target": kernel.target,
              "precision": kernel.precision, "label": kernel.label,
              "bounds": [kernel.info.forward_tolerance, kernel.info.backward_tolerance]}
    return {**record, **backend.ours(kernel, sets, seconds)}


def head_of(problem):
    """Head 0 alone."""
    one = problem.map(lambda x: x[:1, :1] + 0)
    return dataclasses.replace(one, beta=problem.beta[:1])
