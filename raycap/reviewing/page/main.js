// The page of a review: shows the gallery or one image, and listens to the keys.

import { get } from "./api.js";
import { undoLast } from "./edits.js";
import { element, find, inTurn, number, say } from "./dom.js";
import { Gallery } from "./gallery.js";
import { Replace } from "./replace.js";
import { Single } from "./single.js";
import { readView } from "./view.js";

const STATES = ["approved", "edited", "rejected", "stale"];

const KEYS = [
  ["j, →", "next image"],
  ["k, ←", "previous image"],
  ["Enter", "open the image of the card"],
  ["e", "edit the caption"],
  ["Ctrl Enter", "save the text, and go to the next image"],
  ["Esc", "leave the text; back to the gallery"],
  ["a", "approve, and go to the next image"],
  ["x", "reject, and go to the next image"],
  ["u", "undo the last edit"],
  ["n, p", "next page, previous page of the gallery"],
  ["/", "search"],
  ["r", "find and replace"],
  ["?", "show the keys"],
];

async function start() {
  // The token is in a cookie now: it need not stay in the address.
  history.replaceState(null, "", `/${location.hash}`);
  const about = await get("/api/about");
  find("output").textContent = `${about.output} · reviewer ${about.reviewer}`;
  document.title = `Review of ${about.output.split("/").at(-1)} · raycap`;

  const changed = async (anew, isEditing = false) => {
    const view = readView();
    try {
      const open = view.at === null ? gallery : single;
      const other = view.at === null ? single : gallery;
      const counts = await open.show(view, anew, isEditing);
      other.section.hidden = true;
      tellCounts(counts, about.num_images);
    } catch (error) {
      say(error.message, true);
    }
  };
  changed.counts = async () => {
    const page = await get("/api/items", { ...promptOf(readView().filter), count: 0 });
    tellCounts(page.counts, about.num_images);
  };
  const gallery = new Gallery(about, changed);
  const single = new Single(about, changed);
  const replace = new Replace(changed);
  fillKeys();

  const undo = async () => {
    if (await undoLast()) {
      await changed(false);
    }
  };
  find("undo").addEventListener("click", () => inTurn(undo));
  find("open-replace").addEventListener("click", () => replace.open());
  find("open-keys").addEventListener("click", () => find("keys").showModal());
  find("skip").addEventListener("click", (event) => {
    event.preventDefault(); // the part after # says what is shown
    find("gallery").closest("main").focus();
  });
  window.addEventListener("popstate", () => inTurn(() => changed(false)));
  document.addEventListener("keydown", (event) => onKey(event, { gallery, single, replace, undo }));
  await inTurn(() => changed(true));
}

function promptOf(filter) {
  return filter.prompt ? { prompt: filter.prompt } : {};
}

function tellCounts(counts, numImages) {
  const told = STATES.filter((state) => counts[state]).map((state) => `${number(counts[state])} ${state}`);
  const left = `${number(counts.unreviewed ?? 0)} of ${number(numImages)} unreviewed`;
  find("counts").textContent = [left, ...told].join(" · ");
  for (const state of STATES) {
    find(`part="${state}"`).style.width = `${(100 * (counts[state] ?? 0)) / Math.max(1, numImages)}%`;
  }
}

function fillKeys() {
  const rows = KEYS.map(([keys, does]) => {
    const cell = element("td");
    for (const [place, key] of keys.split(", ").entries()) {
      cell.append(place ? " or " : "", element("kbd", { text: key }));
    }
    return element("tr", {}, cell, element("td", { text: does }));
  });
  find("keys-table").querySelector("tbody").replaceChildren(...rows);
}

let willType = false;

function onKey(event, { gallery, single, replace, undo }) {
  if (document.querySelector("dialog[open]") || event.altKey) {
    return;
  }
  const isTyping = event.target.matches("input:not([type=checkbox]), textarea, select");
  const isCommand = event.ctrlKey || event.metaKey;
  if (isCommand && event.key === "Enter" && single.isShown && isTyping) {
    event.preventDefault();
    inTurn(() => (single.isDirty ? single.actAndStep("text") : single.step(1)));
    return;
  }
  if (isCommand) {
    return;
  }
  if (event.key === "Escape") {
    if (isTyping) {
      event.preventDefault(); // a browser would empty the search
      event.target.blur();
    } else if (single.isShown) {
      inTurn(() => single.leave());
    }
    return;
  }
  if (isTyping) {
    return;
  }
  if (willType) {
    event.preventDefault(); // what follows "e" is a text, even if that cannot be typed yet
    return;
  }
  const acts = () => ({
    ...commonActs(replace, undo),
    ...(single.isShown ? singleActs(single) : galleryActs(gallery)),
  });
  if (acts()[event.key]) {
    event.preventDefault();
    willType = event.key === "e";
    // What a key does depends on what is shown when its turn has come.
    inTurn(() => acts()[event.key]?.()).then(() => {
      willType = false;
    });
  }
}

function commonActs(replace, undo) {
  return { u: undo, r: () => replace.open(), "?": () => find("keys").showModal() };
}

function singleActs(single) {
  return {
    j: () => single.step(1),
    ArrowRight: () => single.step(1),
    k: () => single.step(-1),
    ArrowLeft: () => single.step(-1),
    e: () => single.part("text").focus(),
    a: () => single.actAndStep("approve"),
    x: () => single.actAndStep("reject"),
  };
}

function galleryActs(gallery) {
  return {
    j: () => gallery.move(1),
    ArrowRight: () => gallery.move(1),
    k: () => gallery.move(-1),
    ArrowLeft: () => gallery.move(-1),
    n: () => gallery.turn(1),
    p: () => gallery.turn(-1),
    a: () => gallery.actHere("approve"),
    x: () => gallery.actHere("reject"),
    e: () => gallery.current && gallery.open(gallery.current, true),
    "/": () => gallery.form.elements.text.focus(),
  };
}

start().catch((error) => say(error.message, true));
