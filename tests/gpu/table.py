"""Sums up the folder that run.sh has written as RESULTS/gpu.md: the machine, each part's outcome, images/s beside PyTorch.

    python3 table.py RESULTS
"""
import json
import pathlib
import re
import sys

VARIANTS = ("published", "tuned", "compiled")
PEAK = {"H100": 989, "H200": 989, "A100": 312}   # TFLOP/s in bf16 on tensor cores, dense, by the data sheets


def text(path):
    return path.read_text(errors="replace") if path.exists() else ""


def records(path):
    """The lines of a file that are JSON objects."""
    found = []
    for line in text(path).splitlines():
        try:
            value = json.loads(line)
        except ValueError:
            continue
        if isinstance(value, dict) and value.get("images_per_s"):
            found.append(value)
    return found


def machine(about):
    kept = re.findall(r"^(?:date|program|built|machine|gpu|device|pytorch): .*$", about, re.M)
    return "\n".join("- " + line for line in kept) or "- nothing is known of the machine: the part `about` did not run"


def outcomes(summary):
    rows = ["| part | outcome | its last line |", "|---|---|---|"]
    for line in summary.splitlines():
        m = re.match(r"(\w+)\s+(ok|skipped|FAILED[^,]*|NOT RUN[^,]*)(?:, (\d+) s: (.*))?$", line)
        if m:
            took = f", {m[3]} s" if m[3] else ""
            rows.append(f"| {m[1]} | {m[2]}{took} | {(m[4] or '').replace('|', '/')} |")
    return "\n".join(rows)


def speeds(folder, about):
    ours, peers = records(folder / "step.txt"), {}
    for r in records(folder / "peer.txt"):
        peers[r["arch"], r["variant"]] = r["images_per_s"]
    if not ours:
        return "No step was measured."
    name = re.search(r"^device: (.*)$", about, re.M)
    peak = next((v for k, v in PEAK.items() if name and k in name[1]), None)
    head = "PyTorch published | ratio | tuned | ratio | compiled | ratio"
    rows = [f"| model | images/s | {f'of {peak} TFLOP/s' if peak else 'TFLOP/s'} | {head} |", "|" + "---|" * 9]
    for r in ours:
        tera = r["images_per_s"] * r["gflop_per_image"] * 1e-3
        cells = [f"{r['arch']}/{r['patch']}, batch {r['batch']}", f"{r['images_per_s']:.1f}",
                 f"{tera / peak:.1%}" if peak else f"{tera:.1f}"]
        for variant in VARIANTS:
            other = peers.get((r["arch"], variant))
            cells += [f"{other:.1f}", f"{r['images_per_s'] / other:.2f}"] if other else ["not measured", ""]
        rows.append("| " + " | ".join(cells) + " |")
    return "\n".join(rows)


def main():
    folder = pathlib.Path(sys.argv[1])
    about = text(folder / "about.txt")
    (folder / "gpu.md").write_text(
        f"# On a GPU\nWritten by `tests/gpu/run.sh` on the machine below.\n\n{machine(about)}\n\n"
        f"{outcomes(text(folder / 'summary.txt'))}\n\n"
        f"Training step, 224 pixels, predictor 12 x 384, bf16; PyTorch on the same GPU in the same session.\n\n"
        f"{speeds(folder, about)}\n")


if __name__ == "__main__":
    main()
