"""The HTML report of tdagen explore: the JSON of --json on standard input, one page without any reference to the network on
standard output. tdagen has this file built in and runs it with Python; it needs plotly, whose JavaScript goes into the page."""
import html
import json
import math
import os
import sys

try:
    import plotly.graph_objects as go
    from plotly.subplots import make_subplots
except ImportError as error:
    sys.exit(f"the report is drawn with plotly, which {sys.executable} lacks ({error}): python3 -m pip install plotly, or "
             "name another Python in TDAGEN_PYTHON")

MOST_MAPS = 64
DASHES = ["solid", "dash", "dot", "dashdot", "longdash"]
COLOURS = ["#1f6fb4", "#d9662b", "#2a9a57", "#8a5cc0", "#b8901a", "#c0407a", "#3a9fb0", "#6b6b6b"]
SWEPT = ["survivors", "zeros", "dead_rows", "visited", "tiles_64x64", "sink", "consensus", "o_norm", "dq_norm", "softmax_error",
         "predicted_forward_ms", "predicted_backward_ms", "forward_ms", "backward_ms"]
BARS = ["survivors", "dead_rows", "visited", "tiles_64x64", "sink", "o_norm"]

STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #222; background: #fff; max-width: 1240px; margin: 24px auto; padding: 0 20px }
h1 { font-size: 24px; margin-bottom: 0 } h2 { font-size: 18px; margin: 36px 0 4px }
p { margin: 4px 0 10px; max-width: 90ch } .dim { color: #666 }
.wide { overflow-x: auto } table { border-collapse: collapse; font-size: 12.5px; margin: 8px 0 }
th, td { padding: 3px 7px; text-align: right; border-bottom: 1px solid #e4e4e4; white-space: nowrap }
th { font-weight: 600; border-bottom: 1px solid #999 } td.text, th.text { text-align: left; white-space: normal }
td.yes { color: #1a7a3c; font-weight: 600 } td.no { color: #b3361b; font-weight: 600 } td.unknown { color: #777 }
"""


def shown(metric, value):
    if value is None:
        return "\u2013"
    if metric["unit"] == "share":
        share = 100 * value
        return f"{share:.4f} %" if 99 < share < 100 else f"{share:.3g} %"
    if metric["unit"] == "flag":
        return "yes" if value else "no"
    if metric["unit"] == "count":
        return f"{value:,.0f}"
    return f"{value:.4g}" + (" ms" if metric["unit"] == "ms" else "")


def axis_title(metric):
    return {"share": f"{metric['title']}, %", "ms": metric["title"]}.get(metric["unit"], metric["title"])


def scaled(metric, value):
    return value if value is None or metric["unit"] != "share" else 100 * value


def table(head, rows):
    lines = ["<div class=wide><table><tr>" + "".join(h[0] if h[0].startswith("<th") else f"<th{help_text(h)}>{html.escape(h[0])}</th>"
                                                              for h in head) + "</tr>"]
    for row in rows:
        lines.append("<tr>" + "".join(cell if cell.startswith("<td") else f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>")
    return "\n".join(lines) + "</table></div>"


def help_text(head):
    return f' title="{html.escape(head[1], quote=True)}"' if len(head) > 1 else ""


def name_of(run):
    """What tells a run from the others of the report."""
    words = [f"{name} {value}" for name, value in run["settings"].items()]
    if run["several_layers"]:
        words.append(f"layer {run['layer']}")
    return ", ".join(words)


def usable(report, values_of):
    """The metrics that have a value anywhere."""
    return [m for m in report["metrics"] if any(v is not None for v in values_of(m))]


# ---- figures ----

def finished(figure, height, **layout):
    figure.update_layout(template="plotly_white", height=height, margin={"l": 70, "r": 20, "t": 64, "b": 60},
                         font={"family": "system-ui, sans-serif", "size": 12}, **layout)
    return figure


def merged(runs):
    """(name, run) of each run whose survivors by length are not those of an earlier one, whose name then speaks of both."""
    names, firsts = {}, {}
    for run in runs:
        same = json.dumps(run["all"]["lengths"])
        names.setdefault(same, []).append(name_of(run))
        firsts.setdefault(same, run)
    return [("; ".join(filter(None, names[same])), run) for same, run in firsts.items()]


def length_figure(runs):
    """Survivors of a row and view by how many keys the row sees."""
    figure = go.Figure()
    for n, (name, run) in enumerate(merged(runs)):
        lengths = run["all"]["lengths"]
        keys = [l["keys"] for l in lengths]
        colour = COLOURS[n % len(COLOURS)]
        figure.add_scatter(x=keys, y=[l["survivors"] or None for l in lengths], name=name or "survivors, all heads",
                           mode="lines+markers", line={"color": colour, "width": 2.5})
        if len(runs) == 1 and len(run["by_head"]) > 1:
            for h, head in enumerate(run["by_head"][:32]):
                if head["survivors"]:
                    figure.add_scatter(x=[l["keys"] for l in head["lengths"]], y=[l["survivors"] or None for l in head["lengths"]],
                                       name=f"head {h}", mode="lines", line={"width": 1}, opacity=0.7,
                                       visible="legendonly" if len(run["by_head"]) > 12 else True)
        if any(l["at_most"] is not None for l in lengths):
            figure.add_scatter(x=keys, y=[l["at_most"] for l in lengths], mode="lines", name="at most" + (f", {name}" if name else ""),
                               line={"color": colour, "dash": "dash", "width": 1.5})
    figure.update_xaxes(type="log", dtick=math.log10(2) * 2, title="keys that the row sees (from the number given to twice as many)",
                        tickformat="d")
    values = [y for trace in figure.data for y in trace.y if y] or [1]
    figure.update_yaxes(type="log", title="survivors of a row and view", dtick="D2" if max(values) < 100 * min(values) else 1,
                        exponentformat="power")
    return finished(figure, 460, legend={"font": {"size": 11}})


def dead_figure(runs):
    figure = go.Figure()
    for n, (name, run) in enumerate(merged(runs)):
        figure.add_scatter(x=[l["keys"] for l in run["all"]["lengths"]], y=[100 * l["dead_rows"] for l in run["all"]["lengths"]],
                           name=name or "all heads", mode="lines+markers", line={"color": COLOURS[n % len(COLOURS)]})
    figure.update_xaxes(type="log", dtick=math.log10(2) * 2, title="keys that the row sees", tickformat="d")
    figure.update_yaxes(title="rows without a survivor, %", range=[0, 102])
    return finished(figure, 320, showlegend=len(runs) > 1, legend={"font": {"size": 11}})


def map_figure(maps):
    """maps: (title, run, cells). Colour is the logarithm of 1 + survivors, so that one survivor can be told from none."""
    columns, gap = 4, 78                               # gap: pixels between rows of maps, for titles of axes and maps
    rows = -(-len(maps) // columns)
    most = max([1] + [cell for _, _, cells in maps for line in cells for cell in line if cell])
    ticks = [10 ** n for n in range(int(math.log10(most)) + 1)]
    _, _, first = maps[0]
    tall = 222 * len(first) / len(first[0])            # cells are square
    plot = rows * tall + (rows - 1) * gap
    figure = make_subplots(rows, columns, subplot_titles=[title for title, _, _ in maps], horizontal_spacing=0.06,
                           vertical_spacing=gap / plot if rows > 1 else 0)
    for n, (_, run, cells) in enumerate(maps):
        side = run["map_side"]
        figure.add_heatmap(row=n // columns + 1, col=n % columns + 1, x0=side / 2, dx=side, y0=side / 2, dy=side,
                           z=[[None if cell is None else math.log10(1 + cell) for cell in line] for line in cells],
                           customdata=cells, hovertemplate="row %{y}, key %{x}: %{customdata} survivors<extra></extra>",
                           coloraxis="coloraxis", hoverongaps=False)
    figure.update_xaxes(showgrid=False, nticks=5, constrain="domain")
    figure.update_yaxes(showgrid=False, nticks=5, autorange="reversed", constrain="domain")
    for n in range(len(maps), rows * columns):
        figure.update_xaxes(row=n // columns + 1, col=n % columns + 1, visible=False)
        figure.update_yaxes(row=n // columns + 1, col=n % columns + 1, visible=False)
    for n in range(len(maps)):
        figure.update_xaxes(row=n // columns + 1, col=n % columns + 1, title={"text": "key", "standoff": 2})
        if n % columns == 0:
            figure.update_yaxes(row=n // columns + 1, col=1, title={"text": "row", "standoff": 2})
    return finished(figure, int(plot) + 124, coloraxis={
        "colorscale": [[0, "#f1f1f1"], [0.001, "#cfe3f3"], [0.4, "#4b93c9"], [0.75, "#14508c"], [1, "#06203f"]],
        "cmin": 0, "cmax": math.log10(1 + most),
        "colorbar": {"title": {"text": "survivors<br>of a cell"}, "tickvals": [math.log10(1 + t) for t in ticks],
                     "ticktext": [f"{t:,}" for t in ticks], "thickness": 12, "lenmode": "pixels",
                     "len": min(260, max(160, plot)), "y": 1, "yanchor": "top"}})


def as_numbers(values):
    try:
        return [float(value) for value in values]
    except ValueError:
        return None


def swept_figure(report, name):
    """The metrics over one swept name; a line for each combination of the others."""
    metrics = [m for m in usable(report, lambda m: [run["all"][m["key"]] for run in report["runs"]]) if m["key"] in SWEPT]
    groups = {}
    for run in report["runs"]:
        others = ", ".join([f"{key} {value}" for key, value in run["settings"].items() if key != name] +
                           ([f"layer {run['layer']}"] if run["several_layers"] else []))
        groups.setdefault(others, []).append(run)
    columns = 3
    rows = -(-len(metrics) // columns)
    figure = make_subplots(rows, columns, subplot_titles=[axis_title(m) for m in metrics], horizontal_spacing=0.08,
                           vertical_spacing=min(0.12, 0.5 / rows))
    for g, (others, runs) in enumerate(groups.items()):
        texts = [run["settings"][name] for run in runs]
        for n, metric in enumerate(metrics):
            figure.add_scatter(row=n // columns + 1, col=n % columns + 1, x=as_numbers(texts) or texts,
                               y=[scaled(metric, run["all"][metric["key"]]) for run in runs], mode="lines+markers",
                               name=others or "all heads", legendgroup=others, showlegend=n == 0 and len(groups) > 1,
                               line={"color": COLOURS[g % len(COLOURS)], "dash": DASHES[g % len(DASHES)]})
    given = as_numbers([run["settings"][name] for run in runs])
    if given and len(given) <= 6:
        figure.update_xaxes(tickvals=given)
    figure.update_xaxes(nticks=6, title={"text": name, "standoff": 4})
    return finished(figure, 250 * rows + 60, legend={"orientation": "h", "y": -70 / (250 * rows + 60), "yanchor": "top"})


def bar_figure(report, names, counts, label):
    """The metrics of heads, or of layers."""
    metrics = [m for m in usable(report, lambda m: [c[m["key"]] for c in counts]) if m["key"] in BARS]
    columns = 3
    rows = -(-len(metrics) // columns)
    figure = make_subplots(rows, columns, subplot_titles=[axis_title(m) for m in metrics], horizontal_spacing=0.08,
                           vertical_spacing=0.16 if rows > 1 else 0)
    for n, metric in enumerate(metrics):
        figure.add_bar(row=n // columns + 1, col=n % columns + 1, x=names, y=[scaled(metric, c[metric["key"]]) for c in counts],
                       marker_color=COLOURS[0], showlegend=False)
    figure.update_xaxes(title={"text": label, "standoff": 4}, type="category", nticks=min(16, len(names)), tickangle=0)
    figure.update_yaxes(rangemode="tozero")
    return finished(figure, 240 * rows + 60)


def tail_figure(figure, run):
    """The share of each head's scores above t, over the bound on it."""
    bounds = [10 ** -(n + 1) for n in range(6)]
    for h, head in enumerate(run["by_head"][:16]):
        for scores in head["scores"]:
            figure.add_scatter(row=1, col=1, x=bounds, y=[share or None for share in scores["share_above_tail"]], mode="lines+markers",
                               name=f"head {h}" + (f", view {scores['view']}" if run["views"] > 1 else ""),
                               line={"width": 1.3}, marker={"size": 4})
    figure.add_scatter(row=1, col=1, x=bounds, y=bounds, mode="lines", name="the bound", line={"color": "#222", "dash": "dash"})
    figure.update_xaxes(row=1, col=1, type="log", autorange="reversed", dtick=1, exponentformat="power",
                        title="bound: exp(-head_dim t\u00b2 / 2)")
    figure.update_yaxes(row=1, col=1, type="log", dtick=1, exponentformat="power", title="share of scores above t")


def consensus_figure(figure, run, col):
    lengths = [l for l in run["all"]["lengths"] if l["rows"]]
    keys = [l["keys"] for l in lengths]
    for name, key, dash, colour in (("counted", "consensus", "solid", COLOURS[0]), ("by chance", "by_chance", "dash", COLOURS[1])):
        figure.add_scatter(row=1, col=col, x=keys, y=[l[key] / l["rows"] or None for l in lengths], mode="lines+markers",
                           name=f"in two views, {name}", line={"color": colour, "dash": dash})
    figure.update_xaxes(row=1, col=col, type="log", dtick=math.log10(2) * 4, tickformat="d", title="keys that the row sees")
    figure.update_yaxes(row=1, col=col, type="log", dtick=1, exponentformat="power", title="pairs of a row that survive in two views")


def theory_figure(run):
    """None where there is nothing to draw: a bound, or views that may agree."""
    bounded = any(l["at_most"] is not None for l in run["all"]["lengths"])
    agree = run["views"] > 1 and run["all"]["consensus"] > 0
    if not bounded and not agree:
        return None
    figure = make_subplots(1, bounded + agree, horizontal_spacing=0.1)
    if bounded:
        tail_figure(figure, run)
    if agree:
        consensus_figure(figure, run, bounded + agree)
    return finished(figure, 420, legend={"font": {"size": 11}})


# ---- the page ----

class Page:
    def __init__(self):
        self.parts, self.has_script = [], False

    def add(self, text):
        self.parts.append(text)

    def section(self, title, text=""):
        self.add(f"<h2>{html.escape(title)}</h2>" + (f"<p class=dim>{html.escape(text)}</p>" if text else ""))

    def figure(self, figure):
        self.add(figure.to_html(full_html=False, include_plotlyjs=not self.has_script, include_mathjax=False,
                                config={"displaylogo": False, "responsive": True, "showSendToCloud": False}))
        self.has_script = True


def add_runs(page, report):
    runs = report["runs"]
    metrics = usable(report, lambda m: [run["all"][m["key"]] for run in runs])
    page.section("Runs" if len(runs) > 1 else "All heads together",
                 "Of all heads together. The titles of columns say what they mean when the mouse rests on them.")
    rows = [[os.path.basename(run["input"] or "") or run["input"] or "drawn at random", str(run["layer"]), *run["settings"].values()] +
            [shown(m, run["all"][m["key"]]) for m in metrics] for run in runs]
    page.add(table([("input",), ("layer",), *((name,) for name in report["sweep"]), *((m["title"], m["help"]) for m in metrics)],
                   rows))


def add_prediction(page, runs):
    """Of each run, the plans that its kernels have."""
    base = runs[0]["prediction"]
    page.section("Predicted time", f"On one {base['device']}, kernels for {base['target']}: a model made from measured rates, "
                 "which docs/explore.md defines. Where nothing like a run was timed, the model extrapolates, and the last column says "
                 "in which respect.")
    rows = [[f"<td class=text>{html.escape(name_of(run) or 'all heads')}</td>", plan, "yes" if run["prediction"]["taken"] == plan else "no",
             f"{times['forward_ms']:.4f}", f"{times['backward_ms']:.4f}", f"<td class=text>{html.escape(times['not_timed'])}</td>"]
            for run in runs for plan, times in run["prediction"]["plans"].items() if times]
    page.add(table([("<th class=text>run</th>",), ("plan",), ("this shape takes it",), ("forward, ms",), ("backward, ms",),
                    ("<th class=text>extrapolated, as nothing was timed with</th>",)], rows))


def add_heads(page, report, run):
    heads = run["by_head"]
    metrics = usable(report, lambda m: [head[m["key"]] for head in heads])
    page.section("By head" + (f": {name_of(run)}" if name_of(run) else ""))
    names = [str(n) for n in range(len(heads))]
    if len(heads) > 1:
        page.figure(bar_figure(report, names, heads, "head"))
    page.add(table([("head",), *((m["title"], m["help"]) for m in metrics)],
                   [[names[n], *(shown(m, head[m["key"]]) for m in metrics)] for n, head in enumerate(heads)]))


def add_maps(page, runs):
    maps = [(f"{'layer ' + str(run['layer']) + ', ' if run['several_layers'] else ''}head {h}", run, head["map"])
            for run in runs for h, head in enumerate(run["by_head"]) if head.get("map") and head["map"][0]]
    if not maps:
        return
    side = runs[0]["map_side"]
    more = f" The first {MOST_MAPS} of {len(maps)} heads are shown." if len(maps) > MOST_MAPS else ""
    page.section("Where pairs survive" + (f": {name_of(runs[0])}" if runs[0]["settings"] else ""),
                 f"Cells of {side} rows and {side} keys; survivors of all views, on a logarithmic scale. Grey: none; white: hidden "
                 f"by the mask.{more}")
    page.figure(map_figure(maps[:MOST_MAPS]))


def add_theory(page, run):
    words = {True: ("yes", "yes"), False: ("no", "no"), None: ("unknown", "\u2013")}
    page.section("What theory assumes" + (f": {name_of(run)}" if name_of(run) else ""),
                 "That an assumption fails says that the theorem does not apply to these tensors, not that the attention is bad.")
    page.add(table([("<th class=text>assumption</th>",), ("holds",), ("<th class=text>why</th>",)],
                   [[f"<td class=text>{html.escape(v['title'])}</td>", f"<td class={words[v['holds']][0]}>{words[v['holds']][1]}</td>",
                     f"<td class=text>{html.escape(v['text'])}</td>"] for v in run["theory"]]))
    figure = theory_figure(run)
    if figure:
        page.figure(figure)


def draw(report):
    runs, page = report["runs"], Page()
    several = len({run["layer"] for run in runs}) > 1
    for run in runs:
        run["several_layers"] = several
    first = [run for run in runs if run["settings"] == runs[0]["settings"]]        # every layer, with the first settings
    base = runs[0]
    page.add(f"<h1>{html.escape(base['spec'])}</h1><p class=dim>{html.escape(report['spec'])}; batch {base['batch']}, heads "
             f"{base['heads']}:{base['kv_heads']}, q_len {base['q_len']}, k_len {base['k_len']}, head_dim {base['head_dim']}, "
             f"{base['views']} view{'s' if base['views'] > 1 else ''}, {base['dtype']}; "
             f"counted on {html.escape(report['device'])}, "
             + ("with measured times" if base["all"].get("forward_ms") is not None else "no measured times, as there was no GPU")
             + (f"; do drawn at random, seed {report['seed']}" if report["drawn_gradient"] else "") + "</p>")
    add_runs(page, report)
    add_prediction(page, runs)
    for name in report["sweep"]:
        if len({run["settings"][name] for run in runs}) > 1:
            page.section(f"Over {name}", "All heads together.")
            page.figure(swept_figure(report, name))
    if several:
        page.section("By layer" + (f": {', '.join(f'{k} {v}' for k, v in base['settings'].items())}" if report["sweep"] else ""))
        page.figure(bar_figure(report, [str(run["layer"]) for run in first], [run["all"] for run in first], "layer"))
    page.section("Survivors by length", "If scores are sub-Gaussian with variance 1 / head_dim, a row has no more survivors than the "
                 "dashed line, however many keys it sees. Lengths without any survivor are left out.")
    page.figure(length_figure(runs if len(runs) <= 12 else first))
    page.figure(dead_figure(runs if len(runs) <= 12 else first))
    add_maps(page, first)
    for run in first[:16]:
        add_heads(page, report, run)
    for run in first[:16]:
        add_theory(page, run)
    return ("<!doctype html>\n<html lang=en><head><meta charset=utf-8><title>" + html.escape(f"{base['spec']}: tdagen explore") +
            "</title>\n<meta http-equiv=Content-Security-Policy content=\"default-src 'none'; script-src 'unsafe-inline'; style-src "
            "'unsafe-inline'; img-src data: blob:\">\n<meta name=viewport content=\"width=device-width\">\n"
            "<link rel=icon href=\"data:,\">\n<style>" + STYLE +
            "</style></head>\n<body>\n" + "\n".join(page.parts) + "\n</body></html>\n")


if __name__ == "__main__" and sys.argv[1:] != ["--check"]:
    sys.stdout.reconfigure(encoding="utf-8")
    sys.stdout.write(draw(json.load(sys.stdin)))
