"""The inputs: tiles planted at random, other patterns of survivors, and heads of trained models.

Written for arrays of NumPy and tensors of PyTorch alike; `ops` makes them (see NumpyOps). Shapes are [batch, heads, length,
dim]; lengths are multiples of 64. Thresholds are those of tda: tau_i = beta sqrt(2 log(i + 1) / dim).
"""
import dataclasses

import numpy as np

TILE = 64
HEADS = 16                     # of a batch entry
TOKENS = 16384                 # batch * length, unless the length alone is more
SHARES = (0, 1, 7, 15, 50, 100)
KINDS = tuple(f"tiles-{share}" for share in SHARES) + ("rows", "one-head", "mild", "skewed", "mixed")

# Where nothing was planted, nothing may survive, but random unit vectors have survivors of their own. So all keys have this
# last coordinate, and rows of q one of the opposite sign: it moves the scores of pairs that were not planted below 0.
KEY_OFFSET, QUERY_OFFSET, PLANTED_OFFSET = 0.4, -0.6, -0.3
NOISE = 0.2                    # norm of what is added to the key that a row of q is planted on
REACH = 0.9                    # score of a planted pair with no PLANTED_OFFSET, at least


@dataclasses.dataclass
class Problem:
    """Float32 until the backend rounds it: q and k lists by view, v and grad_o; beta a NumPy array [heads]."""
    kind: str
    q: list
    k: list
    v: object
    grad_o: object
    beta: np.ndarray
    lam: float

    @property
    def shape(self):
        return tuple(self.q[0].shape)

    def arrays(self):
        return [*self.q, *self.k, self.v, self.grad_o]

    def map(self, change):
        return dataclasses.replace(self, q=[change(x) for x in self.q], k=[change(x) for x in self.k], v=change(self.v),
                                   grad_o=change(self.grad_o))


class NumpyOps:
    """The operations that differ between NumPy and PyTorch."""

    @staticmethod
    def normal(shape, seed):
        return np.random.default_rng(seed).standard_normal(shape, dtype=np.float32)

    @staticmethod
    def array(values):
        return np.asarray(values)

    @staticmethod
    def f32(x):
        return np.asarray(x, dtype=np.float32)

    @staticmethod
    def f64(x):
        return np.asarray(x, dtype=np.float64)


def batch_of(length):
    return max(1, TOKENS // length)


def thresholds(length, dim):
    """tau at beta = 1, float64 [length]."""
    return np.sqrt(2 * np.log(np.arange(length) + 1.0) / dim)


def unit(x):
    return x / ((x * x).sum(-1) ** 0.5)[..., None]


# ---- planting ----

def room(length, dim):
    """How many keys a row can be planted on at once: the score with each of m keys is about REACH / sqrt(m)."""
    return np.floor((REACH / (thresholds(length, dim) + 0.03)) ** 2).astype(np.int64)


def plan_tiles(rng, length, dim, share):
    """(rows, keys, layers) of one head: each tile of the causal area with probability `share`, with 1 to 8 pairs in it.

    A row takes one pair, its layer 0. Where a row block has more tiles than rows, rows take one pair each of further tiles
    as layers 1, 2, ... as long as they have room. So every tile drawn has a pair, and some have fewer than they drew.
    """
    blocks = length // TILE
    row_block, key_block = np.tril_indices(blocks)
    drawn = rng.random(len(row_block)) < share
    row_block, key_block = row_block[drawn], key_block[drawn]
    counts = rng.integers(1, 9, len(row_block))
    tile = np.repeat(np.arange(len(counts)), counts)
    further = np.arange(len(tile)) > np.repeat(np.cumsum(counts) - counts, counts)
    order = np.lexsort((rng.random(len(tile)), further, row_block[tile]))
    tile, further = tile[order], further[order]
    block = row_block[tile]
    rank = np.arange(len(tile)) - np.searchsorted(block, block)
    rows_of = rng.permuted(np.tile(np.arange(TILE), (blocks, 1)), axis=1)
    row = block * TILE + rows_of[block, rank % TILE]
    layer = rank // TILE
    keep = (layer == 0) | (~further & (layer < room(length, dim)[row]))
    row, layer, first_key = row[keep], layer[keep], key_block[tile[keep]] * TILE
    key = first_key + (rng.random(len(row)) * np.minimum(TILE, row - first_key + 1)).astype(np.int64)
    return row, key, layer


def plan_rows(rng, length):
    """One pair a row, at a random key."""
    row = np.arange(length)
    return row, (rng.random(length) * (row + 1)).astype(np.int64), np.zeros(length, np.int64)


def plant(ops, q, k, plans):
    """q_i = unit(the sum of its keys + noise), in place. q and k [N, length, dim] with their offsets; a plan for each N."""
    length, dim = q.shape[1:]
    rows = np.concatenate([n * length + plan[0] for n, plan in enumerate(plans)])
    keys = np.concatenate([n * length + plan[1] for n, plan in enumerate(plans)])
    layers = np.concatenate([plan[2] for plan in plans])
    if not len(rows):
        return
    flat_q, flat_k = q.reshape(-1, dim), k.reshape(-1, dim)
    planted = ops.array(np.unique(rows))
    several = ops.array(np.unique(rows[layers > 0]))
    noise = flat_q[planted]
    noise[:, -1] = 0
    flat_q[planted] = unit(noise) * NOISE
    for layer in range(layers.max() + 1):
        at, key = ops.array(rows[layers == layer]), ops.array(keys[layers == layer])
        flat_q[at] = flat_q[at] + unit_part(flat_k[key])
    for at, offset in ((planted, PLANTED_OFFSET), (several, 0)):
        flat_q[at] = with_offset(flat_q[at], offset)


def unit_part(x):
    """Without the offset."""
    x[..., -1] = 0
    return unit(x)


def with_offset(x, offset):
    """Unit rows that point as those of x do but for the last coordinate, which is `offset`."""
    x = unit_part(x) * (1 - offset * offset) ** 0.5
    x[..., -1] = offset
    return x


# ---- kinds ----

def planted_view(ops, heads, length, dim, plans, seed):
    k = with_offset(ops.normal((heads, length, dim), seed), KEY_OFFSET)
    q = with_offset(ops.normal((heads, length, dim), seed + 1), QUERY_OFFSET)
    plant(ops, q, k, plans)
    return q, k


def random_view(ops, heads, length, dim, seed):
    return unit(ops.normal((heads, length, dim), seed + 1)), unit(ops.normal((heads, length, dim), seed))


def beta_for(ops, q, k, share):
    """The greatest beta at which that share of the tiles (of q and k [N, length, dim], as many heads as have some 4096 rows)
    has a survivor. 99.5 % count as all: the last few would take a far lower one."""
    heads = range(max(1, min(q.shape[0], 4096 // q.shape[1])))
    low, high = 0.0, 1.0
    for _ in range(10):
        beta = (low + high) / 2
        found = np.mean([count_units(ops, [(q[n], k[n])], beta)[0][0] for n in heads]) / unit_totals(q.shape[1])[0]
        low, high = (beta, high) if found >= min(share, 0.995) else (low, beta)
    return low


def make(ops, kind, length, dim, seed=1, trained=None):
    """A Problem of two views, float32. trained: {"mild": ..., "skewed": ...}, as read_trained gives them."""
    if kind in ("mild", "skewed", "mixed"):
        return trained_heads(ops, kind, trained, seed)
    heads = HEADS * batch_of(length)
    views, beta = [], np.ones(HEADS)
    for view in range(2):
        at = 1000 * seed + 10 * view
        rng = np.random.default_rng(at + 5)
        share = 0 if kind == "one-head" else int(kind[6:]) / 100 if kind.startswith("tiles-") else None
        if share in (0.5, 1.0):
            views.append(random_view(ops, heads, length, dim, at))
            if view == 0:
                beta *= beta_for(ops, *views[0], share)
            continue
        plans = [plan_rows(rng, length) if share is None else plan_tiles(rng, length, dim, share) for _ in range(heads)]
        views.append(planted_view(ops, heads, length, dim, plans, at))
    batch = batch_of(length)
    if kind == "one-head":                         # all heads in one batch entry, as its threshold is its own
        batch, beta = 1, np.ones(heads)
        for view, (q, k) in enumerate(views):
            dense_q, dense_k = random_view(ops, 1, length, dim, 1000 * seed + 10 * view)
            q[0], k[0] = dense_q[0], dense_k[0]
        beta[0] = beta_for(ops, views[0][0][:1], views[0][1][:1], 1.0)

    def shaped(x):
        return x.reshape(batch, -1, length, dim)

    v, grad_o = (ops.normal((batch, heads // batch, length, dim), 1000 * seed + 100 + n) for n in range(2))
    return Problem(kind, [shaped(q) for q, _ in views], [shaped(k) for _, k in views], v, grad_o, beta, 0.5)


def read_trained(folder):
    """Arrays by name of heads_mild.npz and heads_skewed.npz: q1, k1, q2, k2, v [heads, length, dim], lam, beta."""
    return {name: dict(np.load(f"{folder}/heads_{name}.npz")) for name in ("mild", "skewed")}


def trained_shape(kind, trained):
    """(length, dim) of the input that `kind` makes of them."""
    length, dim = trained["mild"]["q1"].shape[1:]
    return (4 * length if kind == "mixed" else length), dim


def trained_heads(ops, kind, trained, seed):
    """One file, repeated to HEADS heads and TOKENS tokens; "mixed": both along time, twice over."""
    parts = [trained[name] for name in (("mild", "skewed") * 2 if kind == "mixed" else (kind,))]
    length, dim = trained_shape(kind, trained)
    batch = batch_of(length)

    def tensor(name):
        one = np.concatenate([part[name] for part in parts], axis=1).astype(np.float32)
        repeated = np.tile(one, (batch * HEADS // one.shape[0], 1, 1))
        return ops.array(repeated).reshape(batch, HEADS, length, dim)

    q, k = ([tensor(f"{name}{view}") for view in (1, 2)] for name in "qk")
    beta = np.broadcast_to(np.float64(parts[0]["beta"]), (HEADS,)).copy()
    return Problem(kind, q, k, tensor("v"), ops.normal((batch, HEADS, length, dim), 1000 * seed + 101), beta,
                   float(parts[0]["lam"]))


# ---- occupancy ----

UNITS = ((64, "64x64"), (16, "64x16"), (1, "64x1"))    # rows x keys


def unit_totals(length):
    """How many units of each kind a head's causal area has; and its rows."""
    tiles = (length // TILE) * (length // TILE + 1) // 2
    return [tiles * TILE // width for width, _ in UNITS] + [length]


def count_units(ops, pairs, beta, chunk=1 << 26):
    """For each (q, k) of one head [length, dim], and for their union: units with a survivor, by UNITS, and survivors. Scores
    are of float32, chunk elements at a time."""
    length, dim = pairs[0][0].shape
    tau = ops.array((beta * thresholds(length, dim)).astype(np.float32))
    position = ops.array(np.arange(length))
    pairs = [(unit(ops.f32(q)), unit(ops.f32(k))) for q, k in pairs]
    counts = np.zeros((len(pairs) + 1, len(UNITS) + 1), np.int64)
    step = min(length, max(TILE, chunk // length // TILE * TILE))
    for first in range(0, length, step):
        last = min(length, first + step)
        rows, visible = slice(first, last), position[None, :last] <= position[first:last, None]
        found = [((q[rows] @ k[:last].T) > tau[rows, None]) & visible for q, k in pairs]
        union = found[0]
        for live in found[1:]:
            union = union | live
        for n, live in enumerate([*found, union]):
            keys = live.reshape(-1, TILE, last).any(1)
            for column, (width, _) in enumerate(UNITS):
                counts[n, column] += int(keys.reshape(keys.shape[0], last // width, width).any(2).sum())
            counts[n, len(UNITS)] += int(live.sum())
    return counts


def occupancy(ops, problem):
    """Shares of units with a survivor and survivors a row, over all heads: a dict for each view and for their union."""
    batch, heads, length, _ = problem.shape
    counts = sum(count_units(ops, [(q[b, h], k[b, h]) for q, k in zip(problem.q, problem.k)], problem.beta[h])
                 for b in range(batch) for h in range(heads))
    names = [name for _, name in UNITS] + ["survivors a row"]
    rows = [dict(zip(names, (count / (batch * heads * np.array(unit_totals(length)))).tolist())) for count in counts]
    return {**{f"view {n + 1}": row for n, row in enumerate(rows[:-1])}, "union": rows[-1]}
