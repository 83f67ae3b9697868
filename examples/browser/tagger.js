// Tag text in a browser with a model that `flax-ner export MODEL FOLDER --to onnx` has written.
//
//   import { loadTagger } from "./tagger.js";
//   const tagger = await loadTagger("model");
//   await tagger.tag("王建国在东海市工作。"); // [{type: "name", start: 0, end: 3, text: "王建国"}, ...]

import * as ort from "./node_modules/onnxruntime-web/dist/ort.wasm.bundle.min.mjs";
import { bestTags, makeEntityReader, viterbi } from "./decoding.js";
import { makeTokenizer } from "./tokenizer.js";
import { splitIntoWindows } from "./windows.js";

const PROGRAMS = ["onnx/model.onnx", "onnx/model_fp16.onnx", "onnx/model_quantized.onnx"];

ort.env.wasm.proxy = true; // compute in a worker, so that the page stays responsive

/**
 * Load a model.
 *
 * @param {string} folder URL of the exported folder.
 * @returns {Promise<Tagger>}
 * @throws {Error} a file is missing, or the tokenizer is not supported. The message can be shown to the user.
 */
export async function loadTagger(folder) {
  const json = async (name) => (await read(folder, name)).json();
  const settings = await json("flax_ner.json"); // first, so that it is the file named if the folder has no model
  const { kind, lower_case } = settings.tokenizer;
  if (kind === "subword") {
    throw new Error(`${folder}: has a tokenizer.json of its own. Only BERT's tokenizers are supported here.`);
  }
  const [labels, vocabulary, transitions, program] = await Promise.all([
    json("labels.json"),
    read(folder, "vocab.txt").then((response) => response.text()),
    settings.model.head === "softmax" ? null : json("transitions.json"),
    readProgram(folder),
  ]);
  const session = await ort.InferenceSession.create(program);
  const tokens = vocabulary.replace(/\n$/, "").split("\n");
  return new Tagger(session, makeTokenizer(kind, lower_case, tokens), tokens, labels, transitions, settings.max_length);
}

async function read(folder, name) {
  const response = await fetch(`${folder}/${name}`);
  if (!response.ok) {
    throw new Error(`${folder}/${name}: ${response.status} ${response.statusText}. Export a model into this folder.`);
  }
  return response;
}

async function readProgram(folder) {
  for (const name of PROGRAMS) {
    const response = await fetch(`${folder}/${name}`);
    if (response.ok) return response.arrayBuffer();
  }
  throw new Error(`${folder}: has none of ${PROGRAMS.join(", ")}. Export a model into this folder with --to onnx.`);
}

/** A model in use. Make one with `loadTagger`. */
class Tagger {
  constructor(session, tokenize, vocabulary, labels, transitions, maxLength) {
    Object.assign(this, { session, tokenize, labels, transitions, maxLength });
    this.categories = labels.categories;
    this.outside = labels.names.indexOf("O");
    this.readEntities = makeEntityReader(labels);
    [this.cls, this.sep] = ["[CLS]", "[SEP]"].map((token) => vocabulary.indexOf(token));
  }

  /**
   * Return the entities of a text, sorted by start. A long text is split as flax_ner splits it.
   *
   * @param {string} text
   * @returns {Promise<{type: string, start: number, end: number, text: string}[]>} Offsets count Unicode code
   *   points, as in Python; `end` is exclusive.
   */
  async tag(text) {
    const characters = Array.from(text);
    const tokens = this.tokenize(Array.from(text.toWellFormed()));
    const tags = new Array(tokens.length).fill(this.outside); // line breaks between windows stay O
    for (const window of splitIntoWindows(characters, tokens, this.maxLength - 2)) {
      await this.#tagWindow(tokens, window, tags);
    }
    const words = tokens.filter((token) => token.first);
    const wordTags = tags.filter((_, i) => tokens[i].first);
    return this.readEntities(wordTags).map(({ type, first, last }) => {
      const [start, end] = [words[first].start, words[last].end];
      return { type, start, end, text: characters.slice(start, end).join("") };
    });
  }

  /** Write the tags of a window's words into `tags`, at the first token of each word. */
  async #tagWindow(tokens, { start, stop, keepStart, keepStop }, tags) {
    const scores = await this.#scores(tokens.slice(start, stop).map((token) => token.id));
    const first = tokens.slice(start, stop).flatMap((token, i) => (token.first ? [i] : []));
    const rows = first.map((i) => scores[i]);
    const best = this.transitions ? viterbi(rows, this.transitions, this.outside) : bestTags(rows);
    first.forEach((i, word) => {
      const token = start + i;
      if (keepStart <= token && token < keepStop) tags[token] = best[word];
    });
  }

  /** Return the scores of all tags of each token, without [CLS] and [SEP]. */
  async #scores(ids) {
    const row = [this.cls, ...ids, this.sep];
    const tensor = (values) => new ort.Tensor("int64", BigInt64Array.from(values, BigInt), [1, row.length]);
    const inputs = { input_ids: tensor(row), attention_mask: tensor(row.map(() => 1)) };
    const { logits } = await this.session.run(inputs);
    const width = logits.dims[2];
    return ids.map((_, i) => logits.data.slice((i + 1) * width, (i + 2) * width));
  }
}
