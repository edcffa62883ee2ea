"""Checks a certificate of taut with numpy and the standard library alone; nothing of taut runs.

Run: python verifier.py certificate.json certificate.safetensors [points.npz]
It accepts what it proves itself, for plain sequences: layers from weights, radii from the `images`
in points.npz. Trusted: numpy's IEEE 754 sums, products, roots, in any order; Python's integers.
"""

import json
import math
import sys
from fractions import Fraction as Q
from hashlib import sha256
from pathlib import Path

import numpy as np

FORMATS = {  # unit roundoff, smallest normal number, largest number
    "float64": (Q(1, 2**53), Q(1, 2**1022), Q((2**53 - 1) * 2**971)),
    "float32": (Q(1, 2**24), Q(1, 2**126), Q((2**24 - 1) * 2**104)),
}
SPACE = "l2 ball around the tensor given to the model, in the units of that tensor"
CLAIM = ("taut-certificate", 1, SPACE)
WORST = {"absolutes": [1e300], "constant": 1e300, "count": 2**60}  # of a row that says nothing
ONE, PI = 10**60, 3141592653589793238462643383279502884197169399375105820974945


def require(condition, sentence):
    if not condition:
        raise ValueError(sentence)


def gamma(n, u=FORMATS["float64"][0]):
    return n * u / (1 - n * u) if 2 * n * u <= 1 else Q(10**400)


def root(n):  # of a whole number > 0, up
    return Q(math.isqrt(n * ONE**2 - 1) + 1, ONE)


def canonical(content):
    return json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()


def read_weights(path, file):
    raw, end = Path(path).read_bytes(), 0
    sizes = {"F32": 4} if file["arithmetic"] == "float32" else {"F32": 4, "F64": 8}
    start = 8 + int.from_bytes(raw[:8], "little")
    header, data = json.loads(raw[8:start]), raw[start:]
    graph, spans = header.pop("__metadata__", {}).get("graph_sha256"), {}
    for name, entry in sorted(header.items(), key=lambda item: item[1]["data_offsets"]):
        length = math.prod(entry["shape"]) * sizes[entry["dtype"]]
        require(entry.pop("data_offsets") == [end, end + length], f"wrong offsets in {path}")
        spans[name], end = data[end : end + length], end + length
    require(end == len(data), f"{path} holds bytes of no tensor")
    found = sha256(canonical(header) + b"".join(spans[name] for name in sorted(header)))
    same = [found.hexdigest(), header] == [file["weights_sha256"], file["weights"]]
    require(same, "the weights are others")
    found = sha256(canonical(file["graph"])).hexdigest()
    require(found == file["graph_sha256"] == graph, "the graph is another")
    for name, entry in header.items():
        values = np.frombuffer(spans[name], f"<f{sizes[entry['dtype']]}")
        require(np.isfinite(values).all(), f"{name} holds NaN or Inf")
        spans[name] = values.astype(float).reshape(entry["shape"])
    return spans | {None: np.zeros([1])}  # the bias of layers without one


def twiddle(j, n):  # exp(2 pi i j / n), wrong by at most 2^-52: Taylor's sums in integers
    parts, term, i = [0] * 4, ONE, 0
    while term:
        parts[i % 4], i = parts[i % 4] + term, i + 1
        term = term * (2 * PI * j // n) // (ONE * i)
    return complex((parts[0] - parts[2]) / ONE, (parts[1] - parts[3]) / ONE)


def grams(kernel, grid):  # of the symbol at frequencies of a grid; the other half is conjugate
    roots = [np.array([twiddle(j, n) for j in range(n)]) for n in grid]
    axes = zip(roots, grid, kernel.shape[2:], strict=True)
    first, second = (z[np.outer(range(n), range(k)) % n] for z, n, k in axes)
    for row in first[: grid[0] // 2 + 1]:
        symbol = np.tensordot(second, np.tensordot(row, kernel, (0, 2)), (1, 2))
        yield symbol @ symbol.conj().swapaxes(1, 2)


def prove_norms(kernel, torus, bound, moduli_bound):
    # Whether the norm of a stride-1 kernel on a torus, and that of its moduli, are within bounds.
    # Computed Gram matrices G are wrong by at most e in norm. Their defect from a multiple of 1, a
    # trigonometric polynomial of degree < k, is at most 1/cos(pi/8) an axis larger anywhere than on
    # a grid of 8 k points (M. Riesz). Else t - G = L L* + R shows G <= t + |R|, whoever found L.
    # The norm of moduli is at most that of their sum a over the taps (Collatz and Wielandt).
    scale = 2.0 ** math.frexp(np.abs(kernel).max())[1]
    kernel, square = kernel / scale, (Q(bound) / Q(scale)) ** 2
    kernel = kernel if len(kernel) <= kernel.shape[1] else kernel.swapaxes(0, 1)
    a, v, n = np.abs(kernel).sum((2, 3)), np.ones(kernel.shape[1]), len(kernel)
    for _ in range(60):
        v = np.maximum((z := a.T @ (a @ v)) / max(z.max(), 2.0**-500), 2.0**-20)
    count = 2 * math.prod(kernel.shape[2:]) + sum(a.shape) + 1
    moduli = Q((a.T @ (a @ v) / v).max()) * (1 + gamma(count)) + Q(1, 2**800)
    require(moduli <= (Q(moduli_bound) / Q(scale)) ** 2, "a norm of moduli is not proven")
    e = 4 * gamma(2 * count + 64) * Q((a @ a.sum(0)).max()) + Q(1, 2**400)
    d, grid = (kernel**2).sum() / n * np.eye(n), [8 * k - 7 * (k == 1) for k in kernel.shape[2:]]
    worst = max(np.linalg.norm(g - d, axis=(1, 2)).max() for g in grams(kernel, grid))
    worst = (Q(worst) * (1 + gamma(4 * n * n + 64)) + e) * Q("1.1715729") ** (max(grid) > 1)
    top = float(square) * (1 - 2**-46 * (n + 8) ** 2) - 2 * float(e)
    proven = Q(d[0, 0]) + worst <= square
    return proven or all(below(g, top, square - e) for g in grams(kernel, torus))


def below(gram, top, square):
    matrix, n = top * np.eye(gram.shape[1]) - gram, gram.shape[1]
    try:
        low = np.linalg.cholesky(matrix)
    except np.linalg.LinAlgError:
        return False
    rest = np.linalg.norm(matrix - low @ low.conj().swapaxes(1, 2), axis=(1, 2)).max()
    wrong = 4 * gamma(4 * n + 64) * Q((np.abs(low) ** 2).sum((1, 2)).max())
    return Q(top) + Q(rest) * (1 + gamma(4 * n * n)) + wrong <= square


EXACT = {  # selections: 1-Lipschitz, without rounding, 0 at 0
    "ReLU": lambda x, inplace: np.maximum(x, 0),
    "MaxMin": lambda x: np.hstack([f(*np.split(x, 2, 1)) for f in (np.maximum, np.minimum)]),
    "PadToMultiple2d": lambda x, multiple: np.pad(
        x, [(0, 0), (0, 0), *((0, -n % m) for n, m in zip(x.shape[2:], multiple, strict=True))]
    ),
    "Flatten": lambda x, **d: x.reshape(len(x), -1 if d == dict(start_dim=1, end_dim=-1) else 0),
}


def run(node, x, weights):
    if node["op"] != "affine":
        return EXACT[node["type"]](x, **node["args"])
    op, w, bias = node["operator"], weights[node["weight"]], weights[node["bias"]]
    x, d = np.pad(x, [(0, 0), (0, 0), *((0, n) for n in op["extend"])]), len(op["stride"])
    sides = [(0, 0), (0, 0), *zip(op["left"], op["right"], strict=True)]
    x = np.pad(x, sides, "wrap" if op["padding"] == "circular" else "constant")
    x = np.lib.stride_tricks.sliding_window_view(x, w.shape[2:], (2, 3)[:d])
    x = x[:, :, *(slice(None, None, s) for s in op["stride"])]
    x = np.tensordot(x, w, ([1, *range(2 + d, 2 + 2 * d)], [1, *range(2, 2 + d)]))
    return np.moveaxis(x, -1, 1) + bias.reshape(-1, *[1] * d)


def on_torus(op, w, out):  # the kernel on the unshuffled input, a torus with each output once
    zeros, k, torus = op["padding"] == "zeros", w.reshape(*w.shape, *[1] * (4 - w.ndim)), []
    known = (zeros or op["padding"] == "circular") and op["groups"] == 1
    require(known, "a layer of a kind not known here")
    axes = [op[key] for key in ("input_size", "extend", "left", "right", "stride", "dilation")]
    for n, e, *sides, s, gap, count in zip(*axes, out[: w.ndim - 2], strict=True):
        torus.append(-(-(n + e + zeros * max(sides)) // max(s, 1)))
        once = zeros or (n + e == s * torus[-1] and count <= torus[-1])
        require(once and s > 0 and gap == 1, "a convolution of a kind not known here")
        k = np.pad(np.moveaxis(k, 2, -1), [(0, 0)] * 3 + [(0, -k.shape[2] % s)])
        k = np.concatenate([k[..., i::s] for i in range(s)], 1)
    return k, [1] * (2 - len(torus)) + torus


def check_layer(node, row, weights, before, after):
    name, sizes = node["name"], [math.prod(before[1:]), math.prod(after[1:])]
    same = [*row.setdefault("entries", sizes)] == sizes and node["shape"] == [[*after[1:]]]
    require(same, f"{name} has other sizes")
    if node["op"] != "affine":
        return require(row["gains"][0] >= 1, f"{name} has a norm of 1")
    w, bias = weights[node["weight"]], weights[node["bias"]]
    square = sum(Q(b) ** 2 for b in bias) * Q(sizes[1], len(bias))
    enough = row["count"] >= math.prod(w.shape[1:]) + 2 and Q(row["constant"]) ** 2 >= square
    require(enough, f"the rounding of {name} is not proven")
    same = node["operator"]["input_size"] == [*before[2:]] and after[1] == len(w)  # not of a bias
    require(same, f"{name} has other sizes")
    kernel, torus = on_torus(node["operator"], w, after[2:])
    proven = not w.any() or prove_norms(kernel, torus, row["gains"][0], row["absolutes"][0])
    require(proven, f"the norm of {name} is not proven")


def compose(rows, u, eta, largest):  # exact: slope before and after the last row, error, limit
    before, r, d, limit = Q(1), [Q(1), Q(0)], [Q(0), Q(0)], largest / 4
    for row in rows:
        n, c, g, a = row["count"], *map(Q, (row["constant"], row["gains"][0], row["absolutes"][0]))
        read, wrote = map(root, row["entries"])
        require(type(n) is int and min(n, c, a, g) >= 0, "a row holds a number below 0")
        k = gamma(n, u) * a + eta * read * wrote if n else 0
        lost = a * eta * read + 10 * n * eta * wrote if n else 0
        most, base = max(g, a), c + lost + max(g, a) * (r[1] + d[1])
        limit = min(limit, (largest / 4 - base) / (most * (r[0] + d[0]) or 1))
        d = [(g + k) * e + k * s for e, s in zip(d, r, strict=True)]
        before, r, d[1] = r[0], [g * r[0], g * r[1] + c], d[1] + gamma(n, u) * c + lost
    return before, r[0], d, limit


def check_points(file, nodes, weights, images, own):  # m - E_here - E(|x|) > (L + a) r for each
    a, b, limit, two = *map(Q, (*file["error"], file["norm_limit"])), root(2)
    points = zip(images, file["images_sha256"], file["labels"], file["radius"], strict=True)
    for x, name, label, radius in points:
        same = sha256(x.tobytes()).hexdigest() == name and [*x.shape] == file["input"]["shape"]
        require(same, "the images are others")
        z, r = x[None].astype(float), Q(radius)
        norm = Q(float(np.linalg.norm(z))) * (1 + gamma(z.size + 8)) + Q(1, 2**400)
        for node in nodes:
            z = run(node, z, weights)
        slopes = file["pairwise"][label] if file["pairwise"] else [two * Q(file["bound"])] * z.size
        room = Q(z[0, label]) - two * (own[0] * norm + own[1]) - (a * norm + b)
        pairs = [p for j, p in enumerate(zip(z[0], slopes, strict=True)) if j != label]
        safe = norm + r <= limit and all(room - Q(y) > (Q(slope) + a) * r for y, slope in pairs)
        require(safe or r == 0, f"a radius of {radius} is not proven")


def verify(certificate, weights_path, images=()):  # what holds, in a sentence; else ValueError
    file = json.loads(text := Path(certificate).read_bytes())
    mode, graph, rows = file["arithmetic"], file["graph"], [WORST | row for row in file["layers"]]
    known = (file["format"], file["version"], file["input"]["space"]) == CLAIM
    require(known and canonical(file) == text.strip(), "no canonical certificate of taut")
    require(mode != "real" or not len(images), "real numbers prove no radius of any program")
    weights, (first, *nodes) = read_weights(weights_path, file), graph["nodes"]
    name, x = first["name"], np.zeros((1, *file["input"]["shape"]))
    ends = [graph["input"], graph["output"], first["op"]]
    require(ends == [name, nodes[-1]["name"], "placeholder"], "no plain sequence")
    for node, row in zip(nodes, rows, strict=True):
        known = {"affine": True, "call_module": node["type"] in EXACT}.get(node["op"])
        require(known and node["inputs"] == [name], f"{node['name']} is not known in a sequence")
        name, before, x = node["name"], x.shape, run(node, x, weights)
        true = row | {key: node[key] for key in ("name", "type", "inputs")}
        require(row == true | {"bound": max(row["gains"])}, f"the row of {name} is another")
        check_layer(node, row, weights, before, x.shape)
    before, slope, d, limit = compose(rows, *FORMATS["float64" if mode == "real" else mode])
    require(Q(file["bound"]) >= slope, "the Lipschitz bound is below the product")
    w = weights[nodes[-1]["weight"]] if file["pairwise"] else np.zeros((0, 0))
    for row, v in zip(file["pairwise"] or (), w, strict=True):
        factor = before * (1 + gamma(w.shape[1] + 8))
        top = np.abs(w - v).max(1)  # so that no square that matters underflows
        norms = np.linalg.norm((w - v) / (top + (top == 0))[:, None], axis=1)
        matrix = nodes[-1]["op"] == "affine" and w.ndim == 2
        proven = all(Q(p) >= Q(t) * Q(n) * factor for p, t, n in zip(row, top, norms, strict=True))
        require(matrix and proven, "a constant of two classes is not proven")
    if mode != "real":
        pairs = zip(file["error"], d, strict=True)
        require(all(Q(e) >= root(2) * p for e, p in pairs), "the error is not proven")
        require(0 < Q(file["norm_limit"]) <= limit, "the norm limit is not proven")
    if len(images):
        for eps, said in file["certified_accuracy"].items():
            share = sum(Q(r) > Q(eps) >= 0 for r in file["radius"]) / len(images)
            require(said <= share, "a certified accuracy is above the radii")
        check_points(file, nodes, weights, images, compose(rows, *FORMATS["float64"])[2])
    return f"Lipschitz bound {file['bound']}, radii of {len(images)} images, arithmetic {mode}"


if __name__ == "__main__":
    try:
        held = verify(*sys.argv[1:3], *(np.load(path)["images"] for path in sys.argv[3:]))
        sys.stdout.write(f"Proven: {held}.\n")
    except Exception as error:  # whatever it is, nothing is proven
        sys.exit(f"Refused: {error!r}.")
