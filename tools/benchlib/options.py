"""The command line of tools/bench."""
import argparse

from . import inputs, report, sweep

EPILOG = report.COLUMNS + """
Inputs, all causal; batch * length is 16384 (batch 1 above) and there are 16 heads:
  tiles-N     N % of the 64 x 64 tiles of the causal area, drawn at random for each head and view, have 1 to 8 survivors at
              random places. Up to 15 % they are planted, q_i = unit(k_j + noise), and nothing else survives; 50 and 100 %
              are random vectors with a beta lowered until that share of tiles has a survivor
  rows        one planted survivor a row and view (lengths 16384 and 65536)
  one-head    one head as in tiles-100 and 63 as in tiles-0, batch 1 (length 4096)
  mild, skewed, mixed   heads of trained models, from --data
Peers: cudnn, flash, efficient (backends of PyTorch's scaled_dot_product_attention), flex (compiled FlexAttention), all of
causal softmax with one view, and paper-tra and paper-tda from --paper. What a peer does not take is said in its line.

Exit status: 0; 1 if a result was wrong, or a kernel of ours could not be measured; 2 for a wrong command line.
"""

CHOICES = {"input": ("inputs", inputs.KINDS, str), "length": ("lengths", sweep.LENGTHS, int),
           "dim": ("dims", sweep.DIMS, int), "dtype": ("dtypes", sweep.DTYPES, str),
           "peer": ("peers", sweep.PEERS, str), "spec": ("specs", ("tda", "tra"), str),
           "plan": ("plans", ("dense", "sparse"), str), "target": ("targets", ("sm_80", "sm_90a"), str),
           "precision": ("precisions", ("ieee", "tf32"), str)}
QUICK = {"inputs": ("tiles-7", "mixed"), "lengths": (4096, 16384), "dims": (64,), "dtypes": ("bf16",),
         "peers": ("cudnn", "flash", "paper-tda")}


def parser():
    p = argparse.ArgumentParser(
        prog="tools/bench", formatter_class=argparse.RawDescriptionHelpFormatter, epilog=EPILOG,
        description="Times our kernels and what one would use instead, in one run on one GPU. Needs PyTorch.")
    p.add_argument("--kernels", metavar="DIR", help="PTX files of tdagen, *.ptx; without it they are compiled by tdagen")
    p.add_argument("--compile", metavar="DIR", help="measure nothing: compile into DIR what --kernels DIR takes, as for a "
                   "machine where tdagen does not run")
    p.add_argument("--tdagen", metavar="FILE", help="the compiler; by default build/tdagen, or tdagen in PATH")
    p.add_argument("--data", metavar="DIR", help="folder of heads_mild.npz and heads_skewed.npz: q1, k1, q2, k2, v "
                   "[heads, length, dim], lam, beta")
    p.add_argument("--paper", metavar="FILE", help="Python file of the paper's Triton kernels")
    p.add_argument("--out", metavar="DIR", default="bench-results", help="gets bench.json, bench.txt and bench.png "
                   "(default: %(default)s)")
    p.add_argument("--quick", action="store_true", help="a short run: length 4096 and 16384, head_dim 64, bf16, "
                   "two inputs, three peers, unless --only says otherwise")
    p.add_argument("--only", metavar="KEY=VALUE[,VALUE]...", action="append", default=[], help="measure these alone; KEY is "
                   + "; ".join(f"{key}: {', '.join(map(str, values))}" for key, (_, values, _) in CHOICES.items())
                   + "; an empty value means none. Lengths may be any multiple of 64")
    p.add_argument("--goals", action="store_true", help="print what the kernels are to reach beside what was measured")
    p.add_argument("--from", dest="earlier", metavar="JSON", action="append", default=[], help="measure nothing: print the "
                   "records of earlier runs on one device. Several are taken together, later ones instead of earlier ones")
    p.add_argument("--seconds", type=float, help="what one measurement takes, about (default: 0.2; with --quick 0.1)")
    p.add_argument("--seed", type=int, default=1, help="other random inputs")
    p.add_argument("--commit", help="of what is measured, for the record; by default git is asked")
    return p


def choose(p, options):
    """Fills in options.inputs, .lengths, ... from --quick and --only."""
    for name, values, _ in CHOICES.values():
        setattr(options, name, QUICK.get(name, values) if options.quick else values)
    for word in options.only:
        key, equals, text = word.partition("=")
        if key not in CHOICES or not equals:
            p.error(f"--only {word}: give KEY=VALUE with KEY one of {', '.join(CHOICES)}")
        name, values, kind = CHOICES[key]
        chosen = []
        for value in filter(None, text.split(",")):
            try:
                chosen.append(kind(value))
            except ValueError:
                p.error(f"--only {word}: {value} is not a number")
            if chosen[-1] not in values and not (key == "length" and chosen[-1] > 0 and chosen[-1] % inputs.TILE == 0):
                p.error(f"--only {word}: there is no {key} {value}; there are {', '.join(map(str, values))}")
        setattr(options, name, tuple(chosen))


def parse(arguments):
    p = parser()
    options = p.parse_args(arguments)
    choose(p, options)
    options.int8 = options.goals or not options.quick
    if options.seconds is None:
        options.seconds = 0.1 if options.quick else 0.2
    if not options.paper:
        options.peers = tuple(peer for peer in options.peers if not peer.startswith("paper-"))
    return options
