"use strict";
/* Pictures: chosen, opened or drawn. */

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
