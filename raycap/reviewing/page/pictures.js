// Pictures: loaded when they come into view, few at a time.
//
// A browser has six connections to a server. Pictures that wait for a slow store must not take all
// of them, or captions could neither be shown nor saved.

import { pictureAddress } from "./api.js";
import { element } from "./dom.js";

const AT_ONCE = 4;

const waiting = [];
const loading = new Set();

const watcher = new IntersectionObserver(
  (entries) => {
    for (const { isIntersecting, target } of entries) {
      if (isIntersecting) {
        watcher.unobserve(target);
        waiting.push(target);
      }
    }
    loadNext();
  },
  { rootMargin: "400px" },
);

// Show the picture of an item in a frame, or the reason why there is none.
export function showPicture(frame, item, size) {
  const address = pictureAddress(item, size);
  if (frame.dataset.address === address) {
    return;
  }
  frame.dataset.address = address;
  const image = element("img", { alt: size === "large" ? `Image ${item.image_id}` : "" });
  image.decoding = "async";
  image.dataset.address = address;
  frame.replaceChildren(image);
  watcher.observe(image);
}

// Have the browser load a picture, for when it is shown.
export function loadAhead(item, size) {
  if (loading.size < AT_ONCE) {
    new Image().src = pictureAddress(item, size);
  }
}

function loadNext() {
  for (const image of loading) {
    if (!image.checkVisibility()) {
      image.removeAttribute("src"); // nobody sees it now: others need not wait for it
      putOff(image);
    }
  }
  while (loading.size < AT_ONCE && waiting.length) {
    const image = waiting.pop(); // what has come into view last is looked at
    if (image.checkVisibility()) {
      load(image);
    } else {
      putOff(image);
    }
  }
}

// Load a picture once it is seen again, if it is still on the page.
function putOff(image) {
  loading.delete(image);
  if (image.isConnected) {
    watcher.observe(image);
  }
}

function load(image) {
  loading.add(image);
  const ended = () => {
    loading.delete(image);
    loadNext();
  };
  image.onload = ended;
  image.onerror = () => showReason(image).then(ended);
  image.src = image.dataset.address;
}

async function showReason(image) {
  let reason = "the picture cannot be loaded";
  try {
    const response = await fetch(image.dataset.address);
    reason = response.ok ? reason : await response.text();
  } catch {
    reason = "raycap review does not answer";
  }
  const strong = element("strong", { text: "No picture" });
  image.replaceWith(element("span", { kind: "placeholder" }, strong, reason));
}
