"""Prove what a certificate of taut says, with numpy and the standard library alone.

    python verifier.py certificate.json certificate.safetensors [points.npz]

Nothing of taut runs here and no code is shared with it: a second opinion, short enough to be read
whole. No number is taken on trust: for each node of the graph it derives from the weights how far
the operation may stretch a distance and how it may round, demands that its row claims no less, and
composes the rows exactly. With points it runs the graph itself, in float64, and proves each radius.
What it does not know it refuses by name. Trusted: IEEE 754 sums, products, quotients and roots of
numpy in any order; Python's integers and fractions. The proofs are in docs/proofs.md.
"""

import argparse
import functools
import json
import math
import re
import sys
import zipfile
from fractions import Fraction as Q
from hashlib import sha256
from pathlib import Path

import numpy as np

FORMATS = {  # unit roundoff, smallest normal number, largest number
    "float64": (Q(1, 2**53), Q(1, 2**1022), Q((2**53 - 1) * 2**971)),
    "float32": (Q(1, 2**24), Q(1, 2**126), Q((2**24 - 1) * 2**104)),
}
FORMATS["real"] = (Q(0), Q(0), Q(10**2000))
FLOATS = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2"}
WHOLE = {"I64": "<i8", "I32": "<i4", "I16": "<i2", "I8": "|i1", "U8": "|u1", "BOOL": "|b1"}
SPACE = "l2 ball around the tensor given to the model, in the units of that tensor"
KEYS = {"arithmetic", "bound", "error", "format", "graph", "graph_sha256", "input", "layers"}
KEYS |= {"norm_limit", "pairwise", "software", "version", "weights", "weights_sha256"}
POINTS = {"certified_accuracy", "clean_accuracy", "images", "labels", "margin", "predictions"}
POINTS |= {"radius"}
ANSWERS = {"classes", "images", "margin", "radii"}
CHANGES = {"bound", "folds", "pairwise", "weights"}
MOVED = "changes."  # the name of what is multiplied by weights: no layer has one with a dot behind
FOLD = {"name", "input", "gain", "absolute", "proof"}
NODE = {"name", "op", "type", "inputs", "args", "tensors", "shape"}
ROW = {"name", "type", "bound", "proof", "inputs", "combine", "gains"}
ROUNDING = {"absolutes", "count", "constant", "entries"}
FLAGS = {"adaptive", "ceil_mode", "descending", "keepdim", "whole"}
PADDINGS: dict = {
    "zeros": "constant",
    "circular": "wrap",
    "reflect": "reflect",
    "replicate": "edge",
}
ONE, PI = 10**60, 3141592653589793238462643383279502884197169399375105820974945


# Numbers and files.


class Refused(ValueError):
    """Nothing is proven, for the reason given."""


def require(condition, sentence):
    if not condition:
        raise Refused(sentence)


def up(q):  # not below q >= 0, in some 1,700 bits; what has fewer than 300 stays as it is
    shift = min(1400, max(0, 300 + q.denominator.bit_length() - q.numerator.bit_length()))
    return Q(-((-q.numerator << shift) // q.denominator), 1 << shift)


def root(q):  # not below the root; exact for squares of multiples of 2^-1400
    scaled = -((-q.numerator << 2800) // q.denominator)
    return Q(math.isqrt(scaled - 1) + 1, 1 << 1400) if scaled else Q(0)


def gamma(n, u=FORMATS["float64"][0]):  # the share that n roundings in a row change at most
    require(0 <= 2 * n * u <= 1, f"{n} roundings have no bound in this precision")
    return n * u / (1 - n * u)


def sum_of_squares(values):  # of float64 numbers, exactly
    ratios = (v.as_integer_ratio() for v in np.ravel(values).tolist())
    return Q(sum((n * ((1 << 1074) // d)) ** 2 for n, d in ratios), 1 << 2148)


def canonical(content):
    return json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()


def flags(value, key=""):  # the keys under which there are truth values
    if type(value) is dict:
        return set().union(*(flags(part, name) for name, part in value.items()))
    if type(value) is list:
        return set().union(*(flags(part, key) for part in value))
    return {key} if type(value) is bool else set()


def read_certificate(path):
    """The file, each number exactly as written."""
    text = Path(path).read_bytes().strip()
    plain = json.loads(text)
    require(canonical(plain) == text, "it is not canonical JSON, as certificates are")
    file = json.loads(text, parse_float=lambda digits: Q(float(digits)))
    require(
        isinstance(file, dict) and file.get("format") == "taut-certificate", "it is no certificate"
    )
    version = repr(file.get("version"))  # True and 2.0 are not 2
    require(version == "2", f"its version is {version}, not 2: certify the model again")
    file.setdefault("folds", [])
    keys = KEYS, KEYS | POINTS, KEYS | ANSWERS, KEYS | ANSWERS | {"changes"}
    require(set(file) - {"folds"} in keys, "it has other keys than a certificate")
    require(flags(file) <= FLAGS, "a truth value stands for a number")
    require(file["input"] == {"shape": file["input"]["shape"], "space": SPACE}, "another space")
    require(file["arithmetic"] in FORMATS, "its arithmetic is not known")
    require(all(type(text) is str for text in file["software"].values()), "its software is no text")
    same = sha256(canonical(plain["graph"])).hexdigest() == file["graph_sha256"]
    require(same and set(file["graph"]) == {"input", "nodes", "output"}, "its graph is another")
    return file


def decoded(raw, kind):
    """Numbers of a precision of safetensors as float64."""
    values = np.frombuffer(raw, (FLOATS | WHOLE)[kind])
    if kind == "BF16":  # the upper half of a float32
        values = (values.astype("<u4") << 16).view("<f4")
    require(np.isfinite(values).all(), "it holds NaN or Inf")
    return values.astype(float)


def read_weights(path, file):  # as float64, if names, precisions, shapes and bytes are certified
    raw, end, tensors = Path(path).read_bytes(), 0, {}
    start = 8 + int.from_bytes(raw[:8], "little")
    header, data = json.loads(raw[8:start]), memoryview(raw)[start:]
    graph = header.pop("__metadata__", {}).get("graph_sha256", file["graph_sha256"])
    require(graph == file["graph_sha256"], "its weights are of another graph")
    spans = {name: header[name].pop("data_offsets") for name in sorted(header)}
    require(header == file["weights"], "its weights are others: names, precisions or shapes")
    for name in sorted(spans, key=lambda name: spans[name]):
        kind, shape = header[name]["dtype"], header[name]["shape"]
        require(all(type(n) is int and n >= 0 for n in shape), f"{name} has the shape {shape}")
        exact = file["arithmetic"] != "float32" or kind in WHOLE or kind == "F32"
        require(exact, f"{name} is {kind}, which a float32 program rounds")
        begin, end = end, end + math.prod(shape) * np.dtype((FLOATS | WHOLE)[kind]).itemsize
        require(spans[name] == [begin, end] and end <= len(data), f"{name} has wrong offsets")
        tensors[name] = decoded(data[begin:end], kind).reshape(shape)
    require(end == len(data), "it holds bytes of no tensor")
    digest = sha256(canonical(header) + b"".join(data[slice(*spans[name])] for name in spans))
    require(digest.hexdigest() == file["weights_sha256"], "its weights are others: another hash")
    return tensors


# Norms of convolutions.


def on_torus(kernel, axes, mode):
    """A kernel of stride 1 on a torus; with q, the convolution has at most root q of its norm.

    Phases of the input become channels, which permutes it. Zeros: a torus of n + max(left, right)
    positions has room for every window. Circular: outputs lie at multiples of gcd(stride, n), each
    at most ceil(out gcd / n) times. Copies: an entry comes at most q times, and then no zeros do.
    """
    torus, q = [], 1
    for n, k, s, d, left, right, out in axes:
        s = math.gcd(s, n) if mode == "circular" else s
        size = n + max(left, right) if mode == "zeros" else n
        if mode == "circular":
            q *= -(-out * s // n)
        elif mode != "zeros":
            places = padded(np.arange(n), mode, [left], [right])
            q, size = q * int(np.bincount(places).max()), len(places)
        torus.append(-(-size // s))
        kernel = np.moveaxis(kernel, 2, -1)  # this axis last, and the next one in its place
        taps = np.zeros((*kernel.shape[:-1], -(-(d * (k - 1) + 1) // s) * s))
        taps[..., : d * (k - 1) + 1 : d] = kernel
        kernel = np.concatenate([taps[..., phase::s] for phase in range(s)], 1)
    return kernel, torus, q


@functools.lru_cache(512)
def twiddles(n):  # exp(2 pi i j / n), wrong by at most 2^-52: Taylor's sums in integers
    require(n <= 2**16, f"a torus of {n} positions is too long for this verifier")
    table = []
    for j in range(n):
        parts, term, i = [0] * 4, ONE, 0
        while term:
            parts[i % 4], i = parts[i % 4] + term, i + 1
            term = term * (2 * PI * j // n) // (ONE * i)
        table.append(complex((parts[0] - parts[2]) / ONE, (parts[1] - parts[3]) / ONE))
    return np.array(table)


def grams(kernel, grid):  # of the symbol at frequencies of a grid; the other half is conjugate
    require(math.prod(grid) * kernel.size <= 2**37, "its kernel is too large for this verifier")
    axes = zip(grid, kernel.shape[2:], strict=True)
    tables = [twiddles(n)[np.outer(range(n), range(k)) % n] for n, k in axes]
    for row in tables[0][: grid[0] // 2 + 1] if grid else [None]:
        symbol = kernel if row is None else np.tensordot(row, kernel, (0, 2))
        for axis, table in enumerate(tables[1:], 2):
            symbol = np.tensordot(table, symbol, (1, axis))
        symbol = symbol.reshape(-1, *kernel.shape[:2])
        yield symbol @ symbol.conj().swapaxes(1, 2)


def norms_hold(kernel, torus, square, moduli_square):
    """Whether the squared norms of a kernel on a torus, and of its moduli, are within bounds.

    Computed Gram matrices G are wrong by at most e in norm. Their defect from a multiple of 1, a
    trigonometric polynomial of degree < k, is at most 1/cos(pi/8) an axis larger anywhere than on
    a grid of 8 k points (M. Riesz). Else t - G = L L* + R shows G <= t + |R|, whoever found L.
    Those of moduli are of their sum over taps.
    """
    scale = 2.0 ** min(1023, math.frexp(np.abs(kernel).max())[1])
    kernel, square = kernel / scale, square / Q(scale) ** 2
    kernel = kernel if len(kernel) <= kernel.shape[1] else kernel.swapaxes(0, 1)
    taps, n = kernel.shape[2:], len(kernel)
    a = np.abs(kernel).reshape(*kernel.shape[:2], -1).sum(2)
    count = 2 * math.prod(taps) + sum(a.shape) + 1
    moduli = perron(a) * (1 + gamma(count)) + Q(1, 2**800)
    e = 4 * gamma(2 * count + 64) * Q((a @ a.sum(0)).max()) + Q(1, 2**400)
    mean, grid = (kernel**2).sum() / n, [8 * k - 7 * (k == 1) for k in taps]
    defects = (np.linalg.norm(g - mean * np.eye(n), axis=(1, 2)).max() for g in grams(kernel, grid))
    worst = (Q(max(defects)) * (1 + gamma(4 * n * n + 64)) + e) * Q("1.0823923") ** len(taps)
    top = float(square) * (1 - 2**-48 * (n + 16) ** 2) - 2 * float(e)
    near = Q(mean) + worst <= square
    small = near or all(below(g, top, square - e) for g in grams(kernel, torus))
    return small, moduli <= moduli_square / Q(scale) ** 2


def perron(a):  # of matrices a >= 0: |a|^2 <= max (a' a v)_i / v_i for v > 0 (Collatz, Wielandt)
    v, turned = np.ones((*a.shape[:-2], a.shape[-1], 1)), a.swapaxes(-1, -2)
    for _ in range(60):
        z = turned @ (a @ v)
        v = np.maximum(z / np.maximum(z.max((-2, -1), keepdims=True), 2.0**-500), 2.0**-20)
    return Q((turned @ (a @ v) / v).max())


def below(gram, top, square):
    n = gram.shape[1]
    matrix = top * np.eye(n) - gram
    try:
        low = np.linalg.cholesky(matrix)
    except np.linalg.LinAlgError:
        return False
    rest = np.linalg.norm(matrix - low @ low.conj().swapaxes(1, 2), axis=(1, 2)).max()
    wrong = 4 * gamma(4 * n + 64) * Q((np.abs(low) ** 2).sum((1, 2)).max())
    return Q(top) + Q(rest) * (1 + gamma(4 * n * n)) + wrong <= square


# Operations. Each demands what its row must claim, and returns what it does to one sample. Calling
# a function of Python or numpy with what it does not take is a refusal, too.

OPERATIONS = {}


def operation(function):
    OPERATIONS[function.__name__.rstrip("_")] = function
    return function


class Step:
    """A node: the shapes that it reads and makes, its tensors, and the row of its claims."""

    def __init__(self, node, row, shapes, tensors):
        self.op, self.shape, self.row = node["op"], node["shape"], row
        self.inputs = [shapes[name] for name in node["inputs"]]
        self.tensors = {role: tensors[name] for role, name in node["tensors"].items()}

    def makes(self, *shape):
        """Asked before it is made, so that nothing grows without bound."""
        require(self.shape == [*shape], f"it makes {[*shape]}, not {self.shape}")

    def claims(self, gains, count=0, absolutes=(), constant=0, combine="sum"):
        """Refuse a row that claims less than these squares, or fewer roundings."""
        row, zeros = self.row, [0] * len(gains)
        require(row["combine"] == combine, f"its inputs combine as {combine}")
        for said, squares in ((row["gains"], gains), (row["absolutes"], absolutes or zeros)):
            pairs = zip(said, squares, strict=True)
            require(all(v >= 0 and v**2 >= q for v, q in pairs), "its row claims less than it does")
        enough = row["count"] >= count and row["constant"] >= 0 and row["constant"] ** 2 >= constant
        require(enough, "its rounding is more than its row claims")

    def sums(self, kernels, torus, q, terms, copies):
        """The claims of sums of products and a bias; returns the bias."""
        outputs = self.shape[0 if torus else -1]
        bias = self.tensors.pop("bias", np.zeros(outputs))
        require(bias.shape == (outputs,), "its bias is not one number an output")
        self.products(kernels, torus, q, terms, sum_of_squares(bias) * copies)
        return bias.reshape(-1, *[1] * len(torus))

    def products(self, kernels, torus, q, terms, constant=0):
        """The claims of sums of `terms` products, with the largest norm of the kernels."""
        self.claims([0], terms + 2, [0], constant)
        bounds = [self.row[key][0] ** 2 / Q(q) for key in ("gains", "absolutes")]
        for kernel in kernels:
            norm, moduli = norms_hold(kernel, torus, *bounds) if kernel.any() else (True, True)
            require(norm, "its norm is not proven to be within its gain")
            require(moduli, "the norm of its moduli is not proven")

    def spread(self, *others):
        """How often broadcasting copies each entry of what is read, and of other arrays."""
        shapes = [*self.inputs, *(other.shape for other in others)]
        require(all(len(shape) == len(self.shape) for shape in self.inputs), "it mixes samples")
        self.makes(*np.broadcast_shapes(*map(tuple, shapes)))
        return [math.prod(self.shape) // math.prod(shape) for shape in shapes]


def outputs(sizes, kernel, stride, dilation, left, right, ceil=False):
    """How many windows each axis has; none begins in the padding behind."""
    counts = []
    for n, k, s, d, a, b in zip(sizes, kernel, stride, dilation, left, right, strict=True):
        require(min(k, s, d) > 0 and min(a, b) >= 0, "its windows are none")
        count = (n + a + b - d * (k - 1) - 1 + (s - 1) * ceil) // s + 1
        counts.append(count - (ceil and (count - 1) * s >= n + a))
    return counts


def windows(x, kernel, stride, dilation, out):
    """Each tap of a window, and what it reads for all outputs at once."""
    require(math.prod(kernel) * math.prod(out) <= 2**33, "it is too large for this verifier")
    for tap in np.ndindex(*kernel):
        axes = zip(tap, stride, dilation, out, strict=True)
        yield tap, x[(..., *(slice(t * d, t * d + s * (n - 1) + 1, s) for t, s, d, n in axes))]


def padded(x, mode, left, right, value=0.0):  # along its last axes
    sides = [(0, 0)] * (x.ndim - len(left)) + [*zip(left, right, strict=True)]
    entries = math.prod(n + sum(side) for n, side in zip(x.shape, sides, strict=True))
    require(entries <= 2**28, "it is too large for this verifier")
    require(mode in PADDINGS, f"its padding {str(mode)[:40]!r} is not known here")
    inside = mode != "reflect" or all(max(side) < n for side, n in zip(sides, x.shape, strict=True))
    require(inside, "it reflects more than there is")
    return np.pad(x, sides, PADDINGS[mode], **{"constant_values": value} if mode == "zeros" else {})


def grouped(matrix, x, groups):  # a matrix for each group of channels, at every position
    blocks = matrix.reshape(groups, -1, matrix.shape[1])
    return (blocks @ x.reshape(groups, matrix.shape[1], -1)).reshape(-1, *x.shape[1:])


@operation
def linear(step):
    w = step.tensors.pop("weight")
    step.makes(*step.inputs[0][:-1], len(w))
    bias = step.sums([w], [], 1, w.shape[1], math.prod(step.shape[:-1]))
    return lambda x: x @ w.T + bias


def conv_of(w, size, stride, dilation, groups, padding):
    """How many outputs it has, its kernels on tori, and what it does but for a bias."""
    left, right, extend, mode = (padding[key] for key in ("left", "right", "extend", "mode"))
    size = [n + e for n, e in zip(size, extend, strict=True)]
    out, taps = outputs(size, w.shape[2:], stride, dilation, left, right), w.shape[2:]
    axes = [*zip(size, taps, stride, dilation, left, right, out, strict=True)]

    def run(x):
        x = padded(padded(x, "zeros", [0 for _ in extend], extend), mode, left, right)
        parts = windows(x, taps, stride, dilation, out)
        return sum(grouped(w[(..., *tap)], part, groups) for tap, part in parts)

    return out, [on_torus(kernel, axes, mode) for kernel in np.split(w, groups)], run


@operation
def conv(step, stride, dilation, groups, padding):
    w = step.tensors.pop("weight")
    out, tori, run = conv_of(w, step.inputs[0][1:], stride, dilation, groups, padding)
    step.makes(len(w), *out)
    bias = step.sums([k for k, *_ in tori], *tori[0][1:], w[0].size, math.prod(out))
    return lambda x: run(x) + bias


def adjoint_of(w, shape, stride, padding, output_padding, dilation, groups, wrap, left):
    """The adjoint of a convolution of its output, with zero or circular padding: the same norms."""
    (channels, *size), taps, kernels = shape, w.shape[2:], np.split(w, groups)
    before, after = wrap or [[0 for _ in size]] * 2
    wide = [sum(n) for n in zip(size, before, after, strict=True)]
    reach = zip(wide, taps, stride, dilation, padding, output_padding, strict=True)
    out = [(n - 1) * s + d * (k - 1) + 1 - 2 * p + o for n, k, s, d, p, o in reach]
    require(min(out) > 0 and math.prod(out) <= 2**26, "it is none, or too large for this verifier")
    axes = [*zip(out, taps, stride, dilation, padding, padding, size, strict=True)]
    fits = outputs(out, taps, stride, dilation, padding, padding) == size
    if wrap is not None:
        fits = all(wraps(*axis) for axis in zip(axes, before, wide, left, strict=True))
    require(fits and channels == len(w), "it is not the adjoint of a convolution")
    turned = np.concatenate([kernel.swapaxes(0, 1) for kernel in kernels])

    def run(x):
        x = padded(x, "circular", before, after)
        y = padded(np.zeros([len(turned), *out]), "zeros", padding, padding)
        for tap, part in windows(y, taps, stride, dilation, wide):
            part += grouped(turned[(..., *tap)], x, groups)
        inside = (slice(p, p + n) for n, p in zip(out, padding, strict=True))
        return y[(..., *inside)]

    mode = "zeros" if wrap is None else "circular"
    return out, [on_torus(kernel, axes, mode) for kernel in kernels], run


@operation
def conv_transpose(step, groups, **args):
    w = step.tensors.pop("weight")
    out, tori, run = adjoint_of(w, step.inputs[0], groups=groups, **args)
    step.makes(w.shape[1] * groups, *out)
    terms = w[: len(w) // groups, 0].size
    bias = step.sums([k for k, *_ in tori], *tori[0][1:], terms, math.prod(out))
    return lambda x: run(x) + bias


@operation
def skew_exponential(step, degree, dilation, groups, mode):
    """Sum of J^j x / j! up to the degree, and a bias; J a convolution that is minus its adjoint.

    J is normal with eigenvalues i t, |t| <= |J|, and |J| is at most the norm of its moduli. Steps
    y -> x + J y / j round fan_in + 5 times; underflow of one passes |J|^j / j! of the later ones.
    """
    w, bias = step.tensors.pop("weight"), step.tensors.pop("bias", np.zeros(step.shape[0]))
    taps, kernels, (_, *size) = w.shape[2:], np.array(np.split(w, groups)), step.inputs[0]
    turned = np.flip(kernels.swapaxes(1, 2), tuple(range(3, kernels.ndim)))
    skew = all(k % 2 for k in taps) and np.array_equal(kernels, -turned)
    require(skew and mode in ("zeros", "circular"), "its convolution is not minus its adjoint")
    require(step.inputs[0] == [len(w), *size] == [len(bias), *size], "it has other channels")
    step.makes(len(w), *size)
    scale = 2.0 ** math.frexp(np.abs(w).max())[1]  # so that no square that matters underflows
    sums = np.abs(kernels / scale).reshape(*kernels.shape[:3], -1).sum(3)
    square = perron(sums) * (1 + gamma(2 * w[0].size + 8)) + Q(1, 2**400)
    norm = Q(scale) * root(up(square)) if w.any() else Q(0)
    require(calm(degree, norm**2), "its moduli are too large")
    absolute = sum(norm**j / math.factorial(j) for j in range(degree + 1))
    require(absolute <= 10 * degree, "its moduli are too large for underflow")
    constant = sum_of_squares(bias) * math.prod(size)
    step.claims([1], degree * (w[0].size + 5), [absolute**2], constant)
    sides, ones = [d * (k // 2) for d, k in zip(dilation, taps, strict=True)], [1 for _ in size]

    def run(x):
        y = x
        for j in range(degree, 0, -1):
            parts = windows(padded(y, mode, sides, sides), taps, ones, dilation, size)
            y = x + sum(grouped(w[(..., *tap)], part, groups) for tap, part in parts) / j
        return y + bias.reshape(-1, *ones)

    return run


def calm(degree, most):
    """Whether |sum of (i t)^j / j!|^2 <= 1 for t^2 <= most: a polynomial, on ever shorter parts."""
    require(type(degree) is int and 0 < degree <= 32, "its degree is not known here")
    powers, c = range(degree + 1), [Q(0)] * (degree + 1)
    for i, j in ((i, j) for i in powers for j in powers if (i + j) % 2 == 0):
        sign = (-1) ** (abs(i - j) // 2)
        c[(i + j) // 2] += Q(sign, math.factorial(i) * math.factorial(j))
    first = next(n for n in powers if n and c[n])  # 1, zeros, and then what must not be above 0

    def below(a, b, depth):
        middle, terms = (a + b) / 2, (v * (b if v > 0 else a) ** n for n, v in enumerate(c[first:]))
        halves = (a, middle), (middle, b)
        return sum(terms) <= 0 or (depth > 0 and all(below(*half, depth - 1) for half in halves))

    return bool(below(Q(0), -(-most * 2**40 // 1) / Q(2**40), 24))


@operation
def spectral_conv(step, groups):
    """A matrix at each frequency; the real image has conjugate ones at w and -w."""
    real, imag = step.tensors.pop("real"), step.tensors.pop("imag")
    (channels, *size), (count, rows, columns) = step.inputs[0], real.shape
    require(0 < len(size) <= 3 and max(size) <= 64, "its transform is too long for a proof")
    pairs = [(w, tuple(-k % n for k, n in zip(w, size, strict=True))) for w in np.ndindex(*size)]
    places = tuple(np.array([w for w, v in pairs if w <= v]).T)
    twice = np.array([1 + (w != v) for w, v in pairs if w <= v])
    fits = count == len(twice) and channels == columns * groups and real.shape == imag.shape
    require(fits and not imag[twice == 1].any(), "it has no matrix for each frequency")
    step.makes(rows, *size)
    blocks, q = (real + 1j * imag).reshape(count, groups, -1, columns), step.row["gains"][0]
    require(q > 2**-100 and q**2 * channels <= 100 * rows, "its norm is too small or too large")
    flat = blocks.reshape(-1, *blocks.shape[2:])
    sides, grams = np.abs(flat.real) + np.abs(flat.imag), flat @ flat.conj().swapaxes(1, 2)
    e = 4 * gamma(4 * columns + 64) * Q((sides**2).sum((1, 2)).max()) + Q(1, 2**400)
    top = float(q**2) * (1 - 2**-48 * (rows + 16) ** 2) - 2 * float(e)
    require(below(grams, top, q**2 - e), "its norm is not proven to be within its gain")
    moduli = root(perron(sides) * (1 + gamma(rows + columns + 8)))
    bias = step.tensors.pop("bias", np.zeros(rows))
    require(bias.shape == (rows,), "its bias is not one number an output")
    total, absolute = roundings_of_transforms(size, columns, q, moduli)
    step.claims([0], total, [absolute**2], sum_of_squares(bias) * math.prod(size))
    tables = [twiddles(n)[np.outer(range(n), range(n)) % n] / math.sqrt(n) for n in size]

    def run(x):
        for axis, table in enumerate(tables, 1):
            x = np.moveaxis(np.tensordot(table.conj(), x, (1, axis)), 0, axis)
        z = x[(slice(None), *places)].T.reshape(count, groups, columns, 1)
        y = np.zeros((rows, *size), complex)
        y[(slice(None), *places)] = (blocks @ z).reshape(count, rows).T * twice
        for axis, table in enumerate(tables, 1):
            y = np.moveaxis(np.tensordot(table, y, (1, axis)), 0, axis)
        return np.real(y) + bias.reshape(-1, *[1] * len(size))

    return run


def roundings_of_transforms(size, columns, q, moduli):
    """Count C and A: for images of norm 1, all roundings together are at most gamma(C) A.

    Any n of them are at most a share n/C of g = gamma(C). A transform of an axis of n is off by
    e = (2n + 4) g/C root(2n), both by f = root(2) (prod (1 + e) - 1) in the norm that counts w and
    -w; matrices of norm q and moduli M add d = q f + 2c g/C M (1 + f), the way back f (q + d), and
    a bias one rounding of all.
    """
    total = sum(4 * n + 8 for n in size) + 2 * columns + 1
    g = gamma(total, FORMATS["float32"][0])
    errors = (1 + Q(2 * n + 4, total) * g * root(Q(2 * n)) for n in size)
    f = root(Q(2)) * (math.prod(errors) - 1)
    d = q * f + Q(2 * columns, total) * g * moduli * (1 + f)
    lost = d + f * (q + d)
    lost += g / total * (q + lost)
    return total, max(lost / g, 2 * (moduli + lost + 1))


def wraps(axis, before, wide, left):
    """Whether output o reads by each tap t the one input i, modulo n, with s i = o - d t + left.

    It reads position (o - d t + p) / s of the wrapped axis, where that is whole: those from the
    first multiple of s to the last one must be positions of that axis.
    """
    out, k, s, d, p, _, n = axis
    whole = out == n * s and (p - s * before - left) % out == 0
    return whole and p - d * (k - 1) > -s and (out - 1 + p) // s < wide


SLOPES = {  # functions with slopes in [0, 1]: roundings, largest value at 0, the function
    "identity": lambda: (0, 0, lambda x: x),
    "relu": lambda: (0, 0, lambda x: np.maximum(x, 0)),
    "relu6": lambda: (0, 0, lambda x: np.clip(x, 0, 6)),
    "leaky_relu": lambda negative_slope: (2, 0, lambda x: np.where(x > 0, x, negative_slope * x)),
    "hardtanh": lambda min_val, max_val: (
        1, max(-min_val, max_val), lambda x: np.clip(x, min_val, max_val)
    ),
    "softsign": lambda: (2, 0, lambda x: x / (1 + np.abs(x))),
    "tanh": lambda: (2**60, 0, np.tanh),
    "sigmoid": lambda: (2**60, 1, lambda x: 1 / (1 + np.exp(-x))),
}  # fmt: skip
TINY = Q(1, 2**60)


def belong(skips, inner, outer, size, cut, out, whole):
    """Whether two convolutions are on one torus, or with zeros, and of a kernel and its adjoint.

    Or else of stride 1 between the same grids, phases of a stride being channels.
    """
    zeros, sides = outer["wrap"] is None, inner["padding"]
    s, u, dilations = inner["stride"], outer["stride"], inner["dilation"]
    fits = all(inner[key] == outer[key] for key in ("dilation", "groups"))
    fits = fits and sides["mode"] == ("zeros" if zeros else "circular")
    fits = fits and all(n <= m for n, m in zip(cut, whole, strict=True))
    domain = [n + e for n, e in zip(size, sides["extend"], strict=True)]
    grids = [[a * m for a, m in zip(steps, out, strict=True)] for steps in (s, u)]
    fits = fits and (zeros or [domain, whole] == grids)
    if skips:
        left = zip(sides["left"], outer["padding" if zeros else "left"], whole, strict=True)
        moved = any(a - b if zeros else (a - b) % n for a, b, n in left)
        return fits and not moved and s == u and cut == size
    axes = zip(s, u, dilations, strict=True)
    return fits and all((a, b) == (1, 1) or d == 1 for a, b, d in axes)


def residual(step, skips, b, a, inner, outer, activation, factor):
    """X - C* q f(p C x + b), or A* q f(p B x + b): the proof is in docs/proofs.md, section 11."""
    kind = activation["op"]
    args = {key: float(value) for key, value in activation["args"].items()}
    require(kind in SLOPES, "the slopes of its function are not known here")
    rising = args.get("min_val", -1) <= args.get("max_val", 1)
    require(rising and 0 <= args.get("negative_slope", 0) <= 1, "its slopes are not in [0, 1]")
    roundings, end, function = SLOPES[kind](**args)
    (channels, *size), (_, *cut), g, h = step.inputs[0], step.shape, inner["groups"], len(b)
    out, reads, run = conv_of(b, size, **inner)
    whole, writes, back = adjoint_of(a, [h, *out], **outer)
    step.makes(a.shape[1] * g, *cut)
    fits = belong(skips, inner, outer, size, cut, out, whole)
    require(fits and channels == b.shape[1] * g, "its parts do not fit")
    column = (h, *[1] * len(out))
    p = step.tensors.pop("before", np.ones(column))
    require(factor == 1 or "after" not in step.tensors, "it has two factors behind its function")
    q = step.tensors.pop("after", np.full(column, float(factor)))
    bias = step.tensors.pop("bias", np.zeros(h)).reshape(column)
    require(p.shape == q.shape == column and min(p.min(), q.min()) > 0, "its factors are none")
    pairs = zip(map(Q, p.ravel().tolist()), map(Q, q.ravel().tolist()), strict=True)
    share, two = max(x * y for x, y in pairs) / 2, 1 + skips
    (gain,), (absolute,) = step.row["gains"], step.row["absolutes"]
    square, moduli = (gain + skips) / (two * share), (absolute - skips - TINY) / (two * share)
    require(gain >= skips and moduli > 0, "its row claims less than it does")
    torus = reads[0][1] if skips else [*map(max, reads[0][1], writes[0][1])]
    for (read, *_), (write, *_) in zip(reads, writes, strict=True):
        kernel = read if skips else np.concatenate(same_taps(write, read), 1)
        holds = norms_hold(kernel, torus, square, moduli) if kernel.any() else [True]
        require(all(holds), "the norm of its kernel is not proven")
    # Intermediate results, and what underflow loses before factors.
    near = Q(p.max()) <= 2**30 and Q(q.min()) >= share / 2**30
    require(near or step.row["count"] >= 2**60, "its factors are too far from 1")
    least = max(Q(p.max()) ** 2 / share, 4 * share) / two
    size = root(sum_of_squares(bias)) + (TINY + Q(end)) * root(Q(h))
    square = max(1, Q(q.max()) ** 2) * max(1, moduli) * size**2 * math.prod(out)
    count = min(2**60, b[0].size + a[: h // g, 0].size + roundings + 8)
    step.claims([gain**2], count, [least**2], square)
    inside = (slice(None), *(slice(n) for n in cut))
    layer = lambda x: back(q * function(p * run(x) + bias))[inside]  # noqa: E731
    return (lambda x: x - layer(x)) if skips else layer


def same_taps(*kernels):
    sizes = [max(n) for n in zip(*(k.shape[2:] for k in kernels), strict=True)]
    ends = ([n - m for n, m in zip(sizes, k.shape[2:], strict=True)] for k in kernels)
    return [np.pad(k, [(0, n) for n in (0, 0, *end)]) for k, end in zip(kernels, ends, strict=True)]


@operation
def potential_residual(step, **args):
    w = step.tensors.pop("weight")
    return residual(step, 1, w, w, **args)


@operation
def sandwich(step, **args):
    return residual(step, 0, step.tensors.pop("inner"), step.tensors.pop("outer"), **args)


def pooled(step, kernel, stride, padding, dilation, *, ceil=False, empty=0.0):
    """What each tap of the windows of a pool reads."""
    channels, *size = step.inputs[0]
    out = outputs(size, kernel, stride, dilation, padding, padding, ceil)
    step.makes(channels, *out)
    behind = [p + s * ceil for p, s in zip(padding, stride, strict=True)]

    def parts(x):
        x = padded(x, "zeros", padding, behind, empty)
        return (part for _, part in windows(x, kernel, stride, dilation, out))

    return parts


@operation
def avg_pool(step, kernel_size, stride, padding, divisor, whole):
    """With n_a taps in phase a of the stride, sums have the squared norm sum n_a^2 on each axis."""
    parts = pooled(step, kernel_size, stride, padding, [1 for _ in stride])
    require(not whole or kernel_size == step.inputs[0][1:], "it does not take the whole image")
    axes = zip(kernel_size, stride, strict=True)
    square = math.prod(sum((-(-(k - a) // s)) ** 2 for a in range(min(s, k))) for k, s in axes)
    step.claims([Q(square, divisor**2)], math.prod(kernel_size) + 2, [square])
    return lambda x: sum(parts(x)) / divisor


@operation
def max_pool(step, kernel_size, stride, padding, dilation, ceil_mode):
    """At most ceil(k gcd(s, d) / s) windows of an axis share an entry."""
    more = {"ceil": ceil_mode, "empty": -np.inf}
    parts = pooled(step, kernel_size, stride, padding, dilation, **more)
    axes = zip(kernel_size, stride, dilation, strict=True)
    step.claims([math.prod(-(-k * math.gcd(s, d) // s) for k, s, d in axes)])
    return lambda x: functools.reduce(np.maximum, parts(x))


@operation
def average(step, adaptive, divisor):
    """Means over the windows of an adaptive pool: i n / m to (i + 1) n / m, rounded outwards."""
    require(adaptive is True and divisor is None, "its windows are not known here")
    (channels, *size), (_, *out) = step.inputs[0], step.shape
    step.makes(channels, *out)
    require(math.prod(size) * math.prod(out) <= 2**22, "it is too large for this verifier")
    matrix, terms = np.ones((1, 1)), 1
    for n, m in zip(size, out, strict=True):
        ends = [(i * n // m, -(-(i + 1) * n // m)) for i in range(m)]
        rows = [[(a <= j < b) / (b - a) for j in range(n)] for a, b in ends]
        matrix, terms = np.kron(matrix, rows), terms * max(b - a for a, b in ends)
    step.products([matrix * (1 + 2.0**-48)], [], 1, terms)  # which were rounded
    return lambda x: (x.reshape(channels, -1) @ matrix.T).reshape(step.shape)


def rectifier(step, slopes, count):
    """Below 0 times a number for each channel, or for all."""
    slopes = np.asarray(slopes, float)
    square = max(Q(1), Q(float(np.abs(slopes).max())) ** 2)
    step.claims([square], count * bool(set(np.abs(slopes).ravel()) - {0, 1}), [square])
    slopes = slopes.reshape(-1, *[1] * (len(step.shape) - 1))
    return lambda x: np.where(x > 0, x, slopes * x)


@operation
def HouseHolder(step):
    """By a v for each group, x - 2 min(v x, 0) v: at each x the identity, or 1 - 2 v v'."""
    v = step.tensors.pop("direction")
    require([*v.shape] == step.shape[:2] == step.inputs[0][:2], "its groups are others")
    square = max(map(sum_of_squares, v))
    step.claims([max(1, 2 * square - 1) ** 2], v.shape[1] + 3, [(1 + 2 * square) ** 2])
    v = v.reshape(*v.shape, *[1] * (len(step.shape) - 2))
    return lambda x: x - np.minimum((v * x).sum(1, keepdims=True), 0) * (2 * v)


@operation
def NActivation(step):
    """Slopes 1, -1 and 1: x - 2 min(max(x, low), high), and one rounding, and one to spare."""
    ends = [step.tensors.pop(role) for role in ("low", "high")]
    require(all([*end.shape] == step.shape[:1] for end in ends), "its channels are others")
    low, high = (end.reshape(-1, *[1] * (len(step.shape) - 1)) for end in ends)
    still = 4 * sum_of_squares(np.clip(0, low, high))
    step.claims([1], 2, [4], still * math.prod(step.shape[1:]))
    return lambda x: x - 2 * np.minimum(np.maximum(x, low), high)


@operation
def LinearSpline(node, /, step):
    """0 at 0; from there slopes over pieces of one width on each side, the last ones continued."""
    slopes, width = node.tensors.pop("slopes"), float(step)
    (channels, pieces), half = slopes.shape, slopes.shape[1] // 2
    exact = width > 0 and math.frexp(width)[0] * 2**12 % 1 == 0 and pieces < 2047
    require(exact and [channels, 2 * half] == [node.shape[0], pieces], "it is no spline")
    steepest = Q(float(np.abs(slopes).max()))
    most = max(1, steepest) ** 2
    lost = most * (Q(width) / 2**101) ** 2  # x / width may underflow: another piece, off by 2 s |x|
    count = pieces + 12 if width <= 2.0**100 else 2**60
    node.claims([steepest**2], count, [9 * most], lost * math.prod(node.shape))
    slopes = slopes.reshape(*slopes.shape, *[1] * (len(node.shape) - 1))

    def run(x):
        total = 0 * x
        for k in range(-half, half):  # each piece reaches so far from its end near 0
            far = width if k not in (-half, half - 1) else np.inf
            ends = (0, far) if k >= 0 else (-far, 0)
            total += slopes[:, k + half] * np.clip(x - (k + (k < 0)) * width, *ends)
        return total

    return run


def smooth(step, square, run):
    """Libraries do not specify how they round it: no program in floats has that many roundings."""
    step.claims([square], 2**60)
    return run


@operation
def clamp(step, min, max):
    """The ends are rounded; 0 goes to the nearer of them if it is not between."""
    ends = {"min": min, "max": max} | step.tensors
    require(len(ends) == 2, "it has ends that it does not read")
    ends = {key: np.asarray(end, float) for key, end in ends.items() if end is not None}
    most = np.max([np.abs(end).max() for end in ends.values()])
    copies = step.spread(*ends.values())[0]
    step.claims([copies], 1, [copies], Q(most) ** 2 * math.prod(step.shape))
    step.tensors.clear()
    return lambda x: np.minimum(np.maximum(x, ends.get("min", -np.inf)), ends.get("max", np.inf))


@operation
def add(step, factors, constant):
    """A value times f, and c; or a value, and another times f. c may be a tensor and a factor."""
    held, two = step.tensors.pop("constant", np.ones([])), len(step.inputs) == 2
    require(not two or (factors[0] == 1 and constant == 0), "it has a term too many")
    require(held.shape == () or 1 in (factors[0], constant), "it has a factor too many")
    *copies, again = step.spread(held)
    gains = [f**2 * n for f, n in zip(factors, copies, strict=True)]
    step.claims(gains, 3, gains, constant**2 * sum_of_squares(held) * again)
    f, c = [float(factor) for factor in factors], float(constant) * held
    return lambda x, *y: f[0] * x + (f[1] * y[0] if two else c)


@operation
def scale(step, factor=None, inverse=False):
    role = "divisor" if inverse else "factor"
    require(len(step.tensors) == (factor is None), "it has two factors, or none")
    by = step.tensors.pop(role) if factor is None else np.asarray(float(factor))
    least, most = (Q(float(end(np.abs(by)))) for end in (np.min, np.max))
    require(not inverse or least >= Q(1, 2**126), "it divides by 0, or nearly")
    square = step.spread(by)[0] * (1 / least**2 if inverse else most**2)
    step.claims([square], 3, [square])
    return (lambda x: x / by) if inverse else (lambda x: x * by)


@operation
def batch_norm(step, eps):
    """(x - mean) / sqrt(variance + eps) * weight + bias, in any order."""
    n, *size = step.inputs[0]
    usual = {"running_mean": 0, "running_var": 0, "weight": np.ones(n), "bias": np.zeros(n)}
    parts = [step.tensors.pop(role, value) for role, value in usual.items()]
    gain, absolute, constant = Q(0), Q(1), Q(0)
    for m, v, w, b in zip(*(map(Q, part.tolist()) for part in parts), strict=True):
        require(v >= 0 and eps >= 0 and v + eps >= Q(1, 2**100), "its variance is not above 0")
        factor = max(1, max(1, w**2) / (v + eps))
        gain, absolute = max(gain, w**2 / (v + eps)), max(absolute, factor)
        constant += (abs(m) * root(up(factor)) + abs(b)) ** 2
    step.claims([gain], 16, [absolute], constant * math.prod(size))
    mean, variance, weight, bias = (part.reshape(n, *[1] * len(size)) for part in parts)
    return lambda x: (x - mean) / np.sqrt(variance + float(eps)) * weight + bias


@operation
def sum_(step, axes, keepdim, mean=False):
    n = math.prod(step.inputs[0][axis] for axis in axes)
    step.claims([Q(1, n) if mean else n], n + 2, [n])
    return lambda x: x.sum(tuple(axes), keepdims=keepdim) / (n if mean else 1)


@operation
def centre(step, axes):
    """A value less its mean: a projection; both together have moduli of norm 2."""
    n = math.prod(step.inputs[0][axis] for axis in axes)
    step.claims([1], n + 4, [max(4, n)])
    return lambda x: x - x.mean(tuple(axes), keepdims=True)


@operation
def l2_pool(step, pool, factor, constant, **args):
    """Roots of f P x^2 + c: norms of weighted windows, so Lipschitz with root(most weight * q).

    At most q windows share an entry. An underflow in a radicand is the constant of the root.
    """
    f, free = np.asarray(step.tensors.pop("factor", factor), float), Step.__new__(Step)
    vars(free).update(vars(step), claims=lambda *_: None, products=lambda *_: None, tensors={})
    run = {"avg_pool": avg_pool, "average": average, "sum": sum_}[pool](free, **args)
    if pool == "average":
        sizes = zip(step.inputs[0][1:], step.shape[1:], strict=True)
        lines = [[range(i * n // m, -(-(i + 1) * n // m)) for i in range(m)] for n, m in sizes]
        counts = functools.reduce(np.multiply.outer, [[*map(len, line)] for line in lines], 1)
        shares = ([sum(j in w for w in line) for j in range(line[-1].stop)] for line in lines)
        q = math.prod(map(max, shares))
        n, weight = int(counts.max()), Q(float((f / counts).max())) * (1 + gamma(2))
    elif pool == "sum":
        n, q, weight = math.prod(step.inputs[0]) // math.prod(step.shape), 1, Q(float(f.max()))
    else:
        q = math.prod(-(-k // s) for k, s in zip(args["kernel_size"], args["stride"], strict=True))
        n, weight = math.prod(args["kernel_size"]), Q(float(f)) / args["divisor"]
    require(min(f.min(), weight, constant) >= 0, "it has a weight below 0")
    outputs, step.row["squares"] = math.prod(step.shape), True
    lost = root(Q(outputs * (n + 1))) * root(Q(float(f.max())) + 1) / 2**38
    most = (lost + root(outputs * Q(constant))) ** 2
    step.claims([weight * q], n + 8, [max(Q(1), weight * q)], most)
    return lambda x: np.sqrt(run(x * x) * f + float(constant))


@operation
def Neighbours(step, count):
    """Minus the mean of the least of the distances |x - y|, each less a constant v."""
    y, v = (step.tensors.pop(role) for role in ("points", "corrections"))
    require([*y.shape[1:]] == step.inputs[0] and v.shape == y.shape[:1], "its points are others")
    require(step.shape == [1] and 0 < count <= len(y), "it is no mean of least distances")
    far = root(max(map(sum_of_squares, y))) + Q(float(np.abs(v).max())) + Q(1, 2**38)
    step.claims([1], y[0].size + count + 10, [1], far**2)
    step.row["squares"], y = True, y.reshape(len(y), -1)
    return lambda x: (
        -np.sort(np.sqrt(((x.ravel() - y) ** 2).sum(1)) - v)[:count].mean(keepdims=True)
    )


@operation
def concat(step, axis, parts):
    require([p for p in parts if type(p) is int] == [*range(len(step.inputs))], "other parts")
    held = {part: step.tensors.pop(part) for part in parts if type(part) is not int}
    shapes = [held[part].shape if part in held else step.inputs[part] for part in parts]
    require(sum(shape[axis] for shape in shapes) == step.shape[axis], "its parts have other sizes")
    constant = sum(map(sum_of_squares, held.values()), Q(0))
    step.claims([1] * len(step.inputs), 0, (), constant, "root")
    return lambda *x: np.concatenate([held[p] if p in held else x[p] for p in parts], axis)


@operation
def maximum(step, function=np.maximum):
    held = [step.tensors.pop("constant")] if step.tensors else []
    require(len(step.inputs) + len(held) == 2, "it does not compare two values")
    copies = step.spread(*held)
    constant = sum_of_squares(held[0]) * copies.pop() if held else 0
    step.claims(copies, 0, (), constant, "root")
    return lambda *x: function(*x, *held)


def maxmin(x):  # the first half of the channels against the second
    half = len(x) // 2
    a, b = x[:half], x[half : 2 * half]
    return np.concatenate([np.maximum(a, b), np.minimum(a, b), x[2 * half :]])


def group_sort(x, group_size):  # of neighbouring channels
    groups = x[: len(x) - len(x) % group_size].reshape(-1, group_size, *x.shape[1:])
    ordered = np.sort(groups, 1).reshape(-1, *x.shape[1:])
    return np.concatenate([ordered, x[len(ordered) :]])


EXACT = {  # 1-Lipschitz; 0 goes to 0, and nothing is rounded
    "relu": lambda x: np.maximum(x, 0),
    "relu6": lambda x: np.clip(x, 0, 6),
    "abs": np.abs,
    "neg": np.negative,
    "sort": lambda x, axis, descending: np.sort(x, axis).take(
        range(x.shape[axis])[:: -1 if descending else 1], axis
    ),
    "MaxMin": maxmin,
    "GroupSort": group_sort,
}


def exact(step, /, **args):
    step.claims([1])
    return lambda x: EXACT[step.op](x, **args)


def pad(step, x, mode, left, right, value):
    step.makes(*(n + a + b for n, a, b in zip(x.shape, left, right, strict=True)))
    return padded(x, "zeros" if mode == "constant" else mode, left, right, float(value))


def pad_to_multiple(step, x, multiple):
    right = [0, *(-n % m for n, m in zip(x.shape[1:], multiple, strict=True))]
    return pad(step, x, "constant", [0] * len(right), right, 0)


def repeat(step, x, repeats):
    step.makes(*(n * r for n, r in zip(x.shape, repeats, strict=True)))
    return np.tile(x, repeats)


def take(step, x, axis, index):
    step.makes(*x.shape[:axis], len(index), *x.shape[axis + 1 :])
    require(((index >= 0) & (index % 1 == 0)).all(), "its places are no counts")
    return x.take(index.astype(int), axis)


def pixel_unshuffle(step, x, factor):
    blocks = x.reshape(len(x), x.shape[1] // factor, factor, x.shape[2] // factor, factor)
    return blocks.transpose(0, 2, 4, 1, 3).reshape(step.shape)


def pixel_shuffle(step, x, factor):
    blocks = x.reshape(len(x) // factor**2, factor, factor, *x.shape[1:])
    return blocks.transpose(0, 3, 1, 4, 2).reshape(step.shape)


def upsample(step, x, size, scale_factor, mode):
    whole = size is None and mode == "nearest" and all(f == int(f) for f in scale_factor)
    require(whole and len(scale_factor) == x.ndim - 1, "its copies are no whole number")
    require(x.size * math.prod(scale_factor) <= 2**26, "it is too large for this verifier")
    for axis, factor in enumerate(scale_factor, 1):
        x = np.repeat(x, int(factor), axis)
    return x


COPIES = {
    "upsample": upsample,
    "reshape": lambda step, x: x.reshape(step.shape),
    "permute": lambda step, x, axes: x.transpose(axes),
    "flip": lambda step, x, axes: np.flip(x, axes),
    "roll": lambda step, x, axis, shift: np.roll(x, shift, axis),
    "slice": lambda _, x, axis, start, stop, step: x.take(
        range(x.shape[axis])[start:stop:step], axis
    ),
    "take": take,
    "repeat": repeat,
    "pad": pad,
    "pixel_unshuffle": pixel_unshuffle,
    "pixel_shuffle": pixel_shuffle,
} | {f"PadToMultiple{axes}d": pad_to_multiple for axes in (1, 2, 3)}


def copy(step, /, **args):
    """By the numbers of the entries: the norm is the root of how often one of them comes."""
    run = functools.partial(COPIES[step.op], step, **args, **step.tensors)
    numbers = np.arange(1.0, math.prod(step.inputs[0]) + 1).reshape(step.inputs[0])
    places = (run(numbers) - run(0 * numbers)).astype(int).ravel()
    most, value = int(np.bincount(places)[1:].max()), Q(args.get("value", 0))
    step.claims([most], value != 0, [value != 0], value**2 * math.prod(step.shape))
    step.tensors.clear()
    return run


def isometric_pad(step, padding, mode):
    """P diag(c)^(-1/2): P copies entry i to c_i places, and no place has two: an isometry."""
    require(mode in ("reflect", "replicate"), f"its padding {mode!r} is not known here")
    size, left, right = step.inputs[0][1:], padding[::2][::-1], padding[1::2][::-1]
    places = padded(np.arange(math.prod(size)).reshape(size), mode, left, right)
    roots = np.sqrt(np.bincount(places.ravel())).reshape(size)
    step.claims([1], 10, [1])
    return lambda x: padded(x / roots, mode, left, right)


OPERATIONS |= dict.fromkeys(EXACT, exact) | dict.fromkeys(COPIES, copy)
OPERATIONS["tanh"] = lambda step: smooth(step, 1, np.tanh)
OPERATIONS["sigmoid"] = lambda step: smooth(step, Q(1, 16), lambda x: 1 / (1 + np.exp(-x)))
OPERATIONS["prelu"] = lambda step: rectifier(step, step.tensors.pop("weight"), 1)
OPERATIONS["divide"] = lambda step, divisor=None: scale(step, divisor, inverse=True)
OPERATIONS["hardtanh"] = lambda step, min_val, max_val: clamp(step, min_val, max_val)
OPERATIONS["mean"] = lambda step, axes, keepdim: sum_(step, axes, keepdim, mean=True)
OPERATIONS |= {f"IsometricPad{axes}d": isometric_pad for axes in (1, 2, 3)}
OPERATIONS["leaky_relu"] = lambda step, negative_slope: rectifier(step, negative_slope, 2)
OPERATIONS["minimum"] = lambda step: maximum(step, np.minimum)


# Composition.


def check_graph(file, tensors):
    """Every row against its node; what each node reads and does, by its name."""
    graph, real, runs = file["graph"], file["arithmetic"] == "real", {}
    shapes, used = {graph["input"]: file["input"]["shape"]}, {graph["output"]}
    for node, row in zip(graph["nodes"], file["layers"], strict=True):
        name = node["name"]
        try:
            require(name not in shapes and set(node) == NODE, "it is no node, or there twice")
            require(set(row) == ROW | (set() if real else ROUNDING), "its row has other keys")
            runs[name] = node["inputs"], check_node(node, row, shapes, tensors, real)
        except Exception as error:
            words = f"{type(error).__name__} " * (type(error) is not Refused) + str(error)
            raise Refused(f"`{name}` ({str(node['op'])[:40]}): {words}") from None
        shapes[name], used = node["shape"], used.union(node["inputs"], node["tensors"].values())
    require({*runs, *tensors} <= used, "it holds what its output does not depend on")
    require(graph["output"] in runs, "the graph returns a value that it does not compute")
    return runs


def check_node(node, row, shapes, tensors, real):
    step, args = Step(node, row, shapes, tensors), node["args"]
    for shape in (step.shape, *step.inputs):
        require(all(type(n) is int and n > 0 for n in shape), f"its shape {shape} is none")
        require(math.prod(shape) <= 2**26, "it is too large for this verifier")
    axes = [*args.get("axes", []), *([args["axis"]] if "axis" in args else [])]
    require(all(type(axis) is int and axis >= 0 for axis in axes), "its axes are no counts")
    require(args.get("axes") != [], "it has no axes: for torch all, that of the batch too")
    entries = [sum(map(math.prod, step.inputs)), math.prod(step.shape)]
    if real:  # whose row says nothing of rounding: as if it were without bound
        most = Q(10**400)
        row |= {"absolutes": [most] * len(step.inputs), "count": 2**60, "constant": most}
        row |= {"entries": entries}
    require(step.op in OPERATIONS, "this verifier does not know the operation")
    run = OPERATIONS[step.op](step, **args)
    require(not step.tensors, "it has tensors that it does not read")
    made = run(*(np.zeros(shape) for shape in step.inputs))
    require([*made.shape] == step.shape and np.isfinite(made).all(), f"it makes {made.shape}")
    same = all(row[key] == node[key] for key in ("name", "type", "inputs"))
    same = same and row["entries"] == entries and row["bound"] == max(row["gains"])
    require(same and type(row["proof"]) is str, "its row is that of another node")
    return run


def check_folds(file, tensors):
    """Values that are one convolution or matrix of an earlier one, between factors of channels.

    Or parts of one side by side. By the operation itself with the product kernel for its weight.
    The computed kernel is wrong by gamma(m) times its moduli: the gain must leave room for that.
    """
    nodes = {node["name"]: node for node in file["graph"]["nodes"]}
    shapes = {name: node["shape"] for name, node in nodes.items()}
    shapes |= {file["graph"]["input"]: file["input"]["shape"]}
    folds = {}
    for fold in file["folds"]:
        name, chain = fold["name"], []
        require(set(fold) == FOLD and name not in folds and name in nodes, f"`{name}` is no fold")
        require(type(fold["proof"]) is str, "its proof is no text")
        if nodes[name]["op"] == "concat":
            gain = split_gain(fold, file["layers"], nodes, shapes, folds)
            require(0 == fold["absolute"] <= gain <= fold["gain"], f"the fold of `{name}` is less")
            folds[name] = fold["input"], fold["gain"]
            continue
        at, source = name, fold["input"]
        while at != source:
            require(at in nodes and len(nodes[at]["inputs"]) == 1, f"`{name}` is no fold")
            chain, at = [nodes[at], *chain], nodes[at]["inputs"][0]
        step, args = folded_step(chain, fold, shapes, tensors)
        try:
            OPERATIONS[step.op](step, **args)
        except Refused as error:
            raise Refused(f"the fold of `{name}`: {error}") from None
        folds[name] = source, fold["gain"]
    return folds


def split_gain(fold, rows, nodes, shapes, folds):
    """Of a value of parts, each a function of a slice of its own of one value: the largest gain."""
    node, axes, places, gains = nodes[fold["name"]], set(), [], []
    for part in (node["inputs"][part] for part in node["args"]["parts"]):
        inside, cuts, open_ = set(), set(), [part]
        while open_:
            name = open_.pop()
            require(name in nodes, f"`{node['name']}` is no fold: a part reads more than slices")
            cut = nodes[name]["op"] == "slice" and nodes[name]["inputs"] == [fold["input"]]
            open_ += [] if cut or name in inside else nodes[name]["inputs"]
            (cuts if cut else inside).add(name)
        (cut,) = cuts
        axis, *ends = (nodes[cut]["args"][key] for key in ("axis", "start", "stop", "step"))
        axes.add(axis)
        places += range(shapes[fold["input"]][axis])[slice(*ends)]
        known = {name: folds[name] for name in inside & set(folds)}
        chosen = [row for row in rows if row["name"] in inside]
        gains.append(compose(chosen, cut, *FORMATS["real"], known)[0][part][0])
    apart = len(axes) == 1 and len(places) == len(set(places)) and not node["tensors"]
    require(apart, f"`{node['name']}` is no fold: its slices meet")
    return max(gains)


def folded_step(chain, fold, shapes, tensors):
    """The one convolution or matrix of a chain, its kernel times the factors around it."""
    kinds = [node["op"] for node in chain]
    places = [i for i, kind in enumerate(kinds) if kind in ("conv", "conv_transpose", "linear")]
    require(len(places) == 1, f"`{fold['name']}` is no single convolution or matrix")
    node, place = chain[places[0]], places[0]
    last = node["op"] == "linear"
    sides = []
    for part in (chain[:place], chain[place + 1 :]):
        sides.append(np.ones(1))
        for other in part:
            sides[-1] = moderate(sides[-1] * channel_factors(other, shapes, tensors, last))
    before, behind = sides[::-1] if node["op"] == "conv_transpose" else sides
    w, groups = moderate(tensors[node["tensors"]["weight"]]), node["args"].get("groups", 1)
    inputs = np.reshape(before * np.ones(w.shape[1] * groups), (groups, -1))
    w = np.moveaxis(w, (0, 1), (-2, -1)) * np.repeat(inputs, len(w) // groups, 0)
    w = np.moveaxis(w * np.reshape(behind * np.ones(w.shape[-2]), (-1, 1)), (-2, -1), (0, 1))
    most, room = Q(10**400), fold["gain"] - gamma(20 * len(chain)) * fold["absolute"]
    require(fold["absolute"] >= 0 and room >= 0, f"the fold of `{fold['name']}` has no room")
    row = {"gains": [room], "absolutes": [fold["absolute"]], "combine": "sum"}
    row |= {"count": 2**60, "constant": most}
    step = Step(node, row, shapes, tensors)
    step.tensors["weight"] = w
    return step, node["args"]


def moderate(values):
    """Refuses numbers of which a few products may underflow or overflow."""
    sizes = np.abs(values)
    far = (sizes > 0) & ((sizes < 2.0**-300) | ~(sizes <= 2.0**300))
    require(not far.any(), "it holds numbers too far from 1 for a fold")
    return values


def channel_factors(node, shapes, tensors, last):
    """What an operation multiplies each channel by: the last axis, or the first."""
    shape, args = node["shape"], node["args"]
    held = {role: tensors[name] for role, name in node["tensors"].items()}
    require(shapes[node["inputs"][0]] == shape and shape, "it is no factor of channels")
    kind, channels = node["op"], shape[-1 if last else 0]
    if kind == "batch_norm":
        require(not last or len(shape) == 1, "it is no factor of features")
        weight = moderate(held.get("weight", np.ones(channels)))
        return weight / moderate(np.sqrt(held["running_var"] + float(args["eps"])))
    role = {"scale": "factor", "divide": "divisor", "add": "factors", "neg": "by"}.get(kind)
    require(role, f"{kind} is no factor of channels")
    by = moderate(np.asarray((held | args | {"by": -1})[role], float))
    by = by.reshape([1] * (len(shape) - by.ndim) + [*by.shape])
    require(by.shape[-1 if last else 0] == by.size, "it is no factor of channels")
    by = np.broadcast_to(by.ravel(), channels)
    return 1 / by if kind == "divide" else by


def compose(rows, source, u, eta, most, folds):
    """For each value: its Lipschitz constant, |value| <= r(|x|), error <= d(|x|); the norm limit.

    r and d are affine. Of a row with gains g, moduli A, constant c and m roundings, k = gamma(m) A:
    r = sum g r + c, d = sum (g + k) d + k r + gamma(m) c, and what underflow may lose. A fold
    bounds the constant L of a value as well, and |value| <= |value at 0| + L |x|.
    """
    states, limit = {source: (Q(1), Q(1), Q(0), Q(0), Q(0))}, most / 4
    for row in rows:
        n, c, (read, wrote) = row["count"], row["constant"], (root(Q(n)) for n in row["entries"])
        lost, slope, base, terms = 10 * n * eta * wrote, Q(0), c, []
        for g, a, name in zip(row["gains"], row["absolutes"], row["inputs"], strict=True):
            bound, r0, r1, d0, d1 = states[name]
            k = gamma(n, u) * a + eta * read * wrote if n else 0
            lost += a * eta * read if n else 0
            slope, base = slope + max(g, a) * (r0 + d0), base + max(g, a) * (r1 + d1)
            own = g * bound, g * r0, g * r1, (g + k) * d0 + k * r0, (g + k) * d1 + k * r1
            terms.append(own)
            require(max(g, a, base + lost) <= most / 4, f"`{row['name']}` may overflow")
        top = 1 / (2 * root(eta)) if "squares" in row and eta else most / 4
        limit = min(limit, (top - base - lost) / slope) if slope else limit
        bound, r0, r1, d0, d1 = (together(row["combine"], v) for v in zip(*terms, strict=True))
        if row["name"] in folds:
            name, gain = folds[row["name"]]
            bound = min(bound, up(gain * states[name][0]))
            r0 = min(r0, bound)
        states[row["name"]] = bound, r0, up(r1 + c), d0, up(d1 + gamma(n, u) * c + lost)
    return states, limit


def together(combine, values):
    values = [up(v) for v in values if v]
    if combine == "sum" or len(values) < 2:
        return up(sum(values, Q(0)))
    return up(root(sum(v**2 for v in values)))


def check_bound(file, tensors, rows, mode):
    """Whether bound and pairs follow from the rows; the states of all values, limit and folds."""
    folds = check_folds(file, tensors)
    states, limit = compose(rows, file["graph"]["input"], *FORMATS[mode], folds)
    enough = file["bound"] >= states[file["graph"]["output"]][0]
    require(enough, "the Lipschitz bound is below what the rows come to")
    check_pairs(file, states, tensors)
    return states, limit, folds


def check_claims(file, tensors):
    """Whether bound, pairs, error and norm limit follow from the rows; the error of a run here."""
    rows, graph, mode = file["layers"], file["graph"], file["arithmetic"]
    states, limit, folds = check_bound(file, tensors, rows, mode)
    if mode == "real":
        require(file["error"] is file["norm_limit"] is None, "real numbers are not rounded")
        return None
    errors = zip(file["error"], states[graph["output"]][3:], strict=True)
    enough = all(said >= 0 and said**2 >= 2 * own**2 for said, own in errors)
    require(enough, "the rounding error is below what the rows come to")
    require(0 < file["norm_limit"] <= limit, "the norm limit is above what the rows come to")
    return compose(rows, graph["input"], *FORMATS["float64"], folds)[0][graph["output"]][3:]


def check_pairs(file, states, tensors):
    """Constants of the differences of two outputs of a matrix that comes last.

    Behind it may be factors of the outputs: then a computed row is wrong by a share of its norm.
    """
    if file["pairwise"] is None:
        return
    w, source, count = last_rows(file, tensors)
    most = 2 * states[file["graph"]["output"]][0] ** 2  # as for any outputs of one map
    factor = states[source][0] * (1 + gamma(w.shape[1] + 8))
    sizes = [gamma(40 * count) * Q(n) for n in np.linalg.norm(w, axis=1).tolist()]
    for i, (row, v, size) in enumerate(zip(file["pairwise"], w, sizes, strict=True)):
        top = np.abs(w - v).max(1)  # so that no square that matters underflows
        norms = np.linalg.norm((w - v) / (top + (top == 0))[:, None], axis=1)
        pairs = zip(row, map(Q, top.tolist()), map(Q, norms.tolist()), sizes, strict=True)
        least = [(pair, (t * n + size + other) * factor) for pair, t, n, other in pairs]
        least[i] = least[i][0], 0  # of an output and itself
        enough = all(pair >= own or (pair >= 0 and pair**2 >= most) for pair, own in least)
        require(enough, "a constant of two classes is not proven")


def last_rows(file, tensors):
    """The rows of the matrix that comes last, what it reads, and how many factors follow it.

    Factors of each output, and new shapes with the order kept. A convolution whose image is one
    place is a matrix: each tap reads an entry of its own, or a zero.
    """
    nodes = {node["name"]: node for node in file["graph"]["nodes"]}
    shapes = {name: node["shape"] for name, node in nodes.items()}
    name, count = file["graph"]["output"], 0
    by = np.ones(math.prod(shapes[name]))
    while nodes[name]["op"] not in ("linear", "conv"):
        node, name = nodes[name], nodes[name]["inputs"][0]
        require(name in nodes and len(node["inputs"]) == 1, "only a last matrix has pairs")
        if node["op"] != "reshape":
            last = node["shape"][-1] == by.size
            by, count = moderate(by * channel_factors(node, shapes, tensors, last)), count + 1
    node, args, w = nodes[name], nodes[name]["args"], tensors[nodes[name]["tensors"]["weight"]]
    plain = node["op"] == "linear" and len(node["shape"]) == 1
    one = not plain and node["op"] == "conv" and args["groups"] == 1
    one = one and args["padding"]["mode"] == "zeros"
    fits = (plain or one) and math.prod(node["shape"]) == len(w) == by.size
    fits = fits and len(shapes[file["graph"]["output"]]) == 1
    require(fits, "only a last matrix has pairs")
    w = w.reshape(len(w), -1)
    return moderate(moderate(w) * by[:, None]) if count else w, node["inputs"][0], count


def check_changes(file, tensors):
    """Bound and pairs of z -> f(x + D z), of the graph behind a factor D; the largest of D.

    As D is positive, it has an inverse: the map is g(y + z) with g(y) = f(D y), and y = x / D.
    """
    said, graph, shape = file["changes"], file["graph"], file["input"]["shape"]
    require(set(said) == CHANGES, "its changes have other keys")
    weights, source = np.array(said["weights"], object), graph["input"]
    fits = all(m in (1, n) for m, n in zip(weights.shape, shape, strict=True))
    fits = fits and all(type(w) is Q and w > 0 for w in weights.ravel())
    require(fits, "its weights are not positive numbers of the shape of an input")
    taken = {source, *tensors, *(node["name"] for node in graph["nodes"])}
    require(MOVED not in taken, f"it has something of the name {MOVED}")
    first = {"name": source, "op": "scale", "inputs": [MOVED], "args": {}, "shape": shape}
    nodes = [first | {"tensors": {"factor": MOVED}}, *graph["nodes"]]
    moved = file | said | {"graph": graph | {"input": MOVED, "nodes": nodes}}
    weights, most = weights.astype(float), weights.max()
    row = {"name": source, "inputs": [MOVED], "gains": [most], "absolutes": [most], "count": 0}
    row |= {"constant": Q(0), "entries": [0, 0], "combine": "sum"}
    check_bound(moved, tensors | {MOVED: weights}, [row, *file["layers"]], "real")
    return most


# Points.


def claims_of(file, shape):
    """For each image, and each place of its answer: label, answer, margin, radius to each class."""
    k, places, hashes = max([2, *shape[:1]]), shape[1:], file["images"]["sha256"]
    if "labels" in file:
        parts = [file[key] for key in ("labels", "predictions", "margin", "radius")]
        claims = [[(*row, [r] * k)] for *row, r, _ in zip(*parts, hashes, strict=True)]
        check_shares(file, *parts)
    else:
        parts = [file[key] for key in ("classes", "margin", "radii")]
        claims = [claims_at(k, places, *row) for *row, _ in zip(*parts, hashes, strict=True)]
    known = all(type(v) is int and 0 <= v < k for c in claims for row in c for v in row[:2])
    require(claims and known, "a class is none, or there is no image")
    for label, _, _, radii in (row for image in claims for row in image):
        own = "labels" in file or radii[label] is None
        fits = own and all(r >= 0 for j, r in enumerate(radii) if j != label)
        require(fits, "a radius is none")
    return claims


def claims_at(k, places, *parts):
    """Of a class, a margin and radii at each place."""
    classes, margins, radii = (np.array(part, object) for part in parts)
    same = [[*part.shape] for part in (classes, margins, radii)] == [places, places, [k, *places]]
    require(same, "it does not say the same of each place")
    labels, rows = classes.ravel().tolist(), radii.reshape(k, -1).T.tolist()
    return [*zip(labels, labels, margins.ravel().tolist(), rows, strict=True)]


def check_shares(file, labels, answers, _, radii):
    """Whether the accuracies are those of the labels, answers and radii."""
    right = [label == answer for label, answer in zip(labels, answers, strict=True)]
    alone = any(r > 0 and not ok for r, ok in zip(radii, right, strict=True))
    require(not alone, "a wrong answer has a radius")
    require(file["clean_accuracy"] == Q(sum(right) / len(right)), "the clean accuracy is another")
    for text, said in file["certified_accuracy"].items():
        plain = re.fullmatch(r"[ 0-9_.+/-]{1,200}([eE][+-]?[0-9]{1,4})?", text)
        eps = Q(text if plain else -1)
        require(eps >= 0, f"{text[:40]!r} is no distance")
        same = said == Q(sum(r > eps for r in radii) / len(right))
        require(same, f"the certified accuracy at {text} is another")


def read_points(path, file):
    """The array `images`, one after the other as its bytes, if they are those certified."""
    shape, kind, hashes = file["input"]["shape"], file["images"]["dtype"], file["images"]["sha256"]
    wide = file["arithmetic"] == "float64" or kind != "F64"
    require(wide, "a float32 program rounds images of float64")
    head = canonical({"image": {"dtype": kind, "shape": shape}})
    with zipfile.ZipFile(path) as archive, archive.open("images.npy") as stream:
        version = np.lib.format.read_magic(stream)
        reader = getattr(np.lib.format, f"read_array_header_{version[0]}_0")
        found, fortran, dtype = reader(stream)
        same = dtype.str == FLOATS[kind] and not fortran and [*found] == [len(hashes), *shape]
        wanted = f"{len(hashes)} of {shape}, {FLOATS[kind]} in C order"
        require(same, f"its images must be {wanted}; they are {[*found]}, {dtype.str}")
        for place, name in enumerate(hashes):
            raw = stream.read(math.prod(shape) * dtype.itemsize)
            require(sha256(head + raw).hexdigest() == name, f"image {place} is another: its hash")
            yield decoded(raw, kind).reshape(shape)


def logits_of(file, runs, x):
    values = {file["graph"]["input"]: x}
    with np.errstate(all="ignore"):
        for name, (inputs, run) in runs.items():
            values[name] = run(*(values[i] for i in inputs))
    return values[file["graph"]["output"]]


def check_point(file, place, claims, x, z, own, stretch):
    """Answers, margins and radii of an image, from its logits z as computed here; of f, (0, f).

    Differences are wrong by at most e here, and in the certified program by E = a |x| + b. So its
    answer is within e + E of the largest, and class j stays below the label within r if
    m - e - E > (L + a s) r, m the margin to j and s the most that an input moves by within 1.
    """
    (a, b), limit, single = file["error"], file["norm_limit"], len(z) == 1
    norm, two = root(up(sum_of_squares(x))), root(Q(1 if single else 2))
    require(np.isfinite(z).all() and norm <= limit, f"image {place} may overflow")
    wrong = two * (own[0] * norm + own[1]) + a * norm + b
    wrong = Q(math.nextafter(float(wrong), math.inf))
    bounds = file.get("changes", file)
    pairs = None if single else bounds["pairwise"]
    for (label, answer, margin, radii), row in zip(claims, z.reshape(len(z), -1).T, strict=True):
        values = [Q(0)] * single + [*map(Q, row.tolist())]
        require(values[answer] + wrong >= max(values), f"the answer to image {place} is another")
        slopes = pairs[label] if pairs else [two * bounds["bound"]] * len(values)
        gaps = [(values[label] - v, j) for j, v in enumerate(values) if j != label]
        near = abs(margin - min(gaps)[0]) <= wrong + abs(margin) / 2**50
        require(near, f"the margin of image {place} is another")
        for gap, j in gaps:
            r = radii[j]
            safe = norm + stretch * r <= limit and gap - wrong > (slopes[j] + a * stretch) * r
            require(safe or r == 0, f"the radius {float(r)} of image {place} is not proven")


# Command line.


def verify(certificate, weights, points=None):
    """What is proven, in a sentence; raises `Refused`, which names the file."""
    at = certificate
    try:
        file = read_certificate(at)
        tensors = read_weights(at := weights, file)
        at = certificate
        runs = check_graph(file, tensors)
        own = check_claims(file, tensors)
        proven = f"Lipschitz bound {float(file['bound'])} in l2, arithmetic {file['arithmetic']}"
        stretch = check_changes(file, tensors) if "changes" in file else 1
        shapes = {node["name"]: node["shape"] for node in file["graph"]["nodes"]}
        claims = claims_of(file, shapes[file["graph"]["output"]]) if "images" in file else []
        if points is None:
            return proven
        require(claims, "it says nothing of images: leave the points out")
        require(own, "real numbers prove no radius of a program: leave the points out")
        for place, x in enumerate(read_points(at := points, file)):
            at = certificate
            z = np.atleast_1d(logits_of(file, runs, x))
            check_point(file, place, claims[place], x, z, own, stretch)
            at = points
        proven += f", radii and answers of {len(claims)} images"
        if "labels" not in file:
            return proven
        shares = [f"clean accuracy {float(file['clean_accuracy'])}"]
        by_radius = sorted(file["certified_accuracy"].items(), key=lambda pair: Q(pair[0]))
        shares += [f"{float(said)} at {eps}" for eps, said in by_radius]
        return f"{proven}: {', '.join(shares)}"
    except Exception as error:
        words = "it takes too much memory" if type(error) is MemoryError else str(error)
        damaged = type(error) not in (Refused, MemoryError)
        words = f"it is damaged ({type(error).__name__}: {words})" if damaged else words
        words = " ".join(words.split())[:400].encode("ascii", "backslashreplace").decode()
        raise Refused(f"{at}: {words}") from None


def main(arguments=None):
    parser = argparse.ArgumentParser(
        prog="verifier.py",
        description="Prove what a certificate of taut says, with numpy alone.",
        epilog="Exit code: 0 proven, 1 refused, 2 wrong use. "
        "Example: python verifier.py certificate.json certificate.safetensors points.npz",
    )
    parser.add_argument("certificate", help="JSON file that `taut certify` wrote")
    parser.add_argument("weights", help="safetensors file beside it")
    parser.add_argument("points", nargs="?", help="npz file with the images as the array `images`")
    options = parser.parse_args(arguments)
    for path in filter(None, vars(options).values()):
        if not Path(path).is_file():
            parser.error(f"there is no file {path}")
    try:
        sys.stdout.write(f"Proven: {verify(**vars(options))}.\n")
    except Refused as error:
        sys.stderr.write(f"Refused: {error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
