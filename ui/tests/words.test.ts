// Every word on screen goes through the language files.
import { readFileSync, readdirSync } from 'node:fs';
import { join } from 'node:path';
import ts from 'typescript';
import { expect, it } from 'vitest';
import en from '../src/i18n/en.json';
import zh from '../src/i18n/zh.json';
import { knownFlags } from '../src/lib/flags';

type Tree = { [key: string]: string | Tree };
const flat = (tree: Tree, at = ''): [string, string][] => Object.entries(tree).flatMap(([k, v]) => (typeof v === 'string' ? [[at + k, v] as [string, string]] : flat(v, `${at}${k}.`)));
const texts = { en: new Map(flat(en)), zh: new Map(flat(zh)) };
const src = new URL('../src', import.meta.url).pathname;
const files = (readdirSync(src, { recursive: true }) as string[]).filter((f) => /\.tsx?$/.test(f) && !f.includes('.test.') && !f.endsWith('.d.ts'));

it('both languages have the same keys', () => {
  expect([...texts.zh.keys()].sort()).toEqual([...texts.en.keys()].sort());
});

it('both languages fill in the same values', () => {
  const holes = (text: string) => [...text.matchAll(/\{\{(\w+)\}\}/g)].map((m) => m[1]).sort();
  for (const [key, text] of texts.en) expect([key, holes(texts.zh.get(key) ?? '')]).toEqual([key, holes(text)]);
});

it('nothing is empty, and Chinese is Chinese', () => {
  // Words that are the same in both: names, units, codes.
  const same = new Set(['brand', 'shell.version', 'palette.key', 'palette.keyApple', 'col.ip', 'col.p99', 'col.pod', 'overview.p50p90', 'rule.yaml', 'learn.yaml', 'learn.kubectl', 'gateway.p99', 'trace.id', 'log.traceId', 'log.userAgent', 'col.sidecars', 'proxy.sidecar', 'form.cookieName', 'learn.progress']);
  for (const [key, text] of texts.en) expect(text.trim(), key).not.toBe('');
  for (const [key, text] of texts.zh) if (!same.has(key) && key !== 'shell.otherLanguage' && key !== 'shell.otherLanguageShort') expect(text, key).toMatch(/[\u3000-\u9fff\uff00-\uffef]/);
});

it('every response flag is explained', () => {
  for (const flag of knownFlags) expect(texts.en.has(`flags.${flag}`), flag).toBe(true);
});

/** Attributes whose text people see or hear. */
const spoken = new Set(['title', 'label', 'placeholder', 'alt', 'aria-label', 'aria-description', 'aria-roledescription', 'sub', 'hint', 'header', 'none', 'all']);
/** Words without language: example values, units. */
const plain = /^(\*|mesh|p50|p90|p99|\/s|TCP|config_dump|[\d.]+(ms|s|h)?|connect-failure,refused-stream,503)$/;

it('no literal text stands in the components', () => {
  const found: string[] = [];
  for (const file of files.filter((f) => f.endsWith('.tsx'))) {
    const source = ts.createSourceFile(file, readFileSync(join(src, file), 'utf8'), ts.ScriptTarget.Latest, true, ts.ScriptKind.TSX);
    const say = (node: ts.Node, text: string) => {
      if (/\p{L}{2,}/u.test(text) && !plain.test(text.trim())) found.push(`${file}:${source.getLineAndCharacterOfPosition(node.pos).line + 1} ${text.trim()}`);
    };
    const visit = (node: ts.Node) => {
      if (ts.isJsxText(node)) say(node, node.text);
      if (ts.isJsxExpression(node) && node.expression && ts.isStringLiteralLike(node.expression) && (ts.isJsxElement(node.parent) || ts.isJsxFragment(node.parent))) say(node, node.expression.text);
      if (ts.isJsxAttribute(node) && spoken.has(node.name.getText(source)) && node.initializer && ts.isStringLiteral(node.initializer)) say(node, node.initializer.text);
      ts.forEachChild(node, visit);
    };
    visit(source);
  }
  expect(found).toEqual([]);
});

it('every key is used', () => {
  const all = files.map((f) => readFileSync(join(src, f), 'utf8')).join('\n');
  const prefixes = [...all.matchAll(/`([a-zA-Z.]+[._])\$\{/g)].map((m) => m[1] as string);
  const unused = [...texts.en.keys()].filter((key) => {
    const base = key.replace(/_(one|other)$/, '');
    return !all.includes(`'${base}'`) && !prefixes.some((p) => key.startsWith(p));
  });
  expect(unused).toEqual([]);
});
