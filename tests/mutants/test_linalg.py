"""Mutants of the bounds: every one that is not equivalent makes a named check fail."""

import pytest
import torch

import contract.test_operators as contract
import unit.linalg.test_border as zeros
import unit.linalg.test_bounds as whole
import unit.linalg.test_bounds_constants as constants
import unit.linalg.test_bounds_contracts as contracts
import unit.linalg.test_bounds_rounding as scalars
import unit.linalg.test_operator_bounds as parts
import unit.linalg.test_transposed as transposed
from mutation import mutate, name_of, survives
from taut.linalg import (
    border,
    bounds,
    cholesky,
    composed,
    embedding,
    geometry,
    gram,
    operator,
    rounding,
    series,
    size_free,
    spectral,
    stacked,
    torus,
    twiddles,
)
from taut.linalg.convolution import ConvOperator
from taut.linalg.padding import Padding
from taut.program import _pairwise
from taut.program.ops import _normalisation


def dense_and_exact(op, most=1e-9):
    norm = whole.true_norm(op)
    assert norm * (1 - 1e-13) <= bounds.conv_norm_bound(op).value <= norm * (1 + most)


def check_frequencies():
    # A peak at frequency 0, one at pi, one elsewhere; dilations of all kinds.
    ones = torch.ones(1, 1, 3, dtype=torch.float64)
    signs = torch.tensor([[[1.0, -1.0, 1.0]]], dtype=torch.float64)
    for kernel in (ones, signs, whole.random(2, 2, 3)):
        for n, d in [(4, 1), (4, 3), (6, 2), (6, 4), (9, 3), (5, 5)]:
            pad = Padding("circular", (d,), (d,))
            dense_and_exact(ConvOperator(kernel, (n,), dilation=(d,), padding=pad))


def check_strides():
    for n, s, d in [(6, 2, 1), (6, 3, 1), (6, 2, 2), (8, 2, 3), (8, 4, 1)]:
        pad = Padding("circular", (d,), (d,))
        dense_and_exact(ConvOperator(whole.random(2, 3, 3), (n,), (s,), (d,), padding=pad))
    dense_and_exact(ConvOperator(whole.random(3, 2, 1), (6,), (4,)))  # phases that no tap meets
    difference = torch.tensor([[[1.0, 0.0, -1.0]]])
    pad = Padding("circular", (1,), (1,))
    whole.assert_bounds(ConvOperator(difference, (3,), (2,), padding=pad))
    for seed in range(8):  # a torus that is too small wraps into what is read
        kernel = whole.random(1, 1, 3, seed=seed)
        whole.assert_bounds(ConvOperator(kernel, (2,), (2,), padding=Padding("zeros", (1,), (1,))))


def check_paddings():
    for mode in ("zeros", "reflect", "replicate"):
        for n, p in [(2, 1), (3, 2), (4, 3)]:
            pad = Padding(mode, (p,), (p,))
            for kernel in (torch.ones(1, 1, 3), whole.random(2, 2, 3), torch.ones(1, 1, 1)):
                whole.assert_bounds(ConvOperator(kernel, (n,), padding=pad))


def check_groups():
    whole.test_groups_take_the_largest_not_the_product()
    whole.test_a_zero_group_does_not_disturb_the_others()
    first, second = whole.orthogonal_kernel(2, 2), 3 * whole.orthogonal_kernel(2, 2, seed=1)
    for kernels in ([first, second], [second, first]):
        pad = Padding("circular", (1, 1), (1, 1))
        dense_and_exact(ConvOperator(torch.cat(kernels), (4, 4), groups=2, padding=pad))


def check_sides():
    for shape in [(2, 5, 2), (5, 2, 2), (3, 3, 2)]:
        pad = Padding("circular", (0,), (1,))
        dense_and_exact(ConvOperator(whole.random(*shape), (5,), padding=pad))


def check_extremes():
    for scale in (5e-324, 1e-310, 1e-170, 1e160, 1e300):
        if scale > 1e-320:
            whole.test_no_scale_under_or_overflows(scale)
        scalars.test_no_scale_under_or_overflows(min(scale, 1e160))


def check_peaks():
    for turn in (0, 1 / 8, 1 / 4, 3 / 8):
        contracts.test_defects_that_peak_between_grid_points_or_are_imaginary(turn, 1e-5)


def check_riesz():
    for degrees, grid in [((2, 2), (8, 8)), ((3, 0), (12, 1))]:
        contracts.test_riesz_factor_makes_up_for_peaks_between_grid_points(degrees, grid)


def check_border():
    for n in (5, 7):
        whole.test_zero_padding_may_exceed_the_torus_of_its_own_size(n)


def check_witnesses():
    with pytest.MonkeyPatch.context() as patch:
        contracts.test_residual_covers_any_witness(patch)
    with pytest.MonkeyPatch.context() as patch:
        contracts.test_residual_covers_what_rounding_hides(patch)
    for check, *arguments in (
        (contracts.test_residual_covers_what_is_lost_in_its_own_norm,),
        (contracts.test_spectral_norms_of_defects_cover_the_rounding_of_products,),
        (contracts.test_bounds_cover_all_matrices_within_the_error, "gram", True),
        (contracts.test_bounds_cover_all_matrices_within_the_error, "evaluation", True),
        (contracts.test_bounds_cover_all_matrices_within_the_error, "evaluation", False),
        (constants.test_pairwise_constants_count_their_roundings,),
        (constants.test_pairwise_constants_cover_the_rounding_of_products,),
        (contracts.test_a_wrong_estimate_never_makes_a_bound_too_small, 0.9),
    ):
        with pytest.MonkeyPatch.context() as patch:
            check(patch, *arguments)
    for wrong in ("zero", "half", "nan"):
        with pytest.MonkeyPatch.context() as patch:
            contracts.test_a_wrong_witness_never_makes_a_bound_too_small(patch, wrong)


def check_random():
    for n in (2, 3):
        whole.test_zero_padding_of_random_kernels(n)
    for seed in range(10):
        whole.assert_bounds(ConvOperator(whole.random(3, 2, seed=seed), ()))
        whole.assert_bounds(ConvOperator(whole.orthogonal_kernel(2, 2, seed=seed), (3, 3)))


def check_gamma():
    for u in (rounding.U32, rounding.U64):
        scalars.test_gamma_is_above_any_product_of_roundings(u)


def check_pairs():
    for scale in (1e-300, 1.0):
        constants.test_pairwise_constants_are_not_below_the_exact_ones(scale)


def check_parts():
    for name in ("one side", "stride", "dilation", "extended", "no padding"):
        zeros.test_part_of_the_torus_is_the_operator(name)


def check_levels():
    zeros.test_singular_values_above_the_level_are_all_counted()
    zeros.test_what_a_witness_shows_is_not_less_than_the_theorem_says()
    zeros.test_fewer_vectors_than_singular_values_prove_nothing()
    with pytest.MonkeyPatch.context() as patch:
        zeros.test_rounding_enlarges_the_rest_and_lessens_the_gap(patch)


def check_transposed():
    for layer, shape in transposed.LAYERS:
        transposed.test_rounding_counts_every_product_of_an_output(layer, shape)


def check_adjoints():
    for mode, stride in [("circular", 1), ("reflect", 1), ("replicate", 2)]:
        op = contract.padded(mode, stride=(stride, 1))
        contract.test_fan_in_counts_the_products_of_a_single_sum(op)
        contract.test_adjoint_is_the_transposed_matrix(op)


def check_stages():
    for check in (
        parts.test_rounding_of_the_dense_matrix_counts_once_a_column,
        parts.test_errors_of_early_stages_pass_through_the_later_ones,
    ):
        with pytest.MonkeyPatch.context() as patch:
            check(patch)
    parts.test_underflow_between_stages_counts((1e-200, 1e-200, 1e300))
    parts.test_underflow_of_one_product_counts()


def check_symbols():
    parts.test_tables_of_transforms_lose_a_rounding_each()
    for check in (
        parts.test_norm_of_symbols_is_the_largest_wherever_it_is,
        parts.test_norm_of_symbols_covers_the_rounding_of_their_squares,
    ):
        with pytest.MonkeyPatch.context() as patch:
            check(patch)


def check_exponentials():
    parts.test_operators_that_are_not_exactly_skew_are_refused()
    for degree in (4, 6):
        with pytest.MonkeyPatch.context() as patch:
            parts.test_other_exponentials_are_bounded_by_their_remainder(degree, patch)
    with pytest.MonkeyPatch.context() as patch:
        parts.test_only_the_exponential_of_a_skew_operator_has_norm_one(patch)


def check_copies():
    whole.test_copies_around_small_images_are_bounded_by_the_dense_operator("replicate", 3, 1.0)


SOUND = [check_paddings, check_random]
"""Of the checks, those that say nothing about how tight a bound is."""

MUTANTS = {
    contracts.test_outward_is_above_the_exact_value: [
        (rounding, "outward", "1 + Fraction(gamma(roundings + 1, U64))", "Fraction(1)"),
        (rounding, "outward", "roundings + 1", "roundings // 2"),
    ],
    check_gamma: [
        (rounding, "gamma", "share / (1 - share)", "share / 2"),
        (rounding, "gamma", " / (1 - share)", ""),
        (rounding, "up", "Fraction(nearest) >= value", "True"),
    ],
    scalars.test_outward_arithmetic_against_rationals: [
        (rounding, "up_product", "math.nextafter(product * factor, math.inf)", "product * factor"),
        (rounding, "up_sum", "math.nextafter(total + term, math.inf)", "total + term"),
        (rounding, "up_divide", "math.nextafter(a / b, math.inf)", "a / b"),
        (rounding, "down_difference", "math.nextafter(difference, -math.inf)", "difference"),
        (rounding, "down_divide", "math.nextafter(a / b, -math.inf)", "a / b"),
    ],
    scalars.test_outward_roots_against_rationals: [
        (rounding, "up_root", "math.nextafter(root, math.inf)", "root"),
    ],
    contracts.test_gram_kernel_is_within_its_error: [
        (rounding, "collatz_wielandt", ".amax((1, 2))", ".mean((1, 2))"),
        (gram, "gram_kernel", "outward(relative * largest + UNDERFLOW, 2)", "0 * largest"),
        (gram, "gram_kernel", "gamma(flat.shape[2] * flat.shape[3], U64)", "gamma(1, U64)"),
    ],
    check_extremes: [
        (rounding, "power_of_two", "math.ldexp(1.0, min(1023, math.frexp(largest)[1]))", "1.0"),
    ],
    scalars.test_norms_of_moduli_are_close_to_the_truth: [
        (bounds, "abs_norm_bound", ".abs()", ""),
    ],
    check_sides: [
        (gram, "gram_kernel", "flat.abs()", "flat"),
        (gram, "_half_space", "(zero, *(d for d in shifts if d > zero))", "(zero,)"),
        (gram, "_product", "max(-d, 0)", "max(d, 0)"),
        (gram, "_product", "left @ right.mT", "left @ left.mT"),
        (gram, "GramKernel.symbols", "self.grams + self.grams.mT", "self.grams * 2"),
        (gram, "GramKernel.symbols", "self.grams - self.grams.mT", "self.grams * 0"),
        (gram, "GramKernel.symbols", "even[:, 0] = self.grams[:, 0]", "pass"),
        (gram, "self_product", "cross - cross.mT", "cross + cross.mT"),
        (gram, "self_product", "cross - cross.mT", "0 * cross"),
        (gram, "self_product", "both @ both.mT", "real @ real.mT"),
        (cholesky, "residual_bound", "imag + product_imag", "imag - product_imag"),
        (twiddles, "cosine", "(-odd, even)", "(odd, even)"),
        (bounds, "_on_torus", "up_root(value)", "value"),
    ],
    check_groups: [
        (gram, "_half_space", "if d > zero", "if min(d, default=0) > 0"),
        (embedding, "embedding", "squared *= -(-out * g // n)", "pass"),
        (bounds, "_stride_one", "kernel[kernel.flatten(1).any(1)]", "kernel[:1]"),
        (bounds, "_orthogonal_square", "squares.max()", "squares.sum()"),
        (bounds, "_orthogonal_square", "squares.max()", "squares.prod()"),
        (bounds, "_orthogonal_square", "squares.max()", "squares[0]"),
        (bounds, "_on_torus", ", up_root(float(squared)))", ")"),
    ],
    contracts.test_symbols_are_within_their_error: [
        (
            gram,
            "GramKernel.evaluation_error",
            "outward(relative * total + UNDERFLOW, entries)",
            "0 * total",
        ),
        (twiddles, "twiddles", "cos * c - sin * s", "cos * c + sin * s"),
    ],
    check_peaks: [
        (size_free, "defect_bound", "defects * factor", "defects"),
        (size_free, "defect_bound", "torch.maximum(norms, ", "torch.minimum(norms, "),
        (size_free, "defect_bound", ".amax(1)", ".mean(1)"),
        (size_free, "_spectral", "self_product(real, imag)", "self_product(real, None)"),
        (twiddles, "half_plane", "grid[here <= mirror]", "grid[here < mirror]"),
    ],
    check_witnesses: [
        (size_free, "defect_bound", " + gram.error", ""),
        (size_free, "defect_bound", " + defect.evaluation_error()", ""),
        (size_free, "_spectral", "square + slack", "square"),
        (cholesky, "eigenvalue_bound", "torch.maximum(proven, bounds)", "bounds"),
        (cholesky, "torus_bound", "proven + error", "proven"),
        (
            cholesky,
            "_prove",
            "level + residual.max()",
            "level + 0 * residual.sum().nan_to_num(0, 0)",
        ),
        (cholesky, "residual_bound", "+ 2 * gamma(2 * m + 2, U64) * sizes", ""),
        (cholesky, "residual_bound", "square + _square(imag + product_imag)", "square"),
        (cholesky, "residual_bound", "_square(gap - product_real)", "0 * _square(gap)"),
        (cholesky, "residual_bound", "outward(bound, m * m + 5)", "bound"),
        (cholesky, "residual_bound", ".where(bound.isfinite(), torch.inf)", ".nan_to_num(0, 0)"),
        (_pairwise, "_from_differences", "rows.shape[1] + 4", "0"),
        (_pairwise, "_from_products", "clamp_min(0) + error", "clamp_min(0)"),
    ],
    check_riesz: [
        (size_free, "riesz_factor", "start=Fraction(1)", "start=Fraction(2)"),
        (size_free, "riesz_factor", "math.prod(cosines, start=Fraction(1))", "min(cosines)"),
        (size_free, "riesz_factor", "down_cosine(k, 2 * n)", "down_cosine(k, 4 * n)"),
        (twiddles, "cosine", "2 * n", "4 * n"),
        (twiddles, "_pi", "_arctan_inverse(239)", "_arctan_inverse(238)"),
    ],
    contracts.test_cosines_are_within_their_error: [
        (twiddles, "_series", "while term", "while term >> 60"),
        (twiddles, "down_cosine", " - _SERIES_ERROR", " + _SERIES_ERROR"),
    ],
    check_strides: [
        (embedding, "polyphase", "d * (k - 1) + 1 : d", "d * (k - 1) + 1 : 1"),
        (embedding, "embedding", "math.gcd(s, n)", "s"),
        (embedding, "embedding", "-(-size // s)", "size // s"),
    ],
    check_border: [
        (embedding, "embedding", "size = n + max(left, right)", "size = n"),
    ],
    check_paddings: [
        (embedding, "embedding", "size = n + left + right", "size = n"),
        (embedding, "embedding", "int(padded_index(n, left, right, mode).bincount().max())", "1"),
    ],
    check_frequencies: [
        (bounds, "_stride_one", "n // math.gcd(n, d)", "-(-n // d)"),
    ],
    contracts.test_overflow_and_what_is_not_finite_are_refused: [
        (bounds, "_on_torus", "not math.isfinite(value)", "False"),
    ],
    constants.test_pairwise_constants_at_the_ends_of_the_range: [
        (_pairwise, "_up_product", ".nextafter(torch.full_like(values, math.inf))", ""),
        (_pairwise, "_from_differences", ".nan_to_num(math.inf, math.inf)", ".nan_to_num(0, 0)"),
        (_pairwise, "_from_differences", "rows / scale[:, None]", "rows"),
    ],
    constants.test_pairwise_constants_of_rows_that_nearly_agree: [
        (_pairwise, "_from_products", "~(error <= _LOOSE * squares)", "error < 0"),
        (_pairwise, "_from_products", "2 * products", "products"),
    ],
    check_parts: [
        (torus, "torus_part", ") < out", ") <= out"),
        (torus, "_inputs", " - left", " + left"),
        (torus, "_inputs", "movedim(2 * axis + 1, axis)", "movedim(2 * axis, axis)"),
    ],
    check_levels: [
        (border, "_modes_above", "twice * vectors.shape[1]", "vectors.shape[1]"),
        (border, "_deflated", "vectors = vectors[:, above]", "vectors = vectors[:, above][:, :0]"),
        (border, "_witnessed", " and len(z) == count", ""),
        (border, "_witnessed", "_norm(z @ j.T + identity)", "0.0"),
        (border, "_witnessed", "up_sum(away, slack, UNDERFLOW)", "away"),
        (border, "_witnessed", "_norm(inside * j), off", "_norm(inside * j)"),
        (border, "_witnessed", "_norm(inside * j)", "0.0"),
        (border, "_witnessed", "up_divide(up_product(rest, rest), least)", "0.0"),
        (border, "_proven", "s if count == 0 else math.inf", "s"),
    ],
    check_transposed: [
        (geometry, "AbstractConvolution.__post_init__", " // self.groups * reads", ""),
    ],
    check_adjoints: [
        (geometry, "AbstractConvolution.__post_init__", "self.kernel[0].numel()", "1"),
        (geometry, "AbstractConvolution._reads", "max(taps, int(", "min(taps, int("),
        (geometry, "AbstractConvolution._adjoint", "(0, missing)", "(missing, 0)"),
    ],
    check_stages: [
        (operator, "tightened", "up_sum(up_product(norm, scale), rest)", "up_product(norm, scale)"),
        (operator, "tightened", "up_root(float(op.shape[1]))", "1.0"),
        (operator, "tightened", "up_sum(error.relative, error.absolute)", "error.relative"),
        (operator, "AbstractOperator.execution_error", "gamma(self.fan_in, u)", "0.0"),
        (operator, "AbstractOperator.execution_error", "underflow(u)", "0.0"),
        (composed, "ComposedOperator.execution_error", "up_product(norm, relative), ", ""),
        (composed, "ComposedOperator.execution_error", "up_sum(size, relative)", "size"),
        (composed, "ComposedOperator.execution_error", "size = up_product(norm, size)", "pass"),
        (composed, "ComposedOperator.execution_error", "up_sum(norm, own.relative)", "norm"),
        (composed, "ComposedOperator.execution_error", ", own.absolute)", ")"),
        (stacked, "StackedOperator.execution_error", "(error.relative for", "(0.0 for"),
        (stacked, "BlockOperator.execution_error", "max(", "min("),
        (series, "SeriesOperator.execution_error", "up_product(own.relative, ", "up_product(0.0, "),
        (series, "SeriesOperator.execution_error", "size = up_sum(", "up_sum("),
        (series, "SeriesOperator.execution_error", "own.absolute, ", ""),
    ],
    check_symbols: [
        (
            spectral,
            "SpectralOperator.norm_bound",
            "eigenvalue_bound(grams) + error",
            "eigenvalue_bound(grams)",
        ),
        (spectral, "SpectralOperator.norm_bound", "2 * gamma(2 * small", "gamma(2 * small"),
        (
            spectral,
            "SpectralOperator.norm_bound",
            "imag.square()).sum((1, 2)).max()",
            "imag.square()).sum((1, 2)).min()",
        ),
        (spectral, "SpectralOperator._relative", ", up_product(f, up_sum(q, d))", ""),
        (spectral, "SpectralOperator._relative", "up_product(q, f), ", ""),
        (spectral, "SpectralOperator._relative", "up_root(2.0), ", ""),
        (spectral, "SpectralOperator._relative", "2 * n + 4", "n"),
        (spectral, "SpectralOperator._relative", "self._moduli(), grown", "0.0"),
        (spectral, "SpectralOperator._moduli", " + (blocks.imag / scale).abs()", ""),
    ],
    check_exponentials: [
        (
            series,
            "skew_fault",
            "torch.equal(kernel, -flipped)",
            "torch.allclose(kernel, -flipped)",
        ),
        (series, "skew_fault", 'pad.mode not in ("zeros", "circular") or ', ""),
        (series, "SeriesOperator.power_bound", " and not skew_fault(self.op)", ""),
        (
            series,
            "SeriesOperator.power_bound",
            "self.coefficients == _exponential(degree) and ",
            "",
        ),
        (
            series,
            "SeriesOperator.power_bound",
            "norm <= RADII.get(degree, 0.0)",
            "degree in RADII",
        ),
        (series, "SeriesOperator.power_bound", "up_sum(1.0, rest)", "1.0"),
    ],
    check_copies: [
        (bounds, "_tightened_groups", "max((", "min(("),
        (operator, "tightened", "up_product(norm, scale)", "up_product(0.9 * norm, scale)"),
    ],
    constants.test_per_channel_deviations_count_by_the_smallest: [
        (_normalisation, "BatchNorm.gains", ".max()", ".mean()"),
    ],
}
"""By the check that fails first."""

EQUIVALENT = [
    # Estimates: what follows from them is checked by residuals.
    (cholesky, "_estimate", "max(top, UNDERFLOW)", "0.5 * max(top, UNDERFLOW)"),
    (cholesky, "_estimate", "max(top, UNDERFLOW)", "2 * max(top, UNDERFLOW)"),
    (cholesky, "_ritz_values", "manual_seed(0)", "manual_seed(1)"),
    # A factor that does not exist shows in the residual.
    (cholesky, "_prove", "residual > _RESIDUAL * level", "residual > torch.inf"),
    # The defect may be taken from any multiple of the identity.
    (size_free, "_mean", ".mean(-1)", ".amax(-1)"),
    # A choice among two proofs.
    (bounds, "_orthogonal_square", "1 + _EXCESS", "2"),
    # The other bound is looser.
    (cholesky, "torus_bound", ", gram.largest.max().item())", ", torch.inf)"),
    # A matrix has the singular values of its transpose; either has a Gram matrix.
    (gram, "gram_kernel", "kernel = kernel.transpose(1, 2)", "pass"),
    # A coarser grid has a larger factor.
    (size_free, "defect_bound", "max(1, 4 * degree)", "max(1, 3 * degree)"),
    # Iterations only make v, which may be any positive vector.
    (rounding, "collatz_wielandt", "range(12)", "range(0)"),
]


def test_checks_hold_without_mutants():
    for check in MUTANTS:
        check()


@pytest.mark.parametrize(
    ("check", "mutant"),
    [(check, mutant) for check, mutants in MUTANTS.items() for mutant in mutants],
    ids=name_of,
)
def test_mutant_is_killed(check, mutant):
    with pytest.MonkeyPatch.context() as patch:
        mutate(patch, *mutant)
        assert not survives([check])


@pytest.mark.parametrize("mutant", EQUIVALENT, ids=name_of)
def test_equivalent_mutant_is_sound(mutant):
    with pytest.MonkeyPatch.context() as patch:
        mutate(patch, *mutant)
        assert survives(SOUND)
