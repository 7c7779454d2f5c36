// Statistics of the blind test.

const LEVEL = 0.05;

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

/** A probability, such as "p = 0.039". */
export function probabilityWords(p) {
  if (p < 0.001) return "p < 0.001";
  if (p > 0.995) return "p = 1";
  return `p = ${p < 0.1 ? p.toPrecision(2) : p.toFixed(2)}`;
}

/** Result of the votes for two models in words. */
export function verdict(models, counts) {
  const [first, second] = counts;
  if (!first && !second) return "No preference shown: there is no vote for either.";
  const p = signTest(first, second);
  const votes = `${Math.max(first, second)} to ${Math.min(first, second)} votes`;
  const test = `two-sided sign test, ${probabilityWords(p)}`;
  if (p < LEVEL) return `${models[first > second ? 0 : 1]} is preferred: ${votes} (${test}).`;
  // With fewer, even equal votes are likely by chance.
  const few = 2 * 0.5 ** (first + second) >= LEVEL ? " Six or more votes are needed to show one." : "";
  return `No preference shown: ${votes} (${test}).${few}`;
}

/** Gain of each of two tracks that makes them equally loud without amplifying one, from their
 * powers. */
export function matchedGains(powers) {
  const least = Math.min(...powers);
  return powers.map((power) => (least > 0 ? Math.sqrt(least / power) : 1));
}

/** Votes as comma-separated values with a header. */
export function csv(votes) {
  if (!votes.length) return "";
  const quote = (value) => (/[",\n]/.test(value) ? `"${String(value).replaceAll('"', '""')}"` : value);
  const lines = [Object.keys(votes[0]), ...votes.map((vote) => Object.values(vote))];
  return lines.map((line) => `${line.map((value) => quote(value ?? "")).join(",")}\n`).join("");
}
