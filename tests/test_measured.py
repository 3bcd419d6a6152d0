"""What the documents of performance say by hand is what the benchmarks printed and the latency grid recorded."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from itertools import takewhile
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

ROOT = Path(__file__).parent.parent
GPU, PERFORMANCE = (
    (ROOT / "docs" / name).read_text(encoding="utf-8") for name in ("gpu.md", "performance.md")
)
LAYERS, HIDDEN, INTERMEDIATE, EXPERT = 12, 768, 3072, 768  # BERT-base, and a quarter of its network
NUMBER = re.compile(r"\d[\d,]*(?:\.\d+)?")


def printed(name: str) -> str:
    return (ROOT / "benchmarks" / "measured" / name).read_text(encoding="utf-8")


def documents(name: str) -> list[dict[str, Any]]:
    """Return the JSON document that ends each command's output."""
    return [json.loads(line) for line in printed(name).splitlines() if line.startswith('{"benchmark"')]


def table(text: str, after: str) -> list[list[str]]:
    """Return the cells of the first table after a text."""
    lines = text[text.index(after) :].splitlines()
    rule = next(number for number, line in enumerate(lines) if line.startswith("| ---"))
    rows = takewhile(lambda line: line.startswith("|"), lines[rule + 1 :])
    return [[cell.strip() for cell in row[1:-1].split("|")] for row in rows]


def said_as(said: Iterable[str], measured: Iterable[float | None], slack: float = 0.0) -> None:
    """Compare the first number of each text with what was measured, to the last digit that is said."""
    for text, value in zip(said, measured, strict=True):
        found = NUMBER.findall(text)
        if value is None:
            assert found == [], text
            continue
        number = found[0].replace(",", "")
        half = 0.5 * 10 ** -len(number.partition(".")[2])
        assert abs(float(number) - value) <= half + slack + 1e-9, f"{text!r} is said, {value} was measured"


@pytest.fixture(scope="module")
def models() -> dict[str, dict[str, Any]]:
    """Whole models under `lean`, by the last of the benchmark's outputs."""
    return {row["point"]: row for row in documents("lean_encoder-h100.txt")[-1]["rows"]}


def test_whole_models(models: dict[str, dict[str, Any]]) -> None:
    rows = table(PERFORMANCE, "| batch × length | eager | dense | hash |")
    assert [row[0].replace(" × ", "x") for row in rows] == list(models)
    for (_, *cells), model in zip(rows, models.values(), strict=True):
        names = "eager", "lean", "hash-random", "gate-token", "gate-sentence"
        ratios = "best dense / hash-random", "eager / hash-random", "loop / hash-random"
        said_as(
            cells, [model["ms"][name] for name in names] + [model["ratios"].get(ratio) for ratio in ratios]
        )


def test_what_whole_models_were_to_reach(models: dict[str, dict[str, Any]]) -> None:
    text = PERFORMANCE[PERFORMANCE.index("### Whole models") :]
    dense, eager, slowest, loop = [row[1] for row in table(text, "| to reach | measured |")]
    ratios = {point: model["ratios"] for point, model in models.items()}
    for said, ratio, target in (
        (dense, "best dense / hash-random", 1.6),
        (eager, "eager / hash-random", 2.1),
    ):
        found = dict(reversed(pair) for pair in re.findall(r"([\d.]+) at (\d+ × \d+)", said))
        points = {point: ratios[point.replace(" × ", "x")][ratio] for point in found}
        assert set(points) == {"128 × 128", "512 × 128"}
        said_as(found.values(), points.values())
        assert ("missed" in said) == (min(points.values()) < target)
    over_dense = [row["best dense / hash-random"] for row in ratios.values()]
    said_as(NUMBER.findall(slowest)[:2], [min(over_dense), max(over_dense)])
    said_as(NUMBER.findall(loop)[:2], [ratios[point]["loop / hash-random"] for point in ("1x128", "8x128")])


def by_part(kernels: dict[str, float]) -> dict[str, float]:
    """Add up microseconds by the rows of the table of kernels."""
    parts = dict.fromkeys(
        ["queries", "attention", "products", "output", "norm", "experts' norm", "rest"], 0.0
    )
    widest = max(
        (name for name in kernels if name.startswith("nvjet") and "bias" in name), key=kernels.__getitem__
    )
    names = {
        widest: "queries",
        "product_kernel": "products",
        "add_norm_kernel": "norm",
        "expert_norm_kernel": "experts' norm",
    }
    for name, microseconds in kernels.items():
        if name.startswith("nvjet") and "bias" not in name:
            parts["output"] += microseconds
        elif name.startswith("cudnn"):
            parts["attention"] += microseconds
        elif name != "(between kernels)":
            parts[names.get(name, "rest")] += microseconds
    return parts


def work(tokens: int, part: str, *, dense: bool) -> float | None:
    """Return the floating-point operations or bytes of a part, all layers together."""
    product, norm = 2.0 * tokens * HIDDEN * LAYERS, 3 * 2.0 * tokens * HIDDEN * LAYERS
    return {
        "queries": product * 3 * HIDDEN,
        "products": product * (INTERMEDIATE if dense else 2 * EXPERT),
        "output": product * (HIDDEN + (INTERMEDIATE if dense else 0)),
        "norm": norm * (2 if dense else 1),
        "experts' norm": norm,
    }.get(part)


@pytest.mark.parametrize(("point", "column", "unit"), [("128x128", 1, 1.0), ("512x128", 4, 1e-3)])
def test_kernels_of_whole_models(
    models: dict[str, dict[str, Any]], point: str, column: int, unit: float
) -> None:
    _, *rows, together = table(PERFORMANCE, "Calls by kernel, all layers together")
    queries, attention, dense_product, experts, output, norm, expert_norm, rest = rows
    dense, moebert = (by_part(models[point]["kernels_us"][name]) for name in ("lean", "hash-random"))
    both, moebert_only = [dense, moebert], [moebert]
    told = [
        (queries, "queries", both),
        (attention, "attention", both),
        (dense_product, "products", [dense]),
        (experts, "products", moebert_only),
        (output, "output", both),
        (norm, "norm", both),
        (expert_norm, "experts' norm", moebert_only),
        (rest, "rest", both),
    ]
    for row, part, sides in told:
        said_as(filter(None, row[column : column + 2]), [side[part] * unit for side in sides])
        amounts = [work(models[point]["tokens"], part, dense=side is dense) for side in sides]
        rates = [
            amount / side[part] / 1e6
            for amount, side in zip(amounts, sides, strict=True)
            if amount is not None
        ]
        said = NUMBER.findall(row[column + 2])
        said_as(said * (len(rates) // max(len(said), 1)), rates)  # said once where both are alike
    sums = [sum(parts.values()) for parts in (dense, moebert)]
    said_as(together[column : column + 3], [sums[0] * unit, sums[1] * unit, sums[0] / sums[1]])


def test_products_of_many_rows() -> None:
    (found,) = documents("product_tiles-h100.txt")
    measured = {(row["what"], row["tokens"]): row["us"] for row in found["rows"]}
    tokens = [256, 512, 1024, 2048, 4096, 8192, 16384, 65536]
    rows = table(PERFORMANCE, "| | 256 | 512 | 1,024 |")
    for (first, second), what in zip(
        zip(rows[::2], rows[1::2], strict=True), ["experts", "dense, BERT-base", "dense, MiniLM"], strict=True
    ):
        assert first[0].startswith(what)
        apart = "gathered" if what == "experts" else "apart"
        said_as(first[1:], [measured[what, count][apart] for count in tokens])
        if what == "experts":
            cuts = [[us for name, us in measured[what, count].items() if name != apart] for count in tokens]
            said_as(second[1:], map(min, cuts))
        else:  # the one cut that is used
            said_as(second[1:], [measured[what, count]["128x128x64 w8 s3"] for count in tokens])


def test_one_feed_forward_layer() -> None:
    lines = re.findall(
        r"^(BERT-base|MiniLM) +(\d+) tokens (inference|training) ?:(.*)$",
        printed("fused_ffn-h100.txt"),
        re.MULTILINE,
    )
    measured: dict[tuple[str, str, int], list[float]] = {}
    for shape, tokens, kind, said in lines:  # the first of two commands
        times = [float(text) for text in re.findall(r"([\d.]+) ms", said)]
        rates = re.findall(r"\((\d+) TFLOP", said)
        measured.setdefault((shape, kind, int(tokens)), [*times, times[1] / times[3], float(rates[3])])
    checked = 0
    for shape, kind in {(shape, kind) for shape, kind, _ in measured}:
        for tokens, *cells in table(PERFORMANCE, f"**{shape}, {kind}**"):
            *times, ratio, rate = measured[shape, kind, int(tokens.replace(",", ""))]
            said_as([*cells[:4], cells[5]], [*times, rate])
            said_as([cells[4]], [ratio], slack=0.005)  # of times that were rounded to be printed
            checked += 1
    assert checked == len(measured) == 24


def test_one_cpu_thread() -> None:
    lines = re.findall(
        r"^ *(\d+) x +(\d+): dense +([\d.]+) ms, MoEBERT +([\d.]+) ms, ([\d.]+) .* bound ([\d.]+), to reach ([\d.]+)",
        printed("moebert_cpu.txt"),
        re.MULTILINE,
    )
    measured: dict[str, list[float]] = {}
    for batch, length, *values in lines:
        measured.setdefault(f"{batch} × {length}", [float(value) for value in values])
    rows = table(PERFORMANCE, "## On one CPU thread")
    assert [row[0] for row in rows] == list(measured)
    for point, *cells in rows:
        said_as(cells, measured[point])
        assert ("missed" in cells[-1]) == (measured[point][2] < measured[point][4])


def test_cells_side_by_side() -> None:
    six, four, twelve = (
        [run["seconds"][way] for way in ("one at a time", "four side by side")]
        for run in documents("packing-h100.txt")
    )
    rows = table(GPU, "| | one at a time | four side by side |")
    spans = [[side["whole"] for side in six]] + [
        [side["students"] for side in run] for run in (six, four, twelve)
    ]
    assert len(rows) == len(spans)
    for (_, *cells, target), (alone, packed) in zip(rows, spans, strict=True):
        said_as(cells, [alone, packed, alone / packed])
        reached = packed <= 240 if "seconds" in target else alone / packed >= 1.8
        assert reached == ("missed" not in target)


def test_a_training_step() -> None:
    run = next(run for run in documents("training_step-h100.txt") if run["task"] == "sst2")
    rows = table(GPU, "| step | captured | eager |")
    for (_, *cells), step in zip(rows, run["steps"].values(), strict=True):
        said_as(cells, step["ms"].values())
        ratios = [re.findall(r"\((.*)\)", cell)[0] for cell in cells[1:]]
        said_as(ratios, list(step["over_captured"].values())[1:])


class Grid:
    """Speed-ups of the latency grid."""

    def __init__(self) -> None:
        timings = pd.read_csv(ROOT / "reports" / "gallery" / "h100-latency" / "timings.csv")
        self.timings = timings.assign(tokens=timings.batch_size * timings.length)

    def of(self, runtime: str, dtype: str, method: str, condition: str = "speedup > 0") -> pd.Series:
        """Return the speed-ups of a method by workload."""
        rows = self.timings.query("runtime == @runtime and dtype == @dtype").query(condition)
        return rows[rows.label.str.contains(method, regex=False)].set_index("workload").speedup


@pytest.fixture(scope="module")
def grid() -> Grid:
    return Grid()


def words_after(start: str) -> str:
    """Return what follows a text in the document, in one line."""
    return " ".join(GPU[GPU.index(start) + len(start) :].split())


def test_the_grid_under_lean(grid: Grid) -> None:
    said = words_after("is nowhere measurably slower than its dense teacher**:")
    pattern = (
        r"between ([\d.]+) times .*? and ([\d.]+) \(512 × 128\); from 16,384 tokens of equal lengths on ([\d.]+) to "
        r"([\d.]+)\. "
        r"A token gate .*?\(([\d.]+) to ([\d.]+)\) and a sentence gate up to about 4,000 \(([\d.]+) to ([\d.]+)\)"
        r".*? Half of the layers are ([\d.]+) to ([\d.]+) .*? Half of the heads and neurons are ([\d.]+) to ([\d.]+) "
    )
    found = re.search(pattern, said)
    assert found, said
    hashes = grid.of("lean", "bf16", "hash-")
    many = grid.of("lean", "bf16", "hash-", "tokens >= 16384")
    gates = [grid.of("lean", "bf16", f"gate-{gate}") for gate in ("token", "sentence")]
    layers, heads = (grid.of("lean", "bf16", name) for name in ("finetune", "prune-structured"))
    assert hashes.idxmax() == "512x128"
    ranges = [hashes, many, *(gate[gate < 1] for gate in gates), layers, heads]
    said_as(found.groups(), [edge for values in ranges for edge in (values.min(), values.max())])
    slower = grid.timings.query("runtime == 'lean' and dtype == 'bf16' and speedup_high < 1")
    assert not slower.label.str.contains("hash-").any()


def test_the_grid_by_other_runtimes(grid: Grid) -> None:
    said = words_after("**How a model is run decides more than what it is.**")
    found = re.search(
        r"all six points \(([\d.]+) to ([\d.]+)\).*? is ([\d.]+) \(1 × 16\) to ([\d.]+) times \(128 × 128\)",
        said,
    )
    assert found, said
    eager, compiled = (grid.of(runtime, "bf16", "hash-random") for runtime in ("eager", "compiled"))
    assert len(eager) == len(compiled) == 6
    said_as(found.groups(), [eager.min(), eager.max(), compiled["1x16"], compiled["128x128"]])
    assert compiled["1x16"] == compiled.min()
    assert grid.of("cuda-graph", "bf16", "hash-random").min() > 1
    tf32, fp32 = (grid.of("lean", dtype, "hash-random") for dtype in ("tf32", "fp32"))
    assert tf32.max() < 1
    assert set(fp32[fp32 < 1].index) == {"1x16", "1x128", "8x128"}
