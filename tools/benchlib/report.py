"""What a run found, as a table, a file of JSON and a plot."""
import json

from . import reference

COLUMNS = """
A line of the table is a peer or one of our kernels. Its columns:
  stream      milliseconds of forward, backward and their sum, from the tensors of a caller to finished results, everything
              included (norms, screens, reductions, launches), measured by CUDA events around each call on a stream. Calls
              are enqueued one after another without waiting, so that launching costs time only where it takes longer than
              the GPU does. Medians; each call has other memory than the one before, more in all than the L2 cache.
  graph       the same, each call captured into a CUDA graph and replayed. "-": it can't be captured
  peak        MiB that a training step (forward, then backward) takes beyond its inputs and the gradient of the output
  results     MiB of the output and the gradients, which are part of `peak`: what no implementation can do without
Below each of our kernels:
  times faster   the peer's time of forward and backward by ours, both from `stream`. Softmax peers have one view (q1, k1),
                 ours as many as the spec has: tda two, tra one. paper-tda counts for tda, paper-tra for tra
  error       the worst relative 2-norm of our output and gradients against a float64 reference, and the bound. Long inputs
              are compared on some of the heads. WRONG: the bound is passed, or calls on the stream gave other bits than
              those of the graph, so the times mean nothing
  kernels     milliseconds by kernel, from PyTorch's profiler: what runs between kernels is not in it
Above them, of the input: the share of units of the causal area that hold a pair above the threshold, in exact float32
scores, for each view and for their union. Units are of 64 rows x 64, 16 and 1 keys. Then survivors a row.
"""


def both(times):
    return times["forward"] + times["backward"]


def is_wrong(record):
    """Of our records: the results passed a bound, or timed calls and others gave different bits."""
    return record["of"] == "ours" and "errors" in record and (
        reference.is_wrong(record["errors"], *record["bounds"]) or not record.get("same bits", True))


def is_bad(record):
    """Of our records: wrong, or not measured."""
    return record["of"] == "ours" and ("stream" not in record or is_wrong(record))


def peer_counts_for(peer, spec):
    return not peer.startswith("paper-") or spec.split("_")[0] == peer[len("paper-"):]


def same_place(a, b):
    return all(a[key] == b[key] for key in ("dtype", "dim", "length"))


def ratios(record, records):
    """[(peer, how many times faster)] of one of our records."""
    return [(peer["peer"], both(peer["stream"]) / both(record["stream"])) for peer in records
            if peer["of"] == "peer" and "stream" in peer and same_place(peer, record)
            and peer_counts_for(peer["peer"], record["spec"])]


# ---- table ----

NAME = 34


def time_cells(times):
    values = (times["forward"], times["backward"], both(times)) if times else (None,) * 3
    return "".join(f"{'-':>10}" if value is None else f"{value:10.4f}" for value in values)


def main_line(name, record):
    if "stream" not in record:
        return f"{name:{NAME}}  {record['note']}"
    memory = record["memory"]
    return (f"{name:{NAME}}{time_cells(record['stream'])}{time_cells(record.get('graph'))}"
            f"{memory['peak'] / 2 ** 20:10.1f}{memory['results'] / 2 ** 20:10.1f}")


def peer_lines(record):
    lines = [main_line("  " + record["peer"], record)]
    if "errors" in record:
        lines.append("        errors " + ", ".join(f"{name} {error:.1e}" for name, error in record["errors"].items()))
    return lines + notes(record)


def notes(record):
    return [f"        {key}: {record[key]}" for key in ("graph note", "split note") if key in record]


def our_lines(record, records):
    lines = [main_line("    " + record["label"], record)]
    if "stream" not in record:
        return lines
    faster = ratios(record, records)
    if faster:
        lines.append("        times faster than " + ", ".join(f"{peer} {ratio:.2f}" for peer, ratio in faster))
    worst = max(record["errors"], key=lambda name: excess(record, name))
    bound = record["bounds"][worst != "o"]
    verdict = "WRONG" if is_wrong(record) else "ok"
    lines.append(f"        error {record['errors'][worst]:.1e} ({worst}), bound {bound:.0e}: {verdict}")
    if "split" in record:
        lines.append("        kernels " + ", ".join(f"{name} {ms:.4f}" for name, ms in record["split"]))
    return lines + notes(record)


def excess(record, name):
    """By how much of its bound an error is; NaN counts as infinite."""
    share = record["errors"][name] / record["bounds"][name != "o"]
    return share if share == share else float("inf")


def input_lines(record):
    low, high = record["beta"]
    beta = f"{low:.3f}" if low == high else f"{low:.3f} to {high:.3f}"
    lines = [f"  input {record['input']}: batch {record['batch']}, heads {record['heads']}, beta {beta}, "
             f"lambda {record['lambda']:.3f}"]
    for name, shares in record["occupancy"].items():
        units = ", ".join(f"{unit} {100 * share:.2f} %" for unit, share in shares.items() if unit != "survivors a row")
        lines.append(f"    {name}: {units}, {shares['survivors a row']:.3f} survivors a row")
    return lines


def table(records):
    lines = [f"library int8 product: {record['tops']:.0f} TOP/s" for record in records if record["of"] == "int8"]
    places = []
    for record in records:
        if record["of"] != "int8" and not any(same_place(record, place) for place in places):
            places.append(record)
    for place in places:
        here = [record for record in records if record["of"] != "int8" and same_place(record, place)]
        lines += ["", f"{place['dtype']}, head_dim {place['dim']}, length {place['length']}",
                  f"{'':{NAME}}{'stream':>10}{'':20}{'graph':>10}{'':20}{'peak':>10}{'results':>10}",
                  f"{'':{NAME}}" + f"{'forward':>10}{'backward':>10}{'both':>10}" * 2 + f"{'MiB':>10}{'MiB':>10}"]
        for record in here:
            if record["of"] == "peer":
                lines += peer_lines(record)
        alone = [record for record in here if record.get("input") == "one-head-alone"]
        for given in (record for record in here if record["of"] == "input"):
            lines += input_lines(given)
            for record in here:
                if record["of"] == "ours" and record["input"] == given["input"]:
                    lines += our_lines(record, records)
        if alone:
            lines.append("  the heavy head of input one-head, alone")
            for record in alone:
                lines += our_lines(record, [])
    return "\n".join(lines)


def write_json(path, report):
    with open(path, "w") as file:
        json.dump(report, file, indent=1)
        file.write("\n")


# ---- plot ----

PLOTTED = ("tiles-7", "tiles-100", "mild", "skewed", "mixed")


def plot_lines(records, dtype, dim):
    """{name: [(length, ms of forward and backward)]}"""
    lines = {}
    for record in records:
        if record["of"] not in ("peer", "ours") or "stream" not in record:
            continue
        if (record["dtype"], record["dim"]) != (dtype, dim):
            continue
        if record["of"] == "ours" and (record["input"] not in PLOTTED or is_wrong(record)):
            continue
        name = record["peer"] if record["of"] == "peer" else f"{record['label']}, {record['input']}"
        lines.setdefault(name, []).append((record["length"], both(record["stream"])))
    return {name: sorted(points) for name, points in lines.items()}


def draw(axis, lines, colours):
    for name, points in sorted(lines.items()):
        ours = "," in name
        axis.loglog(*zip(*points), marker="o", linewidth=2 if ours else 1, linestyle="-" if ours else "--",
                    color=colours[name], label=name)
    lengths = sorted({length for points in lines.values() for length, _ in points})
    axis.set(xlabel="length", ylabel="ms, forward and backward")
    axis.set_xticks(lengths, labels=map(str, lengths))
    axis.minorticks_off()
    axis.grid(alpha=0.3)


def write_plot(path, report):
    """Panels by dtype and head_dim. Returns whether it was written: matplotlib may be missing, or points to draw."""
    try:
        import matplotlib
    except ImportError:
        return False
    matplotlib.use("Agg")
    from matplotlib import pyplot
    records = report["records"]
    panels = {(record["dtype"], record["dim"]): {} for record in records if record["of"] in ("peer", "ours")}
    for dtype, dim in panels:
        panels[dtype, dim] = plot_lines(records, dtype, dim)
    names = sorted({name for lines in panels.values() for name in lines})
    if not names:
        return False
    colours = {name: pyplot.get_cmap("tab20")(n % 20) for n, name in enumerate(names)}
    dtypes, dims = (sorted({panel[n] for panel in panels}) for n in range(2))
    figure, axes = pyplot.subplots(len(dtypes), len(dims), figsize=(7 * len(dims), 6 * len(dtypes)), squeeze=False)
    for row, dtype in enumerate(dtypes):
        for column, dim in enumerate(dims):
            lines = panels.get((dtype, dim))
            if not lines:
                axes[row][column].set_axis_off()
                continue
            axes[row][column].set_title(f"{dtype}, head_dim {dim}")
            draw(axes[row][column], lines, colours)
            axes[row][column].legend(fontsize=7)
    figure.suptitle(f"{report['head'].get('device', '')}, {report['head'].get('date', '')}")
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    pyplot.close(figure)
    return True
