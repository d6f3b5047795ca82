"""What the kernels are to reach on an H100, beside what a run measured. A goal without its measurements says so."""
import dataclasses

from .report import both, is_wrong


@dataclasses.dataclass
class Goal:
    what: str
    wanted: str
    measured: str = "not measured"
    met: object = None             # True, False, or None where it was not measured


class Records:
    """Searches a run. Wrong results and failed measurements count as missing."""

    def __init__(self, records):
        self.records = [record for record in records if not is_wrong(record)]

    def peer(self, peer, dtype, dim, length):
        found = [r for r in self.records if r["of"] == "peer" and r["peer"] == peer and "stream" in r
                 and (r["dtype"], r["dim"], r["length"]) == (dtype, dim, length)]
        return found[-1] if found else None

    def ours(self, input, dtype, dim, length, spec="tda", plan="sparse", precision=None):
        """The fastest of the targets."""
        found = [r for r in self.records if r["of"] == "ours" and "stream" in r and r["input"] == input
                 and (r["dtype"], r["dim"], r["length"]) == (dtype, dim, length) and r["plan"] == plan
                 and r["spec"].split("_")[0] == spec and precision in (None, r["precision"])]
        return min(found, key=lambda r: both(r["stream"])) if found else None

    def int8(self):
        found = [r for r in self.records if r["of"] == "int8"]
        return found[-1]["tops"] if found else None


def screen_ms(record):
    found = [ms for name, ms in record.get("split", []) if "screen" in name] if record else []
    return sum(found) if found else None


def other_ms(record):
    """All kernels but the screen."""
    return sum(ms for name, ms in record["split"] if "screen" not in name)


def screen_tops(record, heads=16, views=2):
    """Int8 operations of the causal pairs' scores by the screen's time: 2 dim for each view, pair and head. B * T is 16384
    or more, so there are heads * max(1, 16384 / T) of them."""
    ms = screen_ms(record)
    if not ms:
        return None
    length = record["length"]
    pairs = length * (length + 1) / 2 * heads * max(1, 16384 // length)
    return 2 * record["dim"] * views * pairs / ms / 1e9


def limit(what, value, most=None, least=None, unit="", beside=""):
    """A goal of a number: at most `most`, or at least `least`."""
    goal = Goal(what, f"{'<=' if least is None else '>='} {most if least is None else least}{unit}{beside}")
    if value is not None:
        goal.measured = f"{value:.4g}{unit}"
        goal.met = value <= most if least is None else value >= least
    return goal


def quotient(a, b):
    return None if a is None or b is None else a / b


def total(record, key="stream"):
    return both(record[key]) if record else None


def phase(record, name):
    return record["stream"][name] if record else None


def screen_goals(r):
    beside = f" (library {r.int8():.0f})" if r.int8() else ""
    found = {dim: [screen_tops(record) for record in (r.ours(kind, "bf16", dim, 16384) for kind in ("mixed", "tiles-7"))]
             for dim in (64, 128)}
    return [limit(f"screen alone, D={dim}, T=16384", next((x for x in found[dim] if x), None), least=least, unit=" TOP/s",
                  beside=beside) for dim, least in ((64, 1100), (128, 1250))]


def speed_goals(r):
    mixed, cudnn = r.ours("mixed", "bf16", 64, 16384), total(r.peer("cudnn", "bf16", 64, 16384))
    ieee = r.ours("mixed", "f32", 64, 16384, precision="ieee")
    goals = [limit("forward, bf16, mixed, T=16384", phase(mixed, "forward"), most=0.75, unit=" ms"),
             limit("backward, bf16, mixed, T=16384", phase(mixed, "backward"), most=0.40, unit=" ms"),
             limit("both by cuDNN softmax with one view, bf16, mixed", quotient(cudnn, total(mixed)), least=3.8, unit=" x"),
             limit("both by the paper's TDA, bf16, mixed",
                   quotient(total(r.peer("paper-tda", "bf16", 64, 16384)), total(mixed)), least=75, unit=" x")]
    for kind, least in (("mild", 2.0), ("skewed", 1.8)):
        goals.append(limit(f"both by cuDNN, bf16, {kind}, T=4096", quotient(
            total(r.peer("cudnn", "bf16", 64, 4096)), total(r.ours(kind, "bf16", 64, 4096))), least=least, unit=" x"))
    return goals + [
        limit("both, f32 ieee, mixed, T=16384", total(ieee), most=3.0, unit=" ms"),
        limit("both by memory-efficient SDPA, f32 ieee, mixed", quotient(
            total(r.peer("efficient", "f32", 64, 16384)), total(ieee)), least=19, unit=" x")]


def balance_goals(r):
    """One heavy head among empty ones; every tile with a survivor."""
    heavy, alone = r.ours("one-head", "bf16", 64, 4096), r.ours("one-head-alone", "bf16", 64, 4096, plan="dense")
    slower = max(screen_ms(heavy), total(alone)) if alone and screen_ms(heavy) else None
    full, dense = r.ours("tiles-100", "bf16", 64, 16384), r.ours("tiles-100", "bf16", 64, 16384, plan="dense")
    return [limit("one head at 100 % beside 63 at 0 %, T=4096: both, by the slower of the screen and that head alone, dense",
                  quotient(total(heavy), slower), most=1.3, unit=" x"),
            limit("100 % of tiles, bf16, T=16384: both, by our dense plan", quotient(total(full), total(dense)), most=1.3,
                  unit=" x")]


def dense_goals(r):
    goals = []
    for dim in (64, 128):
        ours, cudnn = r.ours("tiles-100", "bf16", dim, 16384, spec="tra", plan="dense"), r.peer("cudnn", "bf16", dim, 16384)
        for name, least in (("forward", 0.85), ("backward", 0.6)):
            goals.append(limit(f"dense plan, one view, bf16, D={dim}, tiles-100, T=16384: {name}, cuDNN's time by ours",
                               quotient(phase(cudnn, name), phase(ours, name)), least=least, unit=" x"))
    return goals


def memory_goals(r):
    goals = []
    for dtype, precision in (("bf16", None), ("f32", "ieee")):
        record = (r.ours("mixed", dtype, 64, 16384, precision=precision)
                  or r.ours("tiles-7", dtype, 64, 16384, precision=precision))
        memory = record and record["memory"]
        goals.append(limit(f"peak memory of a training step by output + gradients, {dtype}, T=16384",
                           memory and memory["peak"] / memory["results"], most=1.05, unit=" x"))
    return goals


def growth_goals(r):
    """From 16384 to 65536 rows at batch 1, with one survivor a row and view: the screen grows with pairs, the rest with
    rows."""
    short, long = (r.ours("rows", "bf16", 64, length) for length in (16384, 65536))
    rest = [other_ms(record) if record and screen_ms(record) else None for record in (short, long)]
    return [limit("T 16384 to 65536, one survivor a row: the screen", quotient(screen_ms(long), screen_ms(short)), most=16.5,
                  unit=" x"),
            limit("T 16384 to 65536, one survivor a row: all the rest", quotient(rest[1], rest[0]), most=5, unit=" x")]


def all_goals(records):
    r = Records(records)
    parts = (screen_goals, speed_goals, balance_goals, dense_goals, memory_goals, growth_goals)
    return [goal for part in parts for goal in part(r)]


def goals_table(records):
    words = {True: "met", False: "NOT MET", None: ""}
    goals = all_goals(records)
    width = max(len(goal.what) for goal in goals)
    return "\n".join(f"{goal.what:{width}}  {goal.wanted:32} {goal.measured:>16}  {words[goal.met]}".rstrip()
                     for goal in goals)
