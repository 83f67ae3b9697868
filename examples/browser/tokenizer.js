// Tokenize text as flax_ner does. JavaScript tokenizers give no offsets, which entities need.
//
// All offsets count Unicode code points, as in Python. A text is an array of its code points.

const UNKNOWN = "[UNK]";
const MAX_WORD_LENGTH = 100; // a longer word is unknown

const DROPPED = /[\p{Cc}\p{Cf}\p{Co}\p{Cs}\ufffd]/u;
const SPACE = /\p{White_Space}/u;
const PUNCTUATION = /[\p{P}$+<=>^`|~]/u; // all of ASCII's, which includes symbols
const MARK = /\p{Mn}/u;
// As in BERT. U+2B820 to U+2B91F are missing there too.
const CHINESE =
  /[\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\u{20000}-\u{2a6df}\u{2a700}-\u{2b73f}\u{2b740}-\u{2b81f}\u{2b920}-\u{2ceaf}\u{2f800}-\u{2fa1f}]/u;

/**
 * Return a tokenizer.
 *
 * @param {string} kind `char`: every character is a token. `wordpiece`: as BERT does.
 * @param {boolean} lowerCase whether to lower-case text.
 * @param {string[]} vocabulary tokens in the order of their ids.
 * @returns A function from a text (string[], code points) to tokens `{id, first, start, end}`, without [CLS] and
 *   [SEP]. `first` is whether the token is the first of its word, [start, end) are the word's characters.
 */
export function makeTokenizer(kind, lowerCase, vocabulary) {
  const ids = new Map(vocabulary.map((token, id) => [token, id]));
  if (kind === "char") {
    return (characters) => characters.map((character, i) => charToken(character, i, lowerCase, ids));
  }
  return (characters) => splitIntoWords(characters, lowerCase).flatMap((word) => wordTokens(word, ids));
}

function charToken(character, i, lowerCase, ids) {
  // "İ" would become two characters. flax_ner reads it as unknown.
  const token = !lowerCase ? character : character === "İ" ? UNKNOWN : character.toLowerCase();
  return { id: ids.get(token) ?? ids.get(UNKNOWN), first: true, start: i, end: i + 1 };
}

function wordTokens({ normalized, start, end }, ids) {
  return wordPieces(normalized, ids).map((id, i) => ({ id, first: i === 0, start, end }));
}

/** Return the words of a text: their normalized characters, and [start, end) in the text. */
function splitIntoWords(characters, lowerCase) {
  const words = [];
  let open = null; // the word that the next letter continues
  characters.forEach((character, i) => {
    for (const normalized of normalize(character, lowerCase)) {
      const alone = CHINESE.test(character) || PUNCTUATION.test(normalized);
      if (SPACE.test(normalized)) {
        open = null;
      } else if (open && !alone) {
        open.normalized.push(normalized);
        open.end = i + 1;
      } else {
        words.push({ normalized: [normalized], start: i, end: i + 1 });
        open = alone ? null : words.at(-1);
      }
    }
  });
  // Accents that `normalize` drops belong to the word before them.
  words.forEach((word, i) => {
    const limit = words[i + 1]?.start ?? characters.length;
    while (word.end < limit && MARK.test(characters[word.end])) word.end++;
  });
  return words;
}

/** Return what a character becomes: none, one or several characters. */
function normalize(character, lowerCase) {
  if ("\t\n\r".includes(character)) return " ";
  if (DROPPED.test(character)) return "";
  if (!lowerCase) return character;
  const stripped = Array.from(character.normalize("NFD")).filter((c) => !MARK.test(c));
  return stripped.map((c) => c.toLowerCase()).join("");
}

/** Return the ids of the longest pieces of a word, from left to right. */
function wordPieces(word, ids) {
  if (word.length > MAX_WORD_LENGTH) return [ids.get(UNKNOWN)];
  const pieces = [];
  for (let start = 0; start < word.length; ) {
    let end = word.length;
    const piece = () => (start ? "##" : "") + word.slice(start, end).join("");
    while (end > start && !ids.has(piece())) end--;
    if (end === start) return [ids.get(UNKNOWN)];
    pieces.push(ids.get(piece()));
    start = end;
  }
  return pieces;
}
