"""Every seed a dot: how far a score moves when nothing but chance changes."""

from __future__ import annotations

from matplotlib.figure import Figure

from reports.figures.style import INK, heading, marks, panels, short
from reports.outcomes import labels, main_score, outcomes, tasks
from reports.statistics import mean_interval
from results.frame import Frame


def draw(frame: Frame) -> Figure | None:
    """Draw a panel a task, a row a method; None where no method has two seeds."""
    names = [
        task for task in tasks(frame) if any(len(one.scores) > 1 for one in outcomes(frame, task).values())
    ]
    if not names:
        return None
    shown = labels(frame)
    figure, axes = panels(len(names), height=0.8 + 0.19 * len(shown), columns=2)
    styles = marks(frame)
    for number, (axis, task) in enumerate(zip(axes, names, strict=True)):
        found = outcomes(frame, task)
        places = {label: place for place, label in enumerate(shown) if found[label].scores}
        means = {
            label: mean_interval([100 * value for value in found[label].scores.values()]) for label in places
        }
        spread = [(label, one) for label, one in means.items() if one.low is not None]
        axis.hlines([places[label] for label, _ in spread], [one.low for _, one in spread],
                    [one.high for _, one in spread], color=INK, linewidth=0.8)  # fmt: skip
        axis.scatter([one.mean for one in means.values()], list(places.values()), marker="|", s=60, color=INK)
        dots = [(100 * value, label) for label in places for value in found[label].scores.values()]
        axis.scatter(
            [score for score, _ in dots],
            [places[label] for _, label in dots],
            s=14,
            color=[styles[label].colour for _, label in dots],
            alpha=0.8,
            linewidths=0,
        )
        axis.set_yticks(range(len(shown)), [short(label) for label in shown])
        axis.set_ylim(len(shown) - 0.5, -0.5)
        axis.set_title(heading(task, 40))
        axis.set_xlabel(f"{main_score(frame, task)} × 100")
        axis.tick_params(labelleft=number % 2 == 0)
    return figure
