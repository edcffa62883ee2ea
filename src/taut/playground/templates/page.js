"use strict";
/* The page: pictures, numbers, attacks and maps. */

const GRID = 129;  // answers along each side of a map
const LIGHTER = [204, 84, 15], DARKER = [28, 92, 184];  // as in the report: orange and blue

const content = JSON.parse(document.getElementById("content").textContent);
const [channels, height, width] = content.shape;
const element = (name) => document.getElementById(name);
const nameOf = (label) => content.classes[label] ?? `class ${label}`;
const attacks = new Queue(), maps = new Queue();
const state = { image: null, index: -1, label: null, eps: 0, longest: 1, drawing: false };
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

/* Pictures. */

/** Shows a picture everywhere: the answers at once, attacks and maps as they come. */
function choose(image, caption, detail) {
  state.image = image;
  const canvas = element("image");
  paintImage(canvas, image);
  canvas.ariaLabel = `${caption}. ${detail}`;
  element("caption").replaceChildren(Object.assign(document.createElement("strong"), { textContent: caption }), detail);
  for (const side of sides) side.answer(image);
  setEps(state.eps);
  drawMaps();
}

function chooseTest(index) {
  stopDrawing();
  mark(index);
  choose(pictures[index], `Class ${nameOf(content.labels[index])}`, `Test image ${index + 1} of ${pictures.length}`);
}

/** Checks one thumbnail, or none. */
function mark(index) {
  state.index = index;
  [...element("thumbs").children].forEach((button, i) => {
    button.ariaChecked = String(i === index);
    button.tabIndex = i === Math.max(0, index) ? 0 : -1;
  });
}

function makeThumbnails() {
  pictures.forEach((picture, i) => {
    const button = document.createElement("button"), canvas = document.createElement("canvas");
    const bar = document.createElement("i");
    button.setAttribute("role", "radio");
    button.ariaLabel = `${nameOf(content.labels[i])}, test image ${i + 1}`;
    bar.append(document.createElement("b"));
    paintImage(canvas, picture);
    button.append(canvas, bar);
    button.addEventListener("click", () => chooseTest(i));
    element("thumbs").append(button);
  });
  element("thumbs").addEventListener("keydown", (event) => {
    const columns = getComputedStyle(element("thumbs")).gridTemplateColumns.split(" ").length;
    const step = { ArrowRight: 1, ArrowLeft: -1, ArrowDown: columns, ArrowUp: -columns }[event.key];
    if (!step) return;
    event.preventDefault();
    const next = Math.max(0, state.index) + step;
    if (next < 0 || next >= pictures.length) return;
    chooseTest(next);
    element("thumbs").children[next].focus();
  });
}

/** The proved radius of each test image, as a bar below it; the longest scales everything. */
function* measureAll() {
  const radii = [];
  for (const picture of pictures) {
    radii.push(sides[0].net.certify(picture).radius);
    yield;
  }
  return radii;
}

/** An image from a file, cut to the shape of the net's input and scaled. */
async function openFile(file) {
  const bitmap = await createImageBitmap(file).catch(() => null);
  if (!bitmap) return void (element("caption").textContent = `${file.name} is not an image.`);
  stopDrawing();
  const canvas = Object.assign(document.createElement("canvas"), { width, height });
  const context = canvas.getContext("2d"), factor = Math.max(width / bitmap.width, height / bitmap.height);
  const size = [bitmap.width * factor, bitmap.height * factor];
  context.imageSmoothingQuality = "high";
  context.drawImage(bitmap, (width - size[0]) / 2, (height - size[1]) / 2, ...size);
  mark(-1);
  choose(fromCanvas(canvas), "Your image", `${file.name}, scaled to ${width} x ${height} pixels`);
}

/** The pixels of a canvas as an input of the net. */
function fromCanvas(canvas) {
  const { data } = canvas.getContext("2d").getImageData(0, 0, width, height), area = width * height;
  const bytes = new Uint8Array(channels * area);
  for (let i = 0; i < area; i++) {
    const colour = [...data.subarray(4 * i, 4 * i + 3)].map((c) => (c * data[4 * i + 3]) / 255);
    if (channels === 3) colour.forEach((c, k) => (bytes[k * area + i] = Math.round(c)));
    else bytes[i] = Math.round(0.299 * colour[0] + 0.587 * colour[1] + 0.114 * colour[2]);
  }
  return pixelsOf(bytes);
}

/* Drawing: with a pointer, or with the arrow keys and the space bar. */

const ink = Object.assign(document.createElement("canvas"), { width: 10 * width, height: 10 * height });
const pen = { x: 5 * width, y: 5 * height, down: false };

function clearInk() {
  const context = ink.getContext("2d");
  context.fillStyle = "#000";
  context.fillRect(0, 0, ink.width, ink.height);
}

function movePen(x, y) {
  const context = ink.getContext("2d");
  if (pen.down) {
    Object.assign(context, { strokeStyle: "#fff", lineWidth: 22, lineCap: "round", lineJoin: "round" });
    context.beginPath();
    context.moveTo(pen.x, pen.y);
    context.lineTo(x, y);
    context.stroke();
  }
  Object.assign(pen, { x: Math.min(ink.width, Math.max(0, x)), y: Math.min(ink.height, Math.max(0, y)) });
  element("pen").style.left = `${(100 * pen.x) / ink.width}%`;
  element("pen").style.top = `${(100 * pen.y) / ink.height}%`;
  if (pen.down) showDrawing();
}

function showDrawing() {
  const canvas = Object.assign(document.createElement("canvas"), { width, height });
  const context = canvas.getContext("2d");
  context.imageSmoothingQuality = "high";
  context.drawImage(ink, 0, 0, width, height);
  choose(fromCanvas(canvas), "Your drawing", "Draw here, large and centred. Keys: arrows move the pen, space puts it down or up.");
}

function startDrawing() {
  state.drawing = true;
  element("draw").ariaPressed = "true";
  element("frame").classList.add("drawing");
  element("image").tabIndex = 0;
  element("pen").hidden = false;
  mark(-1);
  pen.down = false;
  movePen(pen.x, pen.y);
  showDrawing();
  element("image").focus({ preventScroll: true });
}

function stopDrawing() {
  if (!state.drawing) return;
  state.drawing = false;
  element("draw").ariaPressed = "false";
  element("frame").classList.remove("drawing");
  element("image").tabIndex = -1;
  element("pen").hidden = true;
}

function listenToPen() {
  const canvas = element("image");
  const place = (event) => {
    const box = canvas.getBoundingClientRect();
    return [((event.clientX - box.left) / box.width) * ink.width, ((event.clientY - box.top) / box.height) * ink.height];
  };
  element("draw").addEventListener("click", () => (state.drawing ? stopDrawing() : startDrawing()));
  element("clear").addEventListener("click", () => { clearInk(); startDrawing(); });
  canvas.addEventListener("pointerdown", (event) => {
    if (!state.drawing) return;
    canvas.setPointerCapture(event.pointerId);
    [pen.x, pen.y] = place(event);
    pen.down = true;
    movePen(pen.x, pen.y + 0.01);
  });
  canvas.addEventListener("pointermove", (event) => { if (state.drawing && pen.down) movePen(...place(event)); });
  for (const name of ["pointerup", "pointercancel"]) canvas.addEventListener(name, () => (pen.down = false));
  canvas.addEventListener("keydown", (event) => {
    const step = { ArrowRight: [1, 0], ArrowLeft: [-1, 0], ArrowDown: [0, 1], ArrowUp: [0, -1] }[event.key];
    if (!state.drawing || (!step && event.key !== " ")) return;
    event.preventDefault();
    if (!step) pen.down = !pen.down;
    movePen(pen.x + 8 * (step?.[0] ?? 0), pen.y + 8 * (step?.[1] ?? 0.01));
  });
}

/* The size of the change. */

function setEps(eps) {
  state.eps = Math.min(state.longest, Math.max(0, eps));
  const slider = element("eps"), text = state.eps.toFixed(3);
  slider.value = state.eps;
  slider.setAttribute("aria-valuetext", `${text} in l2`);
  element("eps-out").textContent = text;
  for (const side of sides) drawOverlay(side);
  attacks.replace(sides.map((side) => side.search()));
}

/* Maps. */

/** Two directions through the picture for a net, and the nearest misclassified picture if any. */
function* directions(side, choice) {
  const { net, result } = side, center = state.image, random = randomFrom(7);
  const other = randomDirection(center.length, random);
  if (choice === "random") return plane(other, randomDirection(center.length, random));
  const logits = net.logits(center), order = [...logits.keys()].sort((i, j) => logits[j] - logits[i]);
  const slope = net.slope(order[1], result.label).slice();
  const usual = slope.some((value) => value !== 0) ? slope : randomDirection(center.length, random);
  if (choice === "rivals") {
    net.forward(center);
    return plane(usual, order.length > 2 ? net.slope(order[2], result.label).slice() : other);
  }
  const found = yield* attack(net, center, result.label, state.longest, { restarts: 1 });
  side.learn(found);
  return plane(side.nearest ? moved(side.nearest.image, center, -1) : usual, other);
}

/** Half the width of the maps: the same for all nets, so that distances can be compared. */
const reachOf = ({ result, nearest }) =>
  1.35 * Math.max(1.1 * result.radius, nearest ? nearest.distance : 1.5 * result.radius, 0.02 * state.longest);

function drawMaps() {
  const choice = element("directions").value;
  let reach = 1;
  maps.replace(sides.flatMap((side, i) => {
    const task = (function* () {
      side.view = null;
      const axes = yield* directions(side, choice);
      if (i === 0) reach = reachOf(side);
      side.view = { axes, reach };
      drawOverlay(side);
      yield* decisionMap(side.net, state.image, axes, reach, GRID, (classes, step) => {
        side.view.classes = classes;
        side.view.step = step;
        drawRegions(side);
        if (step === 1) drawOverlay(side);
      });
      describeMap(side);
    })();
    return [[task, () => {}]];
  }));
}

/** The colour of a class, from the style sheet: it depends on the colour scheme. */
function colours() {
  const style = getComputedStyle(document.documentElement);
  return Array.from({ length: 10 }, (_, i) => {
    const hex = style.getPropertyValue(`--region-${i}`).trim();
    return [1, 3, 5].map((start) => parseInt(hex.slice(start, start + 2), 16));
  });
}

function drawRegions(side) {
  const canvas = side.map.querySelector("canvas"), palette = colours(), { classes, step } = side.view;
  canvas.width = canvas.height = GRID;
  const context = canvas.getContext("2d"), data = context.createImageData(GRID, GRID);
  for (let i = 0; i < GRID * GRID; i++) {
    const row = Math.floor(i / GRID), column = i % GRID;
    const place = (row - (row % step)) * GRID + column - (column % step);
    data.data.set([...palette[Math.max(0, classes[place]) % 10], 255], 4 * i);
  }
  context.putImageData(data, 0, 0);
}

/** The circles, the nearest attack and the names of the regions, in units of l2. */
function drawOverlay(side) {
  const svg = side.map.querySelector("svg");
  if (!side.view) return svg.replaceChildren();
  const { reach, axes } = side.view, shapes = [], text = 0.085 * reach;
  const add = (tag, attributes, words = "") => {
    const shape = document.createElementNS("http://www.w3.org/2000/svg", tag);
    for (const [name, value] of Object.entries(attributes)) shape.setAttribute(name, value);
    shape.textContent = words;
    shapes.push(shape);
  };
  const half = (reach * GRID) / (GRID - 1);  // the outermost answers are in the middle of pixels
  svg.setAttribute("viewBox", `${-half} ${-half} ${2 * half} ${2 * half}`);
  const { radius } = side.result;
  for (const kind of ["ring", "disc"]) add("circle", { class: kind, r: radius });
  add("circle", { class: "eps", r: state.eps });
  const name = { "font-size": text, "stroke-width": text / 3 };
  for (const { label, x, y } of side.view.step === 1 ? regionNames(side) : []) {
    const words = nameOf(label), room = Math.max(0, reach - 0.32 * text * words.length);  // inside the map
    add("text", { ...name, x: Math.min(room, Math.max(-room, x)), y: -y }, words);
  }
  if (side.nearest) {
    const away = moved(side.nearest.image, state.image, -1), [a, b] = axes.map((axis) => inner(axis, away));
    const shown = Math.hypot(a, b) > 0.99 * side.nearest.distance;  // it lies in this plane
    if (shown) add("circle", { class: "found", cx: a, cy: -b, r: 0.028 * reach });
  }
  add("path", { d: `M${-0.03 * reach} 0H${0.03 * reach}M0 ${-0.03 * reach}V${0.03 * reach}`, class: "eps", style: "stroke-dasharray:none" });
  svg.replaceChildren(...shapes);
}

/** For each class, the place of the map that is farthest from all other classes and the center. */
function regionNames({ view: { classes, reach }, result }) {
  const far = new Float64Array(GRID * GRID), best = new Map();
  const near = (place, other) => {
    const same = other >= 0 && other < far.length && classes[other] === classes[place];
    far[place] = Math.min(far[place], same ? far[other] + 1 : 1);
  };
  far.fill(GRID);
  for (let i = 0; i < far.length; i++) { near(i, i % GRID ? i - 1 : -1); near(i, i - GRID); }
  for (let i = far.length - 1; i >= 0; i--) {
    near(i, (i + 1) % GRID ? i + 1 : -1);
    near(i, i + GRID < far.length ? i + GRID : -1);
    const last = GRID - 1, x = reach * ((2 * (i % GRID)) / last - 1), y = reach * (1 - (2 * Math.floor(i / GRID)) / last);
    if (far[i] > (best.get(classes[i])?.far ?? 7)) best.set(classes[i], { far: far[i], label: classes[i], x, y });
  }
  if (best.has(result.label)) Object.assign(best.get(result.label), { x: 0, y: -0.1 * reach });
  return best.values();
}

function describeMap(side) {
  const counts = new Map();
  for (const label of side.view.classes) counts.set(label, (counts.get(label) ?? 0) + 1);
  const shares = [...counts].sort((a, b) => b[1] - a[1]).map(
    ([label, count]) => `${nameOf(label)} ${Math.round((100 * count) / side.view.classes.length)} %`);
  side.map.querySelector("canvas").ariaLabel = `Classes in the slice: ${shares.join(", ")}.`;
  side.map.querySelector(".note").textContent =
    `${(2 * side.view.reach).toFixed(2)} wide. The circle of radius ${down(side.result.radius)} is proved.`;
}

/* The start. */

async function start() {
  const bytes = await unpack(element("arrays").textContent);
  const all = pixelsOf(arrayAt(bytes, content.images)), size = channels * height * width;
  pictures = content.labels.map((_, i) => all.slice(i * size, (i + 1) * size));
  const columns = document.querySelectorAll(".net"), figures = document.querySelectorAll(".map");
  sides = content.nets.map((net, i) => new Side(new Net(net, bytes), columns[i], figures[i]));
  makeThumbnails();
  const radii = finished(measureAll()), right = radii.map((r, i) => [r, i]);
  const order = right.sort(([a], [b]) => a - b), [typical, first] = order[Math.floor(order.length / 2)];
  const longest = 2 * Math.max(...radii, 1e-3), unit = 10 ** Math.floor(Math.log10(longest));
  state.longest = Math.ceil((2 * longest) / unit) / 2 * unit;
  element("eps").max = state.longest;
  [...element("thumbs").children].forEach((button, i) => {
    button.querySelector("b").style.width = `${(100 * radii[i]) / Math.max(...radii)}%`;
  });
  state.eps = 0.95 * typical;
  chooseTest(first);
  listen();
}

function listen() {
  element("eps").addEventListener("input", (event) => setEps(Number(event.target.value)));
  element("inside").addEventListener("click", () => setEps(sides[0].result.radius * (1 - 1e-9)));
  element("beyond").addEventListener("click", () => {
    setEps(1.02 * (sides[0].nearest?.distance ?? 2 * sides[0].result.radius));
  });
  element("directions").addEventListener("change", drawMaps);
  element("file").addEventListener("change", (event) => { if (event.target.files[0]) openFile(event.target.files[0]); });
  document.addEventListener("dragover", (event) => event.preventDefault());
  document.addEventListener("drop", (event) => {
    event.preventDefault();
    if (event.dataTransfer.files[0]) openFile(event.dataTransfer.files[0]);
  });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => {
    for (const side of sides) if (side.view?.classes) drawRegions(side);
  });
  if (element("draw")) { clearInk(); listenToPen(); }
}

const ready = start();
