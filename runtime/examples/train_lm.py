#!/usr/bin/env python3
"""Trains two small byte-level language models of the same size on text that the machine has, one with threshold differential
attention, one with softmax, and compares them: loss, tokens per second, and three experiments on the trained models.

    zeros     the share of attention weights that are exactly 0
    sink      the share of a row's attention that goes to the first byte, at growing length
    passkey   how many digits of a number that was hidden in the text are repeated, at growing length

    pip install ./runtime/python && python3 runtime/examples/train_lm.py --out results

It needs PyTorch and, to end within minutes, a GPU. Figures go to OUT/results.json, and with matplotlib to OUT/train_lm.png.
--paper FILE, of the paper's Triton kernels, trains the same model with those too, for its loss and tokens per second.
"""
import argparse
import importlib.util
import json
import math
import os
import pathlib
import random
import sys
import time
from statistics import mean

import torch
from torch import nn
from torch.nn import functional

import tda
import tda.nn

VOCABULARY = 256
QUESTION = b" The pass key is %d. Remember it. "
ANSWER = b" What is it? The pass key is %d."
DIGITS = 4
ANSWER_WEIGHT = 20.0           # of the loss of a digit that is asked for, beside 1 of any other byte
PART = 96                      # bytes that hold a question, an answer and some text between them
TEXT = (".py", ".txt", ".md", ".rst", ".c", ".h")
PAPER = "differential_threshold_rela_triton"       # (q1, q2, k1, k2, v, beta, lambda), [batch, heads, length, dim]
ZEROS_AT, ZEROS = 1024, 0.95                       # the share of zeros to pass, and at which length


# ---- text ----

def text_files(root):
    for folder, folders, names in os.walk(root):
        folders[:] = [name for name in folders if name not in ("site-packages", "dist-packages", "__pycache__")]
        yield from (pathlib.Path(folder, name) for name in names if name.endswith(TEXT))


def load_text(folder, limit=16 << 20):
    """Bytes of the folder's text files; by default Python's own library."""
    root = pathlib.Path(folder or os.path.dirname(os.__file__))
    paths = sorted(text_files(root))
    random.Random(1).shuffle(paths)
    data = bytearray()
    for path in paths:
        if len(data) > limit:
            break
        try:
            data += path.read_bytes()
        except OSError:
            pass
    if len(data) < 1 << 16:
        raise SystemExit(f"train_lm.py: {root} holds {len(data)} bytes of text: name a folder with more by --text")
    return bytes(data)


def hide_passkey(text, length, rng):
    """length + 1 bytes with a number hidden at random and asked for at the end; the digits are the last but one bytes."""
    number = rng.randrange(10 ** (DIGITS - 1), 10 ** DIGITS)
    question, answer = QUESTION % number, ANSWER % number
    body = length + 1 - len(question) - len(answer)
    at, start = rng.randrange(body // 2 + 1), rng.randrange(len(text) - body)
    filler = text[start:start + body]
    return filler[:at] + question + filler[at:] + answer


def tokens_of(rows):
    """[rows, bytes], int64."""
    return torch.frombuffer(bytearray(b"".join(rows)), dtype=torch.uint8).view(len(rows), -1).long()


def passkey_row(text, length, rng):
    """length + 1 bytes with one hidden number, or with two or four, each in its part of them: more to learn from."""
    parts = rng.choice([n for n in (1, 2, 4) if length >= n * PART or n == 1])
    sizes = [(length + 1) * (n + 1) // parts - (length + 1) * n // parts for n in range(parts)]
    return b"".join(hide_passkey(text, size - 1, rng) for size in sizes)


def answer_weights(rows):
    """[rows, bytes - 1], for the loss of each byte but the first: more where the digits of an answer are to be said."""
    begin = ANSWER.partition(b"%")[0]
    weights = torch.ones(len(rows), len(rows[0]) - 1)
    for row, weight in zip(rows, weights):
        at = row.find(begin)
        while at >= 0:
            first = at + len(begin) - 1            # of the digits, in what is predicted
            weight[first:first + DIGITS] = ANSWER_WEIGHT
            at = row.find(begin, first)
    return weights / weights.mean()


def batch_of(text, count, length, rng, passkeys=0.5):
    """The bytes of rows, and the weights of their losses."""
    rows = []
    for n in range(count):
        if n < count * passkeys:
            rows.append(passkey_row(text, length, rng))
        else:
            start = rng.randrange(len(text) - length - 1)
            rows.append(text[start:start + length + 1])
    return tokens_of(rows), answer_weights(rows)


# ---- models ----

class SoftmaxAttention(nn.Module):
    """The same with one view and softmax."""

    def __init__(self, dim, heads, **_):
        super().__init__()
        self.heads, self.head_dim = heads, dim // heads
        self.inputs, self.outputs = nn.Linear(dim, 3 * dim, bias=False), nn.Linear(dim, dim, bias=False)

    def heads_of(self, x):
        batch, length, _ = x.shape
        q, k, v = self.inputs(x).view(batch, length, 3, self.heads, self.head_dim).unbind(2)
        positions = torch.arange(length, device=x.device)
        return [y.transpose(1, 2) for y in (tda.nn.rotary(q, positions), tda.nn.rotary(k, positions), v)]

    def forward(self, x):
        o = functional.scaled_dot_product_attention(*self.heads_of(x), is_causal=True)
        return self.outputs(o.transpose(1, 2).flatten(2))

    def matrix(self, x):
        q, k, _ = self.heads_of(x)
        with torch.autocast(x.device.type, enabled=False):
            scores = q.float() @ k.float().transpose(-1, -2) / self.head_dim ** 0.5
        later = torch.ones(scores.shape[-2:], dtype=torch.bool, device=x.device).triu(1)
        return scores.masked_fill(later, -float("inf")).softmax(-1)


class ThresholdAttention(tda.nn.ThresholdDifferentialAttention):
    def matrix(self, x):
        q, k, _, params = self.heads_of(x)
        q, k = ([y.transpose(1, 2) for y in ys] for ys in (q, k))
        return tda.reference(self.attention, dtype=torch.float32).matrix(q, k, layer=self.layer, **params)


class PaperAttention(ThresholdAttention):
    """The same by the paper's kernels, with beta as it begins: they take it as a number."""
    kernel = None                  # set from --paper

    def forward(self, x):
        q, k, v, params = self.heads_of(x)
        inputs = [y.transpose(1, 2).contiguous() for y in (*q, *k, v)]
        beta = next(p.init for p in self.attention.params if p.name == "beta")
        o = self.kernel(*inputs, beta, params["lambda"])
        return self.outputs(self.norm(o.transpose(1, 2).to(x.dtype)).flatten(2))


def load_paper(path):
    spec = importlib.util.spec_from_file_location("paper_kernels", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    if not hasattr(module, PAPER):
        raise SystemExit(f"train_lm.py: {path} has no function {PAPER}: --paper takes the Python file of the paper's kernels")
    PaperAttention.kernel = staticmethod(getattr(module, PAPER))


class Block(nn.Module):
    def __init__(self, attention, dim, hidden):
        super().__init__()
        self.norm1, self.norm2, self.attention = nn.RMSNorm(dim), nn.RMSNorm(dim), attention
        self.mlp = nn.Sequential(nn.Linear(dim, hidden), nn.GELU(), nn.Linear(hidden, dim))

    def forward(self, x):
        x = x + self.attention(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class Model(nn.Module):
    def __init__(self, options, kind):
        """kind: softmax, tda, or paper, whose kernels know the formula of the spec tda."""
        super().__init__()
        dim, attention = options.dim, {"softmax": SoftmaxAttention, "tda": ThresholdAttention, "paper": PaperAttention}[kind]
        # the second view's projections take as much as `dim` more hidden units of the MLP
        hidden = 5 * dim if kind == "softmax" else 4 * dim
        spec = "tda" if kind == "paper" else options.spec
        self.embed = nn.Embedding(VOCABULARY, dim)
        self.blocks = nn.ModuleList(
            Block(attention(dim, options.heads, spec=spec, layer=n, dtype=options.dtype), dim, hidden)
            for n in range(options.layers))
        self.norm, self.head = nn.RMSNorm(dim), nn.Linear(dim, VOCABULARY, bias=False)

    def forward(self, tokens):
        x = self.embed(tokens)
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x))

    @torch.no_grad()
    def matrices(self, tokens):
        """The attention of each layer, [batch, heads, length, length]."""
        x = self.embed(tokens)
        for block in self.blocks:
            yield block.attention.matrix(block.norm1(x))
            x = block(x)


# ---- training ----

def progress(name, step, steps, loss, rate):
    done = 30 * step // steps
    print(f"\r{name:8} [{'#' * done}{' ' * (30 - done)}] {step}/{steps}  loss {loss:.3f}  {rate:,.0f} tokens/s ", end="",
          file=sys.stderr, flush=True)


def train(name, model, text, options):
    """(the losses, tokens a second)"""
    rng = random.Random(7)
    optimizer = torch.optim.AdamW(model.parameters(), lr=options.rate, betas=(0.9, 0.95), weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, options.rate, total_steps=options.steps, pct_start=0.1)
    forward = torch.compile(model, fullgraph=True) if options.compile and name != "paper" else model
    losses, start, warm = [], time.perf_counter(), 0
    for step in range(options.steps):
        tokens, weights = (x.to(options.device) for x in batch_of(text, options.batch, options.length, rng))
        with torch.autocast(options.device, dtype=torch.bfloat16):
            logits = forward(tokens[:, :-1])
        each = functional.cross_entropy(logits.float().transpose(1, 2), tokens[:, 1:], reduction="none")
        optimizer.zero_grad(set_to_none=True)
        (each * weights).mean().backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        losses.append(each.detach().mean())
        if step == options.steps // 10:                # compiling and warming up don't count
            losses[-1].item()                          # waits for the GPU
            warm, start = step + 1, time.perf_counter()
        if step % 20 == 19 or step == options.steps - 1:
            shown = losses[-1].item()
            if not math.isfinite(shown):
                raise SystemExit(f"\ntrain_lm.py: {name}: the loss is {shown} at step {step + 1}: a smaller --rate may help")
            rate = (step + 1 - warm) * options.batch * options.length / (time.perf_counter() - start)
            progress(name, step + 1, options.steps, shown, rate)
    print(file=sys.stderr)
    losses = torch.stack(losses).tolist()
    wrong = sum(not math.isfinite(loss) for loss in losses)
    if wrong:
        raise SystemExit(f"train_lm.py: {name}: {wrong} losses were not finite")
    return losses, rate


# ---- experiments ----

def zeros_by_layer(model, tokens):
    """[(share of visible weights that are 0, heads without any other)]"""
    found = []
    for matrix in model.matrices(tokens):
        length = matrix.shape[-1]
        nonzero = (matrix != 0).sum((0, 2, 3))
        visible = matrix.shape[0] * length * (length + 1) // 2
        found.append((1 - nonzero.sum().item() / (visible * matrix.shape[1]), int((nonzero == 0).sum())))
    return found


def sink_ratio(model, tokens):
    """The first byte's share of a row's attention, over rows that have any, the second half of them."""
    shares = []
    for matrix in model.matrices(tokens):
        rows = matrix[:, :, matrix.shape[2] // 2:].abs()
        total = rows.sum(-1)
        shares.append((rows[..., 0] / total)[total > 0])
    return torch.cat(shares).mean().item()


def uniform_sink(length):
    """The sink ratio of rows that attend to everything alike."""
    return mean(1 / (row + 1) for row in range(length // 2, length))


@torch.no_grad()
def passkey_accuracy(model, text, length, options, count=32):
    rng, right = random.Random(11), 0
    for _ in range(count // 8):
        tokens = tokens_of([hide_passkey(text, length, rng) for _ in range(8)]).to(options.device)
        with torch.autocast(options.device, dtype=torch.bfloat16):
            guess = model(tokens[:, :-1])[:, -1 - DIGITS:-1].argmax(-1)
        right += (guess == tokens[:, -1 - DIGITS:-1]).sum().item()
    return right / (count // 8 * 8 * DIGITS)


def experiments(model, text, options):
    rng = random.Random(5)
    results = {"zeros": {}, "sink": {}, "passkey": {}}
    for length in options.lengths:
        tokens = batch_of(text, 2, length, rng, passkeys=0)[0][:, :-1].to(options.device)
        with torch.no_grad(), torch.autocast(options.device, dtype=torch.bfloat16):
            results["zeros"][length] = zeros_by_layer(model, tokens)
            results["sink"][length] = sink_ratio(model, tokens)
        results["passkey"][length] = passkey_accuracy(model, text, length, options)
    results["learned"] = [{name: value.detach().cpu().tolist() for name, value in block.attention.learned.items()}
                          for block in model.blocks if hasattr(block.attention, "learned")]
    return results


# ---- report ----

def zeros_at(result, length):
    return mean(zeros for zeros, _ in result["zeros"][length])



def table(results, options):
    """Rows of text: a column for each model."""
    yield "", list(results), ""
    always = {"parameters": lambda r: f"{r['parameters']:,}", "tokens/s": lambda r: f"{r['rate']:,.0f}",
              "loss at the start": lambda r: f"{mean(r['losses'][:10]):.3f}",
              "loss at the end": lambda r: f"{mean(r['losses'][-50:]):.3f}"}
    for label, show in always.items():
        yield label, [show(r) for r in results.values()], ""
    by_length = {"zeros": lambda r, length: f"{100 * zeros_at(r, length):.2f} %",
                 "sink ratio": lambda r, length: f"{r['sink'][length]:.4f}",
                 "passkey digits": lambda r, length: f"{100 * r['passkey'][length]:.0f} %"}
    for label, show in by_length.items():
        for length in options.lengths:
            note = f"   uniform: {uniform_sink(length):.4f}" if label == "sink ratio" else ""
            yield f"{label} at {length}", [show(r, length) if "zeros" in r else "" for r in results.values()], note


def report(results, options):
    for label, cells, note in table(results, options):
        print(f"{label:24}" + "".join(f"{cell:>14}" for cell in cells) + note)
    shown = ZEROS_AT if ZEROS_AT in options.lengths else max(options.lengths)
    for n, ((zeros, dead), learned) in enumerate(zip(results["tda"]["zeros"][shown], results["tda"]["learned"])):
        values = ", ".join(f"{name} {min(v):.2f}..{max(v):.2f}" for name, v in learned.items())
        print(f"tda, layer {n}, length {shown}: {100 * zeros:.2f} % zeros, {dead} dead heads, {values}")
    found = zeros_at(results["tda"], shown)
    print(f"zeros at {shown}: {100 * found:.2f} %, the goal is above {100 * ZEROS:.0f} %: {'ok' if found > ZEROS else 'MISSED'}")


def plot(results, options):
    try:
        import matplotlib
        matplotlib.use("Agg")
        from matplotlib import pyplot
    except ImportError:
        print(f"no matplotlib here, so no plots: {options.out / 'results.json'} has the figures")
        return
    figure, axes = pyplot.subplots(1, 4, figsize=(18, 4))
    for name, r in results.items():
        window = max(1, len(r["losses"]) // 100)
        starts = range(0, len(r["losses"]), window)
        axes[0].plot(starts, [mean(r["losses"][n:n + window]) for n in starts], label=name)
        if "zeros" not in r:
            continue
        for axis, what in ((axes[2], "sink"), (axes[3], "passkey")):
            axis.plot(options.lengths, [r[what][n] for n in options.lengths], marker="o", label=name)
    axes[2].plot(options.lengths, [uniform_sink(n) for n in options.lengths], linestyle=":", color="grey")
    axes[1].bar(range(options.layers), [100 * zeros for zeros, _ in results["tda"]["zeros"][max(options.lengths)]])
    titles = "loss", f"tda: zeros at {max(options.lengths)} (%)", "sink ratio (dotted: uniform)", "passkey digits right"
    for axis, title, below in zip(axes, titles, ("step", "layer", "length", "length")):
        axis.set_title(title)
        axis.set_xlabel(below)
    axes[0].legend()
    figure.tight_layout()
    figure.savefig(options.out / "train_lm.png", dpi=120)


def parse():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("train_lm_results"))
    parser.add_argument("--text", help="a folder of text files")
    parser.add_argument("--spec", default="tda_rmsnorm", help="with two views; as tda.compile takes it")
    parser.add_argument("--paper", metavar="FILE", help="a Python file of the paper's Triton kernels")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--dtype", default="bf16")
    parser.add_argument("--rate", type=float, default=2e-3)
    parser.add_argument("--compile", action="store_true", help="train with torch.compile")
    for name, value in (("steps", 2000), ("batch", 32), ("length", 512), ("dim", 256), ("heads", 4), ("layers", 4)):
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--lengths", type=lambda words: [int(word) for word in words.split(",")],
                        default=[256, 512, 1024, 2048], help="of the experiments")
    return parser.parse_args()


def main():
    options = parse()
    options.out.mkdir(parents=True, exist_ok=True)
    text = load_text(options.text)
    held_out, text = text[:len(text) // 20], text[len(text) // 20:]
    results = {}
    if options.paper:
        load_paper(options.paper)
    for name in ("tda", "softmax", *(["paper"] if options.paper else [])):
        torch.manual_seed(3)
        model = Model(options, name).to(options.device)
        losses, rate = train(name, model, text, options)
        results[name] = {"parameters": sum(p.numel() for p in model.parameters()), "losses": losses, "rate": rate,
                         **({} if name == "paper" else experiments(model, held_out, options))}
    (options.out / "results.json").write_text(json.dumps(results, indent=1))
    report(results, options)
    plot(results, options)


main()
