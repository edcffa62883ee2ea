"use strict";
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
