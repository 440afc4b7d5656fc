/** What may stand at a place in the YAML: found by indentation, so that it works while the text is half written. */

export interface Schema {
  type?: string;
  description?: string;
  properties?: Record<string, Schema>;
  items?: Schema;
  enum?: unknown[];
  additionalProperties?: Schema | boolean;
  'x-kubernetes-int-or-string'?: boolean;
}
export interface Place {
  /** `[]` stands for an entry of a list. */
  path: string[];
  /** The `kind` of the document. */
  kind: string;
  /** Set when the cursor stands behind `key:`. */
  key: string | null;
  /** What is written so far of the key or value. */
  typed: string;
}

interface Token {
  col: number;
  /** Absent for a dash. */
  key?: string;
}

const blank = (line: string) => /^\s*(#.*)?$/.test(line);

/** The dashes and the key of a line, left to right. */
function tokens(line: string): Token[] {
  const out: Token[] = [];
  let col = line.length - line.trimStart().length;
  let rest = line.slice(col);
  while (/^-(\s|$)/.test(rest)) {
    out.push({ col });
    const skip = 1 + (rest.slice(1).length - rest.slice(1).trimStart().length);
    col += skip;
    rest = rest.slice(skip);
  }
  const key = /^("[^"]*"|'[^']*'|[^\s#:{}[\],][^:#]*?)\s*:(\s|$)/.exec(rest);
  if (key) out.push({ col, key: (key[1] as string).replace(/^["']|["']$/g, '') });
  return out;
}

/** `row` is 0-based; `before` is the text of that row up to the cursor. */
export function placeAt(lines: string[], row: number, before: string): Place {
  const here = tokens(before);
  const keyToken = here.find((t) => t.key !== undefined);
  const body = before.replace(/^\s*(-\s+)*/, '');
  const indent = keyToken ? keyToken.col : before.length - body.length;
  const path: string[] = [];
  let keyLimit = indent;
  let dashLimit = indent;
  const take = (token: Token) => {
    if (token.key === undefined) {
      if (token.col >= dashLimit) return;
      path.unshift('[]');
      keyLimit = token.col + 1;
      dashLimit = token.col;
    } else if (token.col < keyLimit) {
      path.unshift(token.key);
      keyLimit = token.col;
      dashLimit = token.col;
    }
  };
  here.filter((t) => t.key === undefined).reverse().forEach(take);
  let first = row;
  for (let i = row - 1; i >= 0 && !/^---/.test(lines[i] as string); i -= 1) {
    first = i;
    if (!blank(lines[i] as string)) tokens(lines[i] as string).reverse().forEach(take);
  }
  let kind = '';
  for (let i = first; i < lines.length && (i === first || !/^---/.test(lines[i] as string)); i += 1) {
    const match = /^kind:\s*["']?(\w+)/.exec(lines[i] as string);
    if (match) kind = match[1] as string;
  }
  if (keyToken?.key !== undefined) return { path, kind, key: keyToken.key, typed: before.slice(before.indexOf(':', keyToken.col) + 1).trimStart() };
  return { path, kind, key: null, typed: body };
}

const metadata: Schema = {
  type: 'object',
  properties: {
    name: { type: 'string' },
    namespace: { type: 'string' },
    labels: { type: 'object', additionalProperties: { type: 'string' } },
    annotations: { type: 'object', additionalProperties: { type: 'string' } },
  },
};

/** The schema of a whole object as users write it. */
export function objectSchema(schema: Schema): Schema {
  const { spec } = schema.properties ?? {};
  return { type: 'object', properties: { apiVersion: { type: 'string' }, kind: { type: 'string' }, metadata, ...(spec ? { spec } : {}) } };
}

export function schemaAt(root: Schema, path: string[]): Schema | undefined {
  let at: Schema | undefined = root;
  for (const step of path) {
    if (!at) return undefined;
    if (step === '[]') at = at.items;
    else at = at.properties?.[step] ?? (typeof at.additionalProperties === 'object' ? at.additionalProperties : undefined);
  }
  return at;
}

/** Keys already there beside the one being written, so that they are not offered twice. */
export function siblings(lines: string[], row: number, indent: number): Set<string> {
  const out = new Set<string>();
  const scan = (step: number) => {
    for (let i = row + step; i >= 0 && i < lines.length; i += step) {
      const line = lines[i] as string;
      if (/^---/.test(line)) return;
      if (blank(line)) continue;
      const found = tokens(line);
      const key = found.find((t) => t.key !== undefined);
      const dash = found.find((t) => t.key === undefined);
      if (key && key.col === indent) {
        if (step > 0 && dash) return;
        out.add(key.key as string);
        if (step < 0 && dash) return;
      } else if ((dash ?? key) && ((dash ?? key) as Token).col < indent) return;
    }
  };
  scan(-1);
  scan(1);
  return out;
}

/** What follows a key when it is chosen. */
export function suffix(schema: Schema, indent: number): string {
  if (schema.type === 'array') return `:\n${' '.repeat(indent + 2)}- `;
  if (schema.type === 'object') return `:\n${' '.repeat(indent + 2)}`;
  return ': ';
}
