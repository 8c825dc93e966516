// Saving of edits, and undoing them.

import { post } from "./api.js";
import { find, number, say } from "./dom.js";

const undoable = [];

// Save one edit of an item as it is shown; a conflict is thrown as `Refused` with status 409.
export async function save(item, action, text = null) {
  const edit = { item: item.item, action, old: item.caption, after: item.version };
  if (action === "text") {
    edit.new = text;
  }
  const saved = await post("/api/edits", edit);
  remember(saved.undo);
  return saved.item;
}

export function remember(name) {
  undoable.push(name);
  find("undo").disabled = false;
}

export async function undoLast() {
  const name = undoable.pop();
  find("undo").disabled = undoable.length === 0;
  if (name === undefined) {
    say("There is nothing to undo.");
    return false;
  }
  await undo(name);
  return true;
}

export async function undo(name) {
  const done = await post("/api/undo", { name });
  say(done.num_items === 1 ? "Undone." : `Undone: ${number(done.num_items)} captions.`);
}
