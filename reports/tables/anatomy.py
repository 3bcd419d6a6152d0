"""What the experts of trained mixtures learned: a row a model, a row a layer, a row an expert."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from statistics import fmean

from reports.anatomies import (
    LEVEL,
    Anatomy,
    among_siblings,
    anatomies,
    beyond_chance,
    first_seeds,
    label_p_values,
    missed,
    replacement_p_values,
    strongest_lift,
    with_siblings,
)
from reports.entries import Entry, Group, Table, blank, number, p_value
from results.anatomy import Measures
from results.frame import Frame

TOKENS = 5  # of each expert that are shown
MODELS = (
    "method",
    "seed",
    "rows",
    "busiest expert (× mean)",
    "cosine to the start",
    "CKA of siblings",
    "layers that tell the label",
    "experts that are missed",
    "label loyalty (%)",
    "probability loyalty (%)",
)
LAYERS = (
    "layer",
    "balance coefficient",
    "busiest expert (× mean)",
    "entropy (of log N)",
    "cosine of shared neurons",
    "cosine of own neurons",
    "the same at the start",
    "CKA of siblings, mean",
    "CKA, lowest",
    "label information (mbit)",
    "by chance (mbit)",
    "p",
)
EXPERTS = (
    "expert",
    "load (%)",
    "cosine to the start",
    "distance from the start (%)",
    "CKA with siblings",
    "label, lift",
    "drop when replaced",
    "p of the drop",
    "other predictions (%)",
    "commonest tokens",
)
LOAD = "Load is the share of tokens, padding left out; the busiest expert's is held against the mean of its layer."
BALANCE = "Balance coefficient: N times the sum of squared loads, 1 if balanced and N if one expert has all."
WEIGHTS = (
    "Cosine to the start: mean over an expert's neurons with the teacher's neuron that each was cut from."
)
SIBLINGS = (
    "Shared neurons were given to both of two siblings and began at cosine 1; own neurons are each held against the "
    "most alike of the sibling's."
)
OUTPUTS = "CKA is linear, of what two experts make of the same tokens: 1 if they do the same up to rotation and scale."
LABELS = (
    "Lift: share of a label among the expert's tokens over its share among all; in brackets the middle 95 % by chance "
    "(labels shuffled over rows), then n, the expert's tokens. p asks whether a token's expert tells more of its row's "
    "label than chance, corrected over the layers (Holm); bold: a lift outside of the brackets in a layer whose p is "
    "below 5 %. Under a hash this says which words were dealt to whom before training, not what training made of it."
)
REPLACED = (
    "Drop: points of 100 of the score that are lost when the expert's tokens go to a sibling (each row to one, all "
    "siblings in turn), with its 95 % interval from paired resampling of rows; p is McNemar's for right and wrong "
    "answers, for heads without classes that of swapping the two models' answers at random, corrected over all experts "
    "(Holm). Bold: p below 5 % and score lost; the intervals are not corrected."
)
FIRST = "Layers and experts are shown for the first seed of each method."


def anatomy_tables(frame: Frame) -> list[Table]:
    """Draw the models, then the layers and the experts of each; nothing where nothing was measured."""
    found = anatomies(frame)
    if not found:
        return []
    shown = first_seeds(found)
    several = [FIRST] if len(shown) < len(found) else []
    rows = _rows_read(found)
    models = Table(
        "anatomy",
        "What the experts learned",
        MODELS,
        tuple(_model(one) for one in found),
        (rows, LOAD, WEIGHTS, OUTPUTS, _count_note()),
        {place: Group(one.task, one.task) for place, one in enumerate(found) if _first_of_task(found, place)},
    )
    return [
        models,
        _by_model(
            "anatomy-layers",
            "Layers of experts",
            LAYERS,
            shown,
            _layers,
            (rows, *several, LOAD, BALANCE, WEIGHTS, SIBLINGS, OUTPUTS, LABELS),
        ),
        _by_model(
            "anatomy-experts",
            "Experts",
            EXPERTS,
            shown,
            _experts,
            (rows, *several, WEIGHTS, OUTPUTS, LABELS, REPLACED),
        ),
    ]


def _by_model(
    name: str,
    title: str,
    headings: tuple[str, ...],
    shown: list[Anatomy],
    draw: Callable[[Measures], Iterable[tuple[Entry, ...]]],
    caption: tuple[str, ...],
) -> Table:
    rows: list[tuple[Entry, ...]] = []
    groups: dict[int, Group] = {}
    for one in shown:
        groups[len(rows)] = Group(one.title, one.task)
        rows += draw(one.measures)
    return Table(name, title, headings, tuple(rows), caption, groups)


def _model(one: Anatomy) -> tuple[Entry, ...]:
    found = one.measures
    layers = range(len(found.load.share))
    agreement, why = found.agreement, found.absent.get("agreement", "")
    return (
        Entry(one.label),
        Entry(str(one.seed), one.seed),
        Entry(str(found.subject.rows), found.subject.rows),
        _decimal(max(found.load.imbalance), 2),
        _mean(
            [value for layer in found.weights.initial_cosine or [] for value in layer],
            found.absent.get("movement", ""),
        ),
        _mean(
            [value for layer in layers for value in among_siblings(found.outputs.cka, layer)], "one expert"
        ),
        _tell_the_label(found),
        _are_missed(found),
        _share(agreement.label_loyalty if agreement else None, why),
        _share(agreement.probability_loyalty if agreement else None, why),
    )


def _tell_the_label(found: Measures) -> Entry:
    p_values = label_p_values(found)
    if not p_values:
        return blank(found.absent.get("labels", ""))
    count = sum(value < LEVEL for value in p_values)
    return Entry(f"{count} of {len(p_values)}", count, n=len(p_values))


def _are_missed(found: Measures) -> Entry:
    if found.replacement is None:
        return blank(found.absent.get("replacement", ""))
    experts, count = sum(map(len, found.load.share)), len(missed(found))
    return Entry(f"{count} of {experts}", count, n=experts)


def _layers(found: Measures) -> Iterable[tuple[Entry, ...]]:
    weights, labels, p_values = found.weights, found.labels, label_p_values(found)
    no_labels = found.absent.get("labels", "")
    for layer in range(len(found.load.share)):
        cka = among_siblings(found.outputs.cka, layer)
        start = weights.initial_own_cosine
        yield (
            Entry(f"layer {layer + 1}"),
            _decimal(found.load.balance_coefficient[layer], 3),
            _decimal(found.load.imbalance[layer], 2),
            _decimal(found.load.entropy[layer], 3),
            _mean(among_siblings(weights.shared_cosine, layer), "no neuron is shared"),
            _mean(among_siblings(weights.own_cosine, layer), "all neurons are shared"),
            _mean(among_siblings(start, layer), "all neurons are shared")
            if start
            else blank(found.absent["movement"]),
            _mean(cka, "one expert"),
            _decimal(min(cka), 3) if cka else blank("one expert"),
            _decimal(1000 * labels.information[layer], 2) if labels else blank(no_labels),
            _decimal(1000 * labels.chance_information[layer], 2) if labels else blank(no_labels),
            p_value(p_values[layer]) if labels else blank(no_labels),
        )


def _experts(found: Measures) -> Iterable[tuple[Entry, ...]]:
    weights, no_teacher = found.weights, found.absent.get("movement", "")
    p_values, are_missed, are_special = replacement_p_values(found), missed(found), beyond_chance(found)
    no_p_value = found.absent.get("replacement", "not measured then: neither classes nor a test without them")
    for layer, loads in enumerate(found.load.share):
        for expert, load in enumerate(loads):
            distance = weights.initial_distance[layer][expert] if weights.initial_distance else None
            tokens = found.tokens.commonest[layer][expert][:TOKENS]
            listed = ", ".join(f"{token.token} {token.count}" for token in tokens)
            yield (
                Entry(f"layer {layer + 1}, expert {expert + 1}"),
                _share(load, "no tokens"),
                _decimal(weights.initial_cosine[layer][expert] if weights.initial_cosine else None, 4, no_teacher),
                _share(distance, no_teacher),
                _decimal(with_siblings(found.outputs.cka, layer, expert), 3, "one expert, or one output for all"),
                _lift(found, layer, expert, marked=(layer, expert) in are_special),
                _drop(found, layer, expert, marked=(layer, expert) in are_missed),
                p_value(p_values[layer, expert]) if p_values else blank(no_p_value),
                _changed(found, layer, expert),
                Entry(listed) if listed else blank(f"no token came {found.tokens.at_least} times"),
            )  # fmt: skip


def _lift(found: Measures, layer: int, expert: int, *, marked: bool) -> Entry:
    lift = strongest_lift(found, layer, expert)
    if found.labels is None or lift is None:
        return blank(found.absent.get("labels", "no tokens"))
    n = sum(found.labels.counts[layer][expert])
    text = f"{lift.label} {lift.value:.3f} [{lift.low:.3f}, {lift.high:.3f}] ({n:,})"
    return Entry(text, lift.value, lift.low, lift.high, n, marked=marked)


def _drop(found: Measures, layer: int, expert: int, *, marked: bool) -> Entry:
    replacement = found.replacement
    if replacement is None:
        return blank(found.absent.get("replacement", ""))
    drop, low, high = (
        100 * (table[layer][expert] or 0.0) for table in (replacement.drop, replacement.low, replacement.high)
    )
    text = f"{number(drop)} [{number(low)}, {number(high)}]"
    return Entry(text, drop, low, high, found.subject.rows, marked=marked)


def _changed(found: Measures, layer: int, expert: int) -> Entry:
    replacement = found.replacement
    if replacement is None or replacement.changed is None:
        return blank(found.absent.get("replacement", "no classes"))
    return _share(replacement.changed[layer][expert], "")


def _share(value: float | None, why: str) -> Entry:
    return blank(why) if value is None else Entry(f"{100 * value:.1f}", 100 * value)


def _decimal(value: float | None, digits: int, why: str = "") -> Entry:
    return blank(why) if value is None else Entry(f"{value:.{digits}f}", value)


def _mean(values: Iterable[float | None], why: str) -> Entry:
    known = [value for value in values if value is not None]
    return _decimal(fmean(known), 4) if known else blank(why)


def _first_of_task(found: list[Anatomy], place: int) -> bool:
    return place == 0 or found[place - 1].task != found[place].task


def _rows_read(found: list[Anatomy]) -> str:
    read = sorted({(one.measures.subject.rows, one.measures.subject.available_rows) for one in found})
    shown = " or ".join(f"{rows} of {available}" for rows, available in read)
    tokens = " or ".join(f"{count:,}" for count in sorted({one.measures.subject.tokens for one in found}))
    return f"Measured on {shown} validation rows, {tokens} tokens without padding."


def _count_note() -> str:
    return (
        f"Layers that tell the label: p below {LEVEL:g} after Holm's correction. Experts that are missed: a sibling in "
        "their place costs score, and that is not noise by the same rule."
    )
