/** A line diff (Myers' greedy algorithm), for history and for the look before an apply. */

export interface DiffLine {
  kind: 'same' | 'add' | 'del';
  text: string;
  /** 1-based numbers in the old and the new text. */
  before?: number;
  after?: number;
}

const lines = (text: string) => (text === '' ? [] : text.replace(/\n$/, '').split('\n'));

/** The trace of furthest-reaching paths, one array per edit distance. */
function trace(a: string[], b: string[]): Map<number, number>[] {
  const most = a.length + b.length;
  const v = new Map<number, number>([[1, 0]]);
  const steps: Map<number, number>[] = [];
  for (let d = 0; d <= most; d += 1) {
    steps.push(new Map(v));
    for (let k = -d; k <= d; k += 2) {
      const down = k === -d || (k !== d && (v.get(k - 1) ?? -1) < (v.get(k + 1) ?? -1));
      let x = down ? (v.get(k + 1) ?? 0) : (v.get(k - 1) ?? 0) + 1;
      while (x < a.length && x - k < b.length && a[x] === b[x - k]) x += 1;
      v.set(k, x);
      if (x >= a.length && x - k >= b.length) return steps;
    }
  }
  return steps;
}

export function diffLines(before: string, after: string): DiffLine[] {
  const a = lines(before);
  const b = lines(after);
  const steps = trace(a, b);
  const out: DiffLine[] = [];
  let x = a.length;
  let y = b.length;
  for (let d = steps.length - 1; d >= 0; d -= 1) {
    const v = steps[d] as Map<number, number>;
    const k = x - y;
    const down = k === -d || (k !== d && (v.get(k - 1) ?? -1) < (v.get(k + 1) ?? -1));
    const prevK = down ? k + 1 : k - 1;
    const prevX = d === 0 ? 0 : (v.get(prevK) ?? 0);
    const prevY = d === 0 ? 0 : prevX - prevK;
    while (x > prevX && y > prevY) {
      out.push({ kind: 'same', text: a[x - 1] as string, before: x, after: y });
      x -= 1;
      y -= 1;
    }
    if (d > 0) {
      if (down) out.push({ kind: 'add', text: b[y - 1] as string, after: y });
      else out.push({ kind: 'del', text: a[x - 1] as string, before: x });
      x = prevX;
      y = prevY;
    }
  }
  return out.reverse();
}

/** Only what changed with `context` lines around it; `null` stands for a gap. */
export function hunks(diff: DiffLine[], context = 3): (DiffLine | null)[] {
  const keep = diff.map(() => false);
  diff.forEach((line, i) => {
    if (line.kind === 'same') return;
    for (let j = Math.max(0, i - context); j <= Math.min(diff.length - 1, i + context); j += 1) keep[j] = true;
  });
  const out: (DiffLine | null)[] = [];
  diff.forEach((line, i) => {
    if (keep[i]) out.push(line);
    else if (out.length === 0 || out[out.length - 1] !== null) out.push(null);
  });
  return out;
}

export const stat = (diff: DiffLine[]) => ({ add: diff.filter((l) => l.kind === 'add').length, del: diff.filter((l) => l.kind === 'del').length });
