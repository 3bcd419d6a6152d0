from __future__ import annotations

import logging
import os
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy import stats
from torch import nn

from bench import captured, training
from bench.batching import Batch, training_batches
from bench.captured import CapturedStep
from bench.cell import LabelLoss
from bench.encoded import Encoded
from bench.errors import UserError
from bench.graphs import CaptureError
from bench.method import Skip
from bench.registry import methods
from bench.steps import LOSS, EagerStep, trained_parameters
from bench.toys import toy_batches, toy_task, toy_teacher
from bench.training import Settings, train
from results.record import Budget

CPU, CUDA = torch.device("cpu"), torch.device("cuda")
gpu = pytest.mark.gpu


def toy_rows(task, count: int = 96) -> Encoded:
    """Lay toy batches out as the harness keeps rows."""
    batches = toy_batches(task, batches=count // 8)
    mask = torch.cat([batch["attention_mask"] for batch in batches]).bool()
    flat = {
        name: torch.cat([batch[name] for batch in batches])[mask].numpy().astype(np.int32)
        for name in ("input_ids", "token_type_ids")
    }
    targets = {
        name: torch.cat([batch[name] for batch in batches]).numpy()
        for name in ("labels", "start_positions", "end_positions")
        if name in batches[0]
    }
    lengths = mask.sum(1).numpy().astype(np.int32)
    numbers = {"rows": np.arange(count, dtype=np.int32), "ids": np.arange(count).astype(str)}
    return Encoded.from_arrays({**flat, **targets, **numbers, "lengths": lengths}, pad_token_id=0)


def without_dropout(model):
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    if hasattr(model.config, "expert_dropout"):
        model.config.expert_dropout = 0.0
    return model


def step_of(kind, objective, rows, device=CPU, precision="fp32", micro=16):
    objective.to(device).train()
    parameters = trained_parameters(objective.model, objective, None)
    step = kind(objective, parameters, rows.to(device), Budget(batch_size=16), precision, micro)
    step.learning_rate.fill_(1e-3)
    return step


def captured_step(objective, rows, **options):
    return step_of(lambda *arguments: CapturedStep([], *arguments), objective, rows, **options)


def classifier(kind=LabelLoss):
    model = toy_teacher(toy_task("classification")).requires_grad_(True)
    return kind(without_dropout(model))


def weights(model):
    return torch.cat([parameter.detach().flatten() for parameter in model.parameters()])


@pytest.fixture
def rows():
    return toy_rows(toy_task("classification"))


@pytest.fixture
def batches(rows):
    order = training_batches(rows.lengths, batch_size=16, seed=0)
    return [next(order) for _ in range(30)]


class PretendRecorder:
    """Stand in for a GPU: capture runs nothing, replay runs the function."""

    failure: Exception | None = None
    captures = 0

    def __init__(self, device):
        pass

    def capture(self, function):
        type(self).captures += 1
        if self.failure:
            raise self.failure
        return SimpleNamespace(replay=function)


@pytest.fixture
def recorder(monkeypatch):
    monkeypatch.setattr(captured, "Recorder", PretendRecorder)
    monkeypatch.setattr(PretendRecorder, "captures", 0)
    return PretendRecorder


def test_every_shape_is_taken_eagerly_once_then_captured_once(recorder, rows, batches):
    eager = step_of(EagerStep, classifier(), rows)
    step = captured_step(classifier(), rows)
    for batch in batches:
        expected, found = eager(batch), step(batch)
        assert {name: float(value) for name, value in found.items()} == {
            name: float(value) for name, value in expected.items()
        }
    assert torch.equal(weights(step.objective.model), weights(eager.objective.model))
    lengths = [batch.length for batch in batches]
    assert recorder.captures == sum(lengths.count(length) > 1 for length in set(lengths)) > 1
    assert step.execution == "captured"


def test_batches_of_another_size_have_graphs_of_their_own(recorder, rows):
    step = captured_step(classifier(), rows)
    for size in (16, 8, 16, 8):
        step(Batch(np.arange(size), 12))
    assert set(step.graphs) == {(16, 12), (8, 12)}


def test_without_a_second_batch_of_a_shape_nothing_is_captured(recorder, rows, batches):
    step = captured_step(classifier(), rows)
    step(batches[0])
    assert (recorder.captures, step.execution) == (0, "eager")


@pytest.mark.parametrize("failure", [CaptureError("it waits"), torch.OutOfMemoryError("too much")])
def test_what_cannot_be_captured_goes_on_eagerly_and_says_so_once(
    recorder, rows, batches, monkeypatch, caplog, failure
):
    monkeypatch.setattr(recorder, "failure", failure)
    eager = step_of(EagerStep, classifier(), rows)
    step = captured_step(classifier(), rows)
    with caplog.at_level(logging.WARNING):
        for batch in batches:
            eager(batch), step(batch)
    (message,) = caplog.messages
    assert "LabelLoss" in message
    assert str(failure) in message
    assert (recorder.captures, step.execution) == (1, "eager")
    assert torch.equal(weights(step.objective.model), weights(eager.objective.model))


class Scaled(LabelLoss):
    """Multiply the loss by a buffer that refresh changes, in place or not."""

    def __init__(self, model):
        super().__init__(model)
        self.register_buffer("scale", torch.ones(()))
        self.weights = {"labels": 1.0}
        self.change = "nothing"

    def forward(self, batch):
        return {"labels": super().forward(batch)["labels"] * self.scale}

    def refresh(self):
        if self.change == "in place":
            self.scale.mul_(2)
        elif self.change == "replace":
            self.scale = self.scale * 2
        elif self.change == "weight":
            self.weights = {"labels": 2 * self.weights["labels"]}
        elif self.change == "freeze":
            self.model.classifier.bias.requires_grad_(False)


@pytest.mark.parametrize(
    ("change", "kept"),
    [("nothing", True), ("in place", True), ("replace", False), ("weight", False), ("freeze", False)],
)
def test_graphs_are_forgotten_where_refresh_replaces_what_they_read(recorder, rows, change, kept):
    step = captured_step(classifier(Scaled), rows)
    for _ in range(2):
        step(Batch(np.arange(16), 12))
    step.objective.change = change
    step.refresh()
    assert bool(step.graphs) == kept
    step(Batch(np.arange(16), 12))
    assert recorder.captures == (1 if kept else 2)


def captured_and_eager(monkeypatch, attempt):
    """Train twice and return both records and both students' weights."""
    found = attempt()
    with monkeypatch.context() as patch:
        patch.setattr(training, "CapturedStep", lambda _models, *arguments: EagerStep(*arguments))
        expected = attempt()
    assert (found[0].execution, expected[0].execution) == ("captured", "eager")
    return found, expected


def trained(method_name, task, teacher, rows, batches, precision, budget):
    """Compress and train without dropout, and return the record, the weights and how far they went."""
    kind = methods.get(method_name)
    method = kind(kind.Config())
    teacher = teacher.to(CUDA)
    if isinstance(skip := method.supports(task, teacher), Skip):
        pytest.skip(skip.reason)
    torch.manual_seed(0)
    student = without_dropout(method.compress(teacher, batches, task).to(CUDA)).requires_grad_(True)
    before = weights(student)
    settings = Settings(budget, task.name, 0, precision, CUDA)
    record = train(student, teacher, method.stages(teacher, student, task), rows.to(CUDA), settings)
    return record, weights(student), (weights(student) - before).norm()


def losses(record):
    return np.array([point.loss for stage in record.stages for point in stage.curve])


@gpu
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("method", methods.names())
@pytest.mark.parametrize("head", ["classification", "regression", "extractive-qa"])
def test_fifty_captured_steps_of_a_tiny_model_are_the_eager_ones(monkeypatch, method, head, precision):
    task = toy_task(head)
    batches = [{name: value.to(CUDA) for name, value in batch.items()} for batch in toy_batches(task)]
    budget = Budget(epochs=100, max_steps=50, batch_size=16, learning_rate=1e-3)

    def attempt():
        return trained(method, task, toy_teacher(task), toy_rows(task), batches, precision, budget)

    (record, found, _), (other, expected, distance) = captured_and_eager(monkeypatch, attempt)
    tolerance = {"fp32": 1e-3, "bf16": 5e-2}[precision]
    np.testing.assert_allclose(losses(record), losses(other), rtol=tolerance, atol=tolerance)
    assert (
        found - expected
    ).norm() < 8 * tolerance * distance  # weights just below a threshold are masked or not


@pytest.fixture(scope="module")
def real():
    """The embedded teacher, or the checkpoint of MOEBENCH_TEACHER, and the embedded corpus."""
    from bench import checkpoints
    from bench.data import encode
    from bench.sources import load_rows
    from bench.tasks import catalog

    task = catalog.find("rotten-tomatoes")
    try:
        checkpoint = checkpoints.resolve(os.environ.get("MOEBENCH_TEACHER", "embedded"))
        split = load_rows(task, data=None, limit=2000).splits["train"]
    except (UserError, OSError) as error:
        pytest.skip(str(error))
    tokenizer = checkpoints.load_tokenizer(checkpoint)
    encoded = encode(task, split, tokenizer, cache=None, key="train", training=True)
    return SimpleNamespace(
        task=task,
        rows=encoded,
        teacher=lambda: checkpoints.load_model(checkpoint, task, seed=0).eval().requires_grad_(False),
    )


@gpu
@pytest.mark.parametrize("method", methods.names())
def test_fifty_captured_steps_of_the_real_teacher_are_the_eager_ones(monkeypatch, real, method):
    rows = real.rows.to(CUDA)
    batches = [rows.batch(np.arange(start, start + 32), 96) for start in range(0, 256, 32)]
    budget = Budget(epochs=100, max_steps=50, batch_size=32, learning_rate=5e-5)

    def attempt():
        return trained(method, real.task, real.teacher(), rows, batches, "bf16", budget)

    (record, found, _), (other, expected, distance) = captured_and_eager(monkeypatch, attempt)
    np.testing.assert_allclose(losses(record), losses(other), rtol=3e-2, atol=3e-2)
    assert (found - expected).norm() < 0.2 * distance


def everything(step):
    """Copy all that a step may change: parameters, buffers, the optimiser's state, random numbers."""
    tensors = [*step.objective.parameters(), *step.objective.buffers()]
    for parameter in step.parameters:
        tensors += step.optimizer.state[parameter].values()
    return [
        tensor.detach().clone() for tensor in [*tensors, torch.cuda.get_rng_state(), torch.get_rng_state()]
    ]


@gpu
def test_capture_changes_nothing_bit_for_bit(rows):
    model = toy_teacher(toy_task("classification")).requires_grad_(True)  # with its dropout
    step = captured_step(LabelLoss(model), rows, device=CUDA, precision="bf16")
    step(Batch(np.arange(16), 12))
    before = everything(step)
    step._capture((16, 12))
    assert step.execution == "captured"
    assert all(torch.equal(now, then) for now, then in zip(everything(step), before, strict=True))
    assert all(parameter.grad is None for parameter in step.parameters)
    step(Batch(np.arange(16), 12))
    assert not torch.equal(everything(step)[0], before[0])


@gpu
def test_replays_draw_new_dropout_from_the_same_distribution(rows):
    """At a learning rate of 0 the weights stay, so the losses of one batch differ by dropout alone."""

    def sample(make, seed):
        torch.manual_seed(seed)
        model = toy_teacher(toy_task("classification")).requires_grad_(True)
        step = make(LabelLoss(model), rows, device=CUDA)
        step.learning_rate.zero_()
        return [float(step(Batch(np.arange(16), 12))[LOSS]) for _ in range(400)]

    replayed = sample(captured_step, 1)
    assert len(set(replayed)) > 390
    eager = sample(lambda *arguments, **options: step_of(EagerStep, *arguments, **options), 2)
    assert stats.ks_2samp(replayed, eager).pvalue > 1e-3
    assert sample(captured_step, 1) == replayed


class Waits(LabelLoss):
    """Ask the GPU for a number, as an objective must not."""

    def forward(self, batch):
        terms = super().forward(batch)
        return {"labels": terms["labels"] * (1 if terms["labels"].item() < 100 else 0.5)}


@gpu
def test_an_objective_that_waits_is_trained_eagerly_and_the_warning_says_why(rows, caplog):
    objective = classifier(Waits).to(CUDA)
    settings = Settings(Budget(epochs=5, batch_size=16), "toy", 0, "fp32", CUDA)
    stage = training.Stage("waits", 1.0, objective)
    with caplog.at_level(logging.WARNING):
        record = train(objective.model, None, [stage], rows.to(CUDA), settings)
    assert record.execution == "eager"
    (message,) = caplog.messages
    assert "Waits cannot be captured" in message
    assert "captur" in message.split("cannot be captured:")[1]


@gpu
def test_after_a_failed_capture_cached_memory_can_be_had_again(rows):
    step = captured_step(classifier(Waits), rows, device=CUDA)
    free = torch.cuda.mem_get_info()[0]
    cached = torch.empty(int(0.5 * free), dtype=torch.uint8, device=CUDA)
    for _ in range(2):
        step(Batch(np.arange(16), 12))
    assert step.gave_up
    del cached
    torch.empty(int(0.8 * free), dtype=torch.uint8, device=CUDA)
    assert torch.rand(4, device=CUDA).unique().numel() > 1


@gpu
def test_a_buffer_that_refresh_replaces_is_read_by_the_next_step(rows):
    step = captured_step(classifier(Scaled), rows, device=CUDA)
    step.learning_rate.zero_()
    batch = Batch(np.arange(16), 12)
    first = [float(step(batch)[LOSS]) for _ in range(3)]
    for change in ("in place", "replace"):
        step.objective.change = change
        step.refresh()
        again = [float(step(batch)[LOSS]) for _ in range(2)]
        assert again == pytest.approx([2 * first[-1]] * 2, rel=1e-5)
        first = again


@gpu
def test_a_batch_too_large_for_the_memory_is_captured_in_parts(rows):
    class Hungry(LabelLoss):
        def forward(self, batch):
            if len(batch["labels"]) > 5:
                raise torch.OutOfMemoryError("not that many")
            return super().forward(batch)

    step = captured_step(classifier(Hungry), rows, device=CUDA)
    other = step_of(EagerStep, classifier(), rows, device=CUDA)
    for _ in range(4):
        found, expected = step(Batch(np.arange(16), 12)), other(Batch(np.arange(16), 12))
        torch.testing.assert_close(found[LOSS], expected[LOSS], rtol=1e-4, atol=1e-5)
    assert (step.micro_batch_size, step.execution) == (4, "captured")
