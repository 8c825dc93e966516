// Building of the page. Captions and ids are the words of others: they become text, never markup.

export function find(name, within = document) {
  return within.querySelector(`[data-${name}]`);
}

export function element(tag, options = {}, ...children) {
  const { text, kind, ...attributes } = options;
  const made = document.createElement(tag);
  if (text !== undefined) {
    made.textContent = text;
  }
  if (kind) {
    made.className = kind;
  }
  for (const [name, value] of Object.entries(attributes)) {
    made.setAttribute(name, value);
  }
  made.append(...children);
  return made;
}

export function button(text, act, kind = "") {
  const made = element("button", { type: "button", text, kind });
  made.addEventListener("click", act);
  return made;
}

export function number(value) {
  return value.toLocaleString("en");
}

// Do things one after the other: "next, approve" must not approve the image before.
let last = Promise.resolve();

export function inTurn(work) {
  last = last.then(work).catch((error) => say(error.message, true));
  return last;
}

export function say(text, isProblem = false) {
  const toast = find("saved");
  toast.classList.toggle("problem", isProblem);
  // Cleared first, so that the same words are read out again.
  toast.textContent = "";
  window.clearTimeout(say.timer);
  window.setTimeout(() => {
    toast.textContent = text;
  }, 20);
  say.timer = window.setTimeout(() => {
    toast.textContent = "";
  }, isProblem ? 15000 : 4000);
}

const STATES = { approved: "approved", rejected: "rejected", edited: "edited" };

export function showMarks(list, item, labels) {
  const marks = [];
  if (item.stale) {
    marks.push(element("li", { text: "stale", kind: "state stale" }));
  } else if (item.review) {
    marks.push(element("li", { text: STATES[item.review], kind: `state ${item.review}` }));
  }
  if (item.flag) {
    marks.push(element("li", { text: item.flag, kind: "state flag" }));
  }
  const certainty = item.caption === item.original ? item.logprob?.toFixed(2) : null;
  const facts = [["log-probability", certainty], ["words", item.num_words]];
  for (const [name, value] of Object.entries(item.scores)) {
    facts.push([labels[name] ?? name, value.toFixed(3)]);
  }
  for (const [name, value] of facts) {
    if (value !== undefined && value !== null) {
      marks.push(element("li", {}, `${name} `, element("b", { text: value })));
    }
  }
  list.replaceChildren(...marks);
}

export function showAbsence(place, item) {
  place.hidden = item.caption !== null;
  place.textContent = item.caption === null ? `${item.error_code ?? "no caption"}: ${item.error_message ?? "no caption"}` : "";
}

// Texts beside a caption: [name, [text, ...]]; with `use`, each can be taken over.
export function showBeside(list, texts, use) {
  const rows = [];
  for (const [name, found] of texts) {
    rows.push(element("dt", { text: name }));
    for (const text of found) {
      const shown = element("dd", { dir: "auto" }, element("span", { text }));
      if (use) {
        const taken = button("Use", () => use(text), "plain");
        taken.setAttribute("aria-label", `Use: ${text}`);
        shown.append(" ", taken);
      }
      rows.push(shown);
    }
  }
  list.replaceChildren(...rows);
}
