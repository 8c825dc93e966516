// What is shown, kept in the address of the page: the filter, the page of the gallery, the image.

const FIELDS = [
  "text", "state", "sort", "descending", "prompt", "status", "flag", "finish",
  "min_logprob", "max_logprob", "min_words", "max_words", "metric", "min_score", "max_score",
];

export function readView() {
  const given = new URLSearchParams(location.hash.slice(1));
  const filter = {};
  for (const name of FIELDS) {
    if (given.get(name)) {
      filter[name] = given.get(name);
    }
  }
  const at = Number.parseInt(given.get("at") ?? "", 10);
  return {
    filter,
    page: Math.max(1, Number.parseInt(given.get("page") ?? "1", 10) || 1),
    at: Number.isNaN(at) || at < 0 ? null : at,
  };
}

export function writeView({ filter, page, at }, { isNew = true } = {}) {
  const given = new URLSearchParams(filter);
  if (page > 1) {
    given.set("page", page);
  }
  if (at !== null) {
    given.set("at", at);
  }
  const address = `${location.pathname}#${given}`;
  if (isNew) {
    history.pushState(null, "", address);
  } else {
    history.replaceState(null, "", address);
  }
}

export function filterOf(form) {
  const filter = {};
  for (const [name, value] of new FormData(form)) {
    if (value.trim() !== "") {
      filter[name] = value.trim();
    }
  }
  return filter;
}

export function showFilter(form, filter) {
  for (const name of FIELDS) {
    if (form.elements[name]) {
      form.elements[name].value = filter[name] ?? "";
    }
  }
}
