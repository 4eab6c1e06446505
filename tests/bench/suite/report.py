"""What was measured: a table for people, JSON lines for programs, plots."""
import contextlib
import json
import os
import shutil
import statistics
import subprocess

PLOT_STYLES = {
    "cdf": "set logscale x\nset yrange [0:1]\nset key right bottom\n",
    "lines": "set yrange [0:*]\nset key left top\n",
}


def spread(ratios):
    """Half the distance between the quartiles (of few rounds: between the extremes) as a share of the median."""
    if len(ratios) < 2:
        return 0.0
    if len(ratios) < 5:
        low, high = min(ratios), max(ratios)
    else:
        low, _, high = statistics.quantiles(ratios, n=4)
    middle = statistics.median(ratios)
    return (high - low) / 2 / middle if middle else 0.0


def figure(value):
    if value is None:
        return ""
    if value == 0 or abs(value) >= 1000:
        return f"{value:.0f}"
    return f"{value:.3g}" if abs(value) < 100 else f"{value:.0f}"


class Report:
    def __init__(self, directory, conditions):
        self.dir = directory
        self.common = conditions
        self.rows = []
        self.notes = []
        self.plots = {}
        os.makedirs(directory, exist_ok=True)
        self.file = open(os.path.join(directory, "results.jsonl"), "w", encoding="utf-8")

    def add(self, name, unit, values, peer=None, peer_values=None, goal=None, better="higher", pooled=None, **conditions):
        """One figure: a value a round, and the peer's of the same rounds. goal is for the ratio, or for the value if there is no peer.
        pooled: the value and the peer's over all rounds together, where they say more than medians, as for the tail of a distribution."""
        ratios = [a / b for a, b in zip(values, peer_values) if b] if peer_values else []
        middle = statistics.median
        row = {
            "name": name, "value": pooled[0] if pooled else middle(values), "unit": unit, "peer": peer,
            "peer_value": pooled[1] if pooled else middle(peer_values) if peer_values else None,
            "ratio": pooled[0] / pooled[1] if pooled else middle(ratios) if ratios else None,
            "spread": spread(ratios or values), "goal": goal, "better": better,
            "rounds": len(values), "conditions": {**self.common, **conditions},
        }
        reached = row["ratio"] if ratios else row["value"]
        row["met"] = None if goal is None else bool(reached >= goal if better == "higher" else reached <= goal)
        self.rows.append(row)
        self.file.write(json.dumps(row) + "\n")
        self.file.flush()
        print("  " + self.line(row), flush=True)

    def note(self, name, kind, text):
        """A case that was skipped, or failed."""
        self.notes.append((name, kind, text))
        self.file.write(json.dumps({"name": name, kind: text}) + "\n")
        self.file.flush()
        print(f"  {name}: {kind}: {text}", flush=True)

    @staticmethod
    def line(row):
        text = f"{row['name']}: {figure(row['value'])} {row['unit']}"
        if row["peer"]:
            text += f", {row['peer']} {figure(row['peer_value'])}: {row['ratio']:.3f} of it"
        return text

    # --- plots ---

    def plot(self, name, title, xlabel, ylabel, style, label, points):
        plot = self.plots.setdefault(name, {"title": title, "x": xlabel, "y": ylabel, "style": style, "curves": []})
        plot["curves"].append((label, points))

    def plot_latency(self, name, title, label, histogram):
        total, seen, points = sum(count for _, count in histogram), 0, []
        for ns, count in histogram:
            seen += count
            points.append((ns / 1000, seen / total))
        self.plot(name, title, "microseconds", "share of the faults", "cdf", label, points)

    def write_plots(self):
        for name, plot in self.plots.items():
            base = os.path.join(self.dir, name)
            with open(base + ".dat", "w", encoding="utf-8") as file:
                for label, points in plot["curves"]:
                    file.write(f'"{label}"\n' + "".join(f"{x} {y}\n" for x, y in points) + "\n\n")
            script = f'set title "{plot["title"]}"\nset xlabel "{plot["x"]}"\nset ylabel "{plot["y"]}"\nset grid\n'
            script += PLOT_STYLES[plot["style"]]
            marks = "steps" if plot["style"] == "cdf" else "linespoints pointsize 0.5"
            curves = ", ".join(f'"{base}.dat" index {i} using 1:2 with {marks} linewidth 2 title columnheader(1)'
                               for i in range(len(plot["curves"])))
            for terminal, end in (("pngcairo size 900,600", "png"), ("svg size 900,600 dynamic", "svg")):
                script += f'set terminal {terminal}\nset output "{base}.{end}"\nplot {curves}\n'
            with open(base + ".gp", "w", encoding="utf-8") as file:
                file.write(script)
            if shutil.which("gnuplot"):
                subprocess.run(["gnuplot", base + ".gp"], check=False)

    # --- the table ---

    @staticmethod
    def verdict(row):
        if row["goal"] is None:
            return "", ""
        sign = ">=" if row["better"] == "higher" else "<="
        return f"{sign} {row['goal']:g}", "ok" if row["met"] else "MISSED"

    def table(self):
        lines = [("figure", "tierfs", "unit", "peer", "its value", "ratio", "+-", "goal", "")]
        for row in self.rows:
            lines.append((row["name"], figure(row["value"]), row["unit"], row["peer"] or "", figure(row["peer_value"]),
                          f"{row['ratio']:.3f}" if row["ratio"] is not None else "", f"{100 * row['spread']:.0f} %",
                          *self.verdict(row)))
        widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
        right = {1, 4, 5, 6}
        text = ""
        for line in lines:
            text += "  ".join(cell.rjust(width) if i in right else cell.ljust(width)
                              for i, (cell, width) in enumerate(zip(line, widths))).rstrip() + "\n"
        return text + "".join(f"{name}: {kind}: {why}\n" for name, kind, why in self.notes)

    def close(self):
        with contextlib.suppress(OSError):
            self.file.close()
        self.write_plots()
        with open(os.path.join(self.dir, "table.txt"), "w", encoding="utf-8") as file:
            file.write(self.table())
        print("\n" + self.table(), end="")
