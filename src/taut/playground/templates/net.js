"use strict";
/* The interpreter: a net as a list of steps on flat arrays of float64 numbers, forward and backward.

   Sums, products, quotients, square roots and comparisons of float64 numbers are all that happens
   here; JavaScript rounds each as IEEE 754 says. The proven rounding error of the float64 run
   therefore covers this page, too: it holds for sums in any order. */

/** The bytes of a compressed text in base64; it has the first of each four, then the second, ... */
async function unpack(text) {
  const packed = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
  const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("deflate"));
  const planes = new Uint8Array(await new Response(stream).arrayBuffer());
  const bytes = new Uint8Array(planes.length), words = planes.length / 4;
  for (let k = 0; k < 4; k++) for (let i = 0; i < words; i++) bytes[4 * i + k] = planes[k * words + i];
  return bytes.buffer;
}

/** One array of the payload; places are stored as differences. */
function arrayAt(bytes, [type, start, length]) {
  const kind = { f32: Float32Array, f64: Float64Array, i32: Int32Array, u8: Uint8Array }[type];
  const array = new kind(bytes, start, length);
  if (type === "i32") for (let i = 1; i < length; i++) array[i] += array[i - 1];
  return array;
}

const product = (sizes) => sizes.reduce((a, b) => a * b, 1);

/** For each combination of `count` indices, the sum of index times step. */
function offsets(count, steps) {
  let places = [0];
  count.forEach((n, axis) => {
    const inner = Array.from({ length: n }, (_, i) => i * steps[axis]);
    places = places.flatMap((place) => inner.map((move) => place + move));
  });
  return Int32Array.from(places);
}

/** Where windows begin, and where their entries are from there. */
function prepareMatrix(step) {
  const strides = step.wide.map((_, axis) => product(step.wide.slice(axis + 1)));
  const area = product(step.wide), taps = product(step.taps);
  const begins = offsets(step.out, strides.map((s, axis) => s * step.stride[axis]));
  const tap = offsets(step.taps, strides.map((s, axis) => s * step.dilation[axis]));
  const bands = step.transposed ? step.size / area : step.inputSize / area;  // input channels
  const channels = bands / step.groups, length = channels * taps;
  const entries = Int32Array.from({ length }, (_, j) => Math.floor(j / taps) * area + tap[j % taps]);
  const rows = step.weight.length / length / step.groups;
  const columns = [0, 1, 2, 3].map(() => new Float64Array(length));
  return Object.assign(step, { begins, entries, rows, length, span: channels * area, columns });
}

/** y[r, p] = sum over j of w[r, j] x[begins[p] + entries[j]], four positions at a time. */
function multiply(step, x, y) {
  const { weight: w, begins, entries, rows, length, columns } = step, positions = begins.length;
  const [a, b, c, d] = columns;
  for (let group = 0; group < step.groups; group++) {
    const shift = group * step.span;
    for (let p = 0; p < positions; p += 4) {
      const four = Math.min(4, positions - p);
      for (let k = 0; k < four; k++) {
        const column = columns[k], begin = begins[p + k] + shift;
        for (let j = 0; j < length; j++) column[j] = x[begin + entries[j]];
      }
      for (let r = group * rows; r < (group + 1) * rows; r++) {
        const row = r * length, place = r * positions + p;
        if (four === 1) {
          let sum = 0;
          for (let j = 0; j < length; j++) sum += w[row + j] * a[j];
          y[place] = sum;
          continue;
        }
        let s0 = 0, s1 = 0, s2 = 0, s3 = 0;
        for (let j = 0; j < length; j++) {
          const factor = w[row + j];
          s0 += factor * a[j]; s1 += factor * b[j]; s2 += factor * c[j]; s3 += factor * d[j];
        }
        y[place] = s0;
        y[place + 1] = s1;
        if (four > 2) y[place + 2] = s2;
        if (four > 3) y[place + 3] = s3;
      }
    }
  }
}

/** The adjoint: x[begins[p] + entries[j]] += sum over r of w[r, j] y[r, p]. */
function multiplyAdjoint(step, y, x) {
  const { weight: w, begins, entries, rows, length } = step, positions = begins.length;
  const column = step.columns[0];
  for (let group = 0; group < step.groups; group++) {
    for (let p = 0; p < positions; p++) {
      column.fill(0);
      for (let r = group * rows; r < (group + 1) * rows; r++) {
        const factor = y[r * positions + p], row = r * length;
        if (factor !== 0) for (let j = 0; j < length; j++) column[j] += factor * w[row + j];
      }
      const begin = begins[p] + group * step.span;
      for (let j = 0; j < length; j++) x[begin + entries[j]] += column[j];
    }
  }
}

/** A constant for every entry: one number for all, or one for each. */
const at = (constant, i) => (constant.length === 1 ? constant[0] : constant[i]);

/* Each operation: `forward(step, y, ...x)` fills y; `backward(step, g, y, gx, x)` adds to the
   gradient gx of each input what the gradient g of y says. */
const OPERATIONS = {
  matrix: {
    prepare: prepareMatrix,
    forward(step, y, x) {
      if (!step.transposed) return multiply(step, x, y);
      y.fill(0);
      multiplyAdjoint(step, x, y);
    },
    backward(step, g, y, [gx]) {
      if (!step.transposed) return multiplyAdjoint(step, g, gx);
      const own = new Float64Array(gx.length);
      multiply(step, g, own);
      for (let i = 0; i < own.length; i++) gx[i] += own[i];
    },
  },
  gather: {
    forward({ places }, y, x) {
      for (let i = 0; i < y.length; i++) y[i] = places[i] < 0 ? 0 : x[places[i]];
    },
    backward({ places }, g, y, [gx]) {
      for (let i = 0; i < g.length; i++) if (places[i] >= 0) gx[places[i]] += g[i];
    },
  },
  sort: {
    prepare: (step) => Object.assign(step, { source: new Int32Array(step.size) }),
    forward(step, y, x) {
      const { group, source } = step, end = step.groups * group, sign = step.descending ? -1 : 1;
      for (let i = end; i < y.length; i++) y[source[i] = i] = x[i];
      for (let start = 0; start < end; start += group) {
        for (let i = start; i < start + group; i++) source[i] = i;
        if (group > 2) source.subarray(start, start + group).sort((i, j) => sign * (x[i] - x[j]));
        else if (group === 2 && sign * (x[start] - x[start + 1]) > 0) {
          source[start] = start + 1;
          source[start + 1] = start;
        }
        for (let i = start; i < start + group; i++) y[i] = x[source[i]];
      }
    },
    backward({ source }, g, y, [gx]) {
      for (let i = 0; i < g.length; i++) gx[source[i]] += g[i];
    },
  },
  rectify: {
    forward({ slope }, y, x) {
      for (let i = 0; i < y.length; i++) y[i] = x[i] > 0 ? x[i] : at(slope, i) * x[i];
    },
    backward({ slope }, g, y, [gx], [x]) {
      for (let i = 0; i < g.length; i++) gx[i] += x[i] > 0 ? g[i] : at(slope, i) * g[i];
    },
  },
  clamp: {
    forward({ low, high }, y, x) {
      for (let i = 0; i < y.length; i++) y[i] = Math.min(Math.max(x[i], at(low, i)), at(high, i));
    },
    backward({ low, high }, g, y, [gx], [x]) {
      for (let i = 0; i < g.length; i++) {
        if (x[i] >= at(low, i) && x[i] <= at(high, i)) gx[i] += g[i];
      }
    },
  },
  shift: {
    forward({ by }, y, x) {
      for (let i = 0; i < y.length; i++) y[i] = x[i] + at(by, i);
    },
    backward(step, g, y, [gx]) {
      for (let i = 0; i < g.length; i++) gx[i] += g[i];
    },
  },
  scale: {
    forward({ by }, y, x) {
      for (let i = 0; i < y.length; i++) y[i] = x[i] * at(by, i);
    },
    backward({ by }, g, y, [gx]) {
      for (let i = 0; i < g.length; i++) gx[i] += g[i] * at(by, i);
    },
  },
  divide: {
    forward({ by }, y, x) {
      for (let i = 0; i < y.length; i++) y[i] = x[i] / at(by, i);
    },
    backward({ by }, g, y, [gx]) {
      for (let i = 0; i < g.length; i++) gx[i] += g[i] / at(by, i);
    },
  },
  root: {
    forward(step, y, x) {
      for (let i = 0; i < y.length; i++) y[i] = Math.sqrt(x[i]);
    },
    backward(step, g, y, [gx]) {
      for (let i = 0; i < g.length; i++) if (y[i] > 0) gx[i] += g[i] / (2 * y[i]);
    },
  },
  add: {
    forward({ factors }, y, ...inputs) {
      for (let i = 0; i < y.length; i++) {
        y[i] = factors[0] * inputs[0][i];
        for (let k = 1; k < inputs.length; k++) y[i] += factors[k] * inputs[k][i];
      }
    },
    backward({ factors }, g, y, gradients) {
      gradients.forEach((gx, k) => {
        for (let i = 0; i < g.length; i++) gx[i] += factors[k] * g[i];
      });
    },
  },
  concat: {
    forward(step, y, ...inputs) {
      let end = 0;
      for (const x of inputs) { y.set(x, end); end += x.length; }
    },
    backward(step, g, y, gradients) {
      let end = 0;
      for (const gx of gradients) {
        for (let i = 0; i < gx.length; i++) gx[i] += g[end + i];
        end += gx.length;
      }
    },
  },
  reduce: {
    prepare: (step) => Object.assign(step, {
      width: step.places.length / step.size, source: new Int32Array(step.size),
    }),
    forward({ places, width, kind, source }, y, x) {
      for (let i = 0; i < y.length; i++) {
        let result = kind === "max" ? -Infinity : 0;
        for (let k = i * width; k < (i + 1) * width; k++) {
          const place = places[k];
          if (place < 0) continue;
          if (kind === "sum") result += x[place];
          else if (kind === "squares") result += x[place] * x[place];
          else if (x[place] > result) { result = x[place]; source[i] = place; }
        }
        y[i] = result;
      }
    },
    backward({ places, width, kind, source }, g, y, [gx], [x]) {
      for (let i = 0; i < g.length; i++) {
        if (kind === "max") { gx[source[i]] += g[i]; continue; }
        for (let k = i * width; k < (i + 1) * width; k++) {
          const place = places[k];
          if (place >= 0) gx[place] += kind === "sum" ? g[i] : 2 * x[place] * g[i];
        }
      }
    },
  },
};

/** A net that runs, with what is proven of it. */
class Net {
  constructor(content, bytes) {
    const arrays = content.arrays.map((entry) => arrayAt(bytes, entry));
    const sizes = [content.input, ...content.steps.map((step) => step.size)];
    this.steps = content.steps.map((plain) => {
      const step = { ...plain, inputSize: sizes[plain.from[0]] };
      for (const role of ["places", "weight", "by", "slope", "low", "high"]) {
        if (role in plain) step[role] = arrays[plain[role]];
      }
      const { prepare } = OPERATIONS[step.op];
      return prepare ? prepare(step) : step;
    });
    this.values = sizes.map((size) => new Float64Array(size));
    this.gradients = sizes.map((size) => new Float64Array(size));
    this.bound = content.bound;
    this.error = content.error;
    this.limit = content.limit;
    this.pairs = arrayAt(bytes, content.pairs);
    this.classes = Math.round(Math.sqrt(this.pairs.length));
  }

  /** What the net returns for one image; valid until the next call. */
  forward(x) {
    this.values[0].set(x);
    this.steps.forEach((step, i) => {
      const inputs = step.from.map((place) => this.values[place]);
      OPERATIONS[step.op].forward(step, this.values[i + 1], ...inputs);
    });
    return this.values[this.steps.length];
  }

  /** The gradient of the inner product of `output` with what the last `forward` returned. */
  backward(output) {
    this.gradients.forEach((gradient) => gradient.fill(0));
    this.gradients[this.steps.length].set(output);
    for (let i = this.steps.length - 1; i >= 0; i--) {
      const step = this.steps[i], inputs = step.from.map((place) => this.values[place]);
      const gradients = step.from.map((place) => this.gradients[place]);
      OPERATIONS[step.op].backward(step, this.gradients[i + 1], this.values[i + 1], gradients, inputs);
    }
    return this.gradients[0];
  }

  /** The logits of the classes: of a net with one output f, 0 and f. */
  logits(x) {
    const z = this.forward(x);
    return z.length === 1 ? Float64Array.of(0, z[0]) : z.slice();
  }

  /** The gradient in the image of z[up] - z[down], of the last `forward`. */
  slope(up, down) {
    const outputs = this.values[this.steps.length].length;
    if (outputs === 1) return this.backward([up === 1 ? 1 : -1]);
    const direction = new Float64Array(outputs);
    direction[up] = 1;
    direction[down] = -1;
    return this.backward(direction);
  }

  /** Class, margin and proved radius of an image. */
  certify(x) {
    const logits = this.logits(x), label = largest(logits);
    return { logits, label, ...this.radius(logits, label, norm(x)) };
  }

  /** The least over all other classes j of (z[label] - z[j] - 6 E) / (L[label, j] + a).

     E = a |x| + b bounds how far the difference of two computed logits is from the exact one. Two
     are for this point and the perturbed one; two more, as in taut, for whoever computes the same
     logits in another order; and two so that no radius here is above that of the certificate,
     whose margin may differ from this one by 2 E. The factors are for the few roundings here. */
  radius(logits, label, size) {
    const [a, b] = this.error, error = 6 * (a * size + b) * (1 + 2 ** -45);
    let margin = Infinity, radius = Infinity, rival = label;
    for (let j = 0; j < logits.length; j++) {
      if (j === label) continue;
      const gap = logits[label] - logits[j];
      const reach = ((gap - error) / (this.pairs[label * this.classes + j] + a)) * (1 - 2 ** -48);
      margin = Math.min(margin, gap);
      if (!(reach >= radius)) { radius = reach; rival = j; }
    }
    const inside = (this.limit - size) * (1 - 2 ** -48);
    const proven = Math.min(radius, inside);
    return { margin, rival, radius: logits.every(Number.isFinite) && proven > 0 ? proven : 0 };
  }
}

/** The place of the largest number. */
function largest(values) {
  let best = 0;
  for (let j = 1; j < values.length; j++) if (values[j] > values[best]) best = j;
  return best;
}

/** The l2 norm, not below the exact one: n squares and their sum round n + 1 times, the root once. */
function norm(x) {
  let sum = 0;
  for (let i = 0; i < x.length; i++) sum += x[i] * x[i];
  return Math.sqrt(sum) * (1 + (x.length + 8) * 2 ** -52);
}

/** The l2 distance of two images. */
function distance(x, y) {
  let sum = 0;
  for (let i = 0; i < x.length; i++) sum += (x[i] - y[i]) ** 2;
  return Math.sqrt(sum);
}

/** Pixels as the float32 numbers in [0, 1] that taut makes of bytes, or as they are. */
const pixelsOf = (array) =>
  Float64Array.from(array, array instanceof Uint8Array ? (byte) => Math.fround(byte / 255) : Number);
