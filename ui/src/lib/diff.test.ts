import { expect, it } from 'vitest';
import { diffLines, hunks, stat } from './diff';

const text = (diff: ReturnType<typeof diffLines>) => diff.map((l) => `${{ same: ' ', add: '+', del: '-' }[l.kind]}${l.text}`);

it.each([
  ['', '', []],
  ['', 'a\nb\n', ['+a', '+b']],
  ['a\nb\n', '', ['-a', '-b']],
  ['a\nb\nc\n', 'a\nx\nc\n', [' a', '-b', '+x', ' c']],
  ['a\nb\nc', 'b\nc\nd', ['-a', ' b', ' c', '+d']],
])('%j to %j', (before, after, want) => {
  expect(text(diffLines(before, after))).toEqual(want);
});

it('gives back both texts, whatever they are', () => {
  let seed = 7;
  const random = () => (seed = (seed * 16807) % 2147483647) / 2147483647;
  for (let round = 0; round < 200; round += 1) {
    const make = () => Array.from({ length: Math.floor(random() * 12) }, () => 'abc'[Math.floor(random() * 3)]).join('\n');
    const [a, b] = [make(), make()];
    const diff = diffLines(a, b);
    expect(diff.filter((l) => l.kind !== 'add').map((l) => l.text).join('\n')).toBe(a);
    expect(diff.filter((l) => l.kind !== 'del').map((l) => l.text).join('\n')).toBe(b);
  }
});

it('leaves out what is far from changes', () => {
  const lines = Array.from({ length: 30 }, (_, i) => `l${i}`);
  const shown = hunks(diffLines(lines.join('\n'), [...lines.slice(0, 15), 'new', ...lines.slice(15)].join('\n')));
  expect(shown[0]).toBeNull();
  expect(shown.filter(Boolean)).toHaveLength(7);
  expect(stat(diffLines('a\nb', 'a\nc'))).toEqual({ add: 1, del: 1 });
});
