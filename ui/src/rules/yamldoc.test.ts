import { describe, expect, it } from 'vitest';
import { identity, lineOf, move, parse, parsePath, rename, setIn, single } from './yamldoc';

const order = `# Lesson Q3
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata:
  name: order-vs   # the name
  namespace: base
spec:
  hosts: [order.base.svc.cluster.local]
  http:
    # first the guests
    - match:
        - headers:
            cookie: {exact: "vip=false"}
      route:
        - destination: {host: order, subset: v1}
          weight: 100 # all
      corsPolicy: {maxAge: 1h}
    - route:
        - destination: {host: order, subset: v2}
`;

describe('setIn', () => {
  const cases: [string, (text: string) => string, string, string][] = [
    ['changes one scalar and keeps the comment behind it', (t) => setIn(t, ['spec', 'http', 0, 'route', 0, 'weight'], 60), 'weight: 100 # all', 'weight: 60 # all'],
    ['changes inside a flow map', (t) => setIn(t, ['spec', 'http', 0, 'route', 0, 'destination', 'subset'], 'v9'), '{host: order, subset: v1}', '{host: order, subset: v9}'],
    ['keeps quotes of a string', (t) => setIn(t, ['spec', 'http', 0, 'match', 0, 'headers', 'cookie', 'exact'], 'vip=true'), '"vip=false"', '"vip=true"'],
    ['adds a field at the end of its map', (t) => setIn(t, ['spec', 'http', 1, 'timeout'], '3s'), 'subset: v2}\n', 'subset: v2}\n      timeout: 3s\n'],
    ['makes the maps on the way', (t) => setIn(t, ['spec', 'http', 1, 'fault', 'delay', 'percentage', 'value'], 50), 'subset: v2}\n', 'subset: v2}\n      fault:\n        delay:\n          percentage:\n            value: 50\n'],
    ['appends to a list', (t) => setIn(t, ['spec', 'hosts', 1], 'other'), '[order.base.svc.cluster.local]', '[order.base.svc.cluster.local, other]'],
  ];
  it.each(cases)('%s', (_, run, from, to) => {
    expect(run(order)).toBe(order.replace(from, to).replace('order-vs   # the name', 'order-vs # the name'));
  });

  it('leaves the text alone when nothing changes', () => {
    expect(setIn(order, ['spec', 'http', 0, 'route', 0, 'weight'], 100)).toBe(order);
    expect(setIn(order, ['spec', 'http', 0, 'timeout'], undefined)).toBe(order);
  });

  it('takes away what it empties, but not the spec', () => {
    const added = setIn(order, ['spec', 'http', 1, 'retries', 'attempts'], 2);
    expect(setIn(added, ['spec', 'http', 1, 'retries', 'attempts'], undefined)).not.toContain('retries');
    expect(setIn('kind: X\nspec:\n  a: 1\n', ['spec', 'a'], undefined)).toBe('kind: X\nspec: {}\n');
    expect(setIn('kind: X\nspec: {}\n', ['spec', 'hosts', 0], 'a')).toBe('kind: X\nspec:\n  hosts:\n    - a\n');
  });

  it('does not touch what it cannot read', () => {
    for (const bad of ['a: [', '- 1\n- 2\n', 'a: 1\n---\nb: 2\n', '']) expect(setIn(bad, ['spec', 'x'], 1)).toBe(bad);
  });
});

it('moves a route with its comment', () => {
  const moved = move(order, ['spec', 'http'], 0, 1);
  expect(moved.indexOf('subset: v2')).toBeLessThan(moved.indexOf('vip=false'));
  expect(moved).toContain('# first the guests');
  expect(moved).toContain('corsPolicy: {maxAge: 1h}');
  expect(move(order, ['spec', 'http'], 0, 5)).toBe(order);
});

it('renames a key in its place', () => {
  expect(rename(order, ['spec', 'http', 0, 'match', 0, 'headers'], 'cookie', 'x-user')).toContain('x-user: {exact: "vip=false"}');
  expect(rename(order, ['metadata'], 'name', 'namespace')).toBe(order);
});

it('finds lines of fields, and of the nearest parent of absent ones', () => {
  const parsed = parse(order);
  expect(lineOf(parsed, parsePath('spec.http[0].route[0].destination.host'))).toBe(15);
  expect(lineOf(parsed, parsePath('spec.http[1].timeout'))).toBe(18);
  expect(lineOf(parsed, parsePath('spec.hosts[0]'))).toBe(8);
  expect(lineOf(parsed, parsePath('nothing.here'))).toBeNull();
});

it('says where the YAML is broken', () => {
  expect(parse('a: 1\nb: [\n').problems[0]?.line).toBeGreaterThanOrEqual(2);
  expect(single('a: [')).toBeNull();
});

it('reads kind, name and namespace', () => {
  expect(identity(order)).toEqual({ kind: 'VirtualService', name: 'order-vs', namespace: 'base' });
  expect(identity('a: [')).toEqual({ kind: '', name: '', namespace: '' });
});

it('does not blow up on aliases', () => {
  const bomb = `a: &a [x,x,x,x,x,x,x,x,x]\n${'bcdefgh'.split('').map((c, i) => `${c}: &${c} [${Array(9).fill(`*${'abcdefg'[i]}`).join(',')}]`).join('\n')}\n`;
  expect(() => setIn(bomb, ['spec', 'x'], 1)).not.toThrow();
});
