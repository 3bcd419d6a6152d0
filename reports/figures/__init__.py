"""The figures of a report: one ordered registry; a caller may pass its own entries beside or instead."""

from __future__ import annotations

from reports.figures import ablation, anatomy, curves, heatmaps, pareto, ranks, seeds
from reports.figures.style import FigureEntry

POINTS = (
    "Up and left is better. Each point is a method; vertical bars are the 95 % t-interval over seeds and are cut where "
    "they leave the panel. The dashed line is the Pareto front: methods that no other beats in both."
)

FIGURES: tuple[FigureEntry, ...] = (
    FigureEntry(
        "pareto",
        "Accuracy against measured latency",
        f"{POINTS} Time is relative to the teacher's in the same process (1, the grey line); horizontal bars are the "
        "95 % interval of that ratio.",
        pareto.drawing(pareto.relative_time, "time relative to the teacher"),
    ),
    FigureEntry(
        "pareto-multiply-adds",
        "Accuracy against multiply-adds",
        f"{POINTS} One fused multiply-add counts as one; compare with the measured latency before believing it.",
        pareto.drawing(pareto.multiply_adds, "multiply-adds (G)"),
    ),
    FigureEntry(
        "pareto-memory",
        "Accuracy against memory",
        f"{POINTS} Peak memory of inference under the conditions of the timing.",
        pareto.drawing(pareto.peak_memory, "peak memory of inference (MB)"),
    ),
    FigureEntry(
        "retained",
        "Retained score",
        "Score in per cent of the teacher's at the same seed, mean over seeds; a dash stands where there is none.",
        heatmaps.draw_retained,
    ),
    FigureEntry(
        "seeds",
        "Spread over seeds",
        "Every dot is a seed; the tick is the mean and the line its 95 % t-interval.",
        seeds.draw,
    ),
    FigureEntry(
        "speedup",
        "Speed-up over batch and length",
        "Teacher's time over the method's, measured side by side. A white dot marks where the teacher takes less than "
        "1.25 times as long for the next larger batch or length: launches bind it there, not arithmetic. At most "
        "twelve grids, the largest first; the latency table has all.",
        heatmaps.draw_speedups,
    ),
    FigureEntry(
        "ablation",
        "One knob at a time",
        "Main score as one knob moves and all others stay, with the 95 % t-interval over seeds.",
        ablation.draw,
    ),
    FigureEntry(
        "anatomy",
        "What the experts learned",
        "A square is an expert. Load: share of the tokens. Distance: how far its weights moved from the teacher's "
        "neurons. CKA: how alike it is to its siblings on the same tokens. Lift: of the label that it serves farthest "
        "from chance. Drop and other predictions: when a sibling takes its tokens. A white dot marks what is not noise "
        "at 5 %, corrected as in the tables.",
        anatomy.draw,
    ),
    FigureEntry(
        "ranks",
        "Average ranks",
        "Students that finished every task, by average rank (1 is best). A bar joins those whose ranks lie closer than "
        "the critical difference of Nemenyi's test at 5 %.",
        ranks.draw,
    ),
    FigureEntry(
        "training",
        "Training curves",
        "Weighted sum of the loss terms over the steps, one line a seed, or their mean where there are many. Methods "
        "minimise different losses: compare the shape, not the height. A dotted line is where the next stage begins "
        "with a fresh schedule.",
        curves.draw,
    ),
)
