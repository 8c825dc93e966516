// The gallery: a page of cards.

import { get } from "./api.js";
import { save } from "./edits.js";
import { find, inTurn, number, say, showAbsence, showBeside, showMarks } from "./dom.js";
import { showPicture } from "./pictures.js";
import { filterOf, readView, showFilter, writeView } from "./view.js";

const SAID = { approve: "Approved.", reject: "Rejected." };

export class Gallery {
  constructor(about, changed) {
    this.about = about;
    this.changed = changed; // called with whether to search again, when the view has changed
    this.section = find("gallery");
    this.form = find("filter");
    this.grid = find("grid");
    this.cards = [];
    this.fillChoices();
    this.listen();
  }

  get isShown() {
    return !this.section.hidden;
  }

  async show(view, anew) {
    this.view = view;
    showFilter(this.form, view.filter);
    const size = this.about.page_size;
    const first = (view.page - 1) * size;
    const asked = { ...view.filter, first, count: size };
    const page = await get("/api/items", anew ? { ...asked, anew: 1 } : asked);
    const numPages = Math.max(1, Math.ceil(page.total / size));
    if (view.page > numPages) {
      writeView({ ...view, page: numPages }, { isNew: false });
      return this.show(readView(), false);
    }
    this.section.hidden = false;
    const focused = this.cards.indexOf(this.current);
    this.cards = page.items.map((item, place) => this.card(item, first + place));
    this.grid.replaceChildren(...this.cards.map((card) => card.element));
    this.tell(page.total, numPages);
    if (focused >= 0 && this.cards[focused]) {
      find("open", this.cards[focused].element).focus();
    }
    return page.counts;
  }

  tell(total, numPages) {
    find("count").textContent = `${number(total)} ${total === 1 ? "image" : "images"}`;
    find("empty").hidden = total > 0;
    const paging = find("paging");
    paging.hidden = numPages < 2;
    find("page", paging).value = this.view.page;
    find("page", paging).max = numPages;
    find("num-pages", paging).textContent = number(numPages);
    find("previous", paging).disabled = this.view.page <= 1;
    find("next", paging).disabled = this.view.page >= numPages;
    const hidden = new Set(["text", "state", "sort", "descending"]);
    const numMore = Object.keys(this.view.filter).filter((name) => !hidden.has(name)).length;
    find("num-filters").textContent = numMore ? `(${numMore})` : "";
  }

  card(item, place) {
    const element = find("card").content.firstElementChild.cloneNode(true);
    const card = { item, place, element };
    const onClick = (name, act) =>
      find(name, element).addEventListener("click", () => inTurn(act));
    onClick("open", () => this.open(card));
    onClick("edit", () => this.open(card, true));
    onClick("approve", () => this.act(card, "approve"));
    onClick("reject", () => this.act(card, "reject"));
    this.fill(card);
    return card;
  }

  fill(card) {
    const { element, item } = card;
    find("open", element).setAttribute("aria-label", `Open ${item.image_id}`);
    for (const [name, verb] of [["approve", "Approve"], ["reject", "Reject"], ["edit", "Edit"]]) {
      find(name, element).setAttribute("aria-label", `${verb} ${item.image_id}`);
    }
    find("approve", element).disabled = item.caption === null || item.review === "approved";
    find("reject", element).disabled = item.caption === null || item.review === "rejected";
    element.dataset.review = item.stale ? "stale" : item.review ?? "";
    showPicture(find("open", element), item, "small");
    find("text", element).textContent = item.caption ?? "";
    find("id", element).textContent = item.image_id;
    showAbsence(find("absence", element), item);
    showMarks(find("marks", element), item, this.about.labels);
    showBeside(find("beside", element), Object.entries(item.beside));
  }

  open(card, isEditing = false) {
    writeView({ ...this.view, at: card.place });
    return this.changed(false, isEditing);
  }

  async act(card, action) {
    if (card.item.caption === null) {
      return;
    }
    try {
      card.item = await save(card.item, action);
      this.fill(card);
      say(SAID[action]);
      this.changed.counts();
    } catch (error) {
      if (error.status === 409) {
        card.item = error.body.conflict;
        this.fill(card);
        say(`${error.body.by} changed this caption meanwhile. Look at it again.`, true);
      } else {
        say(error.message, true);
      }
    }
  }

  // The card that the keys are about: the one with the focus.
  get current() {
    return this.cards.find((card) => card.element.contains(document.activeElement));
  }

  async move(step) {
    const place = this.cards.indexOf(this.current);
    const target = this.cards[place < 0 ? 0 : place + step];
    if (target) {
      find("open", target.element).focus();
    } else if (place >= 0) {
      await this.turn(step);
    }
  }

  async actHere(action) {
    const card = this.current;
    if (card) {
      await this.act(card, action);
      await this.move(1);
    }
  }

  async turn(step) {
    const button = find(step > 0 ? "next" : "previous", find("paging"));
    if (!find("paging").hidden && !button.disabled) {
      await this.goTo(this.view.page + step);
    }
  }

  async goTo(page) {
    writeView({ ...this.view, page });
    await this.changed(false);
    window.scrollTo(0, 0);
    await this.move(0);
  }

  fillChoices() {
    const { prompts, facets, metrics, labels } = this.about;
    const add = (name, values, label = (value) => value) => {
      for (const value of values) {
        this.form.elements[name].append(new Option(label(value), value));
      }
    };
    const offer = (name, isThere) => {
      find(`of="${name}"`, this.form).hidden = !isThere;
    };
    add("prompt", prompts.map((prompt, place) => (place ? prompt : "")), (name) => name || prompts[0]);
    add("status", facets.error_code);
    add("flag", facets.flag);
    add("finish", facets.finish);
    add("metric", metrics, (name) => labels[name] ?? name);
    add("sort", metrics, (name) => labels[name] ?? name);
    offer("prompt", prompts.length > 1);
    offer("flag", facets.flag.length > 0);
    offer("finish", facets.finish.length > 0);
    offer("metric", metrics.length > 0);
  }

  listen() {
    let timer;
    const apply = () => {
      window.clearTimeout(timer);
      if (!this.form.reportValidity()) {
        return;
      }
      writeView({ filter: filterOf(this.form), page: 1, at: null });
      inTurn(() => this.changed(true));
    };
    this.form.addEventListener("submit", (event) => {
      event.preventDefault();
      apply();
    });
    this.form.addEventListener("change", apply);
    this.form.elements.text.addEventListener("input", () => {
      window.clearTimeout(timer);
      timer = window.setTimeout(apply, 300);
    });
    find("reset").addEventListener("click", () => {
      this.form.reset();
      apply();
    });
    find("anew").addEventListener("click", () => inTurn(() => this.changed(true)));
    const paging = find("paging");
    find("previous", paging).addEventListener("click", () => inTurn(() => this.turn(-1)));
    find("next", paging).addEventListener("click", () => inTurn(() => this.turn(1)));
    find("page", paging).addEventListener("change", (event) => {
      const page = Math.max(1, Number.parseInt(event.target.value, 10) || 1);
      inTurn(() => this.goTo(page));
    });
  }
}
