import { describe, expect, it } from 'vitest';
import { makeWorld } from '../../mock/world.mjs';
import type { Graph } from '../api/types';
import { boxes, hit, wires } from './draw';
import { blocks, donut, size } from './layout';
import { buildScene, foldAbove, foldedNamespaces, matching, neighbours } from './model';

const world = (scene: string) => makeWorld(scene).graph({ view: 'service' }, new Map()) as Graph;

describe('folding', () => {
  it('happens by itself above the limit, and namespaces open one by one', () => {
    const big = world('big');
    expect(big.nodes.length).toBeGreaterThan(foldAbove);
    const all = foldedNamespaces(big, 'auto', new Set());
    const scene = buildScene(big, all, true);
    expect(scene.nodes.length).toBe(all.size);
    const one = buildScene(big, foldedNamespaces(big, 'auto', new Set(['team-03'])), true);
    expect(one.nodes.length).toBe(all.size - 1 + big.nodes.filter((n) => n.namespace === 'team-03').length);
    expect(foldedNamespaces(world('demo'), 'auto', new Set()).size).toBe(0);
  });
  it('loses no request between namespaces', () => {
    const big = world('big');
    const ns = new Map(big.nodes.map((n) => [n.id, n.namespace]));
    const between = big.edges.filter((e) => ns.get(e.source) !== ns.get(e.target)).reduce((s, e) => s + e.rps, 0);
    const scene = buildScene(big, foldedNamespaces(big, 'all', new Set()), true);
    expect(scene.edges.reduce((s, e) => s + e.rps, 0)).toBeCloseTo(between, 6);
  });
});

it('hides idle edges and the nodes they leave alone', () => {
  const g = world('demo');
  const quiet: Graph = { ...g, edges: g.edges.map((e) => ({ ...e, rps: 0, bytesPerSecond: 0 })), nodes: g.nodes.map((n) => ({ ...n, rps: 0 })) };
  expect(buildScene(quiet, new Set(), false).nodes).toHaveLength(0);
  expect(buildScene(quiet, new Set(), true).nodes).toHaveLength(g.nodes.length);
});

it('finds by name and by figures', () => {
  const scene = buildScene(world('demo'), new Set(), true);
  const names = (find: string) => [...(matching(scene, find) ?? [])].map((id) => id.split('/').at(-1)).sort();
  expect(names('order')).toEqual(['order']);
  expect(names('base rps>50')).toEqual(['user']);
  expect(matching(scene, ' ')).toBeNull();
  expect(neighbours(scene, 'service/base/order').size).toBe(3);
});

describe('layout of a thousand services', () => {
  it('is quick and nothing overlaps', () => {
    const scene = buildScene(world('big'), new Set(), true);
    expect([scene.nodes.length, scene.edges.length]).toEqual([1000, 5000]);
    const start = performance.now();
    const at = blocks(scene);
    const list = wires(scene, at, 'RIGHT');
    expect(performance.now() - start).toBeLessThan(2000);
    expect(list).toHaveLength(5000);
    const cells = new Set([...at.values()].map((p) => `${p.x},${p.y}`));
    expect(cells.size).toBe(1000);
    const rects = boxes(scene, at);
    for (const [i, a] of rects.entries()) for (const b of rects.slice(i + 1)) {
      expect(a.x + a.w <= b.x || b.x + b.w <= a.x || a.y + a.h <= b.y || b.y + b.h <= a.y).toBe(true);
    }
  });
});

it('hits the edge under the pointer', () => {
  const scene = buildScene(world('demo'), new Set(), true);
  const at = blocks(scene);
  const list = wires(scene, at, 'RIGHT');
  const w = list[3];
  if (!w) throw new Error('no edges');
  expect(hit(list, w.points[24] as number, w.points[25] as number, 4)).not.toBeNull();
  expect(hit(list, -9999, -9999, 8)).toBeNull();
  expect(donut.x * 2).toBe(size.width);
});
