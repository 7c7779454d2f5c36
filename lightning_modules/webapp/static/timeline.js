// The visible section of a song: zoom, time axis, waveforms and the loop.

import { clock, make } from "./dom.js";

const SHORTEST_VIEW_SECONDS = 1;
const SHORTEST_LOOP_SECONDS = 0.25;
const DRAG_PIXELS = 6;
const TICK_PIXELS = 70;
const LABEL_PIXELS = 45;
const STEPS = [0.1, 0.2, 0.5, 1, 2, 5, 10, 15, 30, 60, 120, 300, 600];

/** Times with a label on an axis: multiples of a round step in a section, at most some. */
export function ticks(start, end, most) {
  const step = STEPS.find((each) => (end - start) / each <= most) ?? STEPS.at(-1);
  const times = [];
  for (let n = Math.ceil(start / step - 1e-9); n * step <= end; n++) times.push(n * step);
  return { times, decimals: step < 1 ? 1 : 0 };
}

/** The section that is visible, and the one that is repeated. */
export class Timeline {
  constructor(player) {
    this.player = player;
    this.duration = player.duration;
    this.start = 0;
    this.end = this.duration;
    this.loop = null;
    this.labels = make("div", { class: "labels" });
    this.axis = make("div", { class: "axis", "aria-hidden": "true" }, this.labels, loopMark());
    this.listen(this.axis);
    new ResizeObserver(() => this.show()).observe(this.axis);
  }

  get isZoomed() {
    return this.end - this.start < this.duration - 1e-9;
  }

  /** Zoom in by a factor above 1, or out; a time stays where it is. */
  zoom(factor, around = this.player.currentTime) {
    const shown = Math.min(Math.max(around, this.start), this.end);
    const span = Math.min(
      Math.max((this.end - this.start) / factor, SHORTEST_VIEW_SECONDS), this.duration);
    this.moveTo(shown - ((shown - this.start) / (this.end - this.start)) * span, span);
  }

  moveTo(start, span = this.end - this.start) {
    this.start = Math.min(Math.max(0, start), this.duration - span);
    this.end = this.start + span;
    this.show();
  }

  /** Move the playhead; turn the page if it leaves what is visible. */
  follow(seconds) {
    const left = this.isZoomed && (seconds < this.start || seconds > this.end);
    if (left && seconds !== this.followed) this.moveTo(seconds);
    this.followed = seconds;
    this.player.style.setProperty("--played", this.fraction(seconds));
  }

  fraction(seconds) {
    return (seconds - this.start) / (this.end - this.start);
  }

  setLoop(loop) {
    const isLong = loop && loop[1] - loop[0] >= Math.min(SHORTEST_LOOP_SECONDS, this.duration);
    this.loop = isLong ? loop : null;
    this.show();
    this.player.transport.setLoop(this.loop);
  }

  /** Repeat what is visible, or stop repeating. */
  toggleLoop() {
    this.setLoop(this.loop ? null : [this.start, this.end]);
  }

  show() {
    const { player } = this;
    const span = this.end - this.start;
    player.style.setProperty("--zoom", this.duration / span);
    player.style.setProperty("--from", this.start / this.duration);
    player.classList.toggle("looping", Boolean(this.loop));
    const [first, last] = this.loop ?? [0, 0];
    player.style.setProperty("--loop-start", this.fraction(first));
    player.style.setProperty("--loop-end", this.fraction(last));
    const most = Math.max(1, this.axis.clientWidth / TICK_PIXELS);
    const { times, decimals } = ticks(this.start, this.end, most);
    const room = 1 - LABEL_PIXELS / Math.max(LABEL_PIXELS, this.axis.clientWidth);
    const fitting = times.filter((time) => this.fraction(time) <= room);
    this.labels.replaceChildren(...fitting.map((time) => make("span", {
      style: `left: ${100 * this.fraction(time)}%`,
    }, clock(time, decimals))));
    player.showControls();
  }

  /** An element from the start to the end: a click seeks, dragging chooses the loop. */
  listen(element) {
    const at = (event) => {
      const box = element.getBoundingClientRect();
      const part = Math.min(Math.max(0, (event.clientX - box.left) / box.width), 1);
      return this.start + part * (this.end - this.start);
    };
    let from = null; // where a drag began
    let dragged = false;
    element.addEventListener("pointerdown", (event) => {
      dragged = false;
      if (event.button === 0) from = { x: event.clientX, time: at(event) };
    });
    element.addEventListener("pointermove", (event) => {
      if (!from || (!dragged && Math.abs(event.clientX - from.x) < DRAG_PIXELS)) return;
      if (!dragged) element.setPointerCapture(event.pointerId);
      dragged = true;
      const times = [from.time, at(event)].sort((a, b) => a - b);
      this.chosen = times;
      this.loop = times;
      this.show();
    });
    const finish = () => {
      from = null;
      if (!this.chosen) return;
      this.setLoop(this.chosen);
      this.player.seek(this.chosen[0]);
      this.chosen = null;
    };
    element.addEventListener("pointerup", finish);
    element.addEventListener("pointercancel", finish);
    element.addEventListener("click", (event) => {
      if (!dragged) this.player.seek(at(event));
    });
    element.addEventListener("wheel", (event) => {
      const across = Math.abs(event.deltaX) > Math.abs(event.deltaY);
      if (event.ctrlKey) this.zoom(event.deltaY < 0 ? 1.25 : 0.8, at(event));
      else if (across && this.isZoomed) {
        this.moveTo(this.start + (event.deltaX / element.clientWidth) * (this.end - this.start));
      } else return;
      event.preventDefault();
    }, { passive: false });
  }

  /** Waveform and spectrogram of a track. */
  strip(number) {
    const element = make("div", { class: "strip", title: "Click: jump there. Drag: repeat a section." },
      waveform(this.player.envelopes[number]),
      make("img", { alt: "", draggable: "false" }), this.frequencies(), loopMark(),
      make("div", { class: "playhead" }));
    this.listen(element);
    return element;
  }

  frequencies() {
    const labels = Object.entries(this.player.song.frequencies).map(([label, height]) =>
      make("span", { style: `bottom: ${100 * height}%` }, label));
    return make("div", { class: "frequencies", "aria-hidden": "true" }, ...labels);
  }
}

function loopMark() {
  return make("div", { class: "loop-mark" });
}

/** Draw minima and maxima of sections, -127 to 127. */
function waveform([lowest, highest]) {
  const forth = Array.from(highest, (value, n) => `${n},${-value}`);
  const back = Array.from(lowest, (value, n) => `${n},${-value}`).reverse();
  const wave = make("div", { class: "wave" });
  wave.innerHTML = `<svg viewBox="0 -127 ${highest.length} 254" preserveAspectRatio="none">`
    + `<path d="M${forth.join(" ")} ${back.join(" ")}Z"/></svg>`;
  return wave;
}

/** Request minima and maxima of all tracks, relative to the highest peak of the mixture. */
export async function loadEnvelopes(url, tracks) {
  const answer = await fetch(`${url}/envelopes`);
  if (!answer.ok) throw new Error("The waveforms could not be loaded; reload the page.");
  const integers = new Int8Array(await answer.arrayBuffer()); // (tracks, lowest and highest, n)
  const length = integers.length / tracks / 2;
  const row = (n) => integers.subarray(n * length, (n + 1) * length);
  const peak = Math.max(1, ...row(1), ...row(0).map((value) => -value));
  const scaled = (values) => Array.from(values, (value) => Math.round((value * 127) / peak));
  return Array.from({ length: tracks }, (_, n) => [scaled(row(2 * n)), scaled(row(2 * n + 1))]);
}
