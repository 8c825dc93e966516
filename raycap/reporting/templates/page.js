"use strict";
// The galleries: tabs, a filter and an order, each of them a button, an input or a select.

const NUM_AT_ONCE = 24;

for (const gallery of document.querySelectorAll("[data-gallery]")) {
  start(gallery);
}

function start(gallery) {
  const find = (name) => gallery.querySelector(`[data-${name}]`);
  const facts = JSON.parse(find("facts").textContent);
  const grid = find("grid");
  const cards = Array.from(grid.children, (element, place) => ({
    element,
    place,
    fact: facts[place],
    text: textOf(element),
  }));
  const tabs = Array.from(gallery.querySelectorAll("[data-tab]"));
  const view = { tab: "", system: 0, order: "", falling: true, words: [], numShown: NUM_AT_ONCE };

  const isInTab = (card, tab) =>
    tab === "" || card.fact.tabs.includes(tab) || card.fact.systems[view.system]?.tabs.includes(tab);

  function show(numShown = NUM_AT_ONCE) {
    view.numShown = numShown;
    const isShown = (card) =>
      isInTab(card, view.tab) && view.words.every((word) => card.text.includes(word));
    const shown = cards.filter(isShown).sort((one, other) => compare(one, other, view));
    for (const card of cards) {
      card.element.hidden = true;
    }
    for (const card of shown.slice(0, view.numShown)) {
      card.element.hidden = false;
    }
    grid.append(...shown.map((card) => card.element));
    tell(shown.length);
  }

  function tell(numMatching) {
    for (const button of tabs) {
      const number = cards.filter((card) => isInTab(card, button.dataset.tab)).length;
      button.querySelector("[data-number]").textContent = number;
      button.setAttribute("aria-pressed", String(button.dataset.tab === view.tab));
    }
    const direction = find("direction");
    direction.textContent = view.falling ? "High to low" : "Low to high";
    direction.disabled = view.order === "";
    find("order").value = view.order;
    find("count").textContent = `${numMatching} of ${cards.length} images`;
    find("empty").hidden = numMatching > 0;
    const numHidden = numMatching - view.numShown;
    find("more").hidden = numHidden <= 0;
    find("more").textContent = `Show more (${numHidden} left)`;
  }

  function open(button) {
    view.tab = button.dataset.tab;
    view.order = button.dataset.by;
    view.falling = button.dataset.falling === "yes";
    show();
  }

  for (const button of tabs) {
    button.addEventListener("click", () => open(button));
  }
  find("filter").addEventListener("input", (event) => {
    view.words = event.target.value.toLowerCase().split(/\s+/).filter(Boolean);
    show();
  });
  find("system")?.addEventListener("change", (event) => {
    view.system = Number(event.target.value);
    show();
  });
  find("order").addEventListener("change", (event) => {
    view.order = event.target.value;
    view.falling = view.order !== "id";
    show();
  });
  find("direction").addEventListener("click", () => {
    view.falling = !view.falling;
    show();
  });
  find("more").addEventListener("click", () => {
    const next = grid.querySelectorAll(":scope > :not([hidden])").length;
    show(view.numShown + NUM_AT_ONCE);
    // Who came by keyboard goes on where the new images begin.
    const first = grid.querySelectorAll(":scope > :not([hidden])")[next];
    first.tabIndex = -1;
    first.focus({ preventScroll: true });
  });
  find("controls").hidden = false;
  open(tabs[0]);
}

function textOf(element) {
  const parts = Array.from(element.querySelectorAll("[data-text]"), (part) => part.textContent);
  return parts.join("\n").toLowerCase();
}

// Images without a value come last, whichever way the others are sorted.
function compare(one, other, view) {
  const sign = view.falling ? -1 : 1;
  if (view.order === "id") {
    return sign * (one.fact.id < other.fact.id ? -1 : 1);
  }
  const [first, second] = [one, other].map((card) => valueOf(card, view));
  if (first === undefined || second === undefined || first === second) {
    return (first === undefined) - (second === undefined) || one.place - other.place;
  }
  return sign * (first - second);
}

function valueOf(card, view) {
  return view.order === "" ? undefined : card.fact.systems[view.system]?.values[view.order];
}
