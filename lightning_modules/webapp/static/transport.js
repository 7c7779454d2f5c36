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

/** Play, pause, seek and loop; one gain per track, and one for all. */
export class Transport {
  constructor(url, song) {
    this.song = song;
    this.duration = song.samples / song.sampleRate;
    this.segments = new Segments(url, song);
    this.playing = false;
    this.offset = 0; // position in the song at the anchor, seconds
    this.anchor = 0; // time of the audio context at this position
    this.until = 0; // end of what is scheduled; time goes on where a loop jumps back
    this.turn = 0; // results of requests from before the last seek are dropped
    this.loop = null; // first and last second
    this.looping = false; // whether playback reaches the end of the loop
    this.sources = new Set();
    this.targetGains = song.tracks.map(() => 1);
    this.volume = 1;
    this.onerror = () => {};
  }

  /** Time since the beginning of the song, on which loops do not jump back. */
  get time() {
    if (!this.playing) return this.offset;
    const played = Math.max(0, this.context.currentTime - this.anchor);
    return Math.min(this.offset + played, this.until);
  }

  get currentTime() {
    return loopedPosition(this.time, this.looping && this.playing ? this.loop : null);
  }

  /** Whether the end of the song is reached; times are sums of rounded ones. */
  get ended() {
    const isLast = this.duration - this.time < 1 / this.song.sampleRate;
    return this.playing && !this.looping && isLast;
  }

  async play() {
    if (this.playing) return;
    if (!this.context) {
      // At the song's sample rate nothing is resampled, so that segments join seamlessly.
      this.context = new AudioContext({ sampleRate: this.song.sampleRate });
      this.master = new GainNode(this.context, { gain: this.volume });
      this.master.connect(this.context.destination);
      this.gains = this.targetGains.map((gain) => {
        const node = new GainNode(this.context, { gain });
        node.connect(this.master);
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

  /** Repeat a section, seconds, from now on; null: play to the end. */
  async setLoop(loop) {
    const now = this.currentTime;
    this.loop = loop;
    if (this.playing) await this.seek(now);
  }

  setGains(gains) {
    this.targetGains = gains;
    this.gains?.forEach((node, track) => this.fade(node, gains[track]));
  }

  setVolume(volume) {
    this.volume = volume;
    if (this.master) this.fade(this.master, volume);
  }

  fade(node, gain) {
    node.gain.setTargetAtTime(gain, this.context.currentTime, FADE_SECONDS);
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

  /** Schedule a few seconds ahead, until the end of the song or without end in a loop. */
  async fill() {
    const turn = this.turn;
    const { samples, sampleRate } = this.song;
    const loop = this.loop?.map((seconds) => Math.round(seconds * sampleRate));
    let sample = Math.round(this.offset * sampleRate);
    this.looping = Boolean(loop) && sample < loop[1];
    const end = this.looping ? loop[1] : samples;
    this.until = this.offset;
    this.anchor = this.context.currentTime;
    try {
      while (sample < end) {
        const number = Math.floor(sample / this.segments.length);
        const buffers = await this.segments.get(number);
        if (turn !== this.turn) return;
        const first = number * this.segments.length;
        const stop = Math.min(first + this.segments.length, end);
        let when = this.anchor + this.until - this.offset;
        const earliest = this.context.currentTime + 0.05;
        if (when < earliest) {
          // The segment arrived late: delay the rest.
          this.anchor += earliest - when;
          when = earliest;
        }
        const section = [(sample - first) / sampleRate, (stop - sample) / sampleRate];
        buffers.forEach((buffer, track) => this.start(buffer, track, when, ...section));
        this.until += section[1];
        sample = this.looping && stop === end ? loop[0] : stop;
        while (turn === this.turn && this.until - this.time > AHEAD_SECONDS) {
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

  start(buffer, track, when, skipped, seconds) {
    const source = new AudioBufferSourceNode(this.context, { buffer });
    source.connect(this.gains[track]);
    source.start(when, skipped, seconds);
    this.sources.add(source);
    source.onended = () => this.sources.delete(source);
  }
}

/** Position in the song at a time on which loops do not jump back. */
export function loopedPosition(time, loop) {
  if (!loop || time < loop[1]) return time;
  return loop[0] + ((time - loop[1]) % (loop[1] - loop[0]));
}

/** Message of a failed request. */
export async function reason(answer) {
  try {
    return (await answer.json()).detail;
  } catch {
    return `The server reported error ${answer.status}; reload the page.`;
  }
}
