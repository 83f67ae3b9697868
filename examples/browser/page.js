// The page: a text in, its entities out.

import { loadTagger } from "./tagger.js";

const element = (id) => document.getElementById(id);
const folder = new URLSearchParams(location.search).get("model") ?? "model";

try {
  const tagger = await loadTagger(folder);
  const hues = new Map(tagger.categories.map((type, i, all) => [type, Math.round((360 * i) / all.length)]));
  element("form").addEventListener("submit", (event) => {
    event.preventDefault();
    run(() => showEntities(tagger, hues));
  });
  element("tag").disabled = false;
  showStatus(`Ready. Types: ${tagger.categories.join(", ")}.`);
} catch (error) {
  showError(error);
}

/** Do something with the button disabled, and show what goes wrong. */
async function run(action) {
  element("tag").disabled = true;
  try {
    await action();
  } catch (error) {
    showError(error);
  } finally {
    element("tag").disabled = false;
  }
}

async function showEntities(tagger, hues) {
  showStatus("Tagging …");
  const text = element("text").value;
  const began = performance.now();
  const entities = await tagger.tag(text);
  const milliseconds = Math.round(performance.now() - began);
  element("marked").replaceChildren(...markEntities(text, entities, hues));
  element("rows").replaceChildren(...entities.map((entity) => makeRow(entity, hues)));
  element("result").hidden = false;
  showStatus(`${entities.length} ${entities.length === 1 ? "entity" : "entities"} in ${milliseconds} ms.`);
}

/** Return the text with its entities as elements. */
function markEntities(text, entities, hues) {
  const characters = Array.from(text);
  const between = (start, end) => characters.slice(start, end).join("");
  const pieces = entities.flatMap((entity, i) => [
    between(entities[i - 1]?.end ?? 0, entity.start),
    coloured("mark", entity, hues, entity.text, make("small", entity.type)),
  ]);
  return [...pieces, between(entities.at(-1)?.end ?? 0)];
}

function makeRow(entity, hues) {
  const type = make("td", coloured("span", entity, hues, entity.type));
  return make("tr", type, ...[entity.start, entity.end, entity.text].map((value) => make("td", value)));
}

function coloured(name, entity, hues, ...content) {
  const made = make(name, ...content);
  made.classList.add("type");
  made.style.setProperty("--hue", hues.get(entity.type));
  return made;
}

function make(name, ...content) {
  const made = document.createElement(name);
  made.append(...content);
  return made;
}

function showStatus(message) {
  element("status").className = "";
  element("status").value = message;
}

function showError(error) {
  showStatus(error.message);
  element("status").className = "error";
}
