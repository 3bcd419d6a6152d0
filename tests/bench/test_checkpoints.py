from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from bench import assets, checkpoints
from bench.checkpoints import load_model, load_tokenizer, resolve, weights_sha256
from bench.errors import UserError
from bench.tasks.task import Source, Task

EMBEDDING = "embeddings.word_embeddings.weight"


def make_task(head: Any = "classification", **changes: Any) -> Task:
    score = {"classification": "accuracy", "regression": "pearson", "extractive-qa": "f1"}[head]
    values: dict[str, Any] = {
        "name": "made",
        "summary": "made",
        "head": head,
        "source": Source(kind="directory", path="made"),
        "text": ("question", "context") if head == "extractive-qa" else ("text",),
        "labels": ("no", "maybe", "yes") if head == "classification" else (),
        "splits": {"train": "train", "validation": "validation"},
        "main_score": score,
        "scores": (score,),
        "max_length": 16,
        "licence": "none",
        "citation": "none",
    }
    return Task(**(values | changes))


@pytest.fixture
def folder(tiny_checkpoint: Path, tmp_path: Path) -> Path:
    """A copy of the tiny checkpoint that a test may spoil."""
    return Path(shutil.copytree(tiny_checkpoint, tmp_path / "bert"))


def edit_config(folder: Path, **changes: Any) -> None:
    file = folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def edit_weights(folder: Path, edit: Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]]) -> None:
    file = folder / "model.safetensors"
    save_file(edit(load_file(file)), file, metadata={"format": "pt"})


def test_a_folder_is_resolved(folder: Path) -> None:
    checkpoint = resolve(str(folder))
    assert (checkpoint.name, checkpoint.folder) == ("bert", folder)
    assert checkpoint.sha256 == weights_sha256(folder)
    assert len(load_tokenizer(checkpoint)) == load_file(folder / "model.safetensors")[EMBEDDING].shape[0]


def test_embedded_is_the_pinned_asset(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    monkeypatch.setattr(assets, "ensure", lambda asset: asked.append(asset) or folder)
    assert resolve("embedded").name == "minilm-l6-h384"
    assert asked == [assets.MINILM]


@pytest.mark.network
def test_the_embedded_checkpoint_has_one_identity_and_loads(cache: Path) -> None:
    checkpoint = resolve("embedded")
    assert checkpoint.sha256 == "dddbed9b2da0f50ead702201235307c796393f98b63a032ed3106bc9a9e9cba9"
    model = load_model(checkpoint, make_task(), seed=0)
    assert (model.config.num_hidden_layers, model.config.hidden_size) == (6, 384)
    assert round(sum(parameter.numel() for parameter in model.bert.parameters()) / 1e6, 1) == 22.7


def test_identity_is_that_of_the_tensors_whatever_files_hold_them(folder: Path, tmp_path: Path) -> None:
    whole = weights_sha256(folder)
    tensors = load_file(folder / "model.safetensors")
    names = sorted(tensors)
    sharded = tmp_path / "sharded"
    sharded.mkdir()
    shards = {"model-00001-of-00002.safetensors": names[::2], "model-00002-of-00002.safetensors": names[1::2]}
    for file, kept in shards.items():
        save_file({name: tensors[name] for name in reversed(kept)}, sharded / file, metadata={"shard": file})
    index = {"weight_map": {name: file for file, kept in shards.items() for name in kept}}
    (sharded / "model.safetensors.index.json").write_text(json.dumps(index))
    assert weights_sha256(sharded) == whole
    (sharded / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(
        UserError, match=r"model-00002-of-00002\.safetensors is missing, which model\.safetensors\.index"
    ):
        weights_sha256(sharded)


def test_an_index_that_is_no_json_is_refused(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors.index.json").write_text("{")
    with pytest.raises(UserError, match=r"model\.safetensors\.index\.json: not readable"):
        resolve(str(folder))


@pytest.mark.parametrize("change", ["value", "shape", "dtype", "name"])
def test_identity_sees_every_change(folder: Path, change: str) -> None:
    whole = weights_sha256(folder)

    def edit(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        name = "encoder.layer.0.output.dense.weight"
        tensor = tensors.pop(name)
        edited = {
            "value": lambda: tensor + torch.eye(*tensor.shape) * 1e-6,
            "shape": lambda: tensor.reshape(-1),
            "dtype": lambda: tensor.view(torch.int32),
            "name": lambda: tensor,
        }[change]()
        return tensors | {f"{name}x" if change == "name" else name: edited.contiguous()}

    edit_weights(folder, edit)
    assert weights_sha256(folder) != whole


def test_an_unknown_teacher_lists_what_is_possible() -> None:
    with pytest.raises(
        UserError, match=r"unknown teacher 'embeded'; did you mean 'embedded'\? known: .*\./folder"
    ):
        resolve("embeded")
    with pytest.raises(UserError, match=r"'bert-base-uncased'; known: .*bert-base-uncased@<revision: 40 hex"):
        resolve("bert-base-uncased")


def test_a_hub_teacher_needs_a_commit() -> None:
    with pytest.raises(
        UserError, match="teacher 'bert-base-uncased@main': revision 'main' may move; pin the commit"
    ):
        resolve("bert-base-uncased@main")


def test_a_hub_teacher_that_is_not_cached_is_refused_at_once_when_offline(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="not in the hub's cache and HF_HUB_OFFLINE forbids"):
        resolve(f"made-up-owner/made-up-name@{'0' * 40}")


def test_a_file_is_no_folder(folder: Path) -> None:
    with pytest.raises(UserError, match=r"is a file; give the folder with config\.json"):
        resolve(str(folder / "model.safetensors"))


def test_a_folder_without_a_configuration_is_refused(folder: Path) -> None:
    (folder / "config.json").unlink()
    with pytest.raises(
        UserError, match=r"bert: no config\.json; a checkpoint is a folder written by save_pretrained"
    ):
        resolve(str(folder))


@pytest.mark.parametrize("content", ["{", "[]", "\ud800".encode("utf-8", "surrogatepass")])
def test_a_configuration_that_is_no_json_object_is_refused(folder: Path, content: str | bytes) -> None:
    (folder / "config.json").write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(UserError, match=r"config\.json: (not readable|not a JSON object)"):
        resolve(str(folder))


def test_a_model_that_is_no_bert_is_refused(folder: Path) -> None:
    edit_config(folder, model_type="roberta")
    with pytest.raises(UserError, match="model_type is 'roberta'; a teacher is a BERT"):
        resolve(str(folder))


def test_truncated_weights_are_refused(folder: Path) -> None:
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(UserError, match=r"model\.safetensors: truncated or not safetensors at all"):
        resolve(str(folder))


@pytest.mark.parametrize("content", [b"", b"\x80\x04K\x01."], ids=["empty", "pickle"])
def test_weights_that_are_not_safetensors_are_refused(folder: Path, content: bytes) -> None:
    (folder / "model.safetensors").write_bytes(content)
    with pytest.raises(UserError, match="truncated or not safetensors at all"):
        resolve(str(folder))


@pytest.mark.parametrize("name", ["pytorch_model.bin", "bert.ckpt", "weights.pt"])
def test_a_pickle_is_refused_by_name_and_never_opened(folder: Path, name: str) -> None:
    (folder / "model.safetensors").rename(folder / name)
    (folder / name).write_bytes(b"not even a pickle")
    with pytest.raises(
        UserError, match=rf"{name}: weights in this format are not read, since loading a pickle can run"
    ):
        resolve(str(folder))


def test_a_folder_without_weights_is_refused(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    with pytest.raises(UserError, match=r"bert: no model\.safetensors"):
        resolve(str(folder))


def test_a_folder_without_a_tokenizer_is_refused(folder: Path) -> None:
    for file in [*folder.glob("token*"), *folder.glob("vocab*")]:
        file.unlink()
    with pytest.raises(UserError, match="bert: no tokenizer; save it beside the weights"):
        resolve(str(folder))


def test_a_damaged_tokenizer_is_refused(folder: Path) -> None:
    (folder / "tokenizer.json").write_text("{")
    with pytest.raises(UserError, match="the tokenizer does not load"):
        resolve(str(folder))


@pytest.mark.parametrize("more", [-1, 1])
def test_a_tokenizer_of_another_size_than_the_embedding_is_refused(folder: Path, more: int) -> None:
    tokens = len(load_tokenizer(resolve(str(folder))))
    edit_weights(folder, lambda tensors: tensors | {EMBEDDING: torch.zeros(tokens + more, 32)})
    with pytest.raises(UserError, match=f"knows {tokens} tokens, the embedding has {tokens + more} rows"):
        resolve(str(folder))


def test_weights_of_something_else_are_refused(folder: Path) -> None:
    save_file({"lm_head.weight": torch.zeros(2, 2)}, folder / "model.safetensors")
    with pytest.raises(UserError, match=r"have no embeddings\.word_embeddings\.weight; they are no BERT's"):
        resolve(str(folder))


def test_weights_that_do_not_belong_to_the_configuration_are_refused(folder: Path) -> None:
    edit_config(folder, num_hidden_layers=5)
    with pytest.raises(
        UserError, match=r"do not belong together; 16 tensors are .*bert\.encoder\.layer\.4\."
    ):
        load_model(resolve(str(folder)), make_task(), seed=0)
    edit_config(folder, num_hidden_layers=4, intermediate_size=64)
    with pytest.raises(UserError, match=r"do not belong together; 12 tensors"):
        load_model(resolve(str(folder)), make_task(), seed=0)


def test_a_task_with_longer_sequences_than_positions_is_refused(folder: Path) -> None:
    with pytest.raises(
        UserError, match=r"up to 64 tokens, the checkpoint bert reads 32; write 'made\[max_length=32\]'"
    ):
        load_model(resolve(str(folder)), make_task(max_length=64), seed=0)


@pytest.mark.parametrize(
    ("head", "name", "outputs"),
    [
        ("classification", "BertForSequenceClassification", 3),
        ("regression", "BertForSequenceClassification", 1),
        ("extractive-qa", "BertForQuestionAnswering", 2),
    ],
)
def test_a_new_head_has_the_task_s_kind_and_size(folder: Path, head: str, name: str, outputs: int) -> None:
    model = load_model(resolve(str(folder)), make_task(head), seed=0)
    assert type(model).__name__ == name
    assert model.config.num_labels == outputs
    layer = model.qa_outputs if head == "extractive-qa" else model.classifier
    assert layer.weight.shape == (outputs, 32)
    assert layer.bias.eq(0).all()
    scale = model.config.initializer_range
    assert 0.5 * scale < layer.weight.std() < 1.5 * scale
    expected = {"classification": {0: "no", 1: "maybe", 2: "yes"}, "regression": {0: "LABEL_0"}}.get(head)
    assert expected is None or model.config.id2label == expected
    assert not model.training


def test_the_head_depends_on_the_seed_alone(folder: Path) -> None:
    checkpoint, task = resolve(str(folder)), make_task()
    torch.manual_seed(1)
    before = torch.random.get_rng_state()
    first = load_model(checkpoint, task, seed=0)
    assert torch.random.get_rng_state().equal(before), "the global generator is left as it was"
    torch.manual_seed(2)
    assert load_model(checkpoint, task, seed=0).classifier.weight.equal(first.classifier.weight)
    assert not load_model(checkpoint, task, seed=1).classifier.weight.equal(first.classifier.weight)


def test_a_missing_pooler_is_new_and_depends_on_the_seed_too(folder: Path) -> None:
    edit_weights(folder, lambda tensors: {name: tensors[name] for name in tensors if "pooler" not in name})
    checkpoint, task = resolve(str(folder)), make_task()
    first, second, other = (
        load_model(checkpoint, task, seed=seed).bert.pooler.dense.weight for seed in (0, 0, 1)
    )
    assert first.equal(second)
    assert not first.equal(other)


def test_encoder_weights_are_those_of_the_file_in_fp32(folder: Path) -> None:
    edit_weights(folder, lambda tensors: {name: tensor.half() for name, tensor in tensors.items()})
    model = load_model(resolve(str(folder)), make_task(), seed=0)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    stored = load_file(folder / "model.safetensors")
    for name, parameter in model.bert.named_parameters():
        assert parameter.equal(stored[name].float()), name


def save_fine_tuned(folder: Path, task: Task, **config: Any) -> torch.Tensor:
    """Turn the folder into a checkpoint fine-tuned on a task; return the weights of its head."""
    model = load_model(resolve(str(folder)), task, seed=3)
    model.save_pretrained(folder)
    if config:
        edit_config(folder, **config)
    return (model.qa_outputs if task.head == "extractive-qa" else model.classifier).weight


@pytest.mark.parametrize("head", ["classification", "regression", "extractive-qa"])
def test_a_fine_tuned_head_of_the_task_fits_and_is_kept(folder: Path, head: str) -> None:
    task = make_task(head)
    assert not resolve(str(folder)).fits(task)
    weight = save_fine_tuned(folder, task)
    checkpoint = resolve(str(folder))
    assert checkpoint.fits(task)
    model = load_model(checkpoint, task, seed=0)
    assert (model.qa_outputs if head == "extractive-qa" else model.classifier).weight.equal(weight)


def test_a_head_without_names_fits_by_its_size(folder: Path) -> None:
    generic = {str(code): f"LABEL_{code}" for code in range(3)}
    save_fine_tuned(folder, make_task(), id2label=generic)
    assert resolve(str(folder)).fits(make_task())


def test_names_are_compared_without_case_and_hyphens(folder: Path) -> None:
    task = make_task(labels=("not_entailment", "entailment"))
    save_fine_tuned(folder, task, id2label={"0": "Not-Entailment", "1": "ENTAILMENT"})
    assert resolve(str(folder)).fits(task)


@pytest.mark.parametrize(
    "task",
    [
        make_task(labels=("yes", "maybe", "no")),
        make_task(labels=("no", "yes")),
        make_task("regression"),
        make_task("extractive-qa"),
    ],
    ids=["other order", "other number", "regression", "extractive-qa"],
)
def test_a_head_of_another_task_does_not_fit_and_is_replaced(folder: Path, task: Task) -> None:
    weight = save_fine_tuned(folder, make_task())
    checkpoint = resolve(str(folder))
    assert not checkpoint.fits(task)
    model = load_model(checkpoint, task, seed=0)
    layer = model.qa_outputs if task.head == "extractive-qa" else model.classifier
    assert layer.weight.shape[0] == task.num_labels
    assert not (layer.weight.shape == weight.shape and layer.weight.equal(weight))


def test_pickles_in_all_names_that_the_hub_is_asked_for_are_none() -> None:
    assert not any(
        name.endswith((".bin", ".pt", ".py", ".ckpt")) or name == "*" for name in checkpoints.HUB_FILES
    )
