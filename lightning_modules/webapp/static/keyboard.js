// Keys of the player, anywhere on the page but in fields.

import { make } from "./dom.js";

const SKIP_SECONDS = 5;
const SHORT_SKIP_SECONDS = 1;
const FIELDS = "textarea, select, input:not([type=range]):not([type=radio]):not([type=checkbox]), "
  + "[contenteditable], [role=listbox], [role=combobox]";

/** What a pressed key does; undefined if nothing. */
export function action(player, event) {
  const digit = /^(?:Digit|Numpad)([1-9])$/.exec(event.code)?.[1];
  if (digit && !player.blind?.isOpen) {
    const row = player.mixer.rows[Number(digit)];
    return row && (() => player.mixer.press(row, event.shiftKey ? "muted" : "solo"));
  }
  const skip = event.shiftKey ? SHORT_SKIP_SECONDS : SKIP_SECONDS;
  return {
    " ": () => player.press(),
    arrowleft: () => player.seek(player.currentTime - skip),
    arrowright: () => player.seek(player.currentTime + skip),
    home: () => player.seek(0),
    l: () => player.timeline.toggleLoop(),
    "+": () => player.timeline.zoom(2),
    "-": () => player.timeline.zoom(0.5),
    o: () => player.toggleOriginal(),
    a: player.blind?.isOpen && (() => player.blind.listenTo(0)),
    b: player.blind?.isOpen && (() => player.blind.listenTo(1)),
  }[event.key.toLowerCase()];
}

/** Handle keys until the returned function is called. */
export function listen(player) {
  const pressed = (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || event.defaultPrevented) return;
    const { target } = event;
    if (target.closest(FIELDS)) return;
    // Sliders and radio buttons have arrow keys of their own, buttons have the space.
    if (target.matches("input") && event.key.startsWith("Arrow")) return;
    if (event.key === " " && target.matches("button, a, summary, input:not([type=range])")) return;
    const act = action(player, event);
    if (!act) return;
    event.preventDefault();
    act();
  };
  document.addEventListener("keydown", pressed);
  // After a click with the mouse, the space plays instead of clicking again.
  player.addEventListener("click", (event) => {
    if (event.detail) event.target.closest("button, summary")?.blur();
  });
  return () => document.removeEventListener("keydown", pressed);
}

/** Table of all keys. */
export function help() {
  const keys = {
    Space: "play or pause",
    "← →": `${SKIP_SECONDS} seconds back or forward, with Shift ${SHORT_SKIP_SECONDS}`,
    Home: "to the beginning",
    "1 – 9": "solo of a stem, with Shift mute",
    O: "the original instead of the mix",
    L: "repeat what is visible",
    "+ −": "zoom",
    "A B": "in the blind test: listen to A or B",
  };
  const rows = Object.entries(keys).flatMap(([key, words]) =>
    [make("dt", {}, key), make("dd", {}, words)]);
  return make("details", { class: "keys" }, make("summary", {}, "Keys"), make("dl", {}, ...rows));
}
