from __future__ import annotations

import math
from functools import partial
from importlib.util import find_spec
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from bench.batching import training_batches
from bench.cell import LabelLoss
from bench.checkpointing import Checkpointer
from bench.errors import UserError
from bench.method import Objective, Stage
from bench.seeds import derive
from bench.steps import EagerStep, decay_groups, trained_parameters
from bench.training import NonFiniteLossError, Settings, schedule, split_steps, total_steps, train
from results.record import Budget


def settings(**budget) -> Settings:
    plan = {"epochs": 2, "batch_size": 16, "learning_rate": 1e-3} | budget
    return Settings(Budget(**plan), task="tiny", seed=0, precision="fp32", device=torch.device("cpu"))


def stages_of(model, shares=(1.0,)):
    return [Stage(f"stage {number}", share, LabelLoss(model)) for number, share in enumerate(shares)]


def weights(model) -> torch.Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in model.parameters()])


class Recorder(LabelLoss):
    """Note the rows that each step sees, as the objective of any method would."""

    def __init__(self, model, seen):
        super().__init__(model)
        self.seen = seen

    def forward(self, batch):
        self.seen.append(batch["input_ids"].clone())
        return super().forward(batch)


def test_the_loss_falls_and_the_record_says_how(tiny_model, tiny_rows):
    model = tiny_model()
    record = train(model, None, stages_of(model), tiny_rows, settings(epochs=12, learning_rate=3e-3))
    curve = record.stages[0].curve
    assert curve[-1].loss < 0.7 * curve[0].loss
    assert record.steps == total_steps(len(tiny_rows.lengths), settings(epochs=12).budget) == curve[-1].step
    assert record.examples == record.steps * 16 == curve[-1].examples
    assert record.peak_memory_bytes > 10**6
    assert record.stages[0].seconds <= record.seconds


def test_every_method_sees_the_same_rows_whatever_its_stages(tiny_model, tiny_rows):
    seen = []
    orders = []
    for shares in ((1.0,), (0.25, 0.75), (0.5, 0.3, 0.2)):
        model, rows = tiny_model(), []
        stages = [Stage(str(share), share, Recorder(model, rows)) for share in shares]
        orders.append(train(model, None, stages, tiny_rows, settings()).order_sha256)
        seen.append(rows)
    assert len(set(orders)) == 1
    for rows in seen[1:]:
        assert len(rows) == len(seen[0])
        assert all(torch.equal(left, right) for left, right in zip(rows, seen[0], strict=True))


def test_the_order_depends_on_the_seed(tiny_model, tiny_rows):
    model = tiny_model()
    first = train(model, None, stages_of(model), tiny_rows, settings()).order_sha256
    other = Settings(settings().budget, "tiny", 1, "fp32", torch.device("cpu"))
    assert train(model, None, stages_of(model), tiny_rows, other).order_sha256 != first


def test_one_step_is_adamw_with_clipping_on_the_mean_loss(tiny_model, tiny_rows):
    model, twin = tiny_model().eval(), tiny_model().eval()
    budget = Budget(batch_size=16, learning_rate=1e-3, max_grad_norm=0.1)
    objective = LabelLoss(model)
    step = EagerStep(objective, trained_parameters(model, objective, None), tiny_rows, budget, "fp32", 16)
    step.learning_rate.fill_(1e-3)
    batch = next(training_batches(tiny_rows.lengths, batch_size=16, seed=1))
    step(batch)
    twin(**tiny_rows.batch(batch.indices, batch.length)).loss.backward()
    nn.utils.clip_grad_norm_(twin.parameters(), 0.1)
    named = dict(twin.named_parameters())
    torch.optim.AdamW(decay_groups(named, budget.weight_decay), lr=1e-3).step()
    torch.testing.assert_close(weights(model), weights(twin), rtol=0, atol=1e-6)


def without_dropout(model):
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    return model


@pytest.mark.skipif(
    find_spec("accelerate") is None, reason="Trainer needs accelerate, which is not installed"
)
def test_the_loop_trains_as_the_trainer_does(tiny_model, tiny_rows, tmp_path):
    """Given the same batches and rates. The Trainer's own schedule is ours one step late: its first rate is zero."""
    from transformers import Trainer, TrainingArguments

    model, twin = without_dropout(tiny_model()), without_dropout(tiny_model())
    plan = settings(epochs=9, max_steps=20, warmup=0.2, max_grad_norm=0.3, weight_decay=0.1)
    train(model, None, stages_of(model), tiny_rows, plan)
    order = training_batches(tiny_rows.lengths, batch_size=16, seed=derive(plan.seed, "order", plan.task))
    batches = [tiny_rows.batch(batch.indices, batch.length) for batch in islice(order, 20)]

    class OnOurBatches(Trainer):
        def get_train_dataloader(self):
            return batches

        def create_scheduler(self, num_training_steps, optimizer=None):
            factor = partial(schedule, steps=num_training_steps, warmup=plan.budget.warmup)
            self.lr_scheduler = torch.optim.lr_scheduler.LambdaLR(self.optimizer, factor)
            return self.lr_scheduler

    arguments = TrainingArguments(
        output_dir=str(tmp_path),
        max_steps=20,
        learning_rate=plan.budget.learning_rate,
        max_grad_norm=plan.budget.max_grad_norm,
        weight_decay=plan.budget.weight_decay,
        use_cpu=True,
        report_to=[],
        save_strategy="no",
        disable_tqdm=True,
    )
    OnOurBatches(model=twin, args=arguments).train()
    moved = weights(twin) - weights(tiny_model())
    assert (weights(model) - weights(twin)).norm() < 1e-3 * moved.norm()


def test_micro_batches_give_the_gradient_of_the_whole_batch(tiny_model, tiny_rows):
    batch = next(training_batches(tiny_rows.lengths, batch_size=16, seed=1))
    after = []
    for micro in (16, 5):
        model = tiny_model().eval()
        objective = LabelLoss(model)
        parameters = trained_parameters(model, objective, None)
        step = EagerStep(objective, parameters, tiny_rows, Budget(batch_size=16), "fp32", micro)
        step._gradients(tiny_rows.send(batch.indices, batch.length), batch.length)
        after.append(torch.cat([parameter.grad.flatten() for parameter in parameters.values()]))
    torch.testing.assert_close(after[0], after[1], rtol=1e-4, atol=1e-6)


class HungryObjective(LabelLoss):
    """Run out of memory above a number of rows, as a small GPU would."""

    def forward(self, batch):
        if len(batch["labels"]) > 5:
            raise torch.OutOfMemoryError("not that many")
        return super().forward(batch)


def test_out_of_memory_halves_the_micro_batch_and_keeps_the_batch(tiny_model, tiny_rows):
    model = tiny_model()
    record = train(model, None, [Stage("hungry", 1.0, HungryObjective(model))], tiny_rows, settings())
    assert record.micro_batch_size == 4
    assert record.examples == record.steps * 16
    other = tiny_model()
    assert record.order_sha256 == train(other, None, stages_of(other), tiny_rows, settings()).order_sha256


def test_decay_spares_biases_and_normalisation(tiny_model):
    decayed, spared = decay_groups(dict(tiny_model().named_parameters()), 0.01)
    assert decayed["weight_decay"] == 0.01
    assert spared["weight_decay"] == 0
    assert all(parameter.ndim == 2 for parameter in decayed["params"])
    assert all(parameter.ndim == 1 for parameter in spared["params"])


class Poisoned(LabelLoss):
    """Turn into NaN when a chosen step comes."""

    def __init__(self, model, at):
        super().__init__(model)
        self.at, self.calls = at, 0

    def forward(self, batch):
        self.calls += 1
        loss = super().forward(batch)["labels"]
        return {"labels": loss * math.nan if self.calls > self.at else loss}


def test_a_loss_that_is_not_finite_stops_with_its_step_and_rows(tiny_model, tiny_rows):
    model = tiny_model()
    with pytest.raises(NonFiniteLossError) as caught:
        train(model, None, [Stage("poisoned", 1.0, Poisoned(model, at=3))], tiny_rows, settings())
    assert caught.value.step == 3
    order = training_batches(tiny_rows.lengths, batch_size=16, seed=derive(0, "order", "tiny"))
    expected = [next(order) for _ in range(4)][3]
    assert caught.value.row_ids == tiny_rows.row_ids(expected.indices)


class Projected(Objective):
    """Have a parameter of its own, read progress, weigh a term by it, and meddle with the teacher's mode."""

    def __init__(self, student, teacher):
        super().__init__()
        self.student, self.teacher = student, teacher
        self.projection = nn.Linear(2, 2)
        self.weights = {"match": self.progress, "labels": 2.0}
        self.modes, self.seen, self.refreshed = [], [], 0

    def forward(self, batch):
        self.modes.append((self.student.training, self.teacher.training))
        self.seen.append(float(self.progress))
        targets = self.teacher(**batch).logits
        outputs = self.student(**batch)
        return {"labels": outputs.loss, "match": (self.projection(outputs.logits) - targets).pow(2).mean()}

    def refresh(self):
        self.refreshed += 1
        self.train()


def test_objective_parameters_are_trained_the_teacher_never(tiny_model, tiny_rows):
    student, teacher = tiny_model(), tiny_model().eval().requires_grad_(False)
    objective = Projected(student, teacher)
    before = objective.projection.weight.clone()
    teacher_before = weights(teacher).clone()
    record = train(student, teacher, [Stage("projected", 1.0, objective)], tiny_rows, settings())
    assert not torch.equal(objective.projection.weight, before)
    assert torch.equal(weights(teacher), teacher_before)
    assert set(objective.modes) == {(True, False)}
    assert objective.seen[0] == 0
    assert objective.seen[-1] == 1
    assert objective.seen == sorted(objective.seen)
    assert objective.refreshed == record.steps
    curve = record.stages[0].curve
    assert curve[0].terms["match"] == 0  # weighed by progress
    assert curve[-1].loss == pytest.approx(sum(curve[-1].terms.values()), rel=1e-5)


class KilledError(Exception):
    """Stand in for SIGKILL."""


class SavesEveryStep(Checkpointer):
    """Save at every step and die after some."""

    def __init__(self, folder: Path, die_after: int | None = None):
        super().__init__(folder)
        self.saves, self.die_after = 0, die_after

    def due(self):
        return True

    def save(self, progress, tensors):
        super().save(progress, tensors)
        self.saves += 1
        if self.saves == self.die_after:
            raise KilledError


@pytest.mark.parametrize("die_after", [1, 5, 6, 7, 11])
def test_a_killed_training_goes_on_bit_for_bit(tiny_model, tiny_rows, tmp_path, die_after):
    """Dropout is on, two stages of six steps, an objective with parameters: everything that could drift."""

    def attempt(checkpointer):
        student, teacher = tiny_model(), tiny_model().eval().requires_grad_(False)
        torch.manual_seed(5)
        stages = [Stage(name, 0.5, Projected(student, teacher)) for name in "ab"]
        record = train(student, teacher, stages, tiny_rows, settings(), checkpointer=checkpointer)
        return record, weights(student)

    whole, expected = attempt(None)
    with pytest.raises(KilledError):
        attempt(SavesEveryStep(tmp_path / "state", die_after))
    resumed = SavesEveryStep(tmp_path / "state")
    record, found = attempt(resumed)
    assert resumed.saves == whole.steps - die_after
    assert torch.equal(found, expected)
    assert record.order_sha256 == whole.order_sha256
    assert [stage.curve for stage in record.stages] == [stage.curve for stage in whole.stages]
    assert not (tmp_path / "state").exists()


def test_an_unreadable_checkpoint_counts_as_none(tiny_model, tiny_rows, tmp_path):
    checkpointer = Checkpointer(tmp_path / "state")
    checkpointer.file.parent.mkdir()
    checkpointer.file.write_bytes(b"\x10\x00\x00\x00\x00\x00\x00\x00 half a header")
    model, other = tiny_model(), tiny_model()
    train(model, None, stages_of(model), tiny_rows, settings(), checkpointer=checkpointer)
    train(other, None, stages_of(other), tiny_rows, settings())
    assert torch.equal(weights(model), weights(other))


@pytest.mark.parametrize(
    ("total", "shares", "expected"),
    [
        (10, [1.0], [10]),
        (10, [0.5, 0.5], [5, 5]),
        (7, [0.5, 0.5], [4, 3]),
        (3, [0.98, 0.01, 0.01], [1, 1, 1]),
    ],
)
def test_shares_divide_the_steps(total, shares, expected):
    assert split_steps(total, shares) == expected


@pytest.mark.parametrize("shares", [[0.5, 0.4], [1.5, -0.5], [0.5, 0.5, 0.0]])
def test_shares_that_do_not_sum_to_one_are_refused(shares):
    with pytest.raises(UserError, match="sum to 1"):
        split_steps(10, shares)


def test_more_stages_than_steps_are_refused():
    with pytest.raises(UserError, match="too few"):
        split_steps(1, [0.5, 0.5])


def test_schedule_warms_up_and_decays_to_almost_zero():
    rates = [schedule(step, 100, 0.1) for step in range(100)]
    assert rates[0] == pytest.approx(0.1)
    assert max(rates) == rates[9] == rates[10] == 1
    assert rates[-1] == pytest.approx(1 / 90)
    assert np.all(np.diff(rates[10:]) < 0)
    assert schedule(0, 1, 0.0) == 1
