"""mergekit's files run as they are, and give the tensors that mergekit itself gives, method by method."""

from __future__ import annotations

from pathlib import Path

import pytest

from mergers import MergeSpec, merge
from mergers._mergekit_values import METHODS
from tests.mergers.mergekit_runs import Models, llamas, registered_methods, same, tensors, theirs, written


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Models:
    return llamas(tmp_path_factory.mktemp("llamas"))


#: One realistic file per method: weights by model and by layer, filters, defaults.
FILES = {
    "linear": """
        models:
          - {model: <a>, parameters: {weight: [1.0, 0.5, 0.2]}}
          - {model: <b>, parameters: {weight: [{filter: self_attn, value: [0, 1]}, {value: 0.7}]}}
          - model: <c>
        parameters: {weight: 0.4}
        merge_method: linear
        """,
    "linear without normalize": """
        models:
          - {model: <a>, parameters: {weight: 0.7}}
          - {model: <b>, parameters: {weight: -0.1}}
        merge_method: linear
        base_model: <base>
        parameters: {normalize: false, weight: 0.5}
        """,
    "slerp": """
        slices:
          - sources:
              - {model: <a>, layer_range: [0, 4]}
              - {model: <b>, layer_range: [0, 4]}
        merge_method: slerp
        base_model: <a>
        parameters:
          t:
            - {filter: self_attn, value: [0, 0.5, 0.3, 0.7, 1]}
            - {filter: mlp, value: [1, 0.5, 0.7, 0.3, 0]}
            - value: 0.5
        """,
    "slerp with the base last": """
        models: [{model: <b>}, {model: <a>}]
        merge_method: slerp
        base_model: <a>
        parameters: {t: 0.3}
        """,
    "task_arithmetic": """
        models:
          - model: <base>
          - {model: <a>, parameters: {weight: [0.3, 0.9]}}
          - {model: <b>, parameters: {weight: 0.4}}
        merge_method: task_arithmetic
        base_model: <base>
        parameters: {lambda: 0.8, normalize: true, int8_mask: true, rescale: true}
        """,
    "ties": """
        models:
          - model: <a>
            parameters: {density: [1, 0.7, 0.1], weight: 1.0}
          - model: <b>
            parameters: {density: 0.5, weight: [0, 0.3, 0.7, 1]}
          - model: <c>
            parameters:
              density: 0.33
              weight:
                - {filter: mlp, value: 0.5}
                - value: 0
        merge_method: ties
        base_model: <base>
        parameters: {normalize: true, int8_mask: true}
        """,
    "ties that keep nothing of a model somewhere": """
        models:
          - {model: <a>, parameters: {density: [0, 1], weight: 0.6}}
          - {model: <b>, parameters: {density: 0.4, weight: 0.5}}
        merge_method: ties
        base_model: <base>
        parameters: {normalize: false, lambda: 1.2}
        """,
    "breadcrumbs": """
        models:
          - {model: <a>, parameters: {weight: 0.5, density: 0.8, gamma: 0.05}}
          - {model: <b>, parameters: {weight: 0.5, density: [0.9, 0.4]}}
        merge_method: breadcrumbs
        base_model: <base>
        """,
    "breadcrumbs_ties": """
        models:
          - {model: <a>, parameters: {weight: 0.5}}
          - {model: <b>, parameters: {weight: 0.8}}
        merge_method: breadcrumbs_ties
        base_model: <base>
        parameters: {density: 0.7, gamma: 0.1, normalize: true}
        """,
    "model_stock": """
        models: [{model: <a>}, {model: <b>}, {model: <c>}]
        merge_method: model_stock
        base_model: <base>
        """,
    "nuslerp": """
        models:
          - {model: <a>, parameters: {weight: [0.2, 0.8]}}
          - {model: <b>, parameters: {weight: 0.5}}
        merge_method: nuslerp
        """,
    "nuslerp of differences": """
        models:
          - {model: <a>, parameters: {weight: 0.3}}
          - {model: <b>, parameters: {weight: 0.9}}
        merge_method: nuslerp
        base_model: <base>
        """,
    "model_stock by filters": """
        models: [{model: <a>}, {model: <b>}, {model: <c>}]
        merge_method: model_stock
        base_model: <base>
        parameters: {filter_wise: [{filter: mlp, value: true}, {filter: norm, value: true}, {value: false}]}
        """,
    "nuslerp by rows, and by columns": """
        models:
          - {model: <a>, parameters: {weight: 0.2}}
          - {model: <b>, parameters: {weight: [0.5, 1]}}
        merge_method: nuslerp
        parameters:
          nuslerp_flatten: false
          nuslerp_row_wise: [{filter: mlp, value: true}, {value: false}]
        """,
    "nuslerp of differences by columns": """
        models:
          - {model: <a>, parameters: {weight: 0.3}}
          - {model: <b>, parameters: {weight: 0.9}}
        merge_method: nuslerp
        base_model: <base>
        parameters: {nuslerp_flatten: false, nuslerp_row_wise: true}
        """,
    "multislerp": """
        models:
          - {model: <a>, parameters: {weight: 0.3}}
          - {model: <b>, parameters: {weight: 0.9}}
          - {model: <c>, parameters: {weight: [0.1, 0.5]}}
        merge_method: multislerp
        base_model: <base>
        parameters: {eps: 1e-8}
        """,
    "karcher": """
        models: [{model: <a>}, {model: <b>}, {model: <c>}]
        merge_method: karcher
        parameters: {max_iter: 5, tol: 1e-5}
        """,
    "sce": """
        models: [{model: <a>}, {model: <b>}, {model: <c>}]
        merge_method: sce
        base_model: <base>
        parameters: {select_topk: 0.4}
        """,
    "nearswap": """
        models: [{model: <a>}, {model: <b>}]
        merge_method: nearswap
        base_model: <a>
        parameters: {t: [0.001, 0.02]}
        """,
    "ram": """
        models: [{model: <a>}, {model: <b>}]
        merge_method: ram
        base_model: <base>
        parameters: {epsilon: 0.005}
        """,
    "ramplus_tl": """
        models: [{model: <a>}, {model: <b>}, {model: <c>}]
        merge_method: ramplus_tl
        base_model: <base>
        parameters: {r: 0.4, alpha: 3, epsilon: [0.002, 0.015]}
        """,
    "ramplus_tl by default": """
        models: [{model: <a>}, {model: <b>}]
        merge_method: ramplus_tl
        base_model: <base>
        """,
    "arcee_fusion": """
        models: [{model: <base>}, {model: <a>}]
        merge_method: arcee_fusion
        base_model: <base>
        """,
    "passthrough with scales": """
        slices:
          - sources:
              - model: <a>
                layer_range: [0, 4]
                parameters:
                  scale:
                    - {filter: o_proj, value: 0.0}
                    - {filter: down_proj, value: 0.5}
                    - value: 1.0
        merge_method: passthrough
        """,
}  # fmt: skip


def test_every_method_of_mergekit_is_known() -> None:
    assert set(METHODS) == {method.spec.name for method in registered_methods()}


@pytest.mark.parametrize("name", FILES)
def test_a_file_of_mergekit_gives_what_mergekit_gives(name: str, models: Models, tmp_path: Path) -> None:
    same(FILES[name], models, tmp_path)


DROPPING = {
    "dare_ties": "parameters: {normalize: true}",
    "dare_linear": "parameters: {lambda: 0.9}",
    "della": "parameters: {epsilon: 0.1}",
    "della_linear": "parameters: {normalize: true}",
}


@pytest.mark.parametrize("method", DROPPING)
def test_methods_that_draw_at_random_agree_where_they_drop_nothing(
    method: str, models: Models, tmp_path: Path
) -> None:
    text = f"""
        models:
          - {{model: <a>, parameters: {{weight: [0.2, 0.9], density: 1.0}}}}
          - {{model: <b>, parameters: {{weight: 0.5}}}}
        merge_method: {method}
        base_model: <base>
        {DROPPING[method]}
        """
    same(text, models, tmp_path)


@pytest.mark.parametrize("method", DROPPING)
def test_methods_that_draw_at_random_drop_as_much_and_make_up_for_it_alike(
    method: str, models: Models, tmp_path: Path
) -> None:
    text = f"""
        models: [{{model: <a>, parameters: {{weight: 1, density: 0.6}}}}]
        merge_method: {method}
        base_model: <base>
        """
    file = written(text, models, tmp_path)
    expected, base = theirs(file, tmp_path / "theirs", random_seed=1), tensors(models["base"])
    merge(MergeSpec.from_yaml(file), tmp_path / "ours")
    found, tuned = tensors(tmp_path / "ours"), tensors(models["a"])
    kept, counted = [0.0, 0.0], 0
    for name, ground in base.items():
        parts = [(value[name] - ground).double() for value in (found, expected, tuned)]
        sums = [float(part.abs().sum()) for part in parts]
        # The sum of magnitudes is restored, to what float32 can tell of values around 1.
        assert max(sums) - min(sums) < 1e-4 * sums[2] + 1e-5, name
        if ground.dim() == 2:
            counted += ground.numel()
            kept = [total + float((part != 0).sum()) for total, part in zip(kept, parts, strict=False)]
    assert abs(kept[0] - kept[1]) / counted < 0.01  # five standard deviations
    assert 0.58 < kept[0] / counted < 0.62
