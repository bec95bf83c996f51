"""The figures: medians, ratios, a table to read and a document for programs."""

import datetime
import json
import os
import statistics

MIB = 1 << 20

# What is to be reached on 2 cores. Nothing fails because of them.
TARGETS = {
    "build_vs_mkosi": 0.25,
    "noop_seconds": 1.0,
    "one_file_seconds": 8.0,
    "uki_mib": 40.0,
    "boot_vs_mkosi": 0.4,
}


def middle(costs):
    """Medians of several runs' costs."""
    return {
        "wall_seconds": round(statistics.median(c.wall for c in costs), 2),
        "cpu_seconds": round(statistics.median(c.cpu for c in costs), 2),
        "peak_memory_mib": round(statistics.median(c.memory for c in costs), 1),
        "wall_seconds_of_each": [round(c.wall, 2) for c in costs],
    }


def middle_boots(times):
    """Medians of several runs' boots: `{what: [(wall, cpu), …]}`."""
    result = {}
    for what, values in times.items():
        result[f"{what}_seconds"] = round(statistics.median(wall for wall, _ in values), 1)
        result[f"{what}_cpu_seconds"] = round(statistics.median(cpu for _, cpu in values), 1)
        result[f"{what}_seconds_of_each"] = [round(wall, 1) for wall, _ in values]
    return result


def file_sizes(path):
    """Length of a file and the room that it takes, in MiB."""
    facts = os.stat(path)
    return {"mib": round(facts.st_size / MIB, 1), "allocated_mib": round(facts.st_blocks * 512 / MIB, 1)}


def machine():
    """What the figures were taken on, without its name."""
    model = "unknown processor"
    with open("/proc/cpuinfo") as file:
        for line in file:
            if line.startswith("model name"):
                model = line.partition(":")[2].strip()
                break
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return {
        "cores": len(os.sched_getaffinity(0)),
        "processor": model,
        "memory_gib": round(memory / 2**30, 1),
        "load_at_start": round(os.getloadavg()[0], 2),
    }


def today():
    """The date, as 2026-11-21."""
    return datetime.datetime.now(datetime.timezone.utc).date().isoformat()


def ratio(part, whole):
    """`part` in units of `whole`."""
    return round(part / whole, 3)


def summary(raw):
    """The keys that are followed over time."""
    build, keys = raw["build"], {}
    for peer in ("mkosi", "mmdebstrap"):
        keys[f"build_vs_{peer}"] = ratio(build["ingot"]["wall_seconds"], build[peer]["wall_seconds"])
    keys["noop_seconds"] = raw["noop"]["wall_seconds"]
    keys["one_file_seconds"] = raw["one_file"]["wall_seconds"]
    keys["uki_mib"] = raw["uki"]["ingot"]
    if "boot" in raw:
        keys["boot_vs_mkosi"] = ratio(raw["boot"]["ingot_login_seconds"], raw["boot"]["mkosi_login_seconds"])
    return keys


def table(document):
    """The figures as a Markdown table that reads well as it is."""
    raw, keys = document["raw"], document
    rows = [["", "ingot", "mkosi", "mmdebstrap", "ingot / mkosi", "ingot / mmdebstrap"]]

    def row(name, values, form):
        cells = [form.format(v) if v is not None else "–" for v in values]
        ratios = [f"{values[0] / v:.2f}" if v else "–" for v in values[1:]]
        rows.append([name, *cells, *ratios])

    build = [raw["build"][who] for who in ("ingot", "mkosi", "mmdebstrap")]
    row("Build, wall time", [b["wall_seconds"] for b in build], "{:.1f} s")
    row("Build, processor time", [b["cpu_seconds"] for b in build], "{:.1f} s")
    row("Build, largest process", [b["peak_memory_mib"] for b in build], "{:.0f} MiB")
    row("Result on disk", [raw["image"][w]["allocated_mib"] for w in ("ingot", "mkosi", "mmdebstrap")], "{:.0f} MiB")
    row("UKI", [raw["uki"]["ingot"], raw["uki"]["mkosi"], None], "{:.1f} MiB")
    if "boot" in raw:
        boot = raw["boot"]
        row("First boot to login", [boot["ingot_login_seconds"], boot["mkosi_login_seconds"], None], "{:.1f} s")
        row(
            "First boot to login, processor time",
            [boot["ingot_login_cpu_seconds"], boot["mkosi_login_cpu_seconds"], None],
            "{:.1f} s",
        )
        row("First boot to joined", [boot["ingot_joined_seconds"], None, None], "{:.1f} s")
    row("Nothing changed", [keys["noop_seconds"], None, None], "{:.2f} s")
    row("One overlay file changed", [keys["one_file_seconds"], None, None], "{:.1f} s")
    widths = [max(len(r[i]) for r in rows) for i in range(len(rows[0]))]
    lines = ["| " + " | ".join(cell.ljust(w) for cell, w in zip(r, widths)) + " |" for r in rows]
    lines.insert(1, "|" + "|".join("-" * (w + 2) for w in widths) + "|")
    return "\n".join(lines)


def notes(document):
    """What one must know to read the table."""
    m = document["machine"]
    v = document["versions"]
    return (
        f"{document['date']}, {m['cores']} cores ({m['processor']}), {m['memory_gib']} GiB of memory, load"
        f" {m['load_at_start']} at the start; {document['base']}, {document['packages']} packages; mkosi {v['mkosi']},"
        f" mmdebstrap {v['mmdebstrap']}; median of {document['runs']}. mmdebstrap makes a tarball of the root and nothing"
        " that boots. Boots are on translated processors (TCG)."
    )


def targets(document):
    """One line for each target that is missed."""
    return [f"{k} is {document[k]}, to reach {t}" for k, t in TARGETS.items() if document.get(k, 0) > t]


def read(path):
    """A document of JSON."""
    with open(path) as file:
        return json.load(file)


def write(path, document):
    """The document as JSON."""
    with open(path, "w") as file:
        json.dump(document, file, indent=2)
        file.write("\n")
