// From scores to tags, and from tags to entities, as flax_ner does with the convention `strict`.

const PREFIXES = { B: "B", I: "I", M: "I", E: "E", L: "E", S: "S", U: "S" };
const SPECIAL = ["X", "[START]", "[END]", "[PAD]", "[CLS]", "[SEP]", "<PAD>", "<START>", "<STOP>"];

/** Return the most probable tag of each row of scores. */
export function bestTags(rows) {
  return rows.map(argmax);
}

/**
 * Return the best sequence of tags.
 *
 * @param rows scores of each word's tags.
 * @param {number[][]} transitions score of tag j (column) after tag i (row).
 * @param {number} outside the tag O, which stands before and after the sequence.
 */
export function viterbi(rows, transitions, outside) {
  let scores = transitions.map((_, tag) => (tag === outside ? 0 : -1e30));
  const pointers = [];
  for (const row of rows) {
    const previous = transitions.map((_, to) => argmax(scores.map((score, from) => score + transitions[from][to])));
    scores = previous.map((from, to) => scores[from] + transitions[from][to] + row[to]);
    pointers.push(previous);
  }
  const tags = [argmax(scores.map((score, tag) => score + transitions[tag][outside]))];
  while (tags.length < rows.length) tags.push(pointers[rows.length - tags.length][tags.at(-1)]);
  return rows.length ? tags.reverse() : [];
}

function argmax(values) {
  let best = 0;
  for (let i = 1; i < values.length; i++) if (values[i] > values[best]) best = i;
  return best;
}

/**
 * Return a function from the tags of a text's words to entities `{type, first, last}`, which count words.
 *
 * @param labels content of labels.json.
 */
export function makeEntityReader({ scheme, names }) {
  const parsed = names.map((name) => parseTag(name, scheme));
  const has = new Set(parsed.map(({ prefix, type }) => `${prefix}-${type}`));

  const continues = (before, tag) =>
    "BI".includes(before.prefix) && "IE".includes(tag.prefix) && before.type === tag.type;

  const isEntity = (first, last, length) => {
    if (scheme === "io") return first.prefix !== "O";
    if (first.prefix === "S") return true;
    if (first.prefix !== "B") return false;
    // A type that has an E- or S- tag must use it.
    return length > 1 ? last.prefix === "E" || !has.has(`E-${first.type}`) : !has.has(`S-${first.type}`);
  };

  return (tags) => {
    const entities = [];
    for (let first = 0, last; first < tags.length; first = last + 1) {
      last = first;
      while (last + 1 < tags.length && continues(parsed[tags[last]], parsed[tags[last + 1]])) last++;
      const begin = parsed[tags[first]];
      if (isEntity(begin, parsed[tags[last]], last - first + 1)) entities.push({ type: begin.type, first, last });
    }
    return entities;
  };
}

function parseTag(name, scheme) {
  if (name === "O" || SPECIAL.includes(name)) return { prefix: "O", type: "" };
  if (scheme === "io") return { prefix: "I", type: name.replace(/^I-/, "") };
  const [prefix, ...type] = name.split("-");
  return { prefix: PREFIXES[prefix], type: type.join("-") };
}
