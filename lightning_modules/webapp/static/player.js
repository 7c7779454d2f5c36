// <stem-player song="TOKEN">: plays, mixes and downloads a song and its stems.

import { BlindTest } from "./blind_test.js";
import { clock, make, reveal } from "./dom.js";
import { Downloads } from "./downloads.js";
import { help, listen } from "./keyboard.js";
import { fader, Mixer } from "./mixer.js";
import { loadEnvelopes, Timeline } from "./timeline.js";
import { reason, Transport } from "./transport.js";

class StemPlayer extends HTMLElement {
  async connectedCallback() {
    if (this.transport) return;
    this.url = `/songs/${encodeURIComponent(this.getAttribute("song"))}`;
    try {
      const answer = await fetch(this.url);
      if (!answer.ok) throw new Error(await reason(answer));
      this.song = await answer.json();
      this.envelopes = await loadEnvelopes(this.url, this.song.tracks.length);
    } catch (error) {
      this.showError(error);
      return;
    }
    if (!this.isConnected) return;
    this.transport = new Transport(this.url, this.song);
    this.transport.onerror = (error) => this.showError(error);
    this.build();
    this.setGains();
    this.stopListening = listen(this);
    reveal(this);
    const tick = () => {
      if (!this.isConnected) return;
      this.show();
      requestAnimationFrame(tick);
    };
    tick();
  }

  disconnectedCallback() {
    this.stopListening?.();
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

  async press() {
    if (this.playing) this.transport.pause();
    else await this.play();
  }

  /** Play only this track at a gain, independent of the mixer; null: follow the mixer. */
  audition(track, gain = 1) {
    this.auditioned = track === null ? null : { track, gain };
    this.setGains();
  }

  /** Play the original instead of the mix, or the mix again. */
  toggleOriginal() {
    this.original = !this.original;
    this.setGains();
  }

  build() {
    const { song } = this;
    this.timeline = new Timeline(this);
    this.downloads = new Downloads(this);
    this.mixer = new Mixer(this);
    this.blind = song.models.length > 1 ? new BlindTest(this) : null;
    this.replaceChildren(
      make("div", { class: "top" },
        make("h2", {}, song.title),
        make("div", { class: "views", role: "group", "aria-label": "View" },
          ...["waveform", "spectrogram"].map((kind) => this.view(kind))),
      ),
      this.bar(),
      ...(this.blind ? [this.blind.element] : []),
      this.mixer.element,
      this.downloads.element,
      help(),
    );
    this.showView("waveform");
  }

  /** The controls that stay in the window. */
  bar() {
    const button = (kind, words, title, onclick) =>
      make("button", { type: "button", class: kind, title, "aria-label": title, onclick }, words);
    this.toggle = make("button", { class: "play", type: "button", onclick: () => this.press() });
    this.clock = make("output", { class: "clock" });
    this.slider = make("input", {
      type: "range", min: 0, max: this.duration, step: "any", "aria-label": "Position",
      class: "seek", oninput: () => this.seek(Number(this.slider.value)),
    });
    this.originalButton = make("button", {
      type: "button", class: "original", title: "Play the original instead of the mix (O)",
      onclick: () => this.toggleOriginal(),
    }, "Original");
    this.loopButton = make("button", {
      type: "button", class: "loop", title: "Repeat what is visible (L), or drag over a waveform",
      onclick: () => this.timeline.toggleLoop(),
    }, "Loop");
    this.zoomOut = button("zoom", "−", "Zoom out", () => this.timeline.zoom(0.5));
    const volume = fader("Volume", 0, (gain) => this.transport.setVolume(gain));
    return make("div", { class: "bar" },
      make("div", { class: "transport" }, this.toggle, this.slider, this.clock),
      make("div", { class: "tools" }, this.originalButton, this.loopButton,
        make("div", { class: "zooms" }, this.zoomOut,
          button("zoom", "+", "Zoom in", () => this.timeline.zoom(2))),
        make("label", { class: "volume" }, "Volume", volume)),
      this.timeline.axis);
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
    if (kind !== "spectrogram") return;
    this.querySelectorAll(".strip img").forEach((image, number) => {
      image.src = `${this.url}/spectrograms/${number}`;
    });
  }

  /** Update gains, buttons and the download link of the mix. */
  setGains() {
    const { gains } = this.mixer;
    const alone = this.auditioned ?? (this.original ? { track: 0, gain: 1 } : null);
    const audible = alone
      ? gains.map((_, track) => (track === alone.track ? alone.gain : 0)) : gains;
    this.transport.setGains(audible);
    this.downloads.setGains(gains);
    this.mixer.show(audible);
    this.showControls();
  }

  /** Show the state of the buttons. */
  showControls() {
    if (!this.originalButton) return;
    this.originalButton.setAttribute("aria-pressed", Boolean(this.original));
    this.loopButton.setAttribute("aria-pressed", Boolean(this.timeline.loop));
    this.zoomOut.disabled = !this.timeline.isZoomed;
  }

  show() {
    if (this.transport.ended) {
      this.transport.pause();
      this.seek(this.duration);
    }
    const now = this.currentTime;
    this.timeline.follow(now);
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

customElements.define("stem-player", StemPlayer);

// On phones the result is below the form.
document.addEventListener("click", (event) => {
  if (event.target.closest("#separate")) reveal(document.querySelector("#result"));
});
