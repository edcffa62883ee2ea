"use strict";
/* Maps: the classes around a picture. */

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
