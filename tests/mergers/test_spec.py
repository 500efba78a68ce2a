"""Merge files, flags and mappings say the same, and all that is wrong is told at once."""

from __future__ import annotations

from pathlib import Path

import pytest

from mergers import MergeSpec, Model
from studio.errors import ConfigError


def test_a_file_flags_and_a_mapping_give_the_same_merge(tmp_path: Path) -> None:
    file = tmp_path / "merge.yaml"
    file.write_text(
        "method: ties\nbase: some/base\nmodels:\n  - {path: a, weight: 0.6}\n  - b\n"
        "settings: {density: 0.2, elect: raw}\nrank: 8\nseed: 3\nshard_size: 2GB\nmax_ram: 1GiB\n"
    )
    one = MergeSpec.from_yaml(file)
    two = MergeSpec.from_flags(
        method="ties", models=["a:0.6", "b"], base="some/base", settings=["density=0.2", "elect=raw"],
        rank="8", seed="3", shard_size="2GB", max_ram="1GiB", output=None,
    )  # fmt: skip
    assert one == two == MergeSpec.from_mapping(one.to_mapping())
    assert one.models == (Model(path=Path("a"), settings={"weight": 0.6}), Model(path=Path("b")))
    assert (one.shard_size, one.max_ram) == (2 * 10**9, 2**30)


def test_changes_replace_what_a_file_says(tmp_path: Path) -> None:
    (tmp_path / "m.yaml").write_text("method: ties\nmodels: [a]\n")
    spec = MergeSpec.from_yaml(tmp_path / "m.yaml", method="linear", rank=None, seed=2)
    assert (spec.method, spec.rank, spec.seed) == ("linear", "lossless", 2)


def test_a_path_with_a_colon_that_is_no_weight_stays_a_path() -> None:
    spec = MergeSpec.from_flags(method="linear", models=["c:/models/a", "b:-0.5", "d:1e-3"])
    assert [str(m.path) for m in spec.models] == ["c:/models/a", "b", "d"]
    assert [dict(m.settings) for m in spec.models] == [{}, {"weight": -0.5}, {"weight": 0.001}]


def test_everything_wrong_is_told_at_once(tmp_path: Path) -> None:
    file = tmp_path / "merge.yaml"
    file.write_text("metod: ties\nmodels: [3]\noutput: adaptor\nrank: 1.5\nseed: -1\nshard_size: big\n")
    with pytest.raises(ConfigError) as told:
        MergeSpec.from_yaml(file)
    for part in (
        str(file),
        "unknown key 'metod'; did you mean 'method'?",
        "'method' is missing",
        "a model is a path or a mapping with a path, not 3",
        "unknown output 'adaptor'; did you mean 'adapter'?",
        "rank must be 'lossless', a whole number >= 1 or a share below 1, not 1.5",
        "seed must be a whole number >= 0, not -1",
        "shard_size must be a size such as 4GB, not 'big'",
    ):
        assert part in str(told.value)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("[1, 2]", "holds no mapping"),
        ("{", "no valid YAML"),
        ("method: ties\nmodels: [a]\nsettings: 3", "settings must be a mapping"),
    ],
)
def test_a_file_that_is_no_merge_is_named(tmp_path: Path, text: str, why: str) -> None:
    file = tmp_path / "merge.yaml"
    file.write_text(text)
    with pytest.raises(ConfigError, match=why):
        MergeSpec.from_yaml(file)
    with pytest.raises(ConfigError, match="cannot be read"):
        MergeSpec.from_yaml(tmp_path / "none.yaml")


def test_a_setting_without_a_value_is_told() -> None:
    with pytest.raises(ConfigError, match="KEY=VALUE, not as 'density'"):
        MergeSpec.from_flags(method="ties", models=["a"], settings=["density"])


def test_importing_the_package_imports_no_torch() -> None:
    import subprocess
    import sys

    code = "import sys, mergers; print('torch' in sys.modules)"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "False"
