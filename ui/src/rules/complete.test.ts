import { expect, it } from 'vitest';
import kinds from '../../mock/kinds.json';
import { objectSchema, placeAt, schemaAt, siblings } from './complete';
import type { Schema } from './complete';

/** `|` is the cursor. */
function at(text: string) {
  const lines = text.split('\n');
  const row = lines.findIndex((l) => l.includes('|'));
  const before = (lines[row] as string).split('|')[0] as string;
  lines[row] = (lines[row] as string).replace('|', '');
  return { place: placeAt(lines, row, before), lines, row };
}
const head = 'apiVersion: networking.istio.io/v1\nkind: VirtualService\nspec:\n';
const cases: [string, string, string[], string | null, string][] = [
  ['a key of the spec', `${head}  ho|`, ['spec'], null, 'ho'],
  ['a key at the root', 'ki|', [], null, 'ki'],
  ['a key of a list entry, on its dash line', `${head}  http:\n    - ma|`, ['spec', 'http', '[]'], null, 'ma'],
  ['a key of a list entry, below', `${head}  http:\n    - match:\n        - uri: {exact: /}\n      ti|`, ['spec', 'http', '[]'], null, 'ti'],
  ['after an earlier entry', `${head}  http:\n    - name: a\n    - name: b\n      ro|`, ['spec', 'http', '[]'], null, 'ro'],
  ['lists without indentation', `${head}  http:\n  - route:\n    - destination:\n        |`, ['spec', 'http', '[]', 'route', '[]', 'destination'], null, ''],
  ['a value', `${head}  http:\n    - route:\n        - destination:\n            host: or|`, ['spec', 'http', '[]', 'route', '[]', 'destination'], 'host', 'or'],
  ['a word of a list', `${head}  hosts:\n    - ord|`, ['spec', 'hosts', '[]'], null, 'ord'],
  ['across comments and blank lines', `${head}  http:\n\n# note\n    - fault:\n        # more\n        de|`, ['spec', 'http', '[]', 'fault'], null, 'de'],
  ['the second document', `${head}---\nkind: Gateway\nspec:\n  se|`, ['spec'], null, 'se'],
];
it.each(cases)('finds %s', (_, text, path, key, typed) => {
  const { place } = at(text);
  expect([place.path, place.key, place.typed]).toEqual([path, key, typed]);
});

it('knows the kind of the document the cursor is in', () => {
  expect(at(`${head}---\nkind: Gateway\nspec:\n  |`).place.kind).toBe('Gateway');
  expect(at(`${head}  |\n---\nkind: Gateway\n`).place.kind).toBe('VirtualService');
});

it('does not offer what is there', () => {
  const { lines, row } = at(`${head}  hosts: [a]\n  |\n  gateways: [b]\n  http:\n    - name: x\n`);
  expect([...siblings(lines, row, 2)].sort()).toEqual(['gateways', 'hosts', 'http']);
});

it('walks the real schemas', () => {
  const vs = kinds.find((k) => k.kind === 'VirtualService');
  const root = objectSchema(vs?.schema as unknown as Schema);
  expect(Object.keys(schemaAt(root, ['spec', 'http', '[]', 'fault', 'delay'])?.properties ?? {})).toContain('fixedDelay');
  expect(schemaAt(root, ['spec', 'nothing', 'here'])).toBeUndefined();
  expect(schemaAt(root, ['metadata', 'labels', 'any'])?.type).toBe('string');
});
