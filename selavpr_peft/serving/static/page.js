// The page: takes a photograph, asks the server, and shows the place that is chosen everywhere at once.

import { certainty, listCandidates, markCandidate, positions } from "./candidates.js";
import { html } from "./elements.js";
import { drawMap } from "./map.js";
import { MatchView } from "./matches.js";
import { describeDatabase, locate, matchPlace } from "./server.js";

const PAUSE_MS = 150; // stepping fast through the places asks for the matches of the last one only
const byId = (id) => document.getElementById(id);

const view = new MatchView({
  figure: byId("matches"),
  lines: byId("lines"),
  state: byId("match-state"),
  controls: byId("match-controls"),
  queryPicture: byId("query-picture"),
  placePicture: byId("place-picture"),
  similarity: byId("similarity"),
  similarityValue: byId("similarity-value"),
  numLines: byId("num-lines"),
  linesValue: byId("lines-value"),
  scaleLow: byId("scale-low"),
  scaleHigh: byId("scale-high"),
});

let database = null;
let photograph = null;
let places = [];
let chosen = 0;
let answers = new Map(); // matches of the photograph by key
let asking = new AbortController();
let matching = new AbortController();

const ready = describeDatabase();
ready.then(
  (answer) => {
    introduce(answer);
    suggestRerankNum(answer);
  },
  (error) => fail(error),
);

function introduce(answer) {
  database = answer;
  const places = answer.num_places === 1 ? "1 place" : `${answer.num_places.toLocaleString("en")} places`;
  byId("database").textContent = `${answer.name}: ${places}, adapter ${answer.adapter.slice(0, 8)}`;
  redrawMap();
}

// Answers found otherwise than the adapter was calibrated for have no probability.
function suggestRerankNum({ calibrated_rerank_num: number, can_match: canMatch }) {
  if (number === null || !canMatch) return;
  byId("rerank-num").value = number;
  byId("calibrated").textContent = `Answers have a probability when ${number} candidates are re-ranked.`;
  byId("calibrated").hidden = false;
}

async function ask(file) {
  const pictureUrl = URL.createObjectURL(file);
  URL.revokeObjectURL(byId("preview").src);
  Object.assign(byId("preview"), { src: pictureUrl, alt: `The photograph ${file.name}`, hidden: true });
  photograph = file;
  asking.abort();
  matching.abort();
  asking = new AbortController();
  const { signal } = asking;
  byId("result").hidden = true;
  byId("error").hidden = true;
  byId("again").disabled = false;
  try {
    await ready;
    signal.throwIfAborted();
    if (file.size > database.max_upload_bytes) {
      const limit = database.max_upload_bytes / 1e6;
      throw new Error(`The photograph is larger than ${limit} MB; choose a smaller copy.`);
    }
    const settings = { topK: byId("top-k").value, rerankNum: byId("rerank-num").value };
    showProgress("Sending the photograph …", 0);
    const onSent = (share) => (share < 1 ? showProgress("Sending the photograph …", share) : showProgress("Locating …"));
    const answer = await locate(file, settings, { onSent, signal });
    if (answer.version !== database.version) introduce(await describeDatabase(signal)); // places came or went meanwhile
    show(answer);
  } catch (error) {
    if (error.name !== "AbortError") fail(error);
  }
}

// Without a share, the bar only says that something goes on.
function showProgress(text, share) {
  const bar = byId("progress");
  bar.hidden = false;
  if (share === undefined) bar.removeAttribute("value");
  else bar.value = share;
  byId("status").textContent = text;
}

function fail(error) {
  byId("progress").hidden = true;
  byId("status").textContent = "";
  byId("error").textContent = error.message;
  byId("error").hidden = false;
}

function show(answer) {
  places = answer.places;
  answers = new Map();
  byId("progress").hidden = true;
  if (!places.length) return fail(new Error("The database has no places any more; ask whoever keeps it."));
  const [best] = places;
  byId("status").replaceChildren(
    "Most likely ",
    html("strong", {}, best.key),
    ...positions(best).flatMap((part) => [", ", html("span", { class: "unbroken" }, part)]),
    ".",
    ...certainty(best),
    html("span", { class: "quiet" }, ` Located in ${answer.duration_s.toFixed(2)} s.`),
  );
  byId("result").hidden = false;
  byId("query-picture").src = byId("preview").src;
  listCandidates(byId("candidates"), places, choose);
  choose(0);
}

function choose(index) {
  chosen = index;
  const place = places[index];
  markCandidate(byId("candidates"), index);
  byId("step").textContent = `${index + 1} of ${places.length}`;
  byId("previous").disabled = index === 0;
  byId("next").disabled = index === places.length - 1;
  const picture = byId("place-picture");
  picture.hidden = !place.picture;
  picture.alt = `The place ${place.key}`;
  if (place.picture) picture.src = place.picture;
  byId("place-caption").textContent = `${index + 1}. ${place.key}`;
  redrawMap();
  showMatches(place);
}

async function showMatches(place) {
  matching.abort();
  matching = new AbortController();
  const { signal } = matching;
  if (!database.can_match) return view.show(null, "The model has no local head, so there are no matches to show.");
  if (!place.picture) return view.show(null, "The database has no picture of this place.");
  if (!answers.has(place.key)) {
    view.show(null, "Matching …");
    try {
      await pause(PAUSE_MS, signal);
      answers.set(place.key, await matchPlace(photograph, place.key, signal));
    } catch (error) {
      if (error.name !== "AbortError") view.show(null, error.message);
      return;
    }
  }
  view.show(answers.get(place.key));
}

function pause(milliseconds, signal) {
  return new Promise((resolve, reject) => {
    setTimeout(resolve, milliseconds);
    signal.addEventListener("abort", () => reject(signal.reason));
  });
}

function redrawMap() {
  if (!database || byId("result").hidden) return;
  const { points, unit } = database;
  drawMap(byId("map"), { points, unit, places, chosen, isZoomed: byId("zoom").checked, onChoose: choose });
}

function step(direction) {
  const index = chosen + direction;
  if (index < 0 || index >= places.length) return;
  const isInList = byId("candidates").contains(document.activeElement);
  choose(index);
  const button = byId("candidates").querySelectorAll("button")[index];
  if (isInList) button.focus();
}

byId("question").addEventListener("submit", (event) => {
  event.preventDefault();
  if (photograph) ask(photograph);
});
byId("preview").addEventListener("load", () => {
  byId("preview").hidden = false; // a file that is no picture never gets here
});
byId("file").addEventListener("change", (event) => {
  const [file] = event.target.files;
  event.target.value = ""; // so that the same file can be chosen again
  if (file) ask(file);
});
byId("file").addEventListener("keydown", (event) => {
  if (event.key !== "Enter") return; // browsers open the choice of files by the space bar only
  event.preventDefault();
  event.target.click();
});
byId("zoom").addEventListener("change", redrawMap);
byId("previous").addEventListener("click", () => step(-1));
byId("next").addEventListener("click", () => step(1));
new ResizeObserver(redrawMap).observe(byId("map"));

document.addEventListener("keydown", (event) => {
  const isTyping = event.target.matches("input:not([type=file]):not([type=checkbox]), summary");
  if (byId("result").hidden || isTyping || event.altKey || event.ctrlKey || event.metaKey) return;
  const isInList = byId("candidates").contains(event.target);
  const direction = { ArrowRight: 1, ArrowLeft: -1, ...(isInList && { ArrowDown: 1, ArrowUp: -1 }) }[event.key];
  if (!direction) return;
  event.preventDefault();
  step(direction);
});
document.addEventListener("dragover", (event) => {
  event.preventDefault();
  document.body.classList.add("is-dragging");
});
document.addEventListener("dragleave", (event) => {
  if (!event.relatedTarget) document.body.classList.remove("is-dragging");
});
document.addEventListener("drop", (event) => {
  event.preventDefault();
  document.body.classList.remove("is-dragging");
  const [file] = event.dataTransfer.files;
  if (file) ask(file);
});
document.addEventListener("paste", (event) => {
  const [file] = event.clipboardData.files;
  if (file) ask(file);
});
