// Blind test: compare the same stem of two models without knowing which is which.

import { make } from "./player.js";

/** Random bit. */
function coin() {
  return crypto.getRandomValues(new Uint8Array(1))[0] & 1;
}

/** Two-sided sign test: probability of votes at least as uneven if both are equally good. */
export function signTest(first, second) {
  const total = first + second;
  let term = 0.5 ** total; // of 0 heads
  let tail = 0;
  for (let heads = 0; heads <= Math.min(first, second); heads++) {
    tail += term;
    term *= (total - heads) / (heads + 1);
  }
  return Math.min(1, 2 * tail);
}

export class BlindTest {
  constructor(player) {
    this.player = player;
    this.models = player.song.models;
    const stems = (model) =>
      player.song.tracks.filter((track) => track.model === model).map((track) => track.name);
    const common = stems(this.models[0]).filter((name) => stems(this.models[1]).includes(name));
    this.element = make("details", { class: "blind", ontoggle: () => this.toggled() });
    if (!common.length) {
      this.element.append(
        make("summary", {}, "Blind test"),
        make("p", {}, "The two models have no stem in common."),
      );
      return;
    }
    this.stem = make("select", { "aria-label": "Stem", onchange: () => this.trial() },
      ...common.map((name) => make("option", {}, name)));
    this.listen = ["A", "B"].map((side, number) => make("button", {
      type: "button", class: "side", onclick: () => this.listenTo(number),
    }, `Listen to ${side}`));
    this.votes = [["A is better", 0], ["B is better", 1], ["No difference", null]].map(
      ([words, side]) => make("button", {
        type: "button", class: "vote", onclick: () => this.vote(side),
      }, words));
    this.tally = make("p", { class: "tally", role: "status" });
    this.revealed = make("p", { class: "revealed", role: "status" });
    this.element.append(
      make("summary", {}, "Blind test"),
      make("p", {}, "A and B are the same stem of the two models, assigned at random for each vote. "
        + "Listen to both as often as you like, anywhere in the song, then vote."),
      make("div", { class: "line" }, this.stem, ...this.listen,
        make("button", { type: "button", onclick: () => this.again() }, "Replay from the same position")),
      make("div", { class: "line" }, ...this.votes),
      this.tally,
      make("div", { class: "line" },
        make("button", { type: "button", class: "reveal", onclick: () => this.reveal() },
          "Show results"),
        make("button", { type: "button", onclick: () => this.restart() }, "Reset votes")),
      this.revealed,
    );
    this.restart();
  }

  toggled() {
    if (!this.stem) return;
    // The mixer would show which model is playing.
    this.player.classList.toggle("testing", this.element.open);
    if (this.element.open) this.trial();
    else this.player.audition(null);
  }

  restart() {
    this.counts = [0, 0]; // votes for each model
    this.undecided = 0;
    this.alias = coin(); // the model that the tally lists first
    this.revealed.textContent = "";
    this.trial();
  }

  trial() {
    this.swapped = coin(); // A is the second model
    this.start = this.player.transport?.currentTime ?? 0;
    this.playing = null;
    this.show();
    if (this.element.open) this.listenTo(0, false);
  }

  track(side) {
    const model = this.models[side ^ this.swapped];
    return this.player.song.tracks.findIndex(
      (track) => track.model === model && track.name === this.stem.value);
  }

  async listenTo(side, play = true) {
    this.playing = side;
    this.player.audition(this.track(side));
    this.show();
    if (play) await this.player.play();
  }

  async again() {
    await this.player.seek(this.start);
    await this.player.play();
  }

  vote(side) {
    if (side === null) this.undecided++;
    else this.counts[side ^ this.swapped]++;
    this.revealed.textContent = "";
    this.trial();
  }

  reveal() {
    const [first, second] = this.counts;
    const votes = this.models.map((model, number) => `${model}: ${this.counts[number]}`);
    let words = `${votes.join(", ")}, no difference: ${this.undecided}.`;
    if (first + second) {
      const percent = 100 * signTest(first, second);
      words += ` If both models were equally good, votes this uneven would occur by chance in `
        + `${percent.toPrecision(2)} % of tests.`;
    }
    this.revealed.textContent = words;
    this.trial(); // the current assignment is known now
  }

  show() {
    this.listen.forEach((button, side) => {
      button.setAttribute("aria-pressed", this.playing === side);
    });
    const [one, other] = [this.counts[this.alias], this.counts[1 - this.alias]];
    const votes = one + other + this.undecided;
    this.tally.textContent = votes
      ? `Votes: ${one} for one model, ${other} for the other, ${this.undecided} no difference.`
      : "No votes yet.";
  }
}
