// <stem-player song="TOKEN">: mixer, views and downloads of a song.

import { BlindTest } from "./blind_test.js";
import { reason, Transport } from "./transport.js";

const LOWEST_DB = -40; // the slider's left end: silence
const HIGHEST_DB = 6;

/** Create an element: tag, attributes ("on..." are listeners), children. */
export function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (value !== false) element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children);
  return element;
}

class StemPlayer extends HTMLElement {
  async connectedCallback() {
    if (this.transport) return;
    this.url = `/songs/${encodeURIComponent(this.getAttribute("song"))}`;
    try {
      const answer = await fetch(this.url);
      if (!answer.ok) throw new Error(await reason(answer));
      this.song = await answer.json();
    } catch (error) {
      this.showError(error);
      return;
    }
    if (!this.isConnected) return;
    this.transport = new Transport(this.url, this.song);
    this.transport.onerror = (error) => this.showError(error);
    this.build();
    this.setGains();
    const tick = () => {
      if (!this.isConnected) return;
      this.show();
      requestAnimationFrame(tick);
    };
    tick();
  }

  disconnectedCallback() {
    this.transport?.close();
  }

  get currentTime() {
    return this.transport.currentTime;
  }

  get duration() {
    return this.transport.duration;
  }

  get playing() {
    return this.transport.playing;
  }

  play() {
    return this.transport.play();
  }

  seek(seconds) {
    return this.transport.seek(seconds);
  }

  /** Play only this track, independent of the mixer; null: follow the mixer. */
  audition(track) {
    this.auditioned = track;
    this.setGains();
  }

  build() {
    const { song } = this;
    // Initially the stems of the first model are audible, the mixture is muted.
    this.rows = song.tracks.map((track, number) => ({
      track,
      number,
      muted: !track.model || track.model !== song.models[0],
      solo: false,
      level: 1,
    }));
    this.toggle = make("button", { class: "play", type: "button", onclick: () => this.press() });
    this.clock = make("output", { class: "clock" });
    this.slider = make("input", {
      type: "range", min: 0, max: this.duration, step: "any", "aria-label": "Position",
      class: "seek", oninput: () => this.seek(Number(this.slider.value)),
    });
    this.mixer = make("div", { class: "mixer" });
    for (const row of this.rows) {
      if (row.number === 0 || this.rows[row.number - 1].track.model !== row.track.model) {
        this.mixer.append(this.heading(row.track.model));
      }
      this.mixer.append(this.row(row));
    }
    this.blind = song.models.length > 1 ? new BlindTest(this) : null;
    this.replaceChildren(
      make("div", { class: "top" },
        make("h2", {}, song.title),
        make("div", { class: "views", role: "group", "aria-label": "View" },
          ...["waveform", "spectrogram"].map((kind) => this.view(kind))),
      ),
      make("div", { class: "transport" }, this.toggle, this.slider, this.clock),
      ...(this.blind ? [this.blind.element] : []),
      this.mixer,
      this.downloads(),
    );
    this.showView("waveform");
  }

  heading(model) {
    const several = this.song.models.length > 1;
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
    const press = (what) => () => {
      row[what] = !row[what];
      this.setGains();
    };
    row.muteButton = make("button", {
      type: "button", class: "mute", "aria-label": `Mute ${spoken}`, title: "Mute",
      onclick: press("muted"),
    }, "M");
    row.soloButton = make("button", {
      type: "button", class: "solo", "aria-label": `Solo ${spoken}`, title: "Solo",
      onclick: press("solo"),
    }, "S");
    const shown = make("output", { class: "decibels" }, "0 dB");
    const level = make("input", {
      type: "range", min: LOWEST_DB, max: HIGHEST_DB, step: 0.5, value: 0, class: "level",
      "aria-label": `Level of ${spoken}`, title: "Level; double-click to reset to 0 dB",
      oninput: () => {
        const decibels = Number(level.value);
        row.level = decibels <= LOWEST_DB ? 0 : 10 ** (decibels / 20);
        shown.value = row.level ? `${decibels > 0 ? "+" : ""}${decibels} dB` : "off";
        this.setGains();
      },
      ondblclick: () => {
        level.value = 0;
        level.dispatchEvent(new Event("input"));
      },
    });
    row.picture = make("img", { alt: "", draggable: "false" });
    const strip = make("div", {
      class: "strip", title: "Click to jump to this position",
      onclick: (event) => {
        const box = strip.getBoundingClientRect();
        this.seek(((event.clientX - box.left) / box.width) * this.duration);
      },
    }, row.picture, this.frequencies(), make("div", { class: "playhead" }));
    row.element = make("div", { class: "track" },
      make("span", { class: "name" }, name),
      make("div", { class: "switches" }, row.muteButton, row.soloButton),
      make("div", { class: "fader" }, level, shown),
      strip,
      make("a", {
        class: "get", href: `${this.url}/stems/${number}`, download: true,
        "aria-label": `Download ${spoken} as WAV`, title: "Download as 32-bit float WAV",
      }, "↓ WAV"),
    );
    return row.element;
  }

  frequencies() {
    const labels = Object.entries(this.song.frequencies).map(([label, height]) =>
      make("span", { style: `bottom: ${100 * height}%` }, label));
    return make("div", { class: "frequencies", "aria-hidden": "true" }, ...labels);
  }

  downloads() {
    const { song } = this;
    this.mix = make("a", { class: "get mix", download: true }, "↓ My mix");
    this.mix.title = "Mix with the current mute, solo and level settings, as 24-bit WAV";
    const several = song.models.length > 1;
    const links = song.models.flatMap((model, number) => {
      const of = several ? ` of ${model}` : "";
      const kinds = { zip: `All stems${of} (zip)`, "stem.mp4": `All stems${of} (stem.mp4)` };
      if (!song.stemMp4) delete kinds["stem.mp4"];
      return Object.entries(kinds).map(([kind, words]) =>
        make("a", { class: "get", href: `${this.url}/models/${number}/${kind}`, download: true },
          `↓ ${words}`));
    });
    return make("div", { class: "downloads" }, this.mix, ...links);
  }

  view(kind) {
    const words = `${kind[0].toUpperCase()}${kind.slice(1)}s`;
    return make("button", { type: "button", "data-view": kind, onclick: () => this.showView(kind) },
      words);
  }

  showView(kind) {
    this.dataset.view = kind;
    for (const button of this.querySelectorAll("[data-view]")) {
      button.setAttribute("aria-pressed", button.dataset.view === kind);
    }
    for (const row of this.rows) row.picture.src = `${this.url}/pictures/${row.number}/${kind}`;
  }

  only(model) {
    for (const row of this.rows) {
      row.muted = row.track.model !== model;
      row.solo = false;
    }
    this.setGains();
  }

  async press() {
    if (this.playing) this.transport.pause();
    else await this.play();
  }

  /** Update gains, buttons and the download link of the mix. */
  setGains() {
    const anySolo = this.rows.some((row) => row.solo);
    const mix = this.rows.map((row) => ((anySolo ? row.solo : !row.muted) ? row.level : 0));
    const alone = this.auditioned ?? null;
    this.transport.setGains(alone === null ? mix : mix.map((_, n) => (n === alone ? 1 : 0)));
    this.mix.href = `${this.url}/remix?levels=${mix.map((gain) => gain.toFixed(5)).join(",")}`;
    for (const row of this.rows) {
      row.muteButton.setAttribute("aria-pressed", row.muted);
      row.soloButton.setAttribute("aria-pressed", row.solo);
      row.element.classList.toggle("silent", !mix[row.number]);
    }
  }

  show() {
    const now = this.currentTime;
    if (this.playing && now >= this.duration) this.transport.pause();
    this.style.setProperty("--played", now / this.duration);
    this.slider.value = now;
    const words = this.playing ? "Pause" : "Play";
    if (this.toggle.getAttribute("aria-label") !== words) {
      this.toggle.setAttribute("aria-label", words);
      this.toggle.textContent = this.playing ? "❚❚" : "▶";
    }
    this.clock.value = `${clock(now)} / ${clock(this.duration)}`;
  }

  showError(error) {
    this.querySelector(":scope > .stemlab-error")?.remove();
    this.prepend(make("div", { class: "stemlab-error", role: "alert" }, error.message));
  }
}

function clock(seconds) {
  const whole = Math.floor(seconds);
  return `${Math.floor(whole / 60)}:${String(whole % 60).padStart(2, "0")}`;
}

customElements.define("stem-player", StemPlayer);
