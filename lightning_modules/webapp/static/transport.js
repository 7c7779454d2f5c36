// Synchronous playback of all tracks of a song.
//
// Audio is loaded in segments that contain all tracks, and all tracks of a segment are scheduled in
// Web Audio for the same time, so they cannot drift apart.

const SEGMENT_SECONDS = 4;
const AHEAD_SECONDS = 6;
const KEPT_SEGMENTS = 12;
const FADE_SECONDS = 0.015;

/** Segments of a song as AudioBuffers, loaded on demand. */
class Segments {
  constructor(url, song) {
    this.url = url;
    this.song = song;
    this.length = SEGMENT_SECONDS * song.sampleRate;
    this.kept = new Map();
  }

  /** Promise of one AudioBuffer per track, cached. */
  get(number) {
    const known = this.kept.get(number) ?? this.load(number);
    this.kept.delete(number);
    this.kept.set(number, known); // most recently used last
    if (this.kept.size > KEPT_SEGMENTS) this.kept.delete(this.kept.keys().next().value);
    known.catch(() => this.kept.delete(number));
    return known;
  }

  async load(number) {
    const { tracks, channels, sampleRate, headroom } = this.song;
    const start = number * this.length;
    const answer = await fetch(`${this.url}/pcm?start=${start}&samples=${this.length}`);
    if (!answer.ok) throw new Error(await reason(answer));
    const integers = new Int16Array(await answer.arrayBuffer()); // (tracks, channels, samples)
    const samples = integers.length / tracks.length / channels;
    const scale = headroom / 32767;
    return tracks.map((_, track) => {
      const buffer = new AudioBuffer({ numberOfChannels: channels, length: samples, sampleRate });
      for (let channel = 0; channel < channels; channel++) {
        const first = (track * channels + channel) * samples;
        const target = buffer.getChannelData(channel);
        for (let i = 0; i < samples; i++) target[i] = integers[first + i] * scale;
      }
      return buffer;
    });
  }
}

/** Play, pause and seek; one gain per track. */
export class Transport {
  constructor(url, song) {
    this.song = song;
    this.duration = song.samples / song.sampleRate;
    this.segments = new Segments(url, song);
    this.playing = false;
    this.offset = 0; // position in the song at the anchor, seconds
    this.anchor = 0; // time of the audio context at this position
    this.turn = 0; // results of requests from before the last seek are dropped
    this.sources = new Set();
    this.targetGains = song.tracks.map(() => 1);
    this.onerror = () => {};
  }

  get currentTime() {
    if (!this.playing) return this.offset;
    const position = this.offset + Math.max(0, this.context.currentTime - this.anchor);
    return Math.min(position, this.until, this.duration);
  }

  async play() {
    if (this.playing) return;
    if (!this.context) {
      // At the song's sample rate nothing is resampled, so that segments join seamlessly.
      this.context = new AudioContext({ sampleRate: this.song.sampleRate });
      this.gains = this.targetGains.map((gain) => {
        const node = new GainNode(this.context, { gain });
        node.connect(this.context.destination);
        return node;
      });
    }
    this.context.resume();
    if (this.offset >= this.duration) this.offset = 0;
    this.playing = true;
    await this.fill();
  }

  pause() {
    this.offset = this.currentTime;
    this.playing = false;
    this.silence();
  }

  async seek(seconds) {
    const playing = this.playing;
    this.playing = false;
    this.silence();
    this.offset = Math.min(Math.max(0, seconds), this.duration);
    if (playing && this.offset < this.duration) await this.play();
  }

  setGains(gains) {
    this.targetGains = gains;
    this.gains?.forEach((node, track) => {
      node.gain.setTargetAtTime(gains[track], this.context.currentTime, FADE_SECONDS);
    });
  }

  close() {
    this.pause();
    this.context?.close();
  }

  silence() {
    this.turn++;
    for (const source of this.sources) source.stop();
    this.sources.clear();
  }

  /** Schedule a few seconds ahead, until the end of the song. */
  async fill() {
    const turn = this.turn;
    const rate = this.song.sampleRate;
    this.until = this.offset;
    this.anchor = this.context.currentTime;
    let sample = Math.round(this.offset * rate);
    try {
      while (sample < this.song.samples) {
        const number = Math.floor(sample / this.segments.length);
        const buffers = await this.segments.get(number);
        if (turn !== this.turn) return;
        const skipped = sample / rate - (number * this.segments.length) / rate;
        let when = this.anchor + sample / rate - this.offset;
        const earliest = this.context.currentTime + 0.05;
        if (when < earliest) {
          // The segment arrived late: delay the rest.
          this.anchor += earliest - when;
          when = earliest;
        }
        buffers.forEach((buffer, track) => this.start(buffer, track, when, skipped));
        sample = Math.min((number + 1) * this.segments.length, this.song.samples);
        this.until = sample / rate;
        while (turn === this.turn && this.until - this.currentTime > AHEAD_SECONDS) {
          await new Promise((wake) => setTimeout(wake, 100));
        }
        if (turn !== this.turn) return;
      }
    } catch (error) {
      if (turn !== this.turn) return;
      this.pause();
      this.onerror(error);
    }
  }

  start(buffer, track, when, skipped) {
    const source = new AudioBufferSourceNode(this.context, { buffer });
    source.connect(this.gains[track]);
    source.start(when, skipped);
    this.sources.add(source);
    source.onended = () => this.sources.delete(source);
  }
}

/** Message of a failed request. */
export async function reason(answer) {
  try {
    return (await answer.json()).detail;
  } catch {
    return `The server reported error ${answer.status}; reload the page.`;
  }
}
