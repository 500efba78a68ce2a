"""chat_template: by name, as text, or what most models have, as mergekit writes it into the output."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import transformers
import yaml
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace

from mergers import MergeSpec, merge
from mergers._mergekit_chat import template_of
from studio.errors import ConfigError
from tests.mergers.mergekit_runs import Models, llama, theirs, written

TALK = [{"role": "user", "content": "w1 w2"}, {"role": "assistant", "content": "w3"}]
OWN = "{% for message in messages %}{{ message.role }}: {{ message.content }}\n{% endfor %}"
OTHER = "{% for message in messages %}<{{ message.content }}>{% endfor %}"
LINEAR = "models: [{model: <a>}, {model: <b>}]\nmerge_method: linear\nparameters: {weight: 1}\n"


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Models:
    """Return a base and one model with one template, and one with another."""
    folder = tmp_path_factory.mktemp("chats")
    words = Tokenizer(WordLevel({f"w{i}": i for i in range(40)}, unk_token="w0"))
    words.pre_tokenizer = Whitespace()
    found = {}
    for seed, (name, template) in enumerate({"base": OTHER, "a": OTHER, "b": OWN}.items()):
        torch.manual_seed(seed)
        tokenizer = transformers.PreTrainedTokenizerFast(
            tokenizer_object=words, bos_token="w1", eos_token="w2", chat_template=template
        )
        found[name] = folder / name
        llama(1, 40).save_pretrained(found[name])
        tokenizer.save_pretrained(found[name])
    return found


def _said(folder: Path) -> str:
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    return str(tokenizer.apply_chat_template(TALK, tokenize=False))


def _file(chat: str, models: Models, tmp_path: Path, more: str = "") -> Path:
    return written(LINEAR + more + yaml.safe_dump({"chat_template": chat}), models, tmp_path)


@pytest.mark.parametrize("chat", ["chatml", "llama3", "alpaca", "mistral", "exaone", OWN])
def test_a_named_or_written_template_is_that_of_mergekit(chat: str, models: Models, tmp_path: Path) -> None:
    file = _file(chat, models, tmp_path)
    theirs(file, tmp_path / "theirs")
    merge(MergeSpec.from_yaml(file), tmp_path / "ours")
    assert template_of(tmp_path / "ours") == template_of(tmp_path / "theirs")
    assert _said(tmp_path / "ours") == _said(tmp_path / "theirs")
    assert "w3" in _said(tmp_path / "ours")


def test_auto_is_what_most_models_have(models: Models, tmp_path: Path) -> None:
    file = _file("auto", models, tmp_path, "base_model: <base>\n")
    theirs(file, tmp_path / "theirs")
    merge(MergeSpec.from_yaml(file), tmp_path / "ours")
    assert _said(tmp_path / "ours") == _said(tmp_path / "theirs") == "<w1 w2><w3>"


def test_auto_takes_the_first_where_it_is_a_tie(models: Models, tmp_path: Path) -> None:
    merge(MergeSpec.from_yaml(_file("auto", models, tmp_path)), tmp_path / "ours")
    assert template_of(tmp_path / "ours") == OTHER


def test_templates_are_found_where_older_programs_kept_them_and_replaced_there(
    models: Models, tmp_path: Path
) -> None:
    old = tmp_path / "old"
    old.mkdir()
    several = [{"name": "tools", "template": "x"}, {"name": "default", "template": OWN}]
    (old / "tokenizer_config.json").write_text(json.dumps({"chat_template": several}))
    assert template_of(old) == OWN.strip()
    (old / "chat_template.json").write_text(json.dumps({"chat_template": OTHER}))
    assert template_of(old) == OTHER
    for file in models["a"].iterdir():
        if file.name != "chat_template.jinja" and not (old / file.name).exists():
            (old / file.name).write_bytes(file.read_bytes())
    file = _file("chatml", models | {"a": old}, tmp_path)
    merge(MergeSpec.from_yaml(file), tmp_path / "ours")
    assert not (tmp_path / "ours/chat_template.json").exists()
    assert "chat_template" not in json.loads((tmp_path / "ours/tokenizer_config.json").read_text())
    assert "<|im_start|>" in template_of(tmp_path / "ours")


@pytest.mark.parametrize(
    ("chat", "sentence"),
    [("chatlm", "unknown chat_template 'chatlm'; did you mean 'chatml'?"), ("[1]", "a name or a Jinja")],
)
def test_what_is_no_template_is_told(chat: str, sentence: str, models: Models, tmp_path: Path) -> None:
    file = written(f"{LINEAR}chat_template: {chat}\n", models, tmp_path)
    with pytest.raises(ConfigError, match=r"merge\.yaml: ") as told:
        MergeSpec.from_yaml(file)
    assert sentence in str(told.value)
