"""How long does one optimiser step take: ours as a CUDA graph, ours in eager mode, and in others' training loops?

Two steps are taken by everybody: fine-tuning the teacher on labels, and distilling a MoEBERT from it with its hidden
states (TextBrewer with its own losses on the same states, the transformers Trainer with our objective). All see the
same batches of real rows, already on the device and cut from the same length buckets, in bf16 autocast with clipping
and fused AdamW. They take turns, a slice of steps each, in one process; a slice is timed from one synchronised step to
another, without what its loop does before and after. Printed are medians over the slices, and ratios of medians.

    python benchmarks/training_step.py                               # embedded teacher and corpus
    python benchmarks/training_step.py --task sst2 --data FOLDER     # rows of a folder of Parquet files
    python benchmarks/training_step.py --profile                     # the kernels of a captured step

The last line of standard output is one JSON document.
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

os.environ |= {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error", "TQDM_DISABLE": "1"}

import torch
from torch import Tensor, nn

from bench import checkpoints
from bench.batching import Batch, training_batches
from bench.captured import CapturedStep
from bench.cell import LabelLoss
from bench.data import encode, model_inputs
from bench.encoded import Encoded
from bench.method import Objective
from bench.registry import methods
from bench.sources import load_rows
from bench.steps import EagerStep, decay_groups, trained_parameters, weighted
from bench.tasks import catalog
from results.record import Budget

warnings.simplefilter("ignore", SyntaxWarning)  # of TextBrewer's sources

DEVICE = torch.device("cuda")
UNTIMED = 4  # first steps of a slice
BUDGET = Budget(batch_size=32, learning_rate=2e-5)
TO_REACH = {"captured_ms": 4.0, "eager": 4.0, "textbrewer": 5.0, "trainer": 5.0}  # for MoEBERT

Slice = Callable[[], float]  # take the steps, return milliseconds of one


def main() -> None:
    arguments = parse()
    torch.manual_seed(0)
    task = catalog.find(arguments.task)
    checkpoint = checkpoints.resolve(arguments.teacher)
    rows = load_rows(task, data=arguments.data, limit=None).splits["train"]
    tokenizer = checkpoints.load_tokenizer(checkpoint)
    encoded = encode(task, rows, tokenizer, cache=None, key="benchmark", training=True).to(DEVICE)
    order = training_batches(encoded.lengths, batch_size=BUDGET.batch_size, seed=0)
    batches = list(islice(order, arguments.steps))
    teacher = checkpoints.load_model(checkpoint, task, seed=0).to(DEVICE).eval().requires_grad_(False)
    results = {
        "fine-tuning": compare("fine-tuning", fine_tuning(teacher, encoded, batches), arguments.rounds),
        "MoEBERT": compare("MoEBERT", moebert(teacher, task, encoded, batches), arguments.rounds),
    }
    if arguments.profile:
        profile(captured_step(moebert_objective(teacher, task, encoded, batches), teacher, encoded), batches)
    print(
        json.dumps(
            {
                "benchmark": "training_step",
                "gpu": torch.cuda.get_device_name(),
                "torch": torch.__version__,
                "task": task.name,
                "teacher": checkpoint.name,
                "batch_size": BUDGET.batch_size,
                "mean_length": statistics.mean(batch.length for batch in batches),
                "steps_of_a_slice": arguments.steps - UNTIMED,
                "rounds": arguments.rounds,
                "to_reach": TO_REACH,
                "steps": results,
            }
        )
    )


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--teacher", default="embedded", help="embedded, or a folder")
    parser.add_argument("--task", default="rotten-tomatoes")
    parser.add_argument("--data", type=Path, help="folder of Parquet files, for tasks that are read from one")
    parser.add_argument("--steps", type=int, default=44, help="of a slice")
    parser.add_argument("--rounds", type=int, default=5, help="slices of everybody")
    parser.add_argument("--profile", action="store_true")
    return parser.parse_args()


def fine_tuning(teacher: Any, rows: Encoded, batches: list[Batch]) -> dict[str, Slice]:
    def objective() -> LabelLoss:
        return LabelLoss(copy.deepcopy(teacher).requires_grad_(True))

    model = objective().model
    return {
        "captured": ours(captured_step(objective(), None, rows), batches),
        "eager": ours(eager_step(objective(), None, rows), batches),
        **trainer(objective(), None, rows, batches),
        **textbrewer_labels(model, rows, batches),
    }


def moebert(teacher: Any, task: Any, rows: Encoded, batches: list[Batch]) -> dict[str, Slice]:
    def objective() -> Any:
        return moebert_objective(teacher, task, rows, batches)

    return {
        "captured": ours(captured_step(objective(), teacher, rows), batches),
        "eager": ours(eager_step(objective(), teacher, rows), batches),
        **trainer(objective(), teacher, rows, batches),
        **textbrewer_distillation(objective().student, teacher, rows, batches),
    }


def moebert_objective(teacher: Any, task: Any, rows: Encoded, batches: list[Batch]) -> Any:
    method = methods.get("moebert")()
    calibration = [rows.batch(batch.indices, batch.length) for batch in batches[:4]]
    student = method.compress(teacher, calibration, task).to(DEVICE).requires_grad_(True)
    (stage,) = method.stages(teacher, student, task)
    return stage.objective


def eager_step(objective: Objective, teacher: Any, rows: Encoded) -> EagerStep:
    return _step(EagerStep, objective, teacher, rows)


def captured_step(objective: Objective, teacher: Any, rows: Encoded) -> EagerStep:
    return _step(lambda *arguments: CapturedStep([], *arguments), objective, teacher, rows)


def _step(kind: Callable[..., EagerStep], objective: Objective, teacher: Any, rows: Encoded) -> EagerStep:
    objective.to(DEVICE).train()
    parameters = trained_parameters(objective, objective, teacher)
    return kind(objective, parameters, rows, BUDGET, "bf16", BUDGET.batch_size)


def ours(step: EagerStep, batches: list[Batch]) -> Slice:
    for batch in batches * 2:  # meet every shape, and capture it where that is the way
        step(batch)

    def run() -> float:
        watch = Watch(len(batches))
        for batch in batches:
            watch.step()
            step.learning_rate.fill_(BUDGET.learning_rate)
            step.objective.progress.fill_(0.5)
            step(batch)
        return watch.milliseconds

    return run


class Watch:
    """Time a slice: from the beginning of a step to the beginning of the last."""

    def __init__(self, steps: int) -> None:
        self.steps, self.begun = steps, 0
        self.start = self.milliseconds = 0.0

    def step(self) -> None:
        """Note that a step begins."""
        self.begun += 1
        if self.begun == UNTIMED:
            torch.cuda.synchronize()
            self.start = time.perf_counter()
        elif self.begun == self.steps:
            torch.cuda.synchronize()
            self.milliseconds = 1e3 * (time.perf_counter() - self.start) / (self.steps - UNTIMED)


class WatchedBatches:
    """A loader of batches on the device that knows when a loop asks for the next."""

    def __init__(self, batches: list[dict[str, Tensor]]) -> None:
        self.batches = batches
        self.watch = Watch(len(batches))

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        for batch in self.batches:
            self.watch.step()
            yield batch


def on_device(rows: Encoded, batches: list[Batch]) -> list[dict[str, Tensor]]:
    return [rows.batch(batch.indices, batch.length) for batch in batches]


def optimizer_of(parameters: dict[str, nn.Parameter]) -> torch.optim.Optimizer:
    groups = decay_groups(parameters, BUDGET.weight_decay)
    return torch.optim.AdamW(groups, lr=BUDGET.learning_rate, fused=True)


def trainer(objective: Any, teacher: Any, rows: Encoded, batches: list[Batch]) -> dict[str, Slice]:
    """Let the transformers Trainer minimise our objective."""
    try:
        import accelerate  # noqa: F401
        from transformers import PrinterCallback, Trainer, TrainingArguments
    except ImportError:
        print("the transformers Trainer is left out: accelerate is not installed")
        return {}

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.objective = objective

        def forward(self, **batch: Tensor) -> dict[str, Tensor]:
            return {"loss": weighted(self.objective(batch), self.objective)[""]}

    class OnDevice(Trainer):  # type: ignore[misc]
        loader: WatchedBatches

        def get_train_dataloader(self) -> Any:
            return self.loader

        def create_optimizer(self, *_: Any) -> torch.optim.Optimizer:
            self.optimizer = optimizer_of(trained_parameters(objective, objective, teacher))
            return self.optimizer

    model, loaded = Model().to(DEVICE).train(), on_device(rows, batches)
    folder = tempfile.mkdtemp(prefix="moebench-trainer-")

    def run() -> float:
        plan = TrainingArguments(
            output_dir=folder,
            max_steps=len(batches),
            bf16=True,
            max_grad_norm=BUDGET.max_grad_norm,
            per_device_train_batch_size=BUDGET.batch_size,
            save_strategy="no",
            logging_strategy="no",
            report_to=[],
            disable_tqdm=True,
        )
        looped = OnDevice(model=model, args=plan)
        looped.remove_callback(PrinterCallback)
        looped.loader = WatchedBatches(loaded)
        looped.train()
        return looped.loader.watch.milliseconds

    return {"trainer": run}


def textbrewer_labels(model: Any, rows: Encoded, batches: list[Batch]) -> dict[str, Slice]:
    import textbrewer

    looped = textbrewer.BasicTrainer(textbrewer_plan(), model, lambda _batch, out: {"losses": [out["loss"]]})
    return {"textbrewer": textbrewer_slice(looped, model, rows, batches)}


def textbrewer_distillation(
    student: Any, teacher: Any, rows: Encoded, batches: list[Batch]
) -> dict[str, Slice]:
    """Match all hidden states, predictions and labels, in TextBrewer's words."""
    import textbrewer

    states = range(teacher.config.num_hidden_layers + 1)
    matches = [
        {"feature": "hidden", "loss": "hidden_mse", "layer_T": layer, "layer_S": layer, "weight": 1.0}
        for layer in states
    ]
    plan = textbrewer.DistillationConfig(hard_label_weight=1.0, intermediate_matches=matches)

    def adapt(batch: dict[str, Tensor], out: Any) -> dict[str, Any]:
        return {
            "logits": [out["logits"].float()],
            "hidden": [hidden.float() for hidden in out["hidden_states"]],
            "inputs_mask": batch["attention_mask"],
            "losses": [out["loss"]],
        }

    looped = textbrewer.GeneralDistiller(textbrewer_plan(), plan, teacher, student, adapt, adapt)
    return {"textbrewer": textbrewer_slice(looped, student, rows, batches, output_hidden_states=True)}


def textbrewer_plan() -> Any:
    import textbrewer

    folder = tempfile.mkdtemp(prefix="moebench-textbrewer-")
    return textbrewer.TrainingConfig(output_dir=folder, log_dir=None, device=DEVICE, ckpt_steps=10**9)


def textbrewer_slice(looped: Any, model: Any, rows: Encoded, batches: list[Batch], **arguments: Any) -> Slice:
    optimizer = optimizer_of(dict(model.named_parameters()))
    loaded = [model_inputs(model, batch) for batch in on_device(rows, batches)]

    def run() -> float:
        loader = WatchedBatches(loaded)
        with looped, torch.autocast("cuda", dtype=torch.bfloat16):
            looped.train(
                optimizer,
                loader,
                num_epochs=None,
                num_steps=len(loader),
                max_grad_norm=BUDGET.max_grad_norm,
                callback=lambda **_: None,
                **arguments,
            )
        return loader.watch.milliseconds

    return run


def compare(name: str, contenders: dict[str, Slice], rounds: int) -> dict[str, Any]:
    """Let everybody take turns, a warm-up round first."""
    times: dict[str, list[float]] = {contender: [] for contender in contenders}
    for number in range(rounds + 1):
        for contender, run in contenders.items():
            milliseconds = run()
            if number:
                times[contender].append(milliseconds)
    medians = {contender: statistics.median(values) for contender, values in times.items()}
    print(f"{name}, one step:")
    for contender, median in medians.items():
        low, _, high = statistics.quantiles(times[contender], n=4)
        ratio = median / medians["captured"]
        print(
            f"  {contender:12} {median:7.2f} ms (quartiles {low:.2f} to {high:.2f}), {ratio:.2f} x captured"
        )
    return {
        "ms": medians,
        "over_captured": {key: value / medians["captured"] for key, value in medians.items()},
    }


def profile(step: EagerStep, batches: list[Batch]) -> None:
    """Print which kernels a captured step of MoEBERT spends its time in."""
    for batch in batches * 2:
        step(batch)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profiler:
        for batch in batches:
            step(batch)
        torch.cuda.synchronize()
    kernels = sorted(profiler.key_averages(), key=lambda kernel: -kernel.self_device_time_total)
    total = sum(kernel.self_device_time_total for kernel in kernels) / 1e3 / len(batches)
    launches = sum(kernel.count for kernel in kernels) / len(batches)
    print(f"a captured step of MoEBERT: {total:.2f} ms in {launches:.0f} kernels")
    for kernel in kernels[:25]:
        milliseconds = kernel.self_device_time_total / 1e3 / len(batches)
        print(f"  {milliseconds:6.3f} ms  {kernel.count / len(batches):6.1f} x  {kernel.key[:110]}")


if __name__ == "__main__":
    main()
