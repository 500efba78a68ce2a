"""tokenizer_source: models whose tokenizers differ are merged word by word, as mergekit does it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import transformers
from tokenizers import AddedToken, Tokenizer
from tokenizers.models import BPE, WordLevel
from tokenizers.pre_tokenizers import Whitespace

from mergers import MergeSpec, merge
from studio.errors import ConfigError, MergeError
from tests.mergers.mergekit_runs import Models, llama, same, tensors, theirs, written

WORDS = [f"w{number}" for number in range(40)]


def _save(folder: Path, tokenizer: Tokenizer, rows: int, seed: int) -> Path:
    torch.manual_seed(seed)
    llama(2, rows).save_pretrained(folder)
    transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer).save_pretrained(folder)
    return folder


def _listed(words: list[str]) -> Tokenizer:
    tokenizer = Tokenizer(WordLevel({word: number for number, word in enumerate(words)}, unk_token="w0"))
    tokenizer.pre_tokenizer = Whitespace()
    return tokenizer


@pytest.fixture(scope="module")
def orders(tmp_path_factory: pytest.TempPathFactory) -> Models:
    """Return models whose words stand in other rows, are missing or are more, with rows to spare."""
    folder = tmp_path_factory.mktemp("orders")
    return {
        "base": _save(folder / "base", _listed(WORDS), 48, 0),
        "a": _save(folder / "a", _listed([*reversed(WORDS), "only-a", "both"]), 44, 1),
        "b": _save(folder / "b", _listed([*WORDS[:30], "both", "only-b"]), 32, 2),
    }


@pytest.fixture(scope="module")
def chats(tmp_path_factory: pytest.TempPathFactory) -> Models:
    """Return models that split words alike, two of them with words added for a chat."""
    folder = tmp_path_factory.mktemp("chats")
    letters = {letter: number for number, letter in enumerate("abcdefgh")}

    def made(*added: str) -> Tokenizer:
        tokenizer = Tokenizer(BPE(vocab=letters | {"ab": 8}, merges=[("a", "b")]))
        tokenizer.add_special_tokens(["<pad>"])
        tokenizer.add_tokens([AddedToken(word, special=word.startswith("<")) for word in added])
        return tokenizer

    return {
        "base": _save(folder / "base", made(), 16, 0),
        "a": _save(folder / "a", made("<user>", "<bot>"), 12, 1),
        "b": _save(folder / "b", made("<bot>", "tool"), 12, 2),
    }


LINEAR = """
models:
  - {model: <a>, parameters: {weight: 0.3}}
  - {model: <b>, parameters: {weight: 0.5}}
merge_method: linear
base_model: <base>
parameters: {weight: 0.2}
"""


@pytest.mark.parametrize("source", ["base", "<a>"])
def test_rows_are_merged_where_the_words_are(source: str, orders: Models, tmp_path: Path) -> None:
    out = same(f"{LINEAR}tokenizer_source: {source}\n", orders, tmp_path)
    size = 40 if source == "base" else 42
    assert json.loads((out / "config.json").read_text())["vocab_size"] == size
    assert tensors(out)["model.embed_tokens.weight"].shape == (size, 32)
    donor = orders["base" if source == "base" else "a"]
    assert (out / "tokenizer.json").read_bytes() == (donor / "tokenizer.json").read_bytes()


@pytest.mark.parametrize(
    "method", ["task_arithmetic", "ties\nparameters: {density: 0.5}", "slerp", "passthrough"]
)
def test_other_methods_see_the_rows_in_the_same_order(method: str, orders: Models, tmp_path: Path) -> None:
    text = f"""
models:
  - model: <a>
    parameters: {{weight: 0.7, t: 0.4}}
merge_method: {method}
base_model: <base>
tokenizer_source: base
"""
    if method == "slerp":
        text = text.replace("    parameters: {weight: 0.7, t: 0.4}\n", "") + "parameters: {t: 0.4}\n"
    if method == "passthrough":
        text = text.replace("base_model: <base>\n", "").replace(
            "tokenizer_source: base", "tokenizer_source: <b>"
        )
    same(text, orders, tmp_path)


#: With source: base mergekit takes new words for words of the base, since it adds them to that tokenizer.
TOKENS = """
tokenizer:
  source: <a>
  pad_to_multiple_of: 16
  tokens:
    w31: {source: <a>, force: true}
    w35: {source: {kind: zero}}
    w36: {source: {kind: model_token, model: <a>, token: w1}}
    w37: {source: {kind: model_token, model: {model: {path: <b>}}, token_id: 3}, force: true}
    new: {source: {kind: model_token, model: <base>, token: w2}}
    w3: {source: <b>}
"""


def test_words_are_given_rows_and_rows_are_filled_up(orders: Models, tmp_path: Path) -> None:
    out = same(LINEAR + TOKENS, orders, tmp_path)
    assert json.loads((out / "config.json").read_text())["vocab_size"] == 48
    tokenizer = transformers.AutoTokenizer.from_pretrained(out)
    words = [*reversed(WORDS), "only-a", "both", "new"]
    assert tokenizer.get_vocab() == {word: number for number, word in enumerate(words)}
    rows = tensors(out)["model.embed_tokens.weight"]
    assert torch.allclose(rows[47], rows[:43].mean(dim=0), atol=1e-6)


@pytest.mark.parametrize(
    "method", ["task_arithmetic\nparameters: {weight: 0.5}", "slerp\nparameters: {t: 0.3}"]
)
def test_rows_that_are_filled_up_are_merged_like_others(method: str, orders: Models, tmp_path: Path) -> None:
    text = f"""
models: [{{model: <a>}}]
merge_method: {method}
base_model: <base>
tokenizer: {{source: <a>, pad_to_multiple_of: 32}}
"""
    assert tensors(same(text, orders, tmp_path))["lm_head.weight"].shape == (64, 32)


def test_words_that_cannot_be_had_are_told(orders: Models, tmp_path: Path) -> None:
    for given, sentence in {
        "{tokens: {w1: {source: {kind: model_token, model: <b>, token: w35}}}}": "b has no row for 'w35'",
        "{tokens: {w35: {source: <b>}}}": "b has no row for 'w35'",
        f"{{tokens: {{w35: {{source: {tmp_path}}}}}}}": "which is no input",
        "{tokens: {w1: {}}}": "tokenizer.tokens.w1 needs a source",
        "{tokens: {w1: {source: {kind: zreo}}}}": "did you mean 'zero'?",
        "{tokens: {w1: {source: {kind: model_token, model: <b>}}}}": "needs either token or token_id",
        "{pad_to_multiple_of: many}": "pad_to_multiple_of must be a whole number >= 1, not 'many'",
        "{sauce: base}": "unknown key of tokenizer 'sauce'; did you mean 'source'?",
    }.items():
        text = f"{LINEAR}tokenizer: {given.replace('{', '{source: base, ', 1)}\n"
        force = "force: true, " if "w35}}}}" in given else ""
        file = written(text.replace("w1: {source", f"w1: {{{force}source"), orders, tmp_path)
        with pytest.raises((MergeError, ConfigError)) as told:
            merge(MergeSpec.from_yaml(file), tmp_path / "ours")
        assert sentence in str(told.value)
    assert not (tmp_path / "ours").exists()


def test_the_union_of_added_words_is_theirs_word_by_word(chats: Models, tmp_path: Path) -> None:
    file = written(f"{LINEAR}tokenizer_source: union\n", chats, tmp_path)
    expected = theirs(file, tmp_path / "theirs")
    merge(MergeSpec.from_yaml(file), tmp_path / "ours")
    found = tensors(tmp_path / "ours")
    # Their numbers of added words depend on the order of a set, so words are compared.
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "ours")
    one = tokenizer.get_vocab()
    two = transformers.AutoTokenizer.from_pretrained(tmp_path / "theirs").get_vocab()
    assert set(one) == set(two) == {*"abcdefgh", "ab", "<pad>", "<user>", "<bot>", "tool"}
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        assert found[name].shape == expected[name].shape
        for word, row in one.items():
            assert torch.allclose(found[name][row], expected[name][two[word]], atol=1e-6), word
    assert tokenizer.tokenize("<bot>abtool") == ["<bot>", "ab", "tool"]


def test_a_union_of_other_words_is_refused(orders: Models, tmp_path: Path) -> None:
    file = written(f"{LINEAR}tokenizer_source: union\n", orders, tmp_path)
    with pytest.raises(MergeError, match="union is for tokenizers that differ in added words only"):
        merge(MergeSpec.from_yaml(file), tmp_path / "ours")
    assert not (tmp_path / "ours").exists()


def test_a_tokenizer_that_is_missing_is_named(orders: Models, tmp_path: Path) -> None:
    file = written(f"{LINEAR}tokenizer_source: {tmp_path}\n", orders, tmp_path)
    with pytest.raises(MergeError, match=r"tokenizer_source needs .*tokenizer\.json, which is missing"):
        merge(MergeSpec.from_yaml(file), tmp_path / "ours")
