/** From the server's graph to what is on screen: idle edges hidden, namespaces folded, search and neighbours found. */
import type { Graph, GraphEdge, GraphNode } from '../api/types';

/** A namespace whose nodes are drawn as one. */
export interface Folded {
  count: number;
}
export interface VNode {
  id: string;
  namespace: string;
  node: GraphNode;
  folded?: Folded;
}
export interface Scene {
  nodes: VNode[];
  edges: GraphEdge[];
}

/** Above so many nodes, namespaces fold by themselves. */
export const foldAbove = 220;

export const foldId = (namespace: string) => `ns:${namespace}`;

/** A mean weighted by rate; null when nothing was measured. */
function mean(parts: { rps: number; v: number | null }[]): number | null {
  let sum = 0;
  let weight = 0;
  for (const p of parts) {
    if (p.v === null) continue;
    sum += p.v * Math.max(p.rps, 1e-9);
    weight += Math.max(p.rps, 1e-9);
  }
  return weight > 0 ? sum / weight : null;
}
const greatest = (values: (number | null)[]) => values.reduce<number | null>((m, v) => (v === null ? m : Math.max(m ?? v, v)), null);

interface Figures {
  rps: number;
  errorShare: number;
  p50: number | null;
  p90: number | null;
  p99: number | null;
}
function merge(parts: Figures[]): Figures {
  const rps = parts.reduce((s, p) => s + p.rps, 0);
  return {
    rps,
    errorShare: mean(parts.map((p) => ({ rps: p.rps, v: p.errorShare }))) ?? 0,
    p50: mean(parts.map((p) => ({ rps: p.rps, v: p.p50 }))),
    p90: greatest(parts.map((p) => p.p90)),
    p99: greatest(parts.map((p) => p.p99)),
  };
}

function mergeEdges(id: string, source: string, target: string, parts: GraphEdge[]): GraphEdge {
  const codes: Record<string, number> = {};
  for (const e of parts) for (const [code, rate] of Object.entries(e.codes)) codes[code] = (codes[code] ?? 0) + rate;
  const protocol = parts.every((e) => e.protocol === parts[0]?.protocol) ? (parts[0]?.protocol ?? 'http') : 'http';
  return {
    id, source, target, protocol, codes,
    ...merge(parts),
    bytesPerSecond: parts.reduce((s, e) => s + e.bytesPerSecond, 0),
    mtls: mean(parts.map((e) => ({ rps: e.rps, v: e.mtls }))) ?? 0,
  };
}

/** The namespaces to fold: all but the `open` ones when folding is on; nodes outside any namespace stay. */
export function foldedNamespaces(graph: Graph, fold: 'auto' | 'all' | 'none', open: ReadonlySet<string>): Set<string> {
  const on = fold === 'all' || (fold === 'auto' && graph.nodes.length > foldAbove);
  const out = new Set<string>();
  if (on) for (const n of graph.nodes) if (n.namespace && !open.has(n.namespace)) out.add(n.namespace);
  return out;
}

export function buildScene(graph: Graph, folded: ReadonlySet<string>, showIdle: boolean): Scene {
  const edges = showIdle ? graph.edges : graph.edges.filter((e) => e.rps > 0 || e.bytesPerSecond > 0);
  const busy = new Set(edges.flatMap((e) => [e.source, e.target]));
  const nodes = showIdle ? graph.nodes : graph.nodes.filter((n) => busy.has(n.id) || n.rps > 0);
  const known = new Set(nodes.map((n) => n.id));
  const place = new Map<string, string>();
  const groups = new Map<string, GraphNode[]>();
  const out: VNode[] = [];
  for (const n of nodes) {
    if (folded.has(n.namespace)) {
      place.set(n.id, foldId(n.namespace));
      groups.set(n.namespace, [...(groups.get(n.namespace) ?? []), n]);
    } else {
      place.set(n.id, n.id);
      out.push({ id: n.id, namespace: n.namespace, node: n });
    }
  }
  for (const [namespace, members] of groups) {
    out.push({
      id: foldId(namespace),
      namespace,
      folded: { count: members.length },
      node: { id: foldId(namespace), kind: 'service', namespace, name: namespace, ...merge(members), inMesh: members.every((m) => m.inMesh), badges: [] },
    });
  }
  const bundles = new Map<string, GraphEdge[]>();
  for (const e of edges) {
    if (!known.has(e.source) || !known.has(e.target)) continue;
    const source = place.get(e.source) as string;
    const target = place.get(e.target) as string;
    if (source === target && folded.size > 0 && source.startsWith('ns:')) continue;
    const key = source === e.source && target === e.target ? e.id : `${source}\u0000${target}`;
    const bundle = bundles.get(key);
    if (bundle) bundle.push(e);
    else bundles.set(key, [e]);
  }
  const list = [...bundles.entries()].map(([key, parts]) => {
    const first = parts[0] as GraphEdge;
    return parts.length === 1 && key === first.id ? first : mergeEdges(key.replace('\u0000', '→'), place.get(first.source) as string, place.get(first.target) as string, parts);
  });
  return { nodes: out.sort((a, b) => (a.id < b.id ? -1 : 1)), edges: list.sort((a, b) => (a.id < b.id ? -1 : 1)) };
}

/** Ids of nodes whose name or namespace holds all words; `error>5` and `p99>200` filter by figures. */
export function matching(scene: Scene, find: string): Set<string> | null {
  const words = find.toLowerCase().split(/\s+/).filter(Boolean);
  if (words.length === 0) return null;
  const ok = (v: VNode, word: string) => {
    const figure = /^(errors?|rps|p50|p90|p99)([<>])([\d.]+)%?$/.exec(word);
    if (!figure) return `${v.node.name} ${v.namespace} ${v.node.version ?? ''}`.toLowerCase().includes(word);
    const [, name, op, number] = figure;
    const value = name?.startsWith('error') ? v.node.errorShare * 100 : ((v.node as unknown as Record<string, number | null>)[name as string] ?? 0);
    return op === '>' ? value > Number(number) : value < Number(number);
  };
  return new Set(scene.nodes.filter((v) => words.every((w) => ok(v, w))).map((v) => v.id));
}

/** The nodes around one, itself included. */
export function neighbours(scene: Scene, id: string): Set<string> {
  const out = new Set([id]);
  for (const e of scene.edges) {
    if (e.source === id) out.add(e.target);
    if (e.target === id) out.add(e.source);
  }
  return out;
}
