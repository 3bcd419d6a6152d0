"""Figures say what the records say: fronts, ranks, sweeps, and files that stand alone."""

from __future__ import annotations

import io
import re
import warnings
from itertools import product
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pytest
from scipy import stats
from synthetic import SPEED, campaign, cell, latency

from reports.figures import FIGURES, ablation, heatmaps, pareto, ranks, seeds, style
from reports.figures.ablation import sweeps
from reports.figures.style import FigureEntry, _lay_out, files, heading, marks, paper_style, short
from reports.figures.svg import both_svgs
from reports.statistics import Estimate
from results.frame import Frame, from_records
from results.record import CellRecord, WorkloadRecord


def estimate(value: float) -> Estimate:
    return Estimate(value, None, None, 1)


def test_the_front_is_every_point_that_no_other_dominates() -> None:
    random = np.random.default_rng(0)
    found = [
        pareto.Point(str(number), estimate(float(cost)), estimate(float(score)))
        for number, (cost, score) in enumerate(random.integers(0, 12, (60, 2)))
    ]

    def dominated(point: pareto.Point) -> bool:
        return any(
            other.cost.mean <= point.cost.mean
            and other.score.mean >= point.score.mean
            and (other.cost.mean, other.score.mean) != (point.cost.mean, point.score.mean)
            for other in found
        )

    expected = {(point.cost.mean, point.score.mean) for point in found if not dominated(point)}
    front = [(point.cost.mean, point.score.mean) for point in pareto.pareto_front(found)]
    assert set(front) == expected
    assert front == sorted(front)


def test_time_is_the_inverse_of_the_recorded_ratio(frame: Frame) -> None:
    time = pareto.relative_time(frame, "reviews", "distilbert")
    assert time is not None
    assert time.mean == pytest.approx(1 / SPEED["distilbert"], rel=0.02)
    assert time.low is not None
    assert time.high is not None
    assert time.low <= time.mean <= time.high
    assert pareto.relative_time(frame, "reviews", "teacher") == Estimate(1.0, 1.0, 1.0, 1)


def test_points_need_both_a_score_and_a_timing() -> None:
    one, failed = cell("finetune"), cell("distilbert", status="failed", reason="x")
    frame = from_records([cell("teacher"), one, failed, cell("prune"), latency(one)])
    assert {point.label for point in pareto.points(frame, "reviews", pareto.relative_time)} == {
        "teacher",
        "finetune",
    }


def test_memory_of_the_teacher_is_that_of_the_baseline(frame: Frame) -> None:
    teacher, student = (pareto.peak_memory(frame, "reviews", label) for label in ("teacher", "finetune"))
    assert teacher is not None
    assert student is not None
    assert (teacher.mean, student.mean) == pytest.approx((200, 100))


def test_every_method_is_drawn_its_own_way() -> None:
    frame = from_records([cell("teacher"), *(cell(f"method {number}") for number in range(60))])
    drawn = marks(frame)
    assert len({(mark.colour, mark.marker) for mark in drawn.values()}) == 61
    first = [drawn[f"method {number}"].marker for number in range(7)]
    assert len(set(first)) == len(first), "neighbours must differ in grey too"


def test_a_long_name_keeps_its_beginning_and_its_end() -> None:
    assert short("moebert") == "moebert"
    name = "a name that is a good deal longer than any name of a method should ever be"
    shown = short(name)
    assert len(shown) == 34
    begins, ends = shown.split("…")
    assert name.startswith(begins)
    assert name.endswith(ends)


def test_a_long_name_above_a_narrow_panel_breaks_at_its_bracket() -> None:
    assert heading("moebert[experts=4]") == "moebert[experts=4]"
    assert heading("moebert[routing=gate-sentence]") == "moebert\n[routing=gate-sentence]"
    name = "a name that is a good deal longer than any name[of=a method that anyone should ever choose]"
    assert max(map(len, heading(name).split("\n"))) == 25


def test_where_every_method_keeps_everything_none_is_dark() -> None:
    values = {"value": 0.8}
    with paper_style():
        figure = heatmaps.draw_retained(from_records([cell("teacher", **values), cell(**values)]))
    assert figure is not None
    (mesh,) = figure.axes[0].collections
    assert mesh.get_clim() == (99.0, 100.0)


def test_launches_bind_where_more_work_takes_hardly_longer() -> None:
    times = np.array([[1.0, 1.1, 2.0], [1.2, 2.2, 4.0]])
    assert heatmaps._flat(times).tolist() == [[True, False, False], [False, False, False]]


def test_the_grid_of_speed_ups_is_what_was_timed() -> None:
    one = cell("finetune")
    sizes = list(product((1, 8), (64, 128)))
    grid = [
        WorkloadRecord(name=f"b{batch}xl{length}", batch_size=batch, length=length) for batch, length in sizes
    ]
    frame = from_records(
        [one, *(latency(one, workload=work, speed=1 + 0.1 * work.batch_size) for work in grid)]
    )
    (found,) = heatmaps._grids(frame)
    assert (found.batches, found.lengths) == ([1, 8], [64, 128])
    assert found.speedups == pytest.approx(np.array([[1.1, 1.1], [1.8, 1.8]]), rel=0.02)


def test_the_largest_grids_come_first_and_name_the_type_where_there_are_several() -> None:
    cells = [cell("teacher"), cell("finetune")]
    sizes = [*product((1, 8), (64, 128)), (32, 64)]
    grid = [
        WorkloadRecord(name=f"b{batch}xl{length}", batch_size=batch, length=length) for batch, length in sizes
    ]
    timed = [latency(one, workload=work, dtype="fp32") for one in cells for work in grid]
    timed += [latency(one, workload=work, dtype="bf16") for one in cells for work in grid[:3]]
    found = heatmaps._grids(from_records([*cells, *timed]))
    titles = [grid.title.replace("\n", ", ") for grid in found]
    device = f"{timed[0].device}, {timed[0].runtime}"
    assert titles == [
        f"{label}, {device}, {dtype}" for label in ("finetune", "teacher") for dtype in ("fp32", "bf16")
    ]
    assert np.isfinite(found[0].speedups).sum() == 5


def test_one_workload_is_no_grid(frame: Frame) -> None:
    assert heatmaps.draw_speedups(frame) is None


def variant(seed: int = 1, **config: object) -> CellRecord:
    return cell(f"moe{sorted(config.items())}", seed=seed, method="moe", config=config)


def test_a_sweep_moves_one_knob_in_the_order_of_its_values() -> None:
    cells = [variant(experts=count, routing="hash") for count in (16, 2, 4)]
    found = {
        sweep.knob: sweep for sweep in sweeps(from_records([*cells, variant(experts=4, routing="gate")]))
    }
    assert found["experts"].values == (2, 4, 16)
    assert found["routing"].values == ("gate", "hash")


def test_sweeps_of_one_knob_are_told_apart_by_what_else_differs() -> None:
    cells = [variant(weight=weight, gate=gate) for weight in (1, 10) for gate in ("token", "sentence")]
    frame = from_records([*cells, variant(weight=1, gate="none")])
    found = [sweep for sweep in sweeps(frame) if sweep.knob == "weight"]
    assert {sweep.others: sweep.values for sweep in found} == {
        "gate=token": (1, 10),
        "gate=sentence": (1, 10),
    }
    (gates,) = [sweep for sweep in sweeps(frame) if sweep.knob == "gate"]
    assert (gates.values, gates.others) == (("none", "sentence", "token"), "")
    with paper_style():
        figure = ablation.draw(frame)
    assert figure is not None
    legends = [axis.get_legend() for axis in figure.axes]
    named = [[text.get_text() for text in legend.get_texts()] for legend in legends if legend]
    assert [sorted(texts) for texts in named] == [["gate=sentence", "gate=token"]]


def test_variants_that_differ_in_two_knobs_make_no_sweep() -> None:
    assert sweeps(from_records([variant(a=1, b=1), variant(a=2, b=2)])) == []


def test_every_task_of_a_sweep_has_an_axis_of_its_own() -> None:
    # On one axis from 60 to 90 a difference of half a point cannot be seen.
    values = {("near", 2): 0.600, ("near", 4): 0.605, ("far", 2): 0.900, ("far", 4): 0.906}
    cells = [
        cell(f"moe{experts}", task, seed=1, value=value, method="moe", config={"experts": experts})
        for (task, experts), value in values.items()
    ]
    with paper_style():
        figure = ablation.draw(from_records(cells))
    assert figure is not None
    drawn = {axis.get_title(): list(axis.lines[0].get_ydata()) for axis in figure.axes}
    assert drawn == {"moe, far": pytest.approx([90.0, 90.6]), "moe, near": pytest.approx([60.0, 60.5])}
    for axis in figure.axes:
        low, high = axis.get_ylim()
        assert high - low < 2, "points of 100"


def test_the_critical_difference_is_demsars() -> None:
    # Table 5 of Demšar (2006): q for 4 classifiers at 0.05 is 2.569.
    assert ranks.critical_difference(4, 14) == pytest.approx(2.569 * np.sqrt(4 * 5 / (6 * 14)), abs=1e-3)


@pytest.mark.parametrize("count", [2, 3, 10, 60, 200])
def test_the_range_of_normal_numbers_is_scipys(count: int) -> None:
    expected = stats.studentized_range.ppf(0.95, count, np.inf)
    assert ranks.range_quantile(count) == pytest.approx(expected, rel=1e-6)


def test_equal_scores_share_their_ranks() -> None:
    names = [f"task {number}" for number in range(5)]
    labels = {"best": 0.9, "one": 0.7, "other": 0.7, "worst": 0.6}
    cells = [cell(label, task, value=value) for task in names for label, value in labels.items()]
    found, _ = ranks.average_ranks(from_records(cells))
    assert found == {"best": 1.0, "one": 2.5, "other": 2.5, "worst": 4.0}


def test_bars_join_the_longest_runs_within_the_distance() -> None:
    assert ranks.groups([1.0, 1.5, 2.4, 4.0], 1.0) == [(0, 1), (1, 2)]
    assert ranks.groups([1.0, 1.1, 1.2], 1.0) == [(0, 2)]
    assert ranks.groups([1.0, 3.0], 1.0) == []


def test_ranks_take_only_students_that_finished_every_task() -> None:
    names = [f"task {number}" for number in range(5)]
    cells = [one for one in campaign(tasks=names, seeds=(1,)) if isinstance(one, CellRecord)]
    frame = from_records([*cells, cell("half", task=names[0], value=0.99)])
    found, count = ranks.average_ranks(frame)
    assert count == 5
    assert list(found) == ["moebert", "distilbert", "prune", "finetune"]
    assert found["finetune"] == 4.0


def test_fewer_than_five_tasks_have_no_diagram(frame: Frame) -> None:
    assert ranks.draw(frame) is None


def test_one_seed_has_no_spread() -> None:
    assert seeds.draw(from_records([cell("teacher"), cell()])) is None


def test_every_seed_is_a_dot(frame: Frame) -> None:
    with paper_style():
        figure = seeds.draw(frame)
    assert figure is not None
    dots = [collection for collection in figure.axes[0].collections if collection.get_alpha() == 0.8]
    assert sum(len(collection.get_offsets()) for collection in dots) == 15


def entry_of(name: str) -> FigureEntry:
    return next(entry for entry in FIGURES if entry.name == name)


@pytest.fixture(scope="module")
def saved(frame: Frame) -> dict[str, bytes]:
    return dict(next(iter(files([entry_of("pareto")], frame)))[1])


def test_a_pdf_carries_its_fonts(saved: dict[str, bytes]) -> None:
    assert b"/FontFile2" in saved["pdf"]
    assert b"/CreationDate" not in saved["pdf"]


def test_an_svg_alone_has_outlines_and_one_for_the_page_has_text(saved: dict[str, bytes]) -> None:
    assert b"<text" not in saved["svg"]
    assert b">moebert<" in saved["inline"]
    assert b"<dc:date>" not in saved["svg"]


def test_both_svgs_of_one_drawing_are_those_of_two(frame: Frame) -> None:
    with paper_style():
        figure = entry_of("seeds").draw(frame)
        assert figure is not None
        mpl.rcParams["figure.constrained_layout.use"] = False
        _lay_out(figure)
        for kind, drawn in zip(("path", "none"), both_svgs(figure), strict=True):
            alone = io.BytesIO()
            mpl.rcParams["svg.fonttype"] = kind
            figure.savefig(alone, format="svg", metadata={"Date": None, "Creator": None})
            assert drawn == alone.getvalue()


def test_a_png_names_no_software_and_no_date(saved: dict[str, bytes]) -> None:
    assert saved["png"].startswith(b"\x89PNG")
    assert re.findall(rb"tEXt|tIME|iTXt", saved["png"]) == []


def test_names_with_dollars_are_text_not_mathematics() -> None:
    one = cell("$x^2$ cost")
    frame = from_records([cell("teacher"), one, latency(one)])
    ((_, drawn),) = files([entry_of("pareto")], frame)
    assert b"$x^2$ cost" in drawn["inline"]


def test_the_settings_of_the_user_change_nothing(frame: Frame, saved: dict[str, bytes]) -> None:
    with mpl.rc_context(
        {"font.size": 20, "axes.facecolor": "red", "svg.fonttype": "path", "text.usetex": True}
    ):
        ((_, again),) = files([entry_of("pareto")], frame)
    assert again == saved


def test_names_of_figures_are_unique_and_plain() -> None:
    names = [entry.name for entry in FIGURES]
    assert len(set(names)) == len(names)
    assert all(re.fullmatch(r"[a-z-]+", name) for name in names)


def test_a_training_of_many_methods_says_how_many_are_shown() -> None:
    frame = from_records([cell(f"method {number:02}") for number in range(15)])
    with paper_style():
        figure = entry_of("training").draw(frame)
    assert figure is not None
    assert len(figure.axes) == 12
    assert figure.get_suptitle().startswith("the first 12 of 15")


def test_style_file_is_part_of_the_package() -> None:
    import reports.figures

    assert (Path(reports.figures.__file__).parent / "paper.mplstyle").is_file()


def test_twelve_tasks_with_long_names_still_have_room(monkeypatch: pytest.MonkeyPatch) -> None:
    # One format is enough: the layout is found once for all of them, and here each takes seconds.
    monkeypatch.setattr(style, "_formats", lambda figure: {"svg": style._save(figure, "svg", {})})
    names = [f"task-{number} [train=train-part, validation=validation-part]" for number in range(12)]
    frame = from_records(campaign(("teacher", "finetune", "moebert"), names, (1,)))
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # matplotlib warns where a layout collapses
        assert len(list(files(FIGURES, frame))) >= 3
