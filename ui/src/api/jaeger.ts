/** Traces as the Jaeger API gives them, turned into a tree with times relative to the start. */
import type { JaegerSpan, JaegerTrace } from './types';

/** Only hexadecimal digits can be a trace id; anything else a user typed finds nothing. */
export const traceIdPath = (id: string) => id.trim().toLowerCase().replace(/[^0-9a-f]/g, '') || '0';

export interface Span {
  id: string;
  parent: string | null;
  service: string;
  operation: string;
  /** What was asked, `GET /order`, where the span says so; else the operation. */
  title: string;
  /** Microseconds since the start of the trace. */
  start: number;
  /** Microseconds. */
  duration: number;
  depth: number;
  children: number;
  error: boolean;
  code: string;
  kind: string;
  tags: [string, string][];
  logs: { at: number; fields: [string, string][] }[];
  process: [string, string][];
}
export interface Trace {
  id: string;
  /** Unix milliseconds. */
  startedAt: number;
  /** Microseconds. */
  duration: number;
  spans: Span[];
  services: string[];
  root: Span | undefined;
  errors: number;
  depth: number;
}

const text = (value: unknown) => (typeof value === 'string' ? value : JSON.stringify(value)) ?? '';
const pairs = (tags: { key: string; value?: unknown }[]): [string, string][] => tags.map((t) => [t.key, text(t.value)]);

function isError(tags: [string, string][]): boolean {
  return tags.some(
    ([k, v]) => (k === 'error' && v !== 'false' && v !== '') || (k === 'otel.status_code' && v === 'ERROR') || (k === 'http.status_code' && v.startsWith('5')) || (k === 'http.response.status_code' && v.startsWith('5')),
  );
}

/** Istio's operations are `host:port/*`: the same for every request. Method and path tell them apart. */
function titleOf(operation: string, method: string, address: string): string {
  if (!address) return operation;
  const path = /^[a-z][a-z0-9+.-]*:\/\/[^/?#]*([^?#]*)/i.exec(address)?.[1] ?? address.split(/[?#]/)[0];
  return `${method} ${path || '/'}`.trim();
}

function convert(raw: JaegerSpan, trace: JaegerTrace, origin: number): Span {
  const tags = pairs(raw.tags);
  const tag = (...names: string[]) => tags.find(([k]) => names.includes(k))?.[1] ?? '';
  const process = trace.processes[raw.processID];
  return {
    id: raw.spanID,
    parent: raw.references.find((r) => r.refType === 'CHILD_OF')?.spanID ?? raw.references[0]?.spanID ?? null,
    service: process?.serviceName ?? '?',
    operation: raw.operationName,
    title: titleOf(raw.operationName, tag('http.method', 'http.request.method'), tag('http.url', 'url.full', 'url.path')),
    start: raw.startTime - origin,
    duration: raw.duration,
    depth: 0,
    children: 0,
    error: isError(tags),
    code: tag('http.status_code', 'http.response.status_code', 'grpc.status_code'),
    kind: tag('span.kind'),
    tags,
    logs: raw.logs.map((l) => ({ at: l.timestamp - origin, fields: pairs(l.fields) })),
    process: pairs(process?.tags ?? []),
  };
}

/** Spans in the order of the waterfall: depth first, children by start. Orphans and cycles become roots. */
export function buildTrace(raw: JaegerTrace): Trace {
  const origin = raw.spans.reduce((least, s) => Math.min(least, s.startTime), Infinity);
  const all = raw.spans.map((s) => convert(s, raw, origin));
  const byId = new Map(all.map((s) => [s.id, s]));
  const children = new Map<string | null, Span[]>();
  for (const span of all) {
    if (span.parent === span.id || !byId.has(span.parent ?? '')) span.parent = null;
    const list = children.get(span.parent) ?? [];
    list.push(span);
    children.set(span.parent, list);
  }
  const ordered: Span[] = [];
  const seen = new Set<string>();
  const walk = (span: Span, depth: number) => {
    if (seen.has(span.id)) return;
    seen.add(span.id);
    span.depth = depth;
    ordered.push(span);
    const below = (children.get(span.id) ?? []).sort((a, b) => a.start - b.start);
    span.children = below.length;
    if (depth < 500) below.forEach((c) => walk(c, depth + 1));
  };
  (children.get(null) ?? []).sort((a, b) => a.start - b.start).forEach((s) => walk(s, 0));
  all.forEach((s) => walk(s, 0));
  return {
    id: raw.traceID,
    startedAt: Number.isFinite(origin) ? origin / 1000 : 0,
    duration: Math.max(1, ...all.map((s) => s.start + s.duration)),
    spans: ordered,
    services: [...new Set(ordered.map((s) => s.service))],
    root: ordered[0],
    errors: all.filter((s) => s.error).length,
    depth: ordered.reduce((most, s) => Math.max(most, s.depth + 1), 0),
  };
}
