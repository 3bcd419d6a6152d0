"""Find the checkpoint that teachers start from, refuse what is none, and load it with a head for the task.

Weights are safetensors only. The identity of a checkpoint is the sha256 of its tensors, not of its files.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench import assets, hub
from bench.errors import UserError, unknown
from bench.seeds import derive

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from bench.tasks.task import Task

HUB_FILES = (
    "config.json",
    "model.safetensors",
    "model.safetensors.index.json",
    "model-*-of-*.safetensors",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "vocab.txt",
)
PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl", "*.h5", "*.msgpack")
OUTPUTS = {  # head -> architecture, name of its output layer
    "classification": ("BertForSequenceClassification", "classifier"),
    "regression": ("BertForSequenceClassification", "classifier"),
    "extractive-qa": ("BertForQuestionAnswering", "qa_outputs"),
}


@dataclass(frozen=True)
class Checkpoint:
    """A validated BERT checkpoint on this machine.

    Attributes:
        name: What tables call it.
        folder: With ``config.json``, the weights as safetensors and the tokenizer.
        sha256: Of the weights; see ``weights_sha256``.
    """

    name: str
    folder: Path
    sha256: str

    def fits(self, task: Task) -> bool:
        """Say whether it already has a head fine-tuned for this kind of task with these labels.

        Names of labels decide where the checkpoint has them: a head whose classes stand in another order does not fit.
        """
        config = _config(self.folder)
        architecture, layer = OUTPUTS[task.head]
        if config.get("architectures") != [architecture]:
            return False
        shapes = {name: tuple(entry["shape"]) for name, entry in _tensors(self.folder)}
        if shapes.get(f"{layer}.weight", ())[:1] != (task.num_labels,) or f"{layer}.bias" not in shapes:
            return False
        return has_labels_of(config.get("id2label") or {}, task)


def has_labels_of(names: Mapping[Any, Any], task: Task) -> bool:
    """Say whether the classes of a checkpoint, by code, are the task's; names such as LABEL_0 contradict nothing."""
    named = [str(name) for _, name in sorted(names.items(), key=lambda item: int(item[0]))]
    generic = [f"LABEL_{code}" for code in range(task.num_labels)]
    return task.head != "classification" or named in ([], generic) or _plain(named) == _plain(task.labels)


def resolve(spec: str) -> Checkpoint:
    """Find and validate a checkpoint.

    Args:
        spec: ``embedded``, a folder, or a hub id with a pinned commit, ``bert-base-uncased@<revision>``.

    Raises:
        UserError: Where there is none, or it is not a whole BERT as safetensors with its own tokenizer.
    """
    folder = Path(spec).expanduser().absolute()
    if spec == "embedded":
        name, folder = assets.MINILM.name, assets.ensure(assets.MINILM)
    elif folder.is_dir():
        name = folder.name
    elif "@" in spec:
        name, _, revision = spec.rpartition("@")
        folder = hub.fetch(name, hub.require_commit(f"teacher {spec!r}", revision), HUB_FILES, "model")
    elif folder.is_file():
        raise UserError(
            f"teacher {spec!r} is a file; give the folder with config.json, model.safetensors and tokenizer"
        )
    else:
        raise unknown(
            "teacher",
            spec,
            ("embedded", "./folder", "bert-base-uncased@<revision: 40 hex digits of a commit>"),
        )
    _validate(folder)
    return Checkpoint(name, folder, weights_sha256(folder))


def weights_sha256(folder: Path) -> str:
    """Digest the tensors of a folder: names, dtypes, shapes and bytes, in the order of their names.

    How the tensors are spread over files, and in what order, does not matter.
    """
    digest = hashlib.sha256()
    for name, entry in _tensors(folder):
        digest.update(json.dumps([name, entry["dtype"], entry["shape"]]).encode())
        begin, end = entry["data_offsets"]
        with entry["file"].open("rb") as stream:
            stream.seek(entry["start"] + begin)
            digest.update(stream.read(end - begin))
    return digest.hexdigest()


def model_type(folder: Path) -> str:
    """Return what a checkpoint's configuration calls its kind of model."""
    return str(_config(folder).get("model_type"))


def load_tokenizer(checkpoint: Checkpoint) -> PreTrainedTokenizerBase:
    """Load the checkpoint's own tokenizer."""
    return _tokenizer(checkpoint.folder)


def load_model(checkpoint: Checkpoint, task: Task, *, seed: int) -> PreTrainedModel:
    """Load the checkpoint in fp32 with a head for the task.

    A head that fits is kept. A new one depends on the seed alone: it is the same for every method, and the global
    random generators are left as they were.

    Raises:
        UserError: Where weights other than the head are missing or have another shape than the configuration says, or
            the task's sequences are too long.
    """
    import torch

    from bench.tasks.heads import auto_model_class

    require_room(checkpoint, task)
    labels = task.labels or [f"LABEL_{code}" for code in range(task.num_labels)]
    with torch.random.fork_rng(devices=[]), _quiet():
        model, loading = auto_model_class(task.head).from_pretrained(
            checkpoint.folder,
            num_labels=task.num_labels,
            id2label=dict(enumerate(labels)),
            label2id={label: code for code, label in enumerate(labels)},
            problem_type={"classification": "single_label_classification", "regression": "regression"}.get(
                task.head
            ),
            dtype=torch.float32,
            local_files_only=True,
            trust_remote_code=False,
            use_safetensors=True,
            ignore_mismatched_sizes=True,
            output_loading_info=True,
        )
    head = OUTPUTS[task.head][1]
    missing = set(loading["missing_keys"])
    absent = {name for name in missing if not name.startswith((f"{head}.", "bert.pooler."))}
    reshaped = {str(key[0] if isinstance(key, tuple) else key) for key in loading["mismatched_keys"]}
    if wrong := sorted(absent | {name for name in reshaped if not name.startswith(f"{head}.")}):
        raise UserError(
            f"{checkpoint.folder}: config.json and the weights do not belong together; {len(wrong)} tensors are "
            f"missing or have another shape, the first is {wrong[0]}"
        )
    fresh = [] if checkpoint.fits(task) else [getattr(model, head)]
    if any(name.startswith("bert.pooler.") for name in missing):
        fresh.append(model.bert.pooler.dense)
    generator = torch.Generator().manual_seed(derive(seed, "head"))
    for layer in fresh:
        torch.nn.init.normal_(layer.weight, std=model.config.initializer_range, generator=generator)
        torch.nn.init.zeros_(layer.bias)
    return model


def require_room(checkpoint: Checkpoint, task: Task) -> None:
    """Raise a UserError where the task's longest sequence has more tokens than the checkpoint has positions."""
    most = _config(checkpoint.folder).get("max_position_embeddings", 512)
    if task.max_length > most:
        raise UserError(
            f"task {task.name!r} has sequences of up to {task.max_length} tokens, the checkpoint {checkpoint.name} "
            f"reads {most}; write '{task.name}[max_length={most}]'"
        )


def _validate(folder: Path) -> None:
    """Refuse a folder that is not a whole BERT with its own tokenizer.

    Raises:
        UserError: Naming the file and what to do.
    """
    config = _config(folder)
    kind = config.get("model_type")
    if kind != "bert":
        raise UserError(f"{folder}: model_type is {kind!r}; a teacher is a BERT, model_type 'bert'")
    tensors = dict(_tensors(folder))
    embedding = next(
        (tensors[name] for name in tensors if name.endswith("embeddings.word_embeddings.weight")), None
    )
    if embedding is None:
        raise UserError(
            f"{folder}: the weights have no embeddings.word_embeddings.weight; they are no BERT's"
        )
    tokens = len(_tokenizer(folder))
    if tokens != embedding["shape"][0]:
        raise UserError(
            f"{folder}: the tokenizer knows {tokens} tokens, the embedding has {embedding['shape'][0]} rows; "
            "they do not belong together (for rows added as padding, call resize_token_embeddings and save again)"
        )


def _config(folder: Path) -> dict[str, Any]:
    if not (folder / "config.json").is_file():
        raise UserError(f"{folder}: no config.json; a checkpoint is a folder written by save_pretrained")
    return _read_object(folder / "config.json")


def _read_object(file: Path) -> dict[str, Any]:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{file}: not readable: {error}") from error
    if not isinstance(content, dict):
        raise UserError(f"{file}: not a JSON object")
    return content


def _weight_files(folder: Path) -> list[Path]:
    """Return the safetensors files, whole or in shards."""
    single, index = folder / "model.safetensors", folder / "model.safetensors.index.json"
    if single.is_file():
        return [single]
    if index.is_file():
        shards = sorted({Path(name).name for name in _read_object(index).get("weight_map", {}).values()})
        if absent := [name for name in shards if not (folder / name).is_file()]:
            raise UserError(f"{folder}: {absent[0]} is missing, which {index.name} names")
        return [folder / name for name in shards]
    if pickles := sorted(file.name for pattern in PICKLES for file in folder.glob(pattern)):
        raise UserError(
            f"{folder / pickles[0]}: weights in this format are not read, since loading a pickle can run any code; "
            "convert them where you trust them: model.save_pretrained(folder) writes model.safetensors"
        )
    raise UserError(f"{folder}: no model.safetensors")


def _tensors(folder: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield every tensor's entry of the safetensors headers by name, in order; ``file`` and ``start`` are added."""
    from safetensors import SafetensorError, safe_open

    entries: dict[str, dict[str, Any]] = {}
    for file in _weight_files(folder):
        try:
            with safe_open(file, framework="np"):  # checks the header against the length of the file
                pass
        except SafetensorError as error:
            raise UserError(f"{file}: truncated or not safetensors at all ({error})") from error
        with file.open("rb") as stream:
            length = int.from_bytes(stream.read(8), "little")
            header = json.loads(stream.read(length))
        header.pop("__metadata__", None)
        for name, entry in header.items():
            entries[name] = {**entry, "file": file, "start": 8 + length}
    yield from sorted(entries.items())


def _tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    if not any((folder / name).is_file() for name in ("tokenizer.json", "vocab.txt")):
        raise UserError(
            f"{folder}: no tokenizer; save it beside the weights: tokenizer.save_pretrained(folder)"
        )
    from transformers import AutoTokenizer

    try:
        with _quiet():
            return AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except Exception as error:
        raise UserError(f"{folder}: the tokenizer does not load: {error}") from error


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep the loading report and the progress bar of transformers off the terminal."""
    from transformers.utils import logging as reports

    level, bar = reports.get_verbosity(), reports.is_progress_bar_enabled()
    reports.set_verbosity(logging.ERROR)
    reports.disable_progress_bar()
    try:
        yield
    finally:
        reports.set_verbosity(level)
        if bar:
            reports.enable_progress_bar()


def _plain(names: Any) -> list[str]:
    return [str(name).casefold().replace("-", "_").replace(" ", "_") for name in names]
