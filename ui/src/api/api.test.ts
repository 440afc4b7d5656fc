import { describe, expect, it } from 'vitest';
import { url } from './client';
import { buildTrace, traceIdPath } from './jaeger';
import { expr, grid, lit, selector } from './prom';
import type { JaegerTrace } from './types';

it('fills paths and leaves out what is empty', () => {
  expect(url('/a/{ns}/{name}', { ns: 'x/../y', name: '<img>' }, { q: '', n: 0, t: undefined, s: 'a b&c' })).toBe('/a/x%2F..%2Fy/%3Cimg%3E?n=0&s=a+b%26c');
});

describe('PromQL', () => {
  it('cannot be broken out of by a name', () => {
    expect(lit('a"} or vector(1) #\\')).toBe('"a\\"} or vector(1) #\\\\"');
    expect(selector({ a: 'x', b: undefined, c: '"' })).toBe('{a="x",c="\\""}');
    expect(expr.rateByCode('{a="x"}', 15)).toBe('sum by (response_code) (rate(istio_requests_total{a="x"}[30s]))');
  });
  it('keeps its points on a grid', () => {
    const a = grid(900, 1_000_003);
    const b = grid(900, 1_000_006);
    expect(a.step).toBe(10);
    expect((b.start - a.start) % a.step).toBe(0);
    expect(a.end % a.step).toBe(0);
  });
});

describe('traces', () => {
  const span = (spanID: string, parent: string | null, startTime: number, duration: number, tags: { key: string; value: unknown }[] = []) => ({
    traceID: 't', spanID, operationName: spanID, references: parent ? [{ refType: 'CHILD_OF' as const, traceID: 't', spanID: parent }] : [], startTime, duration, tags, logs: [], processID: 'p1',
  });
  const trace = (spans: JaegerTrace['spans']): JaegerTrace => ({ traceID: 't', spans, processes: { p1: { serviceName: 's', tags: [] } } });
  it('orders depth first and by start', () => {
    const built = buildTrace(trace([span('c', 'a', 30, 5), span('a', null, 0, 100), span('b', 'a', 10, 50), span('d', 'b', 12, 1, [{ key: 'http.status_code', value: '503' }])]));
    expect(built.spans.map((s) => [s.id, s.depth])).toEqual([['a', 0], ['b', 1], ['d', 2], ['c', 1]]);
    expect([built.duration, built.errors, built.depth]).toEqual([100, 1, 3]);
  });
  it('survives orphans, cycles and nothing at all', () => {
    expect(buildTrace(trace([span('a', 'gone', 5, 1), span('b', 'c', 6, 1), span('c', 'b', 7, 1), span('d', 'd', 8, 1)])).spans).toHaveLength(4);
    expect(buildTrace(trace([])).spans).toHaveLength(0);
  });
  it('is called by what was asked, where that is known', () => {
    const title = (tags: Record<string, string>) => buildTrace(trace([span('op:80/*', null, 0, 1, Object.entries(tags).map(([key, value]) => ({ key, value })))])).spans[0]?.title;
    expect(title({ 'http.method': 'POST', 'http.url': 'http://shop.example:8080/order?x=1#y' })).toBe('POST /order');
    expect(title({ 'http.request.method': 'GET', 'url.path': '/a/b' })).toBe('GET /a/b');
    expect(title({ 'http.url': 'http://shop.example' })).toBe('/');
    expect(title({})).toBe('op:80/*');
  });
  it('asks only for hexadecimal ids', () => {
    expect(traceIdPath(' ABC/../x1 ')).toBe('abc1');
    expect(traceIdPath('')).toBe('0');
  });
});
