"""What run.py measured, as a document for JSON, as tables in Markdown, as two plots in SVG.

`document` gathers; `markdown` and `plots` only show what stands in it. Medians are over the rounds;
a ratio is the median of the rounds' ratios, and a round counts in it when both servers did it.
"""
import html, os, platform, statistics

median = statistics.median


def document(bench, servers, workloads, promise, began):
    whole = {
        "machine": {"kernel": platform.release(), "cpu": cpu_model(), "cores": os.cpu_count(),
                    "load": [round(began, 1), round(os.getloadavg()[0], 1)]},
        "options": {name: getattr(bench.args, name) for name in ("rounds", "duration", "cores")},
        "workloads": {name: workloads[name][0] for name in bench.args.workloads},
        "servers": [{"name": s.name, "version": s.version, "means": s.means, "settings": s.settings,
                     "syncs": bench.durable.get(s.name)} for s in servers],
        "absent": bench.absent, "failed": bench.failed,
        "turns": {w: {s.name: bench.figures[s.name, w] for s in servers
                      if (s.name, w) in bench.figures} for w in bench.args.workloads},
        "promise": {},
    }
    for workload, promised in promise.items():
        if (times := ratio(whole["turns"].get(workload, {}), "postfix")) is not None:
            whole["promise"][workload] = {
                "promised": promised, "measured": round(times, 1), "holds": times >= promised}
    return whole


def cpu_model():
    for line in open("/proc/cpuinfo"):
        if line.startswith("model name"):
            return line.split(":")[1].strip()
    return platform.machine()


def ratio(turns, name):
    """The CPU of a server for a message, in that of the engine."""
    engine = {turn["round"]: turn["cpu_us"] for turn in turns.get("engine", [])}
    ratios = [turn["cpu_us"] / engine[turn["round"]] for turn in turns.get(name, [])
              if turn["round"] in engine]
    return median(ratios) if ratios else None


def middle(turns, figure, unit=1, digits=0):
    values = [turn[figure] for turn in turns if turn[figure] is not None]
    return f"{median(values) / unit:,.{digits}f}" if values else "-"


def not_durable(syncs):
    return bool(syncs) and syncs.get("alone") == 0


def durability(syncs):
    """What was seen of the disk before a 250, and for each message of W1 and W2."""
    if not syncs:
        return "failed", "-", "-"
    if "why" in syncs:
        return f"not counted: {syncs['why']}", "-", "-"
    alone = "0: **not durable**" if not_durable(syncs) else str(syncs["alone"])
    return alone, f"{syncs['W1']:.2f}", f"{syncs['W2']:.2f}"


def markdown(whole):
    machine, options = whole["machine"], whole["options"]
    load = " at the beginning, ".join(str(load) for load in machine["load"])
    lines = [f"{machine['cores']} cores, {machine['cpu']}, Linux {machine['kernel']}; "
             f"load {load} at the end; {options['rounds']} rounds of {options['duration']:g} s, "
             f"{options['cores']} cores for the engine.", ""]
    for workload, title in whole["workloads"].items():
        turns = whole["turns"][workload]
        lines += [f"{workload}, {title}:", "",
                  "| server | µs of CPU a message | times the engine's | kernel threads, µs "
                  "| messages/s | p50, ms | p99, ms | MB |", "|---|---|---|---|---|---|---|---|"]
        for server in whole["servers"]:
            name = server["name"]
            if mine := turns.get(name):
                times = ratio(turns, name)
                lines.append(
                    f"| {name} | {middle(mine, 'cpu_us')} | "
                    f"{'-' if times is None else f'{times:.1f}'} | {middle(mine, 'kernel_us')} | "
                    f"{middle(mine, 'rate')} | {middle(mine, 'p50_us', 1e3, 1)} | "
                    f"{middle(mine, 'p99_us', 1e3, 1)} | {middle(mine, 'memory', 1e6)} |")
            else:
                why = "failed" if name not in turns else "does not offer it"
                lines.append(f"| {name} | {why} | - | - | - | - | - | - |")
        lines.append("")
    lines += ["| server | version | its 250 means | syncs before it, one message alone | "
              "syncs a message, W1 and W2 |", "|---|---|---|---|---|"]
    for server in whole["servers"]:
        alone, once, kept = durability(server["syncs"])
        lines.append(f"| {server['name']} | {server['version']} | {server['means']} | {alone} | "
                     f"{once}, {kept} |")
    lines += ["", "How each was set up:", ""]
    lines += [f"* {server['name']}: {server['settings']}." for server in whole["servers"]]
    lines += ["", "Not measured:", ""]
    lines += [f"* {name}: {why}." for name, why in whole["absent"].items()]
    if whole["failed"]:
        lines += ["", "Failed:", ""] + [f"* {what}: {why}" for what, why in whole["failed"].items()]
    lines.append("")
    for workload, held in whole["promise"].items():
        lines.append(
            f"Promise, {workload}: postfix at least {held['promised']} times the engine's CPU; "
            f"measured {held['measured']}, {'holds' if held['holds'] else 'does **not** hold'}.")
    return "\n".join(lines) + "\n"


# ---- plots ----------------------------------------------------------------------------------------

STYLE = """
text { font: 13px sans-serif; fill: #24292f } .title { font-weight: bold } .bar { fill: #9aa4b2 }
.own { fill: #2f6fde }
@media (prefers-color-scheme: dark) {
text { fill: #e6edf3 } .bar { fill: #6e7a8a } .own { fill: #6ea8ff }
}
"""
WIDTH, NAMES, VALUES, ROW = 760, 130, 140, 20


def plots(whole, folder):
    for file, figure, title in (("peers-cpu", "cpu_us", "µs of CPU a message, less is better"),
                                ("peers-rate", "rate", "messages/s, more is better")):
        with open(os.path.join(folder, f"{file}.svg"), "w") as out:
            out.write(bars(whole, figure, title))


def bars(whole, figure, title):
    """A group of bars for each workload, each with a scale of its own."""
    shapes, y = [], 10
    marks = {s["name"]: ", not durable" for s in whole["servers"] if not_durable(s["syncs"])}
    for workload, what in whole["workloads"].items():
        values = {name: median(turn[figure] for turn in turns)
                  for name, turns in whole["turns"][workload].items() if turns}
        y += ROW
        shapes.append(f'<text class="title" x="0" y="{y}">{workload}: {what}; {title}</text>')
        y += 8
        for name, value in values.items():
            width = max(1, (WIDTH - NAMES - VALUES) * value / max(values.values()))
            own = "own" if name == "engine" else "bar"
            shapes.append(f'<text x="{NAMES - 8}" y="{y + 14}" text-anchor="end">'
                          f'{html.escape(name)}</text>')
            shapes.append(f'<rect class="{own}" x="{NAMES}" y="{y + 3}" '
                          f'width="{width:.1f}" height="{ROW - 6}"/>')
            shapes.append(f'<text x="{NAMES + width + 6:.1f}" y="{y + 14}">{value:,.0f}'
                          f'{marks.get(name, "")}</text>')
            y += ROW
        y += 12
    return (f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{y}" '
            f'viewBox="0 0 {WIDTH} {y}" role="img">\n<title>{title}</title>\n<style>{STYLE}</style>\n'
            + "\n".join(shapes) + "\n</svg>\n")
