// The list of places, and how a place is put into words.

import { html } from "./elements.js";

export function listCandidates(list, places, onChoose) {
  list.replaceChildren(...places.map((place, index) => html("li", {}, candidate(place, index, onChoose))));
}

export function markCandidate(list, chosen) {
  list.querySelectorAll("button").forEach((button, index) => {
    button.setAttribute("aria-current", index === chosen);
    if (index === chosen) list.scrollTo({ left: button.offsetLeft - (list.clientWidth - button.offsetWidth) / 2 });
  });
}

// In whatever the database has.
export function positions({ coordinates }) {
  const { latitude, longitude, easting_m: easting, northing_m: northing, frame } = coordinates;
  const parts = [];
  if (latitude !== undefined && longitude !== undefined) parts.push(`${latitude.toFixed(5)}°, ${longitude.toFixed(5)}°`);
  if (easting !== undefined && northing !== undefined) parts.push(`E ${short(easting)}, N ${short(northing)} m`);
  if (frame !== undefined) parts.push(`frame ${frame}`);
  return parts;
}

// Seven digits tell a northing to a metre; `selavpr query` prints nine.
function short(number) {
  return Number(number.toPrecision(7));
}

// How sure the answer is, beside what speaks for it; nothing where no calibration holds.
export function certainty({ probability, num_matches: matches, score }) {
  if (probability === null) return [];
  const evidence = matches === null ? `a similarity of ${score.toFixed(3)}` : counted(matches);
  const doubt = probability < 0.5 ? " It is more likely wrong: the database may not have this place." : "";
  return [" Right with a probability of ", html("strong", {}, percent(probability)), `, by ${evidence}.${doubt}`];
}

// No fit can promise 0 or 100 per cent, so none is shown.
function percent(probability) {
  if (probability > 0.99) return "over 99\u00a0%";
  if (probability < 0.01) return "under 1\u00a0%";
  return `${Math.round(100 * probability)}\u00a0%`;
}

function counted(matches) {
  return matches === 1 ? "1 match" : `${matches} matches`;
}

function candidate(place, index, onChoose) {
  const button = html(
    "button",
    { type: "button", class: "candidate" },
    html("span", { class: "rank" }, `${index + 1}`),
    place.thumbnail ? html("img", { src: place.thumbnail, alt: "" }) : html("span", {}, "no picture"),
    html(
      "span",
      { class: "words" },
      html("span", { class: "key" }, ...breakable(place.key)),
      place.probability === null ? "" : html("span", { class: "probability" }, `${percent(place.probability)} likely right`),
      ...evidence(place).map((text) => html("span", { class: "detail" }, text)),
    ),
  );
  button.addEventListener("click", () => onChoose(index));
  return button;
}

function evidence(place) {
  const matches = place.num_matches === null ? null : counted(place.num_matches);
  return [matches, `similarity ${place.score.toFixed(3)}`, ...positions(place)].filter(Boolean);
}

// A long name is broken behind its folders.
function breakable(name) {
  return name.split("/").flatMap((part, index) => (index ? ["/", html("wbr"), part] : [part]));
}
