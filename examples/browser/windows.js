// Split long texts into windows as flax_ner does: lines, then sentences, then overlapping windows.

const LINE_BREAK = /[\n\r\u2028\u2029]/;
// A title 《...》 may contain such punctuation, and closing quotes and brackets belong to the sentence.
const SENTENCE_END = /《[^《》]{0,40}》|(?<end>[。！？]+[”’」』）》]*)/gu;

/**
 * Split a text into windows of at most `size` tokens.
 *
 * @param {string[]} characters code points of the text.
 * @param tokens the text's tokens, see `makeTokenizer`.
 * @param {number} size maximum number of tokens per window, without [CLS] and [SEP].
 * @returns Windows `{start, stop, keepStart, keepStop}`. The model reads the tokens [start, stop), and the tags
 *   of [keepStart, keepStop) are kept. Only line breaks of a long text are in no window.
 */
export function splitIntoWindows(characters, tokens, size) {
  if (tokens.length <= size) return tokens.length ? overlappingWindows(0, tokens.length, size) : [];
  const lines = splitAt(characters.length, lineBreaks(characters));
  return lines.flatMap(([from, to]) => {
    const [first, stop] = [firstToken(tokens, from), firstToken(tokens, to)];
    if (stop - first <= size) return first < stop ? overlappingWindows(first, stop, size) : [];
    const ends = sentenceEnds(characters.slice(from, to)).map((end) => firstToken(tokens, from + end));
    const cuts = [...new Set([first, ...ends, stop])];
    return cuts.slice(1).flatMap((cut, i) => overlappingWindows(cuts[i], cut, size));
  });
}

/** Return the windows of the tokens [first, stop). Neighbours overlap by at least a quarter of `size`. */
function overlappingWindows(first, stop, size) {
  const length = stop - first;
  if (length <= size) return [{ start: first, stop, keepStart: first, keepStop: stop }];
  const stride = Math.max(size - Math.floor(size / 4), 1);
  const count = Math.ceil((length - size) / stride) + 1;
  const starts = Array.from({ length: count }, (_, i) => first + roundHalfToEven((i * (length - size)) / (count - 1)));
  // Kept ranges meet in the middle of an overlap.
  const middle = (i) => Math.floor((starts[i] + starts[i - 1] + size) / 2);
  return starts.map((start, i) => ({
    start,
    stop: start + size,
    keepStart: i ? middle(i) : first,
    keepStop: i + 1 < count ? middle(i + 1) : stop,
  }));
}

/** Round as Python does. */
function roundHalfToEven(x) {
  const floor = Math.floor(x);
  return x - floor === 0.5 ? floor + (floor % 2) : Math.round(x);
}

function lineBreaks(characters) {
  return characters.flatMap((character, i) => (LINE_BREAK.test(character) ? [i] : []));
}

/** Return the ranges between the positions `breaks` of [0, length). */
function splitAt(length, breaks) {
  return [...breaks, length].map((end, i) => [i ? breaks[i - 1] + 1 : 0, end]);
}

/** Return the end of each sentence of a line, in code points. */
function sentenceEnds(characters) {
  const line = characters.join("");
  const ends = [];
  let [units, points] = [0, 0];
  for (const match of line.matchAll(SENTENCE_END)) {
    if (!match.groups.end) continue;
    const end = match.index + match[0].length;
    points += Array.from(line.slice(units, end)).length;
    units = end;
    ends.push(points);
  }
  return ends;
}

/** Return the index of the first token whose word starts at or after a character. */
function firstToken(tokens, character) {
  let [low, high] = [0, tokens.length];
  while (low < high) {
    const middle = (low + high) >> 1;
    if (tokens[middle].start < character) low = middle + 1;
    else high = middle;
  }
  return low;
}
