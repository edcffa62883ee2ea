"use strict";
/* The page: what it holds, how images are painted, and the columns of the nets. */

const GRID = 129;  // answers along each side of a map
const LIGHTER = [204, 84, 15], DARKER = [28, 92, 184];  // as in the report: orange and blue

const content = JSON.parse(document.getElementById("content").textContent);
const [channels, height, width] = content.shape;
const element = (name) => document.getElementById(name);
const nameOf = (label) => content.classes[label] ?? `class ${label}`;
const attacks = new Queue(), maps = new Queue();
const state = { image: null, index: -1, eps: 0, longest: 1, drawing: false };
let sides = [], pictures = [];

/** A number with three decimals, rounded down: what is proved stays proved. */
const down = (value) => (Math.floor(value * 1000) / 1000).toFixed(3);

/** Puts an image on a canvas; `shade` gives red, green and blue of a pixel from 0 to 255. */
function paint(canvas, shade) {
  canvas.width = width;
  canvas.height = height;
  const context = canvas.getContext("2d"), data = context.createImageData(width, height);
  for (let i = 0; i < width * height; i++) data.data.set([...shade(i), 255], 4 * i);
  context.putImageData(data, 0, 0);
}

function paintImage(canvas, x) {
  const area = width * height, value = (place) => Math.round(255 * Math.min(1, Math.max(0, x[place])));
  paint(canvas, (i) => [0, 1, 2].map((c) => value(channels === 3 ? c * area + i : i)));
}

/** The mean over channels of a change, scaled to full colour. */
function paintChange(canvas, x, center) {
  const area = width * height, mean = new Float64Array(area);
  for (let i = 0; i < x.length; i++) mean[i % area] += (x[i] - center[i]) / channels;
  const most = mean.reduce((a, b) => Math.max(a, Math.abs(b)), 1e-12);
  paint(canvas, (i) => {
    const share = Math.abs(mean[i]) / most, colour = mean[i] > 0 ? LIGHTER : DARKER;
    return colour.map((c) => Math.round(255 + share * (c - 255)));
  });
}

/* The two nets. */

/** What a column shows and how it is filled. */
class Side {
  constructor(net, column, map) {
    Object.assign(this, { net, column, map, result: null, nearest: null });
  }

  part(name) {
    return this.column.querySelector(name);
  }

  /** Certifies a picture and shows the answer. */
  answer(x) {
    this.result = this.net.certify(x);
    this.nearest = null;
    this.part(".answer").textContent = nameOf(this.result.label);
    this.part(".margin").textContent = this.result.margin.toFixed(2);
    this.part(".radius").textContent = down(this.result.radius);
    this.part(".proved").textContent = `proved to ${down(this.result.radius)}`;
    this.part(".before").textContent = nameOf(this.result.label);
    paintImage(this.part(".original"), x);
  }

  /** Keeps the nearest misclassified picture that any search found. */
  learn(found) {
    const success = found.label !== this.result.label;
    if (success && !(this.nearest?.distance <= found.distance)) this.nearest = found;
    this.showRuler();
  }

  search() {
    this.say("Searching …");
    this.showRuler();
    const job = attack(this.net, state.image, this.result.label, state.eps);
    return [job, (found) => { this.learn(found); this.show(found); announce(); }];
  }

  /** Shows what the attack found, or that it found nothing. */
  show(found) {
    const { radius } = this.result, inside = state.eps <= radius, success = found.label !== this.result.label;
    this.part(".size").textContent = `${found.distance.toFixed(4)} in l2`;
    this.part(".after").textContent = nameOf(found.label);
    paintChange(this.part(".change"), found.image, state.image);
    paintImage(this.part(".attacked-image"), found.image);
    this.column.classList.toggle("fooled-now", success);
    if (success && found.distance <= radius) {
      this.say("An attack succeeded inside the proved radius. This must not happen: please report it.");
    } else if (success) {
      this.say(`Fooled: at a distance of ${found.distance.toFixed(4)} the answer is ${nameOf(found.label)}.`);
    } else if (inside) {
      this.say("The attack failed, as it must: no change of this size alters the answer. Shown is its best attempt.");
    } else {
      this.say("The attack failed, but beyond the proved radius that proves nothing. Shown is its best attempt.");
    }
  }

  say(sentence) {
    this.part(".status").textContent = sentence;
  }

  showRuler() {
    const share = (value) => `${Math.min(100, (100 * value) / state.longest)}%`;
    const { radius } = this.result, gap = this.part(".ruler u");
    this.part(".ruler i").style.width = share(radius);
    this.part(".ruler b").style.left = share(state.eps);
    gap.hidden = !this.nearest;
    if (this.nearest) {
      gap.style.left = share(radius);
      gap.style.right = `${100 - parseFloat(share(this.nearest.distance))}%`;
    }
    this.part(".fooled").textContent = this.nearest ? `fooled at ${this.nearest.distance.toFixed(3)}` : "";
  }
}

/** Tells screen readers what both columns show, once the attacks are done. */
function announce() {
  if (attacks.jobs.length > 1) return;
  element("live").textContent = sides.map((side) => {
    const { label, margin, radius } = side.result, status = side.part(".status").textContent;
    return `${side.column.ariaLabel}: ${nameOf(label)}, margin ${margin.toFixed(2)}, ` +
      `proved radius ${down(radius)}. ${status}`;
  }).join(" ");
}
