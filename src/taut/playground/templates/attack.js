"use strict";
/* Attacks and maps, as generators: each `yield` is a place where the page may do something else. */

/** Numbers in [0, 1) from a seed (mulberry32): the same image gets the same attack. */
function randomFrom(seed) {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let t = Math.imul(state ^ (state >>> 15), state | 1);
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61);
    return ((t ^ (t >>> 14)) >>> 0) / 4294967296;
  };
}

/** A direction drawn from the unit sphere. */
function randomDirection(length, random) {
  const direction = Float64Array.from({ length }, () =>
    Math.sqrt(-2 * Math.log(1 - random())) * Math.cos(2 * Math.PI * random()));
  return scaled(direction, 1 / distance(direction, new Float64Array(length)));
}

const scaled = (x, factor) => x.map((value) => factor * value);
const moved = (x, direction, step) => x.map((value, i) => value + step * direction[i]);
const inner = (x, y) => x.reduce((sum, value, i) => sum + value * y[i], 0);

/** The nearest image in [0, 1] of the nearest point of the ball; both maps keep what is in the ball. */
function projected(x, center, eps) {
  const away = distance(x, center), factor = away > eps ? (eps / away) * (1 - 1e-12) : 1;
  return x.map((value, i) => Math.min(1, Math.max(0, center[i] + factor * (value - center[i]))));
}

/** Projected gradient ascent in l2 on the margin of the strongest other class.

   Returns a misclassified image within eps, moved back to where the answer changes; if none was
   found, the attempt with the smallest margin. The first restart begins at the image, the others at random points of the ball; steps shrink from eps / 4 to eps / 40. */
function* attack(net, center, label, eps, { steps = 40, restarts = 3, seed = 1 } = {}) {
  const random = randomFrom(seed);
  let best = { image: center, distance: 0, label }, margin = Infinity;
  for (let restart = 0; restart < restarts; restart++) {
    let x = center;
    if (restart) {
      const start = moved(center, randomDirection(center.length, random), eps * Math.sqrt(random()));
      x = projected(start, center, eps);
    }
    for (let i = 0; i <= steps; i++) {
      const logits = net.logits(x), rival = strongest(logits, label);
      if (largest(logits) !== label) return yield* nearest(net, center, label, x);
      if (logits[label] - logits[rival] < margin) {
        margin = logits[label] - logits[rival];
        best = { image: x, distance: distance(x, center), label };
      }
      const slope = net.slope(rival, label), length = Math.sqrt(inner(slope, slope));
      if (i === steps || !(length > 0)) break;
      x = projected(moved(x, slope, (eps * (0.25 - 0.225 * (i / steps))) / length), center, eps);
      yield;
    }
  }
  return best;
}

/** The nearest misclassified point of the segment from an image to one that is misclassified. */
function* nearest(net, center, label, x) {
  const direction = moved(x, center, -1);
  let right = 0, wrong = 1;
  for (let i = 0; i < 24; i++) {
    const middle = (right + wrong) / 2;
    if (largest(net.logits(moved(center, direction, middle))) === label) right = middle;
    else wrong = middle;
    yield;
  }
  const image = wrong === 1 ? x : moved(center, direction, wrong);
  return { image, distance: distance(image, center), label: largest(net.logits(image)) };
}

/** The class after the label's with the largest logit. */
function strongest(logits, label) {
  let best = -1;
  logits.forEach((value, j) => {
    if (j !== label && (best < 0 || value > logits[best])) best = j;
  });
  return best;
}

/** Two orthonormal directions: the first one given, the other as near to its proposal as can be. */
function plane(first, second) {
  const u = scaled(first, 1 / Math.sqrt(inner(first, first)));
  let v = moved(second, u, -inner(u, second));
  v = moved(v, u, -inner(u, v));  // again, for what rounding left
  return [u, scaled(v, 1 / Math.sqrt(inner(v, v)))];
}

const COARSEST = 8;  // divides the number of grid points less one

/** The classes on a square grid of a plane through an image, coarse first.

   A point whose coarse neighbours all have one class takes that class; `draw` is called with each
   finer grid. Returns `size` times `size` classes, rows from top to bottom. */
function* decisionMap(net, center, [u, v], reach, size, draw) {
  const classes = new Int16Array(size * size).fill(-1);
  const ask = (row, column) => {
    const last = size - 1, a = reach * ((2 * column) / last - 1), b = reach * (1 - (2 * row) / last);
    const x = center.map((value, i) => value + a * u[i] + b * v[i]);
    return largest(net.logits(x));
  };
  for (let step = COARSEST; step >= 1; step /= 2) {
    for (let row = 0; row < size; row += step) {
      for (let column = 0; column < size; column += step) {
        const place = row * size + column;
        if (classes[place] >= 0) continue;
        const shared = step < COARSEST ? common(classes, size, row, column, step) : -1;
        classes[place] = shared >= 0 ? shared : ask(row, column);
        if (shared < 0) yield;
      }
    }
    draw(classes, step);
    yield;
  }
  return classes;
}

/** The class of all known points around a place of the finer grid, if they have one; else -1. */
function common(classes, size, row, column, step) {
  const coarse = 2 * step, upper = row - (row % coarse), left = column - (column % coarse);
  let shared = -1;
  for (let i = upper - coarse; i <= upper + 2 * coarse; i += coarse) {
    for (let j = left - coarse; j <= left + 2 * coarse; j += coarse) {
      if (i < 0 || j < 0 || i >= size || j >= size) continue;
      const known = classes[i * size + j];
      if (shared < 0) shared = known;
      else if (known !== shared) return -1;
    }
  }
  return shared;
}

/** Runs generators one after the other, a few milliseconds at a time. */
class Queue {
  constructor(budget = 10) {
    this.budget = budget;
    this.jobs = [];
    this.waiting = false;
  }

  /** Replaces all jobs; each is a generator and what to do with its result. */
  replace(jobs) {
    this.jobs = jobs;
    this.wake();
  }

  wake() {
    if (this.waiting || !this.jobs.length) return;
    this.waiting = true;
    setTimeout(() => this.work());
  }

  work() {
    this.waiting = false;
    const end = performance.now() + this.budget;
    while (this.jobs.length && performance.now() < end) {
      const [job, finish] = this.jobs[0], { done, value } = job.next();
      if (done) {
        this.jobs.shift();
        finish(value);
      }
    }
    this.wake();
  }
}

/** Runs a generator to its end at once. */
function finished(job) {
  for (;;) {
    const { done, value } = job.next();
    if (done) return value;
  }
}
