// The photograph and a place, with lines between the points that match.

import { svg } from "./elements.js";

const RAMP = [[63, 142, 252], [33, 199, 192], [244, 224, 77], [255, 122, 48]]; // as .ramp in page.css
const FIRST_LINES = 100;
const REACH_PX = 24; // how far from a point the pointer still means it

export class MatchView {
  constructor(page) {
    this.page = page;
    this.answer = null;
    this.highlighted = null;
    page.similarity.addEventListener("input", () => this.draw());
    page.numLines.addEventListener("input", () => this.draw());
    page.figure.addEventListener("pointermove", (event) => this.highlight(this.nearest(event)));
    page.figure.addEventListener("pointerdown", (event) => this.highlight(this.nearest(event)));
    page.figure.addEventListener("pointerleave", ({ pointerType }) => {
      if (pointerType === "mouse") this.highlight(null); // a finger leaves when it is lifted, and what it tapped stays
    });
    page.figure.addEventListener("blur", () => this.highlight(null));
    page.figure.addEventListener("keydown", (event) => this.step(event));
    page.queryPicture.addEventListener("load", () => this.draw());
    page.placePicture.addEventListener("load", () => this.draw());
    new ResizeObserver(() => this.draw()).observe(page.figure);
  }

  // Without an answer, say why there are no lines.
  show(answer, reason = "") {
    this.answer = answer;
    this.reason = reason;
    const { similarity, numLines, controls } = this.page;
    controls.hidden = !answer?.matches.length;
    if (answer?.matches.length) {
      // Rounded outwards, so that the whole range of the slider shows all matches; rounding errors pass 1.
      this.low = Math.floor(answer.matches.at(-1).similarity * 100) / 100;
      this.high = Math.min(1, Math.ceil(answer.matches[0].similarity * 100) / 100);
      Object.assign(similarity, { min: this.low, max: this.high, value: this.low });
      Object.assign(numLines, { max: answer.matches.length, value: Math.min(FIRST_LINES, answer.matches.length) });
      this.page.scaleLow.textContent = this.low.toFixed(2);
      this.page.scaleHigh.textContent = this.high.toFixed(2);
    }
    this.draw();
  }

  draw() {
    const { lines, figure, similarity, numLines } = this.page;
    this.highlighted = null;
    this.shown = [];
    lines.replaceChildren();
    if (this.answer) {
      lines.setAttribute("viewBox", `0 0 ${figure.clientWidth} ${figure.clientHeight}`);
      this.shown = this.answer.matches
        .slice(0, numLines.valueAsNumber)
        .filter((match) => match.similarity >= similarity.valueAsNumber)
        .map((match) => ({ ...match, ends: this.ends(match), colour: this.colour(match.similarity) }));
      this.marks = svg("g");
      // The most similar ones lie on top.
      lines.append(under(this.shown), ...[...this.shown].reverse().flatMap(drawn), this.marks);
      this.page.similarityValue.textContent = similarity.valueAsNumber.toFixed(2);
      this.page.linesValue.textContent = numLines.value;
    }
    this.highlight(null);
  }

  // Points in pixels of the pictures become points of the drawing over both.
  ends({ query, database }) {
    const { queryPicture, placePicture } = this.page;
    return [
      onPage(queryPicture, query, this.answer.query_size),
      onPage(placePicture, database, this.answer.database_size),
    ];
  }

  colour(similarity) {
    const place = ((similarity - this.low) / (this.high - this.low || 1)) * (RAMP.length - 1);
    const first = Math.min(Math.max(Math.floor(place), 0), RAMP.length - 2);
    const channels = RAMP[first].map((value, channel) => value + (place - first) * (RAMP[first + 1][channel] - value));
    return `rgb(${channels.map(Math.round).join(" ")})`;
  }

  nearest(event) {
    const { left, top } = this.page.figure.getBoundingClientRect();
    const pointer = [event.clientX - left, event.clientY - top];
    let [found, least] = [null, REACH_PX];
    this.shown.forEach(({ ends }, index) => {
      for (const [x, y] of ends) {
        const distance = Math.hypot(x - pointer[0], y - pointer[1]);
        if (distance < least) [found, least] = [index, distance];
      }
    });
    return found;
  }

  step(event) {
    const direction = { ArrowDown: 1, ArrowUp: -1 }[event.key];
    if (!direction || !this.shown.length) return;
    event.preventDefault();
    const start = direction > 0 ? -1 : this.shown.length;
    this.highlight(((this.highlighted ?? start) + direction + this.shown.length) % this.shown.length);
  }

  highlight(index) {
    const { lines, state } = this.page;
    this.highlighted = index;
    lines.classList.toggle("has-highlight", index !== null);
    this.marks?.replaceChildren(...(index === null ? [] : marks(this.shown[index])));
    state.textContent = index === null ? this.summary() : description(this.shown[index], index, this.shown.length);
  }

  summary() {
    if (!this.answer) return this.reason;
    const total = this.answer.matches.length;
    return total ? `${this.shown.length} of ${total} matches are shown.` : "The two pictures have no match.";
  }
}

function onPage(picture, [x, y], [width, height]) {
  return [
    picture.offsetLeft + (x / width) * picture.clientWidth,
    picture.offsetTop + (y / height) * picture.clientHeight,
  ];
}

function under(matches) {
  const path = matches.map(({ ends: [[x1, y1], [x2, y2]] }) => `M${x1} ${y1}L${x2} ${y2}`).join("");
  return svg("path", { class: "under", d: path });
}

function drawn({ ends, colour }) {
  const [[x1, y1], [x2, y2]] = ends;
  return [
    svg("line", { class: "match", x1, y1, x2, y2, stroke: colour }),
    ...ends.map(([cx, cy]) => svg("circle", { class: "point", cx, cy, r: 2.2, fill: colour })),
  ];
}

function marks({ ends, colour }) {
  const [[x1, y1], [x2, y2]] = ends;
  return [
    svg("line", { class: "highlight-under", x1, y1, x2, y2 }),
    svg("line", { class: "highlight", x1, y1, x2, y2, stroke: colour }),
    ...ends.flatMap(([cx, cy]) => [
      svg("circle", { class: "end-under", cx, cy, r: 9 }),
      svg("circle", { class: "end", cx, cy, r: 9, stroke: colour }),
    ]),
  ];
}

function description({ query, database, similarity }, index, total) {
  const [here, there] = [query, database].map(([x, y]) => `(${x.toFixed(0)}, ${y.toFixed(0)})`);
  return `Match ${index + 1} of ${total}: similarity ${similarity.toFixed(3)}, from ${here} px in the photograph to ${there} px in the place.`;
}
