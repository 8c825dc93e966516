// One image, with its caption to correct.

import { get } from "./api.js";
import { save, undo } from "./edits.js";
import {
  button, element, find, inTurn, number, say, showAbsence, showBeside, showMarks,
} from "./dom.js";
import { loadAhead, showPicture } from "./pictures.js";
import { writeView } from "./view.js";

const ACTIONS = {
  text: "wrote",
  approve: "approved",
  reject: "rejected",
  clear: "restored the caption of the run",
};

export class Single {
  constructor(about, changed) {
    this.about = about;
    this.changed = changed;
    this.section = find("single");
    this.drafts = new Map(); // unsaved texts by item, with the item that each was written about
    this.item = null;
    this.listen();
  }

  get isShown() {
    return !this.section.hidden;
  }

  part(name) {
    return find(name, this.section);
  }

  async show(view, anew, isEditing) {
    this.view = view;
    const first = Math.max(0, view.at - 1);
    const asked = { ...view.filter, first, count: view.at - first + 2 };
    const page = await get("/api/items", anew ? { ...asked, anew: 1 } : asked);
    const item = page.items[view.at - first];
    if (!item) {
      await this.leave();
      return page.counts;
    }
    this.total = page.total;
    this.section.hidden = false;
    this.fill(item);
    this.fillDetails(item);
    const next = page.items[view.at - first + 1];
    if (next) {
      loadAhead(next, "large");
    }
    if (isEditing) {
      this.part("text").focus();
    }
    return page.counts;
  }

  fill(item) {
    this.item = item;
    const draft = this.drafts.get(item.item);
    this.part("place").textContent = `${number(this.view.at + 1)} of ${number(this.total)}`;
    this.part("previous").disabled = this.view.at <= 0;
    this.part("next").disabled = this.view.at + 1 >= this.total;
    this.part("id").textContent = item.image_id;
    this.part("text").value = draft ? draft.text : item.caption ?? "";
    showPicture(this.part("frame"), item, "large");
    showMarks(this.part("marks"), item, this.about.labels);
    showAbsence(this.part("absence"), item);
    this.part("conflict").hidden = true;
    this.part("clear").hidden = !item.version || (item.caption === item.original && !item.review && !item.stale);
    this.fillFacts(item);
    this.tellDraft();
  }

  fillBeside(item, prompts) {
    const texts = Object.entries(item.beside);
    if (item.original !== null && item.original !== item.caption) {
      texts.unshift(["caption of the run", [item.original]]);
    }
    if (item.stale_text) {
      texts.unshift([`stale text of ${item.by}`, [item.stale_text]]);
    }
    if (item.alternatives?.length) {
      texts.push(["alternatives", item.alternatives]);
    }
    for (const { prompt, caption } of prompts) {
      texts.push([`prompt ${prompt}`, caption === null ? [] : [caption]]);
    }
    showBeside(this.part("beside"), texts, (text) => {
      this.part("text").value = text;
      this.keepDraft();
      this.part("text").focus();
    });
  }

  fillFacts(item) {
    const isOfModel = item.caption === item.original;
    const facts = [
      ["size", item.width_px ? `${item.width_px} × ${item.height_px} px` : null],
      ["model", isOfModel ? item.model : null],
      ["prompt", item.prompt],
      ["finish", isOfModel ? item.finish : null],
      ["last edit", item.by ? `${item.by}, ${item.at.slice(0, 16).replace("T", " ")} UTC` : null],
      ...Object.entries(item.kept),
    ];
    const rows = facts.filter(([, value]) => value !== null && value !== undefined && value !== "");
    this.part("facts").replaceChildren(
      ...rows.flatMap(([name, text]) => [element("dt", { text: name }), element("dd", { text, dir: "auto" })]),
    );
  }

  async fillDetails(item) {
    this.fillBeside(item, []);
    const details = await get(`/api/items/${item.item}`);
    if (this.item !== item) {
      return;
    }
    this.fillBeside(item, details.prompts);
    this.part("history-box").hidden = details.history.length === 0;
    this.part("history").replaceChildren(...details.history.map((edit) => this.historyRow(edit)));
  }

  historyRow(edit) {
    const what = `${edit.by} ${ACTIONS[edit.action] ?? edit.action}${edit.batch ? " (find and replace)" : ""}`;
    const row = element("li", { kind: edit.is_undone ? "undone" : "" }, element("span", { text: what }));
    if (edit.new !== null) {
      row.append(element("q", { text: edit.new, dir: "auto" }));
    }
    row.append(element("time", { text: `${edit.at.slice(0, 16).replace("T", " ")} UTC`, datetime: edit.at }));
    if (edit.is_undone) {
      row.append(element("em", { text: "undone" }));
    } else {
      row.append(button("Undo", () => inTurn(() => this.undoOne(edit.edit_id)), "plain"));
    }
    return row;
  }

  async undoOne(name) {
    await undo(name);
    await this.changed(false);
  }

  get isDirty() {
    return this.item !== null && this.part("text").value !== (this.item.caption ?? "");
  }

  keepDraft() {
    if (this.isDirty) {
      this.drafts.set(this.item.item, { text: this.part("text").value });
    } else {
      this.drafts.delete(this.item.item);
    }
    this.tellDraft();
  }

  tellDraft() {
    this.part("save").disabled = !this.isDirty;
    this.part("discard").hidden = !this.isDirty;
    this.part("approve").disabled = this.part("text").value.trim() === "";
    this.part("reject").disabled = this.item.caption === null;
  }

  discard() {
    this.drafts.delete(this.item.item);
    this.part("text").value = this.item.caption ?? "";
    this.tellDraft();
  }

  // Do something with the caption; return whether it was saved.
  async act(action) {
    if (action === "reject" && this.isDirty) {
      say("The text is not saved: save or discard it first.", true);
      return false;
    }
    const item = this.item;
    const text = this.part("text").value;
    try {
      let saved = item;
      if (this.isDirty && action !== "clear") {
        saved = await save(saved, "text", text);
      }
      if (action !== "text") {
        saved = await save(saved, action);
      }
      this.drafts.delete(item.item);
      if (this.item === item) {
        this.fill(saved);
        this.fillDetails(saved);
      }
      say({ text: "Saved.", approve: "Approved.", reject: "Rejected.", clear: "Restored." }[action]);
      this.changed.counts();
      return true;
    } catch (error) {
      if (error.status === 409 && this.item === item) {
        this.showConflict(error.body, action, text);
      } else {
        say(error.message, true);
      }
      return false;
    }
  }

  showConflict({ conflict, by }, action, text) {
    const box = this.part("conflict");
    const state = conflict.review ? ` (${conflict.review})` : "";
    const yours = action === "text" || this.isDirty ? text : `${ACTIONS[action]}: ${text}`;
    const isOwn = by === this.about.reviewer; // in another window, or somebody of the same name
    const told = isOwn ? `This caption was changed in another window, as ${by}.` : `${by} changed this caption meanwhile.`;
    box.replaceChildren(
      element("p", {}, element("strong", { text: told })),
      element("dl", {},
        element("dt", { text: `${isOwn ? "There" : "Theirs"}${state}` }), element("dd", { text: conflict.caption ?? "no caption", dir: "auto" }),
        element("dt", { text: isOwn ? "Here" : "Yours" }), element("dd", { text: yours, dir: "auto" })),
      element("div", { kind: "acts" },
        button(isOwn ? "Keep the other" : "Keep theirs", () => {
          this.drafts.delete(conflict.item);
          this.fill(conflict);
          this.fillDetails(conflict);
          this.part("text").focus();
        }),
        button(isOwn ? "Save this instead" : "Save mine instead", () => {
          this.item = conflict;
          this.part("text").value = text;
          box.hidden = true;
          inTurn(() => this.act(action));
        })),
    );
    box.hidden = false;
    box.querySelector("button").focus();
  }

  async step(step) {
    const at = this.view.at + step;
    if (at < 0 || at >= this.total) {
      say(step > 0 ? "This is the last image." : "This is the first image.");
      return;
    }
    writeView({ ...this.view, at }, { isNew: false });
    await this.changed(false);
  }

  async actAndStep(action) {
    if (await this.act(action)) {
      await this.step(1);
    }
  }

  async leave() {
    const page = Math.floor(this.view.at / this.about.page_size) + 1;
    const place = this.view.at % this.about.page_size;
    writeView({ ...this.view, page, at: null });
    await this.changed(false);
    document.querySelectorAll(".card [data-open]")[place]?.focus();
  }

  listen() {
    const onClick = (name, act) =>
      this.part(name).addEventListener("click", () => inTurn(act));
    onClick("back", () => this.leave());
    onClick("previous", () => this.step(-1));
    onClick("next", () => this.step(1));
    onClick("approve", () => this.actAndStep("approve"));
    onClick("reject", () => this.actAndStep("reject"));
    onClick("clear", () => this.act("clear"));
    onClick("discard", () => this.discard());
    this.part("text").addEventListener("input", () => this.keepDraft());
    this.part("edit").addEventListener("submit", (event) => {
      event.preventDefault();
      inTurn(() => this.act("text"));
    });
    window.addEventListener("beforeunload", (event) => {
      if (this.drafts.size) {
        event.preventDefault();
      }
    });
  }
}
