"""What a report says of anatomies: numbers, what is noise, what is missing and why."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from matplotlib.text import Text
from matplotlib.transforms import Bbox
from synthetic import ENVIRONMENT, WHEN, cell

from reports import write
from reports.anatomies import (
    Lift,
    among_siblings,
    anatomies,
    beyond_chance,
    label_p_values,
    missed,
    replacement_p_values,
    strongest_lift,
    with_siblings,
)
from reports.entries import DASH, Table
from reports.figures import anatomy
from reports.figures.style import paper_style
from reports.formats import markdown
from reports.paired import mcnemar
from reports.report import write_anatomy
from reports.tables.anatomy import anatomy_tables
from results.anatomy import (
    Agreement,
    Labels,
    Load,
    Measures,
    Outputs,
    Replacement,
    Subject,
    TokenCount,
    Tokens,
    Weights,
)
from results.frame import from_records
from results.record import AnatomyRecord, CellRecord, digest

LAYERS, EXPERTS = 2, 3
PLACES = [(layer, expert) for layer in range(LAYERS) for expert in range(EXPERTS)]


def by_expert(values: dict[tuple[int, int], Any], other: Any = 0.0) -> list[list[Any]]:
    return [[values.get((layer, expert), other) for expert in range(EXPERTS)] for layer in range(LAYERS)]


def siblings(value: float) -> list[list[list[float | None]]]:
    return [[[1.0 if a == b else value for b in range(EXPERTS)] for a in range(EXPERTS)]] * LAYERS


def measured(*, teacher: bool = True, classes: bool = True, rows: int = 200) -> Measures:
    """Make an anatomy: expert 2 of layer 1 is missed, and serves the label 'fresh'."""
    absent = {} if teacher else {"movement": "no teacher tells", "agreement": "no teacher"}
    labels = Labels(
        names=["rotten", "fresh"],
        counts=by_expert({}, [100, 100]),
        lift=by_expert({(0, 1): [0.5, 1.6], (1, 0): [0.5, 1.6]}, [1.01, 0.99]),
        chance_low=by_expert({}, [0.9, 0.9]),
        chance_high=by_expert({}, [1.1, 1.1]),
        information=[0.05, 0.0001],
        chance_information=[0.0002, 0.0002],
        p_value=[0.001, 0.6],
        shuffles=1000,
    )
    replacement = Replacement(
        score="accuracy",
        baseline=0.8,
        drop=by_expert({(0, 1): 0.1, (1, 0): 0.015, (1, 1): -0.1}),
        low=by_expert({(0, 1): 0.05, (1, 0): 0.005, (1, 1): -0.15}),
        high=by_expert({(0, 1): 0.15, (1, 0): 0.025, (1, 1): -0.05}),
        lost=by_expert({(0, 1): 22, (1, 0): 3}, 0) if classes else None,
        gained=by_expert({(0, 1): 2, (1, 1): 20}, 0) if classes else None,
        changed=by_expert({(0, 1): 0.12}) if classes else None,
        p_value=None if classes else by_expert({(0, 1): 0.0002, (1, 0): 0.02, (1, 1): 0.0002}, 0.5),
        resamples=1000,
    )
    if not classes:
        absent |= {"labels": "rows of regression have no class"}
    return Measures(
        subject=Subject(checkpoint="a", teacher="b" if teacher else "", model_type="moe", routing="hash",
                        data="c", rows=rows, available_rows=400, tokens=5000),
        load=Load(share=by_expert({(0, 1): 0.6, (0, 0): 0.1, (0, 2): 0.3}, 1 / 3), entropy=[0.82, 1.0],
                  imbalance=[1.8, 1.0], balance_coefficient=[1.38, 1.0]),
        weights=Weights(
            shared_cosine=siblings(0.9),
            own_cosine=siblings(0.25),
            initial_own_cosine=siblings(0.2) if teacher else None,
            initial_cosine=by_expert({(0, 1): 0.7}, 0.99) if teacher else None,
            initial_distance=by_expert({(0, 1): 0.6}, 0.05) if teacher else None,
        ),
        outputs=Outputs(cka=siblings(0.5), tokens=4000),
        tokens=Tokens(at_least=5, commonest=by_expert({(0, 1): [TokenCount(token="good", count=40, share=1.0)]}, [])),
        labels=labels if classes else None,
        replacement=replacement,
        agreement=Agreement(label_loyalty=0.9, probability_loyalty=0.8) if teacher else None,
        absent=absent,
    )  # fmt: skip


def record(of: CellRecord, measures: Measures) -> AnatomyRecord:
    return AnatomyRecord(
        id=digest(["anatomy", of.id]),
        environment=ENVIRONMENT.id,
        suite_version="0.1.0",
        started=WHEN,
        finished=WHEN,
        cell_id=of.id,
        task=of.task,
        label=of.label,
        seed=of.identity.seed,
        measures=measures.model_dump(mode="json"),
    )


def drawn(measures: Measures) -> dict[str, Table]:
    return {table.name: table for table in anatomy_tables(from_records([record(cell("moebert"), measures)]))}


def column(table: Table, heading: str) -> list[Any]:
    return [row[table.headings.index(heading)] for row in table.rows]


def texts(table: Table, heading: str) -> list[str]:
    return [entry.text for entry in column(table, heading)]


def test_siblings_leave_the_expert_itself_out():
    values = [[[1.0, 0.2, 0.4], [0.2, 1.0, None], [0.4, None, 1.0]]]
    assert sorted(among_siblings(values, 0)) == [0.2, 0.4]
    assert with_siblings(values, 0, 0) == pytest.approx(0.3)
    assert with_siblings(values, 0, 1) == pytest.approx(0.2)
    assert with_siblings([[[1.0]]], 0, 0) is None


def test_p_values_are_corrected_over_layers_and_over_experts():
    found = measured()
    assert label_p_values(found) == pytest.approx([0.002, 0.6])
    expected = max(5 * mcnemar(22, 2), 6 * mcnemar(0, 20))  # Holm's steps: the smallest of six first
    assert replacement_p_values(found)[0, 1] == pytest.approx(expected)


def test_missed_is_who_costs_score_and_not_by_chance():
    assert missed(measured()) == {(0, 1)}, "three rows are noise, and (1, 1) is better replaced"
    assert missed(measured(classes=False)) == {(0, 1)}, "(1, 0) is below 5 % only before the correction"


def test_without_classes_and_without_a_test_of_them_nobody_is_called_missed():
    found = measured(classes=False)
    assert found.replacement is not None
    old = found.model_copy(update={"replacement": found.replacement.model_copy(update={"p_value": None})})
    assert missed(old) == set()
    assert {entry.note for entry in column(drawn(old)["anatomy-experts"], "p of the drop")} == {
        "not measured then: neither classes nor a test without them"
    }


def test_the_strongest_label_is_the_one_farthest_from_chance():
    found = measured()
    assert strongest_lift(found, 0, 1) == Lift("fresh", 1.6, 0.9, 1.1)
    assert beyond_chance(found) == {(0, 1)}, "(1, 0) lies as far out in a layer that tells nothing"
    assert strongest_lift(measured(classes=False), 0, 1) is None


def test_an_expert_that_is_missed_stands_out_and_noise_does_not():
    tables = drawn(measured())
    experts = tables["anatomy-experts"]
    assert texts(experts, "drop when replaced")[1] == "+10.0 [+5.0, +15.0]"
    assert [entry.marked for entry in column(experts, "drop when replaced")] == [
        place == (0, 1) for place in PLACES
    ]
    assert [entry.marked for entry in column(experts, "label, lift")] == [place == (0, 1) for place in PLACES]
    assert texts(experts, "label, lift")[1] == "fresh 1.600 [0.900, 1.100] (200)"
    assert texts(experts, "commonest tokens") == ["good 40" if place == (0, 1) else DASH for place in PLACES]
    assert texts(tables["anatomy"], "experts that are missed") == ["1 of 6"]
    assert texts(tables["anatomy"], "layers that tell the label") == ["1 of 2"]
    assert texts(tables["anatomy"], "label loyalty (%)") == ["90.0"]
    assert "200 of 400 validation rows, 5,000 tokens" in " ".join(experts.caption)


def test_what_a_teacher_would_tell_is_a_dash_with_the_reason():
    tables = drawn(measured(teacher=False))
    (entry,) = column(tables["anatomy"], "cosine to the start")
    assert (entry.text, entry.note) == (DASH, "no teacher tells")
    assert {entry.note for entry in column(tables["anatomy-experts"], "distance from the start (%)")} == {
        "no teacher tells"
    }
    assert texts(tables["anatomy-layers"], "the same at the start") == [DASH, DASH]


def test_what_needs_classes_is_a_dash_with_the_reason():
    tables = drawn(measured(classes=False))
    assert {entry.note for entry in column(tables["anatomy-layers"], "p")} == {
        "rows of regression have no class"
    }
    shown = column(tables["anatomy-experts"], "p of the drop")
    assert [entry.value for entry in shown] == pytest.approx([1, 0.0012, 1, 0.08, 0.0012, 1])


def test_every_seed_has_a_row_and_only_the_first_its_experts():
    found = [record(cell("moebert", seed=seed), measured()) for seed in (2, 1)]
    models, _, experts = anatomy_tables(from_records(found))
    assert texts(models, "seed") == ["1", "2"]
    assert [group.title for group in experts.groups.values()] == ["moebert on reviews, seed 1"]
    assert "Layers and experts are shown for the first seed of each method." in experts.caption


def test_tasks_stand_in_blocks_of_their_own():
    found = [record(cell("moebert", task=task), measured()) for task in ("b", "a")]
    models = anatomy_tables(from_records(found))[0]
    assert {place: group.title for place, group in models.groups.items()} == {0: "a", 1: "b"}


@pytest.mark.parametrize(
    ("measures", "titles"),
    [
        (measured(), 6),
        (measured(teacher=False), 5),
        (measured(teacher=False, classes=False), 3),
    ],
)
def test_a_figure_has_a_panel_for_every_measure_that_there_is(measures: Measures, titles: int):
    with paper_style():
        figure = anatomy.draw(from_records([record(cell("moebert"), measures)]))
        assert figure is not None
        figure.draw_without_rendering()
    assert len(figure.axes) == titles


def test_long_names_of_several_models_lie_above_their_rows_and_on_nothing():
    task = "mnli [train-part, validation_mismatched-part]"
    labels = ["moebert[routing=gate-sentence]", "moebert[routing=hash-balanced]"]
    found = [record(cell(label, task=task), measured(teacher=False)) for label in labels]
    with paper_style():
        figure = anatomy.draw(from_records(found))
        assert figure is not None
        figure.draw_without_rendering()
    names = [text for axis in figure.axes for text in axis.texts if text.get_text().startswith("moebert")]
    assert [name.get_text().strip() for name in names] == [f"{label}, {task}" for label in labels]
    others = [
        text for axis in figure.axes for text in (axis.title, axis.xaxis.label, *axis.get_yticklabels())
    ]
    page = figure.bbox
    for name in names:
        place = name.get_window_extent()
        place.y0 = place.y1 - place.height / 2  # its second line is the titles', and empty
        assert page.x0 <= place.x0 < place.x1 <= page.x1
        assert not [other.get_text() for other in others
                    if place.overlaps(_ink(other))], "a text that the name covers"  # fmt: skip
    columns = {round(axis.get_position().width, 3) for axis in figure.axes}
    assert len(columns) == 1, "a long name must not make its panel narrower than the others"


def _ink(text: Text) -> Bbox:
    """Return where a text has letters: a title that begins with an empty line is lower than its box."""
    box = text.get_window_extent()
    lines = text.get_text().split("\n")
    empty = next((place for place, line in enumerate(lines) if line), 0)
    return Bbox.from_extents(box.x0, box.y0, box.x1, box.y1 - box.height * empty / len(lines))


def dots(axis: Any) -> list[Sequence[float]]:
    return [(line.get_xdata()[0], line.get_ydata()[0]) for line in axis.lines]


def test_a_dot_marks_what_chance_leaves_out():
    with paper_style():
        figure = anatomy.draw(from_records([record(cell("moebert"), measured())]))
    assert figure is not None
    by_title = {axis.get_title(): axis for axis in figure.axes}
    for title in ("lift of its label", "drop when replaced (points)"):
        ((x, y),) = dots(by_title[title])
        assert (int(y), int(x)) == (0, 1), "layer 1, expert 2"
    assert dots(by_title["load (% of tokens)"]) == []
    numbers = [text.get_text() for text in by_title["drop when replaced (points)"].texts]
    assert numbers == ["+0.0", "+10.0", "+0.0", "+1.5", "−10.0", "+0.0"]


def test_a_frame_without_anatomies_draws_nothing():
    frame = from_records([cell("moebert")])
    assert anatomies(frame) == anatomy_tables(frame) == []
    assert anatomy.draw(frame) is None


def test_a_report_of_a_run_has_the_section(tmp_path: Path):
    one = cell("moebert")
    write(from_records([cell("teacher"), one, record(one, measured())]), tmp_path / "r", "A title")
    page = (tmp_path / "r" / "report.html").read_text()
    assert 'id="table-anatomy"' in page
    assert 'id="figure-anatomy"' in page
    assert (tmp_path / "r" / "tables" / "anatomy-experts.csv").is_file()
    assert "What the experts learned" in (tmp_path / "r" / "report.md").read_text()


def test_an_anatomy_alone_is_written_whole_and_replaces_only_its_like(tmp_path: Path):
    frame = from_records([record(cell("moebert"), measured())])
    written = write_anatomy(frame, tmp_path / "out", "Anatomy of x", {"anatomy-1.json": "{}"})
    assert written[0].name == "report.md"
    assert written[0].read_text().startswith("# Anatomy of x")
    assert sorted(written) == sorted(file for file in (tmp_path / "out").rglob("*") if file.is_file())
    assert (tmp_path / "out" / "anatomy-1.json").read_text() == "{}"
    write_anatomy(frame, tmp_path / "out", "Again", {})
    assert not (tmp_path / "out" / "anatomy-1.json").exists()
    (tmp_path / "thesis.tex").write_text("mine")
    with pytest.raises(FileExistsError, match="is not a report"):
        write_anatomy(frame, tmp_path, "x", {})


def test_names_of_tokens_and_labels_are_text_never_markup():
    found = measured().model_dump(mode="json")
    found["tokens"]["commonest"][0][0] = [{"token": "<b>|*", "count": 7, "share": 1.0}]
    found["labels"]["names"] = ["<i>", "a|b"]
    shown = markdown(drawn(Measures.model_validate(found))["anatomy-experts"])
    assert "&lt;b&gt;\\|\\* 7" in shown
    assert "<i>" not in shown
