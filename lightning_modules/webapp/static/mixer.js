// The tracks of a song: mute, solo and level of each.

import { make } from "./dom.js";

const LOWEST_DB = -40; // a slider's left end: silence
const HIGHEST_DB = 6;
// Numbers of colours in page.css; stems without one take the next.
const COLOURS = {
  vocals: 1, drums: 2, bass: 3, other: 4, guitar: 5, piano: 6,
  instrumental: 2, accompaniment: 2, no_vocals: 2,
};
const COLOUR_COUNT = 6;

/** Slider of a level in dB with its reading; calls back with the linear gain. */
export function fader(spoken, highest, changed) {
  const shown = make("output", { class: "decibels" }, "0 dB");
  const level = make("input", {
    type: "range", min: LOWEST_DB, max: highest, step: 0.5, value: 0, class: "level",
    "aria-label": spoken, title: `${spoken}; double-click: 0 dB`,
    oninput: () => {
      const decibels = Number(level.value);
      const gain = decibels <= LOWEST_DB ? 0 : 10 ** (decibels / 20);
      shown.value = gain ? `${decibels > 0 ? "+" : ""}${decibels} dB` : "off";
      level.setAttribute("aria-valuetext", shown.value);
      changed(gain);
    },
    ondblclick: () => {
      level.value = 0;
      level.dispatchEvent(new Event("input"));
    },
  });
  return make("div", { class: "fader" }, level, shown);
}

export class Mixer {
  constructor(player) {
    this.player = player;
    const { tracks, models } = player.song;
    // At first the stems of the first model are audible, the mixture is muted.
    this.rows = tracks.map((track, number) => ({
      track,
      number,
      muted: track.muted || !track.model || track.model !== models[0],
      solo: false,
      level: 1,
    }));
    this.element = make("div", { class: "mixer" });
    for (const row of this.rows) {
      if (row.number === 0 || tracks[row.number - 1].model !== row.track.model) {
        this.element.append(this.heading(row.track.model));
      }
      this.element.append(this.row(row));
    }
  }

  /** Linear gain of each track. */
  get gains() {
    const anySolo = this.rows.some((row) => row.solo);
    return this.rows.map((row) => ((anySolo ? row.solo : !row.muted) ? row.level : 0));
  }

  heading(model) {
    const several = this.player.song.models.length > 1;
    const button = several && model && make("button", {
      type: "button", class: "only", title: "Play only this model's stems",
      onclick: () => this.only(model),
    }, "Play only these");
    return make("h3", {}, model || "Original", ...(button ? [button] : []));
  }

  row(row) {
    const { track, number } = row;
    const name = track.model ? track.name : "full mix";
    const spoken = track.model ? `${track.name}, ${track.model}` : "original";
    const key = this.key(number);
    row.muteButton = make("button", {
      type: "button", class: "mute", "aria-label": `Mute ${spoken}`,
      title: key ? `Mute (Shift+${key})` : "Mute", onclick: () => this.press(row, "muted"),
    }, "M");
    row.soloButton = make("button", {
      type: "button", class: "solo", "aria-label": `Solo ${spoken}`,
      title: key ? `Solo (${key})` : "Solo", onclick: () => this.press(row, "solo"),
    }, "S");
    row.element = make("div", { class: "track", style: `--stem: var(--stem-${this.colour(number)})` },
      make("div", { class: "name" }, name),
      make("div", { class: "switches" }, row.muteButton, row.soloButton),
      fader(`Level of ${spoken}`, HIGHEST_DB, (gain) => {
        row.level = gain;
        this.player.setGains();
      }),
      this.player.timeline.strip(number),
      this.player.downloads.stem(number, spoken),
    );
    return row.element;
  }

  colour(number) {
    const { tracks, models } = this.player.song;
    const { name, model } = tracks[number];
    if (!model) return 0;
    const first = tracks.filter((track) => track.model === models[0]).map((track) => track.name);
    return COLOURS[name] ?? ((Math.max(0, first.indexOf(name)) + 4) % COLOUR_COUNT) + 1;
  }

  /** The digit that stands for a stem on the keyboard, if any. */
  key(number) {
    return number > 0 && number < 10 ? String(number) : "";
  }

  press(row, what) {
    row[what] = !row[what];
    this.player.setGains();
  }

  only(model) {
    for (const row of this.rows) {
      row.muted = row.track.model !== model;
      row.solo = false;
    }
    this.player.setGains();
  }

  /** Show the state of all tracks, given the gains that are heard. */
  show(gains) {
    for (const row of this.rows) {
      row.muteButton.setAttribute("aria-pressed", row.muted);
      row.soloButton.setAttribute("aria-pressed", row.solo);
      row.element.classList.toggle("silent", !gains[row.number]);
    }
  }
}
