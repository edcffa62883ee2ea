"""Mutants of composed maps and followed parts: each makes a named check fail."""

import pytest

import unit.linalg.test_computed_kernel as kernels
import unit.program.test_composition as nets
from mutation import mutate, name_of, survives
from taut.linalg import computed_kernel as kernel
from taut.program import _slopes, lipschitz_bound
from taut.program.passes import _affine, _parts


def check_pairs():
    for name in kernels.PAIRS:
        kernels.test_one_after_the_other(name)
    kernels.test_zeros_between_two_kernels_have_no_kernel()
    kernels.test_what_leaves_the_torus_has_no_kernel()


def check_sums():
    kernels.test_sums()
    kernels.test_rows()
    for scaled in (0, 1):
        kernels.test_factors_around_an_adjoint(scaled)


def check_parts():
    nets.test_overlapping_parts_count_twice()
    nets.test_spread_extrema_are_no_pair()
    nets.test_the_negative_part_of_another_value_is_no_pair()
    for name in nets.ISOMETRIES:
        nets.test_what_is_split_and_joined_is_followed(name)


def check_aligned():
    for name in nets.ALIGNED:
        nets.test_what_adds_up_is_counted(name)


def check_nets():
    """Each step of random nets by itself, against a Jacobian."""
    for seed, name in enumerate(nets.STEPS):
        for other in ("relu", "conv"):
            parts = [nets.STEPS[step]() for step in (name, other)]
            model = nets.randomised(nets.nn.Sequential(*parts), seed)
            bound = float(lipschitz_bound(model, (4, 4, 3)))
            assert nets.jacobian_norm(model, (4, 4, 3), points=2) <= bound * (1 + 1e-9)


KERNEL = "ComputedKernel"
PADDED, SCALED = f"{KERNEL}._padding_after", f"{KERNEL}._with_inputs_scaled"

MUTANTS = {
    check_pairs: [
        (kernel, SCALED, "self.groups, 1, -1", "1, self.groups, -1"),
        (kernel, "ComputedKernel._with_taps", "s * t for s, t", "max(s, t) for s, t"),
        (kernel, "ComputedKernel._with_taps", "[s * d for s, d", "[d for s, d"),
        (kernel, PADDED, "first.output_size == first.size", "True"),
        (kernel, PADDED, "a + b for a, b in zip(mine.l", "a for a, b in zip(mine.l"),
        (kernel, f"{KERNEL}.after", "first.is_pointwise and", "first.kernel.any() and"),
    ],
    check_sums: [
        (kernel, "ComputedKernel.rows", "[before, behind]", "[behind, before]"),
        (kernel, "ComputedKernel._widened", "left // d)", "0)"),
        (kernel, "ComputedKernel.plus", "torch.add, one", "torch.sub, one"),
        (kernel, f"{KERNEL}._after_adjoint", "_with_outputs_scaled(f", "_with_inputs_scaled(f"),
    ],
    check_parts: [
        (_parts, "_largest", "up_sum(sum_, factor)", "max(sum_, factor)"),
        (_parts, "merged", "and not a.places & b.places", ""),
        (_parts, "merged", "up_sum(one[a], two[b])", "max(one[a], two[b])"),
        (_parts, "half_of", "and same and", "and"),
        (_parts, "half_of", 'before.op == "neg" or', 'before.op in ("neg", "scale") or'),
        (_parts, "scaled", "up_product(gain, gain)", "gain"),
    ],
    check_aligned: [
        (_affine, "are_apart", "<= 1)", "<= 2)"),
        (_affine, "_stack", "before, behind = ", "behind, before = "),
        (_affine, "_sum", 'site.args["factors"]', "(1.0, 1.0)"),
        (_slopes, "_combined", "(up_sum if combine", "(up_root_sum_square if combine"),
        (_slopes, "Slopes._by_terms", '"root" if apart else "sum"', '"root"'),
    ],
    check_nets: [(_affine, "_after", "composed is None", "False")],
}  # fmt: skip

PAIRS = [(check, mutant) for check, mutants in MUTANTS.items() for mutant in mutants]


@pytest.mark.parametrize("check", MUTANTS, ids=name_of)
def test_checks_hold_without_mutants(check):
    assert survives([check])


@pytest.mark.parametrize(("check", "mutant"), PAIRS, ids=name_of)
def test_mutant_is_killed(check, mutant, monkeypatch):
    mutate(monkeypatch, *mutant)
    assert not survives([check])
