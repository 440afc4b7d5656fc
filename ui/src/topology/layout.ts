/**
 * Where nodes stand. Small graphs go through ELK's layered algorithm in a worker (namespaces as boxes,
 * calls from left to right); large ones through `blocks`, which is linear in nodes and edges.
 */
import ELK from 'elkjs/lib/elk-api.js';
import type { ElkNode } from 'elkjs/lib/elk-api.js';
import workerUrl from 'elkjs/lib/elk-worker.min.js?url';
import type { Scene, VNode } from './model';

/** A node: a donut with its text below. */
export const size = { width: 144, height: 102 };
/** Where the donut stands in it. */
export const donut = { x: size.width / 2, y: 31, r: 30 };
export interface Point {
  x: number;
  y: number;
}
export type Positions = Map<string, Point>;
/** Above so many nodes or edges, ELK is not even asked. */
const elkLimit = { nodes: 120, edges: 260 };
/** How long a reader waits for the better picture, in milliseconds; and for the worker that draws it to start. */
const patience = 2500;
const start = 10_000;

type Engine = InstanceType<typeof ELK>;
let elk: Engine | undefined;
const engine = (): Engine => (elk ??= new ELK({ workerFactory: () => new Worker(workerUrl) }));

/** An answer of ELK's, or an error when it takes too long; its worker is then ended and made anew for the next. */
async function within<A>(limit: number, used: Engine, answer: Promise<A>): Promise<A> {
  let timer: ReturnType<typeof setTimeout> | undefined;
  const late = new Promise<never>((_, reject) => {
    timer = setTimeout(() => {
      used.terminateWorker();
      if (elk === used) elk = undefined;
      reject(new Error('layout took too long'));
    }, limit);
  });
  try {
    return await Promise.race([answer, late]);
  } finally {
    clearTimeout(timer);
  }
}

async function inTime(graph: ElkNode): Promise<ElkNode> {
  const used = engine();
  await within(start, used, used.knownLayoutAlgorithms());
  return within(patience, used, used.layout(graph));
}

function byNamespace(nodes: VNode[]): Map<string, VNode[]> {
  const out = new Map<string, VNode[]>();
  for (const n of nodes) {
    const key = n.folded ? '' : n.namespace;
    out.set(key, [...(out.get(key) ?? []), n]);
  }
  return out;
}

/** Which way calls run: to the right, or downwards where the window is taller than wide. */
export type Direction = 'RIGHT' | 'DOWN';

/** Network simplex places better, but its time explodes with edges. */
const options = (direction: Direction, edges: number) => ({
  'elk.algorithm': 'layered',
  'elk.direction': direction,
  'elk.layered.spacing.nodeNodeBetweenLayers': direction === 'RIGHT' ? '66' : '60',
  'elk.spacing.nodeNode': '22',
  'elk.spacing.edgeNode': '16',
  'elk.layered.spacing.edgeNodeBetweenLayers': '16',
  'elk.layered.nodePlacement.strategy': edges <= 40 ? 'NETWORK_SIMPLEX' : 'BRANDES_KOEPF',
});

async function layered(scene: Scene, direction: Direction): Promise<Positions> {
  const spacing = options(direction, scene.edges.length);
  const children: ElkNode[] = [];
  for (const [namespace, members] of byNamespace(scene.nodes)) {
    const leaves = members.map((n) => ({ id: n.id, ...size }));
    if (namespace === '') children.push(...leaves);
    else children.push({ id: `box:${namespace}`, children: leaves, layoutOptions: { ...spacing, 'elk.padding': '[top=38,left=18,bottom=18,right=18]' } });
  }
  const graph: ElkNode = {
    id: 'root',
    layoutOptions: { ...spacing, 'elk.hierarchyHandling': 'INCLUDE_CHILDREN' },
    children,
    edges: scene.edges.filter((e) => e.source !== e.target).map((e) => ({ id: e.id, sources: [e.source], targets: [e.target] })),
  };
  const done = await inTime(graph);
  const out: Positions = new Map();
  const walk = (node: ElkNode, x: number, y: number) => {
    for (const child of node.children ?? []) {
      const at = { x: x + (child.x ?? 0), y: y + (child.y ?? 0) };
      if (child.id.startsWith('box:')) walk(child, at.x, at.y);
      else out.set(child.id, at);
    }
  };
  walk(done, 0, 0);
  return out;
}

/** How far each node is from where calls come in, by relaxed longest path; cycles are cut after a few rounds. */
export function ranks(ids: string[], edges: { source: string; target: string }[]): Map<string, number> {
  const rank = new Map(ids.map((id) => [id, 0]));
  for (let round = 0; round < 6; round += 1) {
    let moved = false;
    for (const e of edges) {
      const from = rank.get(e.source);
      const to = rank.get(e.target);
      if (from === undefined || to === undefined || e.source === e.target) continue;
      if (to < from + 1 && from < 6) {
        rank.set(e.target, from + 1);
        moved = true;
      }
    }
    if (!moved) break;
  }
  return rank;
}

/** The columns of one namespace: one for each rank where that is readable, else as many as make a block. */
function columnsOf(members: VNode[], rank: Map<string, number>): VNode[][] {
  const at = (n: VNode) => rank.get(n.id) ?? 0;
  const sorted = [...members].sort((a, b) => at(a) - at(b) || (a.node.name < b.node.name ? -1 : 1));
  if (sorted.length <= 40) {
    const byRank = new Map<number, VNode[]>();
    for (const n of sorted) byRank.set(at(n), [...(byRank.get(at(n)) ?? []), n]);
    return [...byRank.values()];
  }
  const rows = Math.ceil(Math.sqrt(sorted.length * 2.6));
  return Array.from({ length: Math.ceil(sorted.length / rows) }, (_, i) => sorted.slice(i * rows, (i + 1) * rows));
}

/** Namespaces as blocks of columns, blocks on shelves; callers to the left. */
export function blocks(scene: Scene): Positions {
  const out: Positions = new Map();
  const rank = ranks(scene.nodes.map((n) => n.id), scene.edges);
  const gap = { x: 64, y: 22 };
  const made = [...byNamespace(scene.nodes)].map(([namespace, members]) => {
    const columns = columnsOf(members, rank);
    const rows = columns.reduce((most, c) => Math.max(most, c.length), 0);
    const mean = members.reduce((s, n) => s + (rank.get(n.id) ?? 0), 0) / members.length;
    return { namespace, columns, mean, width: columns.length * (size.width + gap.x) - gap.x, height: rows * (size.height + gap.y) - gap.y };
  });
  made.sort((a, b) => a.mean - b.mean || (a.namespace < b.namespace ? -1 : 1));
  const area = made.reduce((s, b) => s + (b.width + 110) * (b.height + 110), 0);
  const limit = Math.max(Math.sqrt(area * 1.7), ...made.map((b) => b.width));
  let x = 0;
  let y = 0;
  let shelf = 0;
  for (const b of made) {
    if (x > 0 && x + b.width > limit) {
      x = 0;
      y += shelf + 110;
      shelf = 0;
    }
    b.columns.forEach((column, i) => {
      const top = y + (b.height - column.length * (size.height + gap.y) + gap.y) / 2;
      column.forEach((n, j) => out.set(n.id, { x: x + i * (size.width + gap.x), y: top + j * (size.height + gap.y) }));
    });
    x += b.width + 110;
    shelf = Math.max(shelf, b.height);
  }
  return out;
}

export async function layout(scene: Scene, direction: Direction): Promise<Positions> {
  if (scene.nodes.length > elkLimit.nodes || scene.edges.length > elkLimit.edges) return blocks(scene);
  try {
    return await layered(scene, direction);
  } catch {
    return blocks(scene); // too slow, or no worker: still a picture
  }
}
