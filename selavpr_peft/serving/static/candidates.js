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

export function position({ coordinates }) {
  const { latitude, longitude, easting_m: easting, northing_m: northing, frame } = coordinates;
  const parts = [];
  if (latitude !== undefined && longitude !== undefined) parts.push(`${latitude.toFixed(5)}°, ${longitude.toFixed(5)}°`);
  if (easting !== undefined && northing !== undefined) parts.push(`E ${short(easting)}, N ${short(northing)} m`);
  if (frame !== undefined) parts.push(`frame ${frame}`);
  return parts.join(" · ");
}

// Seven digits, as `selavpr query` prints them.
function short(number) {
  return Number(number.toPrecision(7));
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
      ...evidence(place).map((text) => html("span", { class: "detail" }, text)),
    ),
  );
  button.addEventListener("click", () => onChoose(index));
  return button;
}

function evidence(place) {
  const matches = place.num_matches === null ? null : `${place.num_matches} matches`;
  return [matches, `similarity ${place.score.toFixed(3)}`, position(place)].filter(Boolean);
}

// A long name is broken behind its folders.
function breakable(name) {
  return name.split("/").flatMap((part, index) => (index ? ["/", html("wbr"), part] : [part]));
}
