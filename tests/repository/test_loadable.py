"""What a loader would read by its name, and what a checkpoint can't do without."""

from __future__ import annotations

import pytest

from keepstep.model import FileEntry
from keepstep.repository import Loaders, Need, lack_of, need_of

DIGEST = "xxh3-128:" + "0" * 32
MODEL = ("config.json", "model.safetensors", "optimizer.pt", "trainer_state.json")
ADAPTER = ("adapter_config.json", "adapter_model.safetensors", "optimizer.pt")
SENTENCES = ("modules.json", "model.safetensors", "1_Pooling/config.json")


def of(*paths: str, others: tuple[str, ...] = ()) -> Loaders:
    own = [FileEntry(path, 1, DIGEST) for path in paths]
    return Loaders([*own, *(FileEntry(path, 1, DIGEST, by="others") for path in others)], code=["modeling_mine.py"])


READ = [
    *("model.safetensors", "model.fp16.safetensors", "model-00001-of-00002.safetensors"),
    *("model.fp16-00001-of-00002.safetensors", "model_1.safetensors", "model.safetensors.index.json"),
    *("model.safetensors.index.fp16.json", "pytorch_model.bin", "pytorch_model.bin.index.json"),
    *("pytorch_model-00001-of-00002.bin", "pytorch_model_1.bin", "pytorch_model_fsdp.bin"),
    *("pytorch_model_fsdp_0/.metadata", "adapter_model.safetensors", "adapter_model.bin", "adapter_config.json"),
    *("config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json", "added_tokens.json"),
    *("special_tokens_map.json", "chat_template.jinja", "chat_template.json", "vocab.json", "merges.txt"),
    *("spiece.model", "sentencepiece.bpe.model", "additional_chat_templates/rag.jinja", "preprocessor_config.json"),
    *("modeling_mine.py", "optimizer.pt", "optimizer.bin", "scheduler.pt", "scaler.pt", "rng_state.pth"),
    *("rng_state_3.pth", "random_states_0.pkl", "trainer_state.json", "training_args.bin", "latest"),
    *("global_step8/mp_rank_00_model_states.pt", "optimizer_0/__0_0.distcp", "keepstep_state.json"),
    *("keepstep_state_1.json", "keepstep_extra.safetensors", "optimizer_1.bin", "custom_checkpoint_0.pkl"),
]
NOT_READ = [
    *("ema.pt", "ema.safetensors", "model_ema.safetensors", "ema_model.safetensors", "eval_results.json"),
    *("all_results.json", "train_results.json", "trainer_state.json.bak", "optimizer.pt.old", "my_config.json"),
    *("config.json.orig", "notes.txt", "plot.png", "README.md", "train.py", "rollout_state.json", "model.onnx"),
    *("merged/config.json", "merged/model.safetensors", "merged/optimizer.pt", "best/adapter_model.safetensors"),
    *(".cache/huggingface/x.json", "tensorboard/events.out.tfevents.1", "state/keepstep.json", "keepstep.txt"),
]


@pytest.mark.parametrize("path", READ)
def test_names_that_loaders_look_for(path: str) -> None:
    assert "would" in (why := of(*MODEL).why(path)) or "a config names it" in why


@pytest.mark.parametrize("path", NOT_READ)
def test_names_that_no_loader_looks_for(path: str) -> None:
    assert of(*MODEL).why(path) == ""


def test_a_resume_loads_an_adapter_from_every_directory_where_there_are_adapters() -> None:
    assert of(*ADAPTER).why("best/adapter_model.safetensors") == "a resume would load it as an adapter"
    assert of("default/adapter_model.bin").why("best/adapter_model.bin")
    assert of(*ADAPTER).why("deep/er/adapter_model.safetensors") == ""
    assert of(*ADAPTER).why("merged/model.safetensors") == ""


def test_a_directory_that_the_checkpoint_has_files_in_is_read_too() -> None:
    assert of(*SENTENCES).why("1_Pooling/model.safetensors")
    assert of(*SENTENCES).why("2_Dense/model.safetensors") == ""


def test_a_directory_of_others_is_not() -> None:
    assert of(*MODEL, others=("merged/config.json",)).why("merged/model.safetensors") == ""


def test_directories_by_their_names() -> None:
    assert of(*MODEL).why("global_step8", directory=True)
    assert of(*MODEL).why("pytorch_model.bin", directory=True)
    assert of(*MODEL).why("merged", directory=True) == ""
    assert of(*SENTENCES).passes_through("1_Pooling") and not of(*MODEL).passes_through("1_Pooling")


@pytest.mark.parametrize(
    ("path", "need", "lack"),
    [
        ("optimizer.pt", Need.RESUME, Need.RESUME),
        ("scheduler.pt", Need.RESUME, Need.RESUME),
        ("rng_state_0.pth", Need.RESUME, Need.RESUME),
        ("trainer_state.json", Need.RESUME, Need.RESUME),
        ("optimizer_0/__0_0.distcp", Need.RESUME, Need.RESUME),
        ("training_args.bin", Need.RESUME, Need.NOTHING),
        ("README.md", Need.RESUME, Need.NOTHING),
        ("model.safetensors", Need.EVERYTHING, Need.EVERYTHING),
        ("config.json", Need.EVERYTHING, Need.EVERYTHING),
        ("of a loop of my own", Need.EVERYTHING, Need.EVERYTHING),
    ],
)
def test_what_is_needed_for_what(path: str, need: Need, lack: Need) -> None:
    file = FileEntry(path, 1, DIGEST)
    assert (need_of(file), lack_of(file)) == (need, lack)
    theirs = FileEntry(path, 1, DIGEST, by="others")
    assert need_of(theirs) is lack_of(theirs) is Need.NOTHING
