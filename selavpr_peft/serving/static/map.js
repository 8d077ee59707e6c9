// A map without tiles: every place a dot, every candidate a numbered pin, and a scale bar.

import { svg } from "./elements.js";

const MARGIN = 28;
const PIN_RADIUS = 11;
const MAX_HEIGHT = 380;
const MIN_HEIGHT = 190;
const LINE_HEIGHT = 170; // of a map of frames, which has no second dimension

export function drawMap(container, { points, unit, places, chosen, isZoomed, onChoose }) {
  const located = places.map((place, index) => ({ point: place.point, index })).filter(({ point }) => point !== null);
  const shown = isZoomed && located.length ? widened(located.map(({ point }) => point)) : points;
  if (!shown.length) {
    container.replaceChildren("No place of this database has a position.");
    return;
  }
  const view = fitted(shown, container.clientWidth, unit);
  const drawing = svg("svg", {
    viewBox: `0 0 ${view.width} ${view.height}`,
    height: view.height,
    role: "img",
    "aria-label": `Map of ${points.length} places with ${located.length} candidates marked by their rank`,
  });
  for (const point of points) {
    const [x, y] = view.at(point);
    if (view.contains(x, y)) drawing.append(svg("circle", { class: "place", cx: x, cy: y, r: 2.5 }));
  }
  drawing.append(scaleBar(view, unit));
  // The best candidate and the chosen one lie on top, where pins cannot avoid one another.
  const pins = placedPins(located, view);
  const order = [...pins].sort((a, b) => (a.index === chosen) - (b.index === chosen) || b.index - a.index);
  for (const pin of order) drawing.append(stem(pin));
  for (const pin of order) drawing.append(drawnPin(pin, places[pin.index], pin.index === chosen, onChoose));
  container.replaceChildren(drawing);
}

// Show some surroundings of the candidates, also of a single one.
function widened(points) {
  const [left, right, bottom, top] = extent(points);
  const margin = Math.max(right - left, top - bottom, 10) * 0.1;
  return [[left - margin, bottom - (top > bottom ? margin : 0)], [right + margin, top + (top > bottom ? margin : 0)]];
}

function fitted(points, width, unit) {
  const [left, right, bottom, top] = extent(points);
  const inner = width - 2 * MARGIN;
  const wanted = (inner * (top - bottom)) / (right - left || 1) + 3 * MARGIN;
  const height = unit === "frames" ? LINE_HEIGHT : Math.min(MAX_HEIGHT, Math.max(MIN_HEIGHT, wanted));
  const scale = Math.min(inner / (right - left || 1e-9), (height - 3 * MARGIN) / (top - bottom || 1e-9), 1e6);
  const middle = unit === "frames" ? height - 2 * MARGIN : (height - MARGIN) / 2;
  return {
    width,
    height,
    scale: right > left || top > bottom ? scale : 1,
    at([x, y]) {
      return [width / 2 + (x - (left + right) / 2) * this.scale, middle - (y - (bottom + top) / 2) * this.scale];
    },
    contains: (x, y) => x >= 0 && x <= width && y >= 0 && y <= height,
  };
}

function extent(points) {
  const bounds = [Infinity, -Infinity, Infinity, -Infinity];
  for (const [x, y] of points) {
    bounds[0] = Math.min(bounds[0], x);
    bounds[1] = Math.max(bounds[1], x);
    bounds[2] = Math.min(bounds[2], y);
    bounds[3] = Math.max(bounds[3], y);
  }
  return bounds;
}

// Put every pin near its point, above it if it can be, and where no better candidate's pin is.
function placedPins(located, view) {
  const pins = [];
  for (const { point, index } of located) {
    const [x, y] = view.at(point);
    const isFree = ([px, py]) =>
      px > PIN_RADIUS && px < view.width - PIN_RADIUS && py > PIN_RADIUS && py < view.height - PIN_RADIUS &&
      pins.every((pin) => Math.hypot(pin.px - px, pin.py - py) > 2 * PIN_RADIUS + 2);
    const [px, py] = [...around(x, y)].find(isFree) ?? [x, Math.max(PIN_RADIUS, y - 2 * PIN_RADIUS)];
    pins.push({ index, x, y, px, py });
  }
  return pins;
}

// First above the point, leaning to the sides, then farther away; then below.
function* around(x, y) {
  for (const turns of [[0, 1, -1], [2, -2], [4, -4, 5, -5, 6]]) {
    for (let distance = 2.2 * PIN_RADIUS; distance < 12 * PIN_RADIUS; distance += PIN_RADIUS) {
      for (const angle of turns.map((turn) => (turn * Math.PI) / 6)) {
        yield [x + distance * Math.sin(angle), y - distance * Math.cos(angle)];
      }
    }
  }
}

function stem({ x, y, px, py }) {
  return svg(
    "g",
    {},
    svg("line", { class: "stem", x1: x, y1: y, x2: px, y2: py }),
    svg("circle", { class: "true-point", cx: x, cy: y, r: 3.5 }),
  );
}

function drawnPin({ index, px, py }, place, isChosen, onChoose) {
  const pin = svg(
    "g",
    { class: isChosen ? "pin is-chosen" : "pin" },
    svg("title", {}, `${index + 1}. ${place.key}`),
    svg("circle", { cx: px, cy: py, r: PIN_RADIUS }),
    svg("text", { x: px, y: py }, `${index + 1}`),
  );
  pin.addEventListener("click", () => onChoose(index));
  return pin;
}

function scaleBar({ width, height, scale }, unit) {
  const length = roundLength((width / 4) / scale, unit);
  const text = unit === "m" && length >= 1000 ? `${length / 1000} km` : `${length} ${unit === "frames" && length === 1 ? "frame" : unit}`;
  const y = height - 14;
  return svg(
    "g",
    {},
    svg("path", { class: "bar", d: `M14 ${y - 5}v5h${length * scale}v-5` }),
    svg("text", { class: "unit", x: 14 + length * scale + 8, y: y + 1 }, text),
  );
}

// The largest of 1, 2, 5, 10, 20 ... that is not longer; frames are whole.
function roundLength(longest, unit) {
  const power = 10 ** Math.floor(Math.log10(longest));
  const length = [5, 2, 1].map((factor) => factor * power).find((value) => value <= longest);
  return unit === "frames" ? Math.max(1, length) : Number(length.toPrecision(1));
}
