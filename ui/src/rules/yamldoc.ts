/**
 * The YAML text is the only truth of an edit; forms read from it and write into it.
 *
 * A form's change touches the nodes it names and nothing else: comments, order, fields that the form
 * does not know and the author's flow style stay. Nothing is written before something was changed.
 */
import { LineCounter, isMap, isScalar, isSeq, parseAllDocuments } from 'yaml';
import type { Document, Node, YAMLMap } from 'yaml';

export type Path = (string | number)[];
export type Json = null | boolean | number | string | Json[] | { [key: string]: Json };

export interface Problem {
  /** 1-based. */
  line: number;
  /** 1-based; 0 when unknown. */
  column: number;
  message: string;
}
export interface Parsed {
  docs: Document[];
  problems: Problem[];
  lines: LineCounter;
}

export function parse(text: string): Parsed {
  const lines = new LineCounter();
  const docs = parseAllDocuments(text, { lineCounter: lines, prettyErrors: false });
  const list: Document[] = Array.isArray(docs) ? docs : [];
  const problems = list.flatMap((d) =>
    d.errors.map((e) => {
      const at = lines.linePos(e.pos[0]);
      return { line: Math.max(1, at.line), column: at.col, message: e.message };
    }),
  );
  return { docs: list, problems, lines };
}

/** The document a form can edit: exactly one, a map, without errors. */
export function single(text: string): Document | null {
  const { docs, problems } = parse(text);
  const filled = docs.filter((d) => d.contents !== null && !(isScalar(d.contents) && d.contents.value === null));
  const doc = filled[0];
  return problems.length === 0 && filled.length === 1 && doc && isMap(doc.contents) ? doc : null;
}

export function toJson(doc: Document): { [key: string]: Json } {
  try {
    return doc.toJS({ maxAliasCount: 100 }) as { [key: string]: Json };
  } catch {
    return {};
  }
}

const print = (doc: Document) => doc.toString({ lineWidth: 0, flowCollectionPadding: false });

/** Walks up from a removed field and takes away maps and lists that it leaves empty, but not `spec` and not entries of lists. */
function prune(doc: Document, path: Path) {
  for (let at = path.slice(0, -1); at.length > 1; at = at.slice(0, -1)) {
    const node = doc.getIn(at, true);
    const empty = (isMap(node) || isSeq(node)) && node.items.length === 0;
    if (!empty || typeof at[at.length - 1] === 'number') return;
    doc.deleteIn(at);
  }
}

/** Makes maps and lists along the way, lists where the next step is a number. */
function ensure(doc: Document, path: Path) {
  for (let i = 1; i < path.length; i += 1) {
    const at = path.slice(0, i);
    const node = doc.getIn(at, true) as Node | undefined;
    if (!isMap(node) && !isSeq(node)) doc.setIn(at, doc.createNode(typeof path[i] === 'number' ? [] : {}));
    // An empty `{}` or `[]` that gets content reads better as a block.
    else if (node.items.length === 0) node.flow = false;
  }
}

/** `value` undefined removes the field. */
export function setIn(text: string, path: Path, value: Json | undefined): string {
  const doc = single(text);
  if (!doc) return text;
  if (value === undefined) {
    if (!doc.hasIn(path)) return text;
    doc.deleteIn(path);
    prune(doc, path);
  } else {
    ensure(doc, path);
    const old = doc.getIn(path, true);
    // Changing the scalar in place keeps the comment behind it.
    if (isScalar(old) && (typeof value !== 'object' || value === null)) {
      if (old.value === value) return text;
      old.value = value;
      delete old.source;
    } else doc.setIn(path, doc.createNode(value));
  }
  return print(doc);
}

/** Moves an entry of a list. */
export function move(text: string, list: Path, from: number, to: number): string {
  const doc = single(text);
  const seq = doc?.getIn(list, true);
  if (!doc || !isSeq(seq) || to < 0 || to >= seq.items.length) return text;
  const [item] = seq.items.splice(from, 1);
  if (item !== undefined) seq.items.splice(to, 0, item);
  return print(doc);
}

/** Renames a key of a map and keeps its place. */
export function rename(text: string, map: Path, from: string, to: string): string {
  const doc = single(text);
  const node = doc?.getIn(map, true);
  if (!doc || !isMap(node) || from === to || node.has(to)) return text;
  const pair = (node as YAMLMap).items.find((p) => (isScalar(p.key) ? p.key.value : p.key) === from);
  if (!pair) return text;
  pair.key = doc.createNode(to);
  return print(doc);
}

/** `spec.http[0].route` as steps. */
export function parsePath(path: string): Path {
  return [...path.matchAll(/\[(\d+)\]|\["([^"]*)"\]|([^.[\]]+)/g)].map((m) => (m[1] !== undefined ? Number(m[1]) : (m[2] ?? m[3] ?? '')));
}

/** The line (1-based) of a field in the first document that has it, or of its nearest parent. */
export function lineOf(parsed: Parsed, path: Path): number | null {
  let best: { depth: number; line: number } | null = null;
  for (const doc of parsed.docs) {
    for (let depth = path.length; depth > 0; depth -= 1) {
      const parent = doc.getIn(path.slice(0, depth - 1), true);
      const key = path[depth - 1];
      let at: number | undefined;
      if (isMap(parent)) {
        const pair = parent.items.find((p) => isScalar(p.key) && String(p.key.value) === String(key));
        at = pair && isScalar(pair.key) ? pair.key.range?.[0] : undefined;
      } else if (isSeq(parent) && typeof key === 'number') at = (parent.items[key] as Node | undefined)?.range?.[0];
      if (at !== undefined) {
        if (!best || depth > best.depth) best = { depth, line: parsed.lines.linePos(at).line };
        break;
      }
    }
  }
  return best?.line ?? null;
}

export interface Identity {
  kind: string;
  name: string;
  namespace: string;
}
export function identity(text: string): Identity {
  const doc = single(text);
  const get = (path: Path) => {
    const v = doc?.getIn(path);
    return typeof v === 'string' ? v : '';
  };
  return { kind: get(['kind']), name: get(['metadata', 'name']), namespace: get(['metadata', 'namespace']) };
}
