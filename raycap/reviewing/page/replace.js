// Find and replace over the images of the filter.

import { post } from "./api.js";
import { remember } from "./edits.js";
import { element, find, number, say } from "./dom.js";
import { readView } from "./view.js";

export class Replace {
  constructor(changed) {
    this.changed = changed;
    this.dialog = find("replace");
    this.form = find("rule");
    this.apply = find("apply");
    this.shown = null;
    this.form.addEventListener("submit", (event) => {
      event.preventDefault();
      this.preview();
    });
    this.form.addEventListener("input", () => this.forget());
    this.apply.addEventListener("click", () => this.replace());
  }

  open() {
    const numFilters = Object.keys(readView().filter).filter((name) => !["sort", "descending"].includes(name)).length;
    find("scope").textContent = numFilters
      ? `In the images of the filter (${find("count").textContent}).`
      : "In all images: there is no filter.";
    this.forget();
    this.dialog.showModal();
    this.form.elements.find.focus();
  }

  forget() {
    this.shown = null;
    this.apply.disabled = true;
    this.apply.textContent = "Replace";
    find("result").textContent = "";
    find("changes").replaceChildren();
  }

  async preview() {
    const values = this.form.elements;
    const rule = {
      find: values.find.value,
      replacement: values.replacement.value,
      regex: values.regex.checked,
      match_case: values.match_case.checked,
    };
    this.forget();
    find("result").textContent = "Searching …";
    try {
      const found = await post("/api/replacements", { filter: readView().filter, rule });
      this.shown = found;
      this.tell(found);
    } catch (error) {
      find("result").textContent = error.message;
    }
  }

  tell(found) {
    const kept = found.num_kept
      ? ` ${number(found.num_kept)} stay as they are: nothing would be left of them, or they take too long to search.`
      : "";
    const rejected = found.num_rejected
      ? ` ${number(found.num_rejected)} rejected ${found.num_rejected === 1 ? "caption is" : "captions are"} left out.`
      : "";
    const more = found.num_changes > found.changes.length ? ` The first ${found.changes.length}:` : "";
    find("result").textContent =
      `${number(found.num_changes)} of ${number(found.num_searched)} captions change.${rejected}${kept}${more}`;
    this.apply.disabled = found.num_changes === 0;
    this.apply.textContent = `Replace in ${number(found.num_changes)} captions`;
    find("changes").replaceChildren(...found.changes.map(changeRow));
  }

  async replace() {
    this.apply.disabled = true;
    try {
      const done = await post(`/api/replacements/${this.shown.name}`, {});
      remember(done.undo);
      this.dialog.close();
      say(`Replaced in ${number(done.num_changes)} captions. Undo takes all of them back.`);
      await this.changed(false);
    } catch (error) {
      find("result").textContent =
        error.status === 409
          ? `${error.body.by} changed ${number(error.body.num_conflicts)} of these captions meanwhile. Nothing was replaced; preview again.`
          : error.message;
    }
  }
}

// Before and after, with what differs marked.
function changeRow({ image_id, old, new: text }) {
  let start = 0;
  while (start < Math.min(old.length, text.length) && old[start] === text[start]) {
    start += 1;
  }
  let end = 0;
  while (end < Math.min(old.length, text.length) - start && old.at(-1 - end) === text.at(-1 - end)) {
    end += 1;
  }
  // Whole words: half of one says little.
  while (start > 0 && /\S/.test(old[start - 1])) {
    start -= 1;
  }
  while (end > 0 && /\S/.test(old[old.length - end])) {
    end -= 1;
  }
  const marked = (tag, whole) =>
    element("p", { dir: "auto" }, whole.slice(0, start), element(tag, { text: whole.slice(start, whole.length - end) }), whole.slice(whole.length - end));
  return element("li", {}, element("span", { text: image_id, kind: "id" }), marked("del", old), marked("ins", text));
}
