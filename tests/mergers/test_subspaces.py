"""What the methods that work on singular vectors promise."""

from __future__ import annotations

import torch
from torch import Tensor

from mergers import core_space, iso_c, iso_cts, knots, ties, tsv_m, wudi
from mergers._matrix import nearest_orthogonal, thin_svd
from mergers._place import Place


def _random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def _low_rank(rank: int, seed: int) -> Tensor:
    return _random(30, rank, seed=seed) @ _random(rank, 20, seed=seed + 100)


def test_thin_svd_is_exact_for_long_flat_and_square_matrices() -> None:
    for shape in ((50, 4), (4, 50), (9, 9)):
        matrix = _random(*shape)
        u, s, vt = thin_svd(matrix)
        assert torch.allclose((u * s) @ vt, matrix, atol=1e-5)
        assert torch.allclose(s, torch.linalg.svdvals(matrix), atol=1e-5)


def test_iso_c_keeps_directions_and_evens_out_strengths_over_the_rank_that_is_there() -> None:
    parts = [_low_rank(3, seed) for seed in (1, 2)]
    merged = iso_c.merge(parts, None)
    values = torch.linalg.svdvals(merged)
    before = torch.linalg.svdvals(sum(parts))  # type: ignore[arg-type]
    assert torch.allclose(values[:6], before[:6].mean().expand(6), rtol=1e-4)
    assert float(values[6:].max()) < 1e-4


def test_iso_cts_adds_directions_of_each_task() -> None:
    parts = [_low_rank(5, seed) for seed in (1, 2)]
    merged = iso_cts.merge(parts, None, common=0.6)
    values = torch.linalg.svdvals(merged)
    assert int((values > 1e-3).sum()) == 10  # 6 common ones, and 2 of each task
    assert torch.allclose(values[:10], values[0].expand(10), rtol=1e-4)


def test_tsv_m_of_tasks_that_do_not_overlap_is_the_sum_of_their_leading_parts() -> None:
    basis, other = torch.linalg.qr(_random(30, 30)).Q, torch.linalg.qr(_random(20, 20, seed=1)).Q
    strengths = torch.tensor([4.0, 3.0, 2.0, 1.0])
    parts = [(basis[:, 4 * i : 4 * i + 4] * strengths) @ other[4 * i : 4 * i + 4] for i in range(2)]
    leading = [(basis[:, 4 * i : 4 * i + 2] * strengths[:2]) @ other[4 * i : 4 * i + 2] for i in range(2)]
    assert torch.allclose(tsv_m.merge(parts, None), leading[0] + leading[1], atol=1e-5)


def test_tsv_m_takes_the_overlap_out() -> None:
    parts = [_low_rank(4, 1), _low_rank(4, 1) + 0.01 * _random(30, 20)]
    u, _, _ = thin_svd(tsv_m.merge(parts, None))
    assert torch.allclose(u.T @ u, torch.eye(20), atol=1e-4)
    assert float(tsv_m.merge(parts, None).norm()) < float((parts[0] + parts[1]).norm())


def test_the_nearest_orthogonal_matrix_has_orthonormal_columns() -> None:
    found = nearest_orthogonal(_random(9, 4))
    assert torch.allclose(found.T @ found, torch.eye(4), atol=1e-5)


def test_knots_with_addition_inside_is_plain_addition() -> None:
    parts = [_low_rank(3, seed) for seed in (1, 2, 3)]
    merged = knots.merge(parts, None, inner="task_arithmetic", weight=[0.5, 0.2, 0.3])
    assert torch.allclose(merged, 0.5 * parts[0] + 0.2 * parts[1] + 0.3 * parts[2], atol=1e-4)


def test_knots_ties_is_ties_of_the_aligned_blocks() -> None:
    parts = [_low_rank(3, seed) for seed in (1, 2)]
    u, s, vt = thin_svd(torch.cat(parts, dim=1))
    blocks = list(vt[:6].chunk(2, dim=1))
    expected = (u[:, :6] * s[:6]) @ ties.merge(blocks, None, density=0.3)
    assert torch.allclose(knots.merge(parts, None, density=0.3), expected, atol=1e-4)


def test_core_space_loses_nothing_and_does_not_depend_on_how_a_delta_is_split() -> None:
    parts = [_low_rank(3, seed) for seed in (1, 2)]
    merged = core_space.merge(parts, None, inner="task_arithmetic")
    assert torch.allclose(merged, parts[0] + parts[1], atol=1e-4)


def test_core_space_draws_the_same_for_the_same_place() -> None:
    parts = [_low_rank(3, seed) for seed in (1, 2)]
    place = Place(tensor="x", seed=4, keys=("a", "b"))
    one, two = (core_space.merge(parts, None, inner="dare_ties", place=place) for _ in range(2))
    assert torch.equal(one, two)


def test_wudi_solves_its_loss_better_than_sum_and_mean() -> None:
    parts = [_low_rank(3, seed) for seed in (1, 2, 3)]

    def loss(delta: Tensor) -> float:
        return sum(float(((delta - p) @ p.T).square().sum() / p.square().sum()) for p in parts)

    found = wudi.merge(parts, None, ridge=1e-6)
    assert loss(found) < 1e-3 * loss(sum(parts) / 3)  # type: ignore[arg-type]
    assert loss(found) < 1e-3 * loss(sum(parts))  # type: ignore[arg-type]
    held = wudi.merge(parts, None, ridge=1e9)
    assert torch.allclose(held, sum(parts) / 3, atol=1e-4)  # type: ignore[arg-type]


def test_vectors_are_averaged_and_kernels_are_matrices() -> None:
    vectors = [_random(7, seed=seed) for seed in (1, 2)]
    kernels = [_random(6, 3, 2, 2, seed=seed) for seed in (1, 2)]
    for method in (iso_c, tsv_m, knots, core_space, wudi, iso_cts):
        assert torch.allclose(method.merge(vectors, None), (vectors[0] + vectors[1]) / 2)
        flat = method.merge([k.reshape(6, -1) for k in kernels], None)
        assert torch.allclose(method.merge(kernels, None), flat.view(6, 3, 2, 2))
